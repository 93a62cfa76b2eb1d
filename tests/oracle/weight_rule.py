"""The rule by which the oracle's weights, images and boxes are made. Needs numpy only."""

from __future__ import annotations

import math
import re
import zlib

import numpy as np
from numpy.typing import NDArray

NORM = re.compile(r"(\.bn\d?|\.gn|\.downsample\.1)\.(weight|bias)$")
PRED_CLS = re.compile(r"^bbox_head\.(gfl_cls|retina_cls|atss_cls|conv_cls)\.(weight|bias)$")
PRED_OTHER = re.compile(
    r"^bbox_head\.(gfl_reg|retina_reg|atss_reg|conv_reg|atss_centerness|conv_centerness)\.(weight|bias)$"
)
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
TEACHER_SEED_OFFSET = 1000


def draw(key: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Standard normals in C order, from PCG64(crc32(key) + seed)."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()) + seed))
    return rng.standard_normal(math.prod(shape), dtype=np.float32).reshape(shape)


def value(key: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32] | None:
    """The state dict's entry `key`, by MMDetection's name; None: keep what the module has."""
    if key.endswith(("num_batches_tracked", "integral.project")):
        return None
    f, n, is_weight = np.float32, draw(key, shape, seed), key.endswith("weight")
    if key.endswith("running_mean"):
        return f(0.1) * n
    if key.endswith("running_var"):
        return f(1.0) + f(0.1) * np.abs(n)
    if NORM.search(key) or ".bn." in key:
        return f(1.0) + f(0.1) * n if is_weight else f(0.1) * n
    if key.endswith(".scale"):
        return f(1.0) + f(0.05) * n
    if PRED_CLS.match(key):
        return f(0.02) * n if is_weight else f(PRIOR_BIAS) + f(0.1) * n
    if PRED_OTHER.match(key):
        base = 3.0 if key == "bbox_head.conv_reg.bias" else 0.0  # FCOS: exp(3) = 20 pixels
        return f(0.01) * n if is_weight else f(base) + f(0.1) * n
    if len(shape) == 4:
        return f(math.sqrt(1.0 / math.prod(shape[1:]))) * n
    if len(shape) == 1:
        return f(0.05) * n
    raise ValueError(f"the rule has no value for {key} of shape {shape}")


def make_images(seed: int, size: tuple[int, int], inside: list[tuple[int, int]]) -> NDArray[np.float32]:
    """[N, 3, H, W] of the batch's (H, W) `size`, zero outside each image's own (height, width)."""
    images = draw("image", (len(inside), 3, *size), seed)
    for image, (height, width) in zip(images, inside, strict=True):
        image[:, height:, :] = 0
        image[:, :, width:] = 0
    return images
