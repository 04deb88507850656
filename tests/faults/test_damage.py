"""Checkpoints that were cut, changed, or left half written: never loaded, and the newest whole one is taken."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from stabletrain.app.output_dir import newest_sound
from stabletrain.errors import RequestError
from stabletrain.record.checkpoint_files import LAST, PREVIOUS, forget_previous, is_sound, manifest_path
from stabletrain.record.run_folder import RunFolder
from stabletrain.training.checkpoint import ManifestCheckpointIO

BLOCK = 4096


class Died(BaseException):
    """Stands for SIGKILL: nothing cleans up."""


def save(folder: RunFolder, step: int) -> None:
    content = {"epoch": 0, "global_step": step, "state_dict": {"w": torch.full((3000,), float(step))}}
    ManifestCheckpointIO().save_checkpoint(content, folder.checkpoints / LAST)


def step_of(path: Path) -> int:
    return ManifestCheckpointIO().load_checkpoint(path, weights_only=True)["global_step"]


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path)
    save(folder, 1)
    save(folder, 2)
    return folder


def test_the_one_before_is_kept(folder):
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == [
        "last.ckpt",
        "last.json",
        "previous.ckpt",
        "previous.json",
    ]
    assert [step_of(folder.checkpoints / name) for name in (LAST, PREVIOUS)] == [2, 1]
    assert newest_sound(folder) == folder.checkpoints / LAST


def test_a_cut_at_every_block_and_a_flip_in_every_block_are_noticed(folder, capsys):
    path = folder.checkpoints / LAST
    whole = path.read_bytes()
    assert len(whole) > 3 * BLOCK
    for place in range(0, len(whole), BLOCK):
        flipped = bytearray(whole)
        flipped[place + (len(whole) - place) // 2 % BLOCK] ^= 1
        for content in (whole[:place], bytes(flipped)):
            path.write_bytes(content)
            assert newest_sound(folder) == folder.checkpoints / PREVIOUS
            with pytest.raises(RequestError, match="damaged"):
                ManifestCheckpointIO().load_checkpoint(path, weights_only=True)
    assert "last.ckpt is damaged" in capsys.readouterr().err
    path.write_bytes(whole)
    assert newest_sound(folder) == path


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"sha256": 7}', '{"sha256": "0"}'])
def test_a_damaged_manifest_is_noticed(folder, manifest):
    manifest_path(folder.checkpoints / LAST).write_text(manifest)
    assert newest_sound(folder) == folder.checkpoints / PREVIOUS


def test_without_a_whole_one_the_request_is_refused(folder):
    for path in folder.checkpoints.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RequestError, match="No checkpoint of the run is whole") as error:
        newest_sound(folder)
    assert str(folder.checkpoints / PREVIOUS) in str(error.value.found)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what dies closes no file
def test_wherever_saving_dies_a_whole_checkpoint_is_left(tmp_path, monkeypatch):
    """The process dies at the Nth operation of the save path, for every N, before or after the operation."""
    calls = {"left": 0, "after": False, "total": 0}

    def dying(operation):
        def call(*args, **kwargs):
            calls["total"] += 1
            calls["left"] -= 1
            if calls["left"] == 0 and not calls["after"]:
                raise Died
            result = operation(*args, **kwargs)
            if calls["left"] == 0:
                raise Died
            return result

        return call

    for owner, name in ((os, "fsync"), (os, "link"), (os, "open"), (Path, "replace"), (Path, "open"), (torch, "save")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    found = []
    for after in (False, True):
        number = 0
        while True:
            number += 1
            folder = RunFolder(tmp_path / f"{after}-{number}")
            calls.update(left=0, after=after)
            save(folder, 1)
            save(folder, 2)
            calls.update(left=number, total=0)
            try:
                save(folder, 3)
            except Died:
                calls["left"] = 0
                path = newest_sound(folder)
                assert path is not None
                assert is_sound(path)
                found.append(step_of(path))
                continue
            break
    assert len(found) > 12
    assert set(found) <= {2, 3}
    assert {2, 3} <= set(found)


def test_a_finished_run_keeps_no_previous(folder):
    forget_previous(folder.checkpoints)
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["last.ckpt", "last.json"]
    assert json.loads(manifest_path(folder.checkpoints / LAST).read_text())["step"] == 2
