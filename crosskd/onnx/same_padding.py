"""TensorFlow's padding "same" in a graph whose image sizes are free: it depends on the size of each map."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import cast
from unittest import mock

import torch

_TIMM = "timm.layers.padding"


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Pixels that are added to a side of `size`, both ends together, so that ceil(size / stride) places result."""
    reach = dilation * (kernel - 1) + 1
    if reach >= stride:  # the last place always needs some, or none
        return (size - 1) // stride * stride + reach - size
    # A cast alone: int() would fix the size.
    return cast(int, torch.sym_max(reach - 1 - (size - 1) % stride, 0))


@contextlib.contextmanager
def traceable_padding() -> Iterator[None]:
    """In the block timm computes its padding by `same_padding`: the same pixels, in whole numbers.

    timm's own takes a fraction, its ceiling and a maximum. The tracer carries these through every layer, in terms that
    grow without bound: an export of tf_efficientnet_lite0 does not end.
    """
    module = sys.modules.get(_TIMM)  # whoever has a timm model has imported it
    if module is None:
        yield
        return
    with mock.patch.object(module, "get_same_padding", same_padding):
        yield
