"""Changes of colour: hue, saturation and value are shifted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crosskd.spec.data.mixing import HSVConfig


def recoloured(pixels: NDArray[np.uint8], config: HSVConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """[h, w, 3] RGB with hue, saturation and value shifted by up to what `config` says, each in half of the cases.

    The hue goes round; the two others stop at 0 and 255. Draws the same numbers whatever the image holds.
    """
    limits = np.array([config.hue * 256 / 360, config.saturation, config.value])
    shifts = np.rint(rng.uniform(-1, 1, 3) * limits).astype(int) * rng.integers(0, 2, 3)
    if not shifts.any():
        return pixels
    levels = np.arange(256)
    tables = [(levels + shifts[0]) % 256, *((levels + shift).clip(0, 255) for shift in shifts[1:])]
    hsv = Image.fromarray(np.ascontiguousarray(pixels)).convert("HSV")
    shifted = hsv.point(np.concatenate(tables).tolist())
    return np.asarray(shifted.convert("RGB"))
