"""Swin Transformer: MMDetection's names and order of channels, and ours (torchvision's)."""

from __future__ import annotations

import math
import re

from torch import Tensor

from crosskd.convert.names import AFFINE, Pairs

STAGES = 4
_BLOCK = {
    rf"norm1\.{AFFINE}": rf"norm1\.{AFFINE}",
    r"attn\.(relative_position_bias_table|relative_position_index)": (
        r"attn\.w_msa\.(relative_position_bias_table|relative_position_index)"
    ),
    rf"attn\.(qkv|proj)\.{AFFINE}": rf"attn\.w_msa\.(qkv|proj)\.{AFFINE}",
    rf"norm2\.{AFFINE}": rf"norm2\.{AFFINE}",
    rf"mlp\.0\.{AFFINE}": rf"ffn\.layers\.0\.0\.{AFFINE}",
    rf"mlp\.3\.{AFFINE}": rf"ffn\.layers\.1\.{AFFINE}",
}
PAIRS: Pairs = [
    (rf"backbone\.features\.0\.0\.{AFFINE}", rf"backbone\.patch_embed\.projection\.{AFFINE}"),
    (rf"backbone\.features\.0\.2\.{AFFINE}", rf"backbone\.patch_embed\.norm\.{AFFINE}"),
    *(
        (rf"backbone\.features\.{2 * stage + 1}\.(\d+)\.{ours}", rf"backbone\.stages\.{stage}\.blocks\.(\d+)\.{theirs}")
        for stage in range(STAGES)
        for ours, theirs in _BLOCK.items()
    ),
    *(
        (
            rf"backbone\.features\.{2 * stage + 2}\.(norm|reduction)\.{AFFINE}",
            rf"backbone\.stages\.{stage}\.downsample\.(norm|reduction)\.{AFFINE}",
        )
        for stage in range(STAGES - 1)
    ),
    *((rf"backbone\.norms\.{stage}\.{AFFINE}", rf"backbone\.norm{stage}\.{AFFINE}") for stage in range(STAGES)),
]
# Whatever reads or scales the four cells that patch merging puts side by side.
_MERGING = re.compile(r"backbone\.features\.[246]\.(norm\.(weight|bias)|reduction\.weight)")
_INDEX = "attn.relative_position_index"
CELLS = 2  # a side of the square that is merged


def from_mmdet(name: str, tensor: Tensor) -> Tensor:
    """MMDetection's tensor of our `name` as ours."""
    if name.endswith(_INDEX):
        return tensor.flatten()
    return _reordered(tensor, ours=False) if _MERGING.fullmatch(name) else tensor


def to_mmdet(name: str, tensor: Tensor) -> Tensor:
    """Our tensor `name` as MMDetection's."""
    if name.endswith(_INDEX):
        side = math.isqrt(tensor.numel())
        return tensor.reshape(side, side)
    return _reordered(tensor, ours=True) if _MERGING.fullmatch(name) else tensor


def _reordered(tensor: Tensor, *, ours: bool) -> Tensor:
    """The channels of 2 x 2 merged cells, the last dimension, in the other project's order.

    MMDetection's come from `nn.Unfold`: all four cells of a channel, row by row, then the next channel. Ours are, as
    the authors', all channels of a cell, then the next cell, column by column. Both ways that swaps the first and the
    last of three axes: [channel, row, column] <-> [column, row, channel].
    """
    channels, rest = divmod(tensor.shape[-1] if tensor.dim() else 1, CELLS * CELLS)
    if rest:  # it has a wrong shape, which is told where all shapes are
        return tensor
    axes = (CELLS, CELLS, channels) if ours else (channels, CELLS, CELLS)
    return tensor.reshape(*tensor.shape[:-1], *axes).transpose(-3, -1).flatten(-3)
