"""The checkpoints of a run as files: their names, their manifests, and which are whole. Does not import torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
SHA256 = "sha256"  # in a manifest


def manifest_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's manifest: `last.ckpt` → `last.json`."""
    return checkpoint.with_suffix(".json")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_sound(checkpoint: Path) -> bool:
    """Return whether a checkpoint is the one that its manifest describes; without a manifest, it is taken for whole."""
    manifest = manifest_path(checkpoint)
    if not manifest.is_file():
        return True
    try:
        expected = json.loads(manifest.read_text())[SHA256]
    except (ValueError, KeyError, TypeError):
        return False
    return expected == digest_of(checkpoint)


def checkpoints_of(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of a run from which it can resume, the newest first."""
    yield from (folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).is_file())


def keep_previous(checkpoint: Path) -> None:
    """Let `last.ckpt`, which is about to be replaced, also be `previous.ckpt`; at no time is neither of them whole."""
    for path in (checkpoint, manifest_path(checkpoint)):
        if path.is_file():
            kept = path.with_name(PREVIOUS).with_suffix(path.suffix)
            temporary = path.with_name(f".{kept.name}.{os.getpid()}")
            temporary.unlink(missing_ok=True)
            try:
                os.link(path, temporary)
            except OSError:  # a file system without links
                shutil.copy2(path, temporary)
            temporary.replace(kept)


def forget_previous(folder: Path) -> None:
    """Remove `previous.ckpt` of a run that has ended."""
    for path in (manifest_path(folder / PREVIOUS), folder / PREVIOUS):
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Make the names of new files survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
