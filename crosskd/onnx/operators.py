"""Operators of our own in an exported graph: what has no shape that could be traced, and its form in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnxscript import opset18
from torch import Tensor

from crosskd.boxes.suppression import suppress
from crosskd.detectors.pooling import pool
from crosskd.detectors.two_stage.head import SIDE

op: Any = opset18  # its types do not know that a constant may stand for a tensor


@torch.library.custom_op("crosskd::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, iou: float, keep: int) -> Tensor:
    """Which candidates non-maximum suppression within each class leaves, the `keep` best: -> [N, P] bool.

    Boxes [N, P, 4]; scores [N, K, P], 0 but for the class of the candidate, or wholly where there is none. An operator
    of its own: PyTorch's takes one image, and returns as many rows as it finds, which has no shape to be traced.
    """
    scores, labels = scores.max(dim=1)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        rows = (scores[image] > 0).nonzero()[:, 0]
        best = suppress(boxes[image, rows], scores[image, rows], labels[image, rows], iou)[:keep]
        kept[image, rows[best]] = True
    return kept


@nms_mask.register_fake
def _nms_mask_shape(boxes: Tensor, scores: Tensor, iou: float, keep: int) -> Tensor:  # noqa: ARG001 - as above
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


def _nms_mask_in_onnx(boxes: Any, scores: Any, iou: float, keep: int) -> Any:
    """`nms_mask` in ONNX; the best `keep` of each class are at least those of all."""
    selected = op.NonMaxSuppression(  # [M, 3] image, class, candidate
        boxes,
        scores,
        op.Constant(value_ints=[keep]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[0.0]),
    )
    place = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)  # [M, 2]
    ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(selected), [0], [1]))
    zeros = op.ConstantOfShape(op.Slice(op.Shape(boxes), [0], [2]))  # [N, P]
    return op.Cast(op.ScatterND(zeros, place, ones), to=onnx.TensorProto.BOOL)


@torch.library.custom_op("crosskd::pool_regions", mutates_args=())
def pool_regions(
    maps: Sequence[Tensor],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`crosskd.detectors.pooling.pool`: -> [R, C, 7, 7].

    An operator of its own: how many regions lie on a level is no shape to be traced.
    """
    return pool(list(maps), boxes, image, level, list(scales), SIDE, sampling_ratio, aligned)


@pool_regions.register_fake
def _pool_regions_shape(
    maps: Sequence[Tensor],
    boxes: Tensor,
    image: Tensor,  # noqa: ARG001 - as above
    level: Tensor,  # noqa: ARG001
    scales: Sequence[float],  # noqa: ARG001
    sampling_ratio: int,  # noqa: ARG001
    aligned: bool,  # noqa: ARG001
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], maps[0].shape[1], SIDE, SIDE)


def _pool_regions_in_onnx(
    maps: Sequence[Any],
    boxes: Any,
    image: Any,
    level: Any,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Any:
    """`pool_regions` in ONNX: each level's regions are taken out, pooled, and put back where they stood."""
    count = op.Shape(boxes, start=0, end=1)
    channels = op.Shape(maps[0], start=1, end=2)
    pooled = op.ConstantOfShape(op.Concat(count, channels, op.Constant(value_ints=[SIDE, SIDE]), axis=0))
    for number, (source, scale) in enumerate(zip(maps, scales, strict=True)):
        place = op.Transpose(op.NonZero(op.Equal(level, op.Constant(value_int=number))), perm=[1, 0])  # [R_l, 1]
        rows = op.Squeeze(place, op.Constant(value_ints=[1]))
        part = op.RoiAlign(
            source,
            op.Gather(boxes, rows),
            op.Gather(image, rows),
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            output_height=SIDE,
            output_width=SIDE,
            sampling_ratio=sampling_ratio,
            spatial_scale=scale,
        )
        pooled = op.ScatterND(pooled, place, part)
    return pooled


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.crosskd.nms_mask.default: _nms_mask_in_onnx,
    torch.ops.crosskd.pool_regions.default: _pool_regions_in_onnx,
}
