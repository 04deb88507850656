"""Windows of a text against slices of the text, and every reason to refuse a text."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from stabletrain.data import Text, check_data
from stabletrain.data.text import Windows, cut_text, encode, read_text
from stabletrain.errors import RequestError

ALL_DIFFERENT = "".join(chr(0x4E00 + i) for i in range(900))  # a character names its place


def write(folder: Path, content: str | bytes) -> str:
    file = folder / "text.txt"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


def letters(data: Text, x: torch.Tensor) -> str:
    return "".join(data.characters[step.index(1.0)] for step in x.tolist())


def refusal(**arguments) -> RequestError:
    with pytest.raises(RequestError) as caught:
        Text(**arguments)
    assert caught.value.allowed
    return caught.value


@settings(max_examples=40)
@given(text=st.text("abcé\n", min_size=3, max_size=80), num_steps=st.integers(1, 12), stride=st.integers(1, 15))
def test_windows_are_slices_of_the_text(text, num_steps, stride):
    if len(set(text)) < 2:
        text += "xy"
    characters, codes = encode(text)
    assert "".join(characters[c] for c in codes.tolist()) == text
    assert list(characters) == sorted(set(text))
    windows = Windows(codes, num_steps, stride, len(characters), "sequence")
    starts = [s for s in range(0, len(text), stride) if s + num_steps + 1 <= len(text)]
    assert len(windows) == len(starts)
    for index, start in enumerate(starts):
        x, y = windows[index]
        assert [characters[step.index(1.0)] for step in x.tolist()] == list(text[start : start + num_steps])
        assert [characters[c] for c in y.tolist()] == list(text[start + 1 : start + num_steps + 1])
        assert (x.sum(dim=1) == 1).all()
    with pytest.raises(IndexError):
        windows[len(starts)]


def test_splits_follow_one_another_and_share_no_character(tmp_path):
    data = Text(write(tmp_path, ALL_DIFFERENT), num_steps=10, batch_size=1)
    seen = []
    for split, first, last in ((data.train, 0, 720), (data.val, 720, 810), (data.test, 810, 900)):
        places = sorted({ALL_DIFFERENT.index(c) for x, _ in split for c in letters(data, x)})
        nexts = sorted({ALL_DIFFERENT.index(data.characters[c]) for _, y in split for c in y.tolist()})
        assert first == places[0] < nexts[-1] < last
        seen += [len(split)]
    assert seen == [71, 8, 8]  # windows that fit with the character after them


def test_windows_side_by_side_ask_for_every_character_once(tmp_path):
    data = Text(write(tmp_path, ALL_DIFFERENT), num_steps=10, batch_size=1)
    asked = [c for _, y in data.train for c in y.tolist()]
    assert len(asked) == len(set(asked)) == 710


def test_stride_moves_the_windows(tmp_path):
    path = write(tmp_path, ALL_DIFFERENT)
    data = Text(path, num_steps=10, stride=3, batch_size=1)
    starts = [ALL_DIFFERENT.index(letters(data, x)[0]) for x, _ in data.train]
    assert starts == list(range(0, 720 - 10, 3))
    assert Text(path, num_steps=10).describe()["digest"] != data.describe()["digest"]


def test_vector_asks_only_for_the_character_after_the_window(tmp_path):
    path = write(tmp_path, ALL_DIFFERENT)
    sequence, vector = Text(path, num_steps=10), Text(path, num_steps=10, form="vector")
    assert (sequence.per_step, vector.per_step) == (True, False)
    for (x, y), (u, v) in zip(sequence.val, vector.val, strict=True):
        assert torch.equal(x.flatten(), u)
        assert y[-1] == v
        assert v.shape == ()


def test_default_is_english_that_comes_with_python():
    text = read_text(None)
    assert len(text) > 300_000
    assert text.count(" the ") > 3_000
    data = Text()
    assert data.num_steps == 64
    assert 90 <= data.num_outputs == data.num_inputs <= 150
    check_data(data)
    assert Text(max_characters=5_000).num_outputs < data.num_outputs


def test_text_is_held_as_characters_not_one_hot():
    data = Text()
    held = sum(t.numel() * t.element_size() for split in (data.train, data.val, data.test) for t in split.numbers())
    assert held < 3 * len(read_text(None))


def test_shortest_text(tmp_path):
    data = Text(write(tmp_path, "abcabc"), num_steps=1, batch_size=1, val_fraction=0.34, test_fraction=0.34)
    assert [len(split) for split in (data.train, data.val, data.test)] == [1, 1, 1]


def test_line_ends_and_a_byte_order_mark_are_no_characters(tmp_path):
    assert read_text(write(tmp_path, b"\xef\xbb\xbfone\r\ntwo")) == "one\ntwo"


def test_a_file_named_by_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1984").write_text("abc" * 100)
    assert Text(1984, num_steps=5).source.startswith("Characters of 1984, 3 distinct ones")


@pytest.mark.parametrize("path", ["missing.txt", "."])
def test_refuses_what_is_no_file(tmp_path, path):
    error = refusal(path=str(tmp_path / path))
    assert error.key == "path"
    assert "no such text" in error.problem


@pytest.mark.parametrize(
    ("content", "words", "key"),
    [
        (b"", "empty", "path"),
        (b"\xff\xfe\x00text", "cannot be read as text", "path"),
        ("aaaa" * 100, "a single distinct character", "path"),
        ("".join(map(chr, range(0x4E00, 0x4E00 + 1001))), "too many distinct", "path"),
        ("abcde", "too short", "path"),
        ("ab" * 50, "too short", "num_steps"),
    ],
    ids=["empty", "bytes", "single", "many", "five", "hundred"],
)
def test_refuses_texts(tmp_path, content, words, key):
    error = refusal(path=write(tmp_path, content), num_steps=40)
    assert error.key == key
    assert words in error.problem


def test_the_longest_window_that_it_names_fits(tmp_path):
    path = write(tmp_path, "ab" * 50)
    longest = int(str(refusal(path=path, num_steps=40, val_fraction=0.33, test_fraction=0.33).closest))
    assert longest == 32
    data = Text(path, num_steps=longest, batch_size=1, val_fraction=0.33, test_fraction=0.33)
    assert len(data.train) == len(data.val) == len(data.test) == 1


@pytest.mark.parametrize("key", ["num_steps", "stride", "max_characters"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "64", True])
def test_refuses_lengths(key, value):
    assert refusal(**{key: value}).key == key


def test_refuses_fractions_too_small_for_a_window(tmp_path):
    error = refusal(path=write(tmp_path, ALL_DIFFERENT), num_steps=10, val_fraction=0.01)
    assert (error.key, error.closest) == ("val_fraction", "0.013")
    Text(write(tmp_path, ALL_DIFFERENT), num_steps=10, val_fraction=0.013)


def test_loader_processes_read_the_same_windows(tmp_path):
    data = Text(write(tmp_path, ALL_DIFFERENT), num_steps=10)
    one, other = (list(DataLoader(data.val, batch_size=5, num_workers=n)) for n in (0, 1))
    assert [len(x) for x, _ in one] == [5, 3]
    for (x, y), (u, v) in zip(one, other, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_cut_is_by_position():
    _, codes = encode(ALL_DIFFERENT)
    train, val, test = cut_text(codes, 5, 0.2, 0.1)
    assert [len(train), len(val), len(test)] == [630, 180, 90]
    assert torch.from_numpy(codes).tolist() == [*train, *val, *test]
