"""The checksum of the TFRecord format; apart from the writer, whose kernels a reader does not need."""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np


def masked_crc(data: Sequence[bytes | np.ndarray]) -> int:
    """Return the CRC-32C of data in parts, rotated and offset as the TFRecord format asks."""
    crc = 0
    for part in data:
        crc = google_crc32c.extend(crc, part)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
