"""Which log is in a file or folder, and how a request for none, several or an unknown one is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stabletrain.errors import RequestError
from stabletrain.record.foreign_logs.detection import KNOWN, read_log
from stabletrain.vocabulary import metric_names as names

TABLE = "step,loss\n" + "".join(f"{i},{2 - i / 100}\n" for i in range(50))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("empty.csv", b"", "an empty file"),
        ("blank.jsonl", b"\n \n", "an empty file"),
        ("garbage.csv", bytes(range(256)) * 20, "binary data, which begins with 00 01 02"),
        ("model.pt", b"PK\x03\x04\x00\x00", "binary data, which begins with 50 4b"),
        ("notes.txt", b"hello world\nmore", "text that begins with 'hello world'"),
        ("list.json", b"[1, 2, 3]", "text that begins with '[1, 2, 3]'"),
        ("config.json", b'{\n  "a": 1\n}\n', "text that begins with '{'"),
        ("numbers.csv", b"1,2\n3,4\n", "text that begins with '1,2'"),
    ],
)
def test_a_file_of_no_known_format(tmp_path, name, content, found):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RequestError, match="no log of a known format") as caught:
        read_log(path)
    assert (caught.value.key, caught.value.allowed) == (str(path), KNOWN)
    assert str(caught.value.found).startswith(found)


def test_a_table_without_a_loss_lists_its_columns_and_the_closest(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("step,trian_loss,accuracy,weight\n0,1,0.5,2\n")
    with pytest.raises(RequestError, match="no loss under a usual name") as caught:
        read_log(path)
    assert caught.value.found == "accuracy, trian_loss, weight"
    assert caught.value.closest == "trian_loss"
    assert caught.value.command == f"python -m stabletrain diagnose {path} --loss trian_loss"
    assert read_log(path, loss="trian_loss").losses.values[0] == 1.0


def test_a_name_that_the_log_does_not_have(tmp_path):
    (tmp_path / "a.csv").write_text(TABLE)
    with pytest.raises(RequestError, match="The log has no 'los'") as caught:
        read_log(tmp_path, loss="los")
    assert caught.value.closest == "loss"


def test_a_header_without_rows(tmp_path):
    (tmp_path / "a.csv").write_text("step,loss,lr\n")
    with pytest.raises(RequestError, match="no measurement"):
        read_log(tmp_path)


def test_the_only_log_is_found_at_any_depth(tmp_path):
    folder = tmp_path / "lightning_logs" / "version_3"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(TABLE)
    log = read_log(tmp_path)
    assert log.path == folder / "metrics.csv"
    assert len(log.losses.steps) == 50


def test_of_several_runs_one_must_be_named(tmp_path):
    for version in range(2):
        (tmp_path / f"version_{version}").mkdir()
        (tmp_path / f"version_{version}" / "metrics.csv").write_text(TABLE)
    with pytest.raises(RequestError, match="There are 2 logs in this folder; name one of them") as caught:
        read_log(tmp_path)
    assert caught.value.allowed == f"{tmp_path / 'version_0'}, {tmp_path / 'version_1'}"
    assert read_log(tmp_path / "version_1").num_rows == 50


def test_of_checkpoints_the_last_has_the_whole_history(tmp_path):
    for num in (500, 1000):
        (tmp_path / f"checkpoint-{num}").mkdir()
        history = [{"step": step, "loss": 1.0} for step in range(0, num, 100)]
        (tmp_path / f"checkpoint-{num}" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert read_log(tmp_path).losses.steps[-1] == 900


def test_an_empty_folder_and_no_folder(tmp_path):
    with pytest.raises(RequestError, match="neither a run of stabletrain in this folder nor a log") as caught:
        read_log(tmp_path)
    assert KNOWN in str(caught.value.allowed)
    with pytest.raises(RequestError, match="There is no such file or folder"):
        read_log(tmp_path / "nothing")


def test_the_content_decides_and_not_the_name(tmp_path):
    path = tmp_path / "training.log"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    assert read_log(path).read_as == {names.TRAIN_LOSS: "loss"}


def test_a_long_file_is_read_in_bounded_memory(tmp_path):
    """A table with a line of 60 MB in it, as a half-written file on a full disk may have."""
    path = tmp_path / "long.csv"
    path.write_text(TABLE + "x" * 60_000_000 + "\n50,0.5\n")
    code = f"""
import resource
from stabletrain.record.foreign_logs.detection import read_log
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
log = read_log({str(path)!r})
print(log.losses.steps[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    last, used = map(int, result.stdout.split())
    assert last == 50
    assert used < 15_000  # KiB
