"""Checkpoints: written atomically, with a manifest whose checksum is verified."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from stabletrain.errors import RequestError
from stabletrain.record.checkpoint_files import manifest_path
from stabletrain.training.checkpoint import ManifestCheckpointIO


def test_a_checkpoint_is_saved_whole_with_its_manifest(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = {"epoch": 3, "global_step": 40, "state_dict": {"w": torch.arange(4.0)}}
    ManifestCheckpointIO().save_checkpoint(content, path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "last.json"]
    manifest = json.loads(manifest_path(path).read_text())
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (manifest["bytes"], manifest["epoch"], manifest["step"]) == (path.stat().st_size, 3, 40)
    assert torch.load(path, weights_only=True)["state_dict"]["w"].equal(torch.arange(4.0))


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    ManifestCheckpointIO().save_checkpoint({"epoch": 1}, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"(?i)pickle|lambda"):
        ManifestCheckpointIO().save_checkpoint({"epoch": 2, "bad": lambda: None}, path)
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    ManifestCheckpointIO().save_checkpoint({"epoch": 1, "w": torch.arange(100.0)}, path)
    assert ManifestCheckpointIO().load_checkpoint(path, weights_only=True)["epoch"] == 1
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RequestError, match="damaged"):
        ManifestCheckpointIO().load_checkpoint(path, weights_only=True)
    ManifestCheckpointIO().save_checkpoint({"epoch": 2}, tmp_path / "other.ckpt")
    manifest_path(tmp_path / "other.ckpt").unlink()  # as for a checkpoint of another tool: no checksum
    assert ManifestCheckpointIO().load_checkpoint(tmp_path / "other.ckpt", weights_only=True)["epoch"] == 2
