"""A DETR as a graph: what every query says, and the best pairs of a query and a class. Nothing is suppressed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.detectors.detr.detector import corners
from crosskd.detectors.detr.library import kind_of, traceable
from crosskd.detectors.detr.view import Maps, call
from crosskd.losses import at_least_float32
from crosskd.onnx.pipeline import CELLS, TINY, Pipeline, clipped
from crosskd.onnx.query_rounding import scoring_of
from crosskd.structures import Size


class QueryPipeline(Pipeline):
    """See `Pipeline`."""

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = self.detector.features(self._normalised(images, sizes))
        assert isinstance(maps, Maps)
        with traceable(self.detector.config):
            output = call(self.detector.head, maps, sizes)
        scores = at_least_float32(output.logits).sigmoid()  # [N, Q, K]
        keep, classes = self.postprocess.max_detections, scores.shape[2]
        score, pair = F.pad(scores.clamp(min=TINY).flatten(1), (0, keep)).topk(keep, dim=1)  # see `detector.best`
        pair = torch.where(score > 0, pair, 0)
        shares = at_least_float32(output.pred_boxes).gather(1, (pair // classes)[..., None].expand(-1, -1, 4))
        boxes = clipped(corners(shares, (1, 1)) * self._scale(sizes, maps.image, shares), sizes)
        solid = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        passed = solid & (score >= self.postprocess.score_threshold)
        return self._packed(boxes, torch.where(passed, score, 0.0), pair % classes)

    def complete(self, model: Any) -> None:
        """Name the cells in which queries begin: the first choice of all that the graph makes."""
        if scoring_of(self.detector) is not None:
            first = next(node for node in model.graph if node.op_type == "TopK")
            first.outputs[1].name = CELLS

    def _scale(self, sizes: Tensor, whole: Size, like: Tensor) -> Tensor:
        """(width, height, width, height) of which boxes are shares, [N, 1, 4]; see `box_scale`."""
        if kind_of(self.detector.config).masked:
            return sizes.flip(1).to(like).repeat(1, 2)[:, None]
        one = torch.ones_like(like[:, :1, :1])
        height, width = whole
        return torch.cat((one * width, one * height, one * width, one * height), dim=2)
