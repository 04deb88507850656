"""The color scale that the page contains is that of the pictures."""

from __future__ import annotations

import base64

import numpy as np
from matplotlib import colormaps

from stabletrain.report.palette import PALETTE
from stabletrain.report.pictures.drawing import SEQUENTIAL


def test_the_palette_is_matplotlibs():
    found = np.frombuffer(base64.b64decode(PALETTE), np.uint8).reshape(256, 3)
    np.testing.assert_array_equal(found, colormaps[SEQUENTIAL](np.arange(256), bytes=True)[:, :3])
