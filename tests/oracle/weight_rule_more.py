"""The rule by which the weights of RTMDet's and YOLOX's vectors are made. Needs numpy only."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from tests.oracle.weight_rule import draw

CLS = re.compile(r"bbox_head\.(rtm_cls|multi_level_conv_cls|multi_level_conv_obj)\.\d+\.(weight|bias)")
REG = re.compile(r"bbox_head\.(rtm_reg|multi_level_conv_reg)\.\d+\.(weight|bias)")


def value(key: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32] | None:
    """The state dict's entry `key`, by MMDetection's name; None: keep what the module has."""
    if key.endswith("num_batches_tracked"):
        return None
    f, n, is_weight = np.float32, draw(key, shape, seed), key.endswith("weight")
    fan_in = math.prod(shape[1:])
    if key.endswith("running_mean"):
        return f(0.1) * n
    if key.endswith("running_var"):
        return f(1.0) + f(0.1) * np.abs(n)
    if ".bn." in key:
        return f(1.0) + f(0.1) * n if is_weight else f(0.1) * n
    if CLS.fullmatch(key):
        return f(math.sqrt(1.0 / fan_in)) * n if is_weight else f(-2.0) + f(0.1) * n
    if REG.fullmatch(key):
        bias = 1.0 if "rtm_reg" in key else 0.5
        return f(0.5 * math.sqrt(1.0 / fan_in)) * n if is_weight else f(bias) + f(0.1) * n
    if len(shape) == 4:
        return f(math.sqrt(2.0 / fan_in)) * n
    if len(shape) == 1:
        return f(0.05) * n
    raise ValueError(f"the rule has no value for {key} of shape {shape}")
