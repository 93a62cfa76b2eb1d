"""A dense detector as a graph: predictions of every anchor, the best of each level, suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.detectors.dense.head import flatten, map_sizes
from crosskd.detectors.dense.tower_convs import best_class
from crosskd.detectors.detector import Detector
from crosskd.losses import at_least_float32
from crosskd.onnx.operators import nms_mask
from crosskd.onnx.pipeline import Pipeline, clipped
from crosskd.onnx.rounding import BOX_TOLERANCE, SCORE_TOLERANCE
from crosskd.structures import Candidates, Detections, Predictions, Size


class DensePipeline(Pipeline):
    """See `Pipeline`."""

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head = self.detector.head
        predictions = head(self.detector.features(self._normalised(images, sizes)))
        anchors = head.anchors(map_sizes(predictions.cls), at_least_float32(predictions.cls[0]))
        scores, anchor, labels = self._candidates(predictions)  # [N, P] each
        decoded = head.decode(head.codes(predictions), anchors)  # [N, A, 4]
        boxes = decoded.gather(1, anchor[..., None].expand(-1, -1, 4))  # [N, P, 4]
        boxes = clipped(boxes, sizes) if head.clips else boxes
        solid = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        return self._best(boxes, torch.where(solid, scores, 0.0), labels)

    def _candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Score, anchor and label of the `pre_nms` best (anchor, class) pairs of each level; score 0: there are fewer.

        See `DenseHead.detect`.
        """
        config, classes = self.postprocess, self.detector.num_classes
        scores, anchors, labels, start = [], [], [], 0
        for level, logits in enumerate(predictions.cls):
            score = flatten([logits], classes).sigmoid()  # [N, A_l, K]
            centre = None
            if predictions.centerness is not None:
                centre = flatten([predictions.centerness[level]], 1).sigmoid()  # [N, A_l, 1]
            if centre is not None and config.score == "root":
                score, centre = (score * centre).sqrt(), None
            if predictions.objectness is not None:
                score = score * flatten([predictions.objectness[level]], 1).sigmoid()
                score = torch.where(best_class(score), score, 0.0)
            count = score.shape[1]
            passed = torch.where(score > config.score_threshold, score, 0.0).flatten(1)
            best, pair = F.pad(passed, (0, config.pre_nms)).topk(config.pre_nms, dim=1)
            pair = torch.where(best > 0, pair, 0)
            anchor = pair // classes
            scores.append(best if centre is None else best * centre[..., 0].gather(1, anchor))
            anchors.append(anchor + start)
            labels.append(pair % classes)
            start = start + count
        return torch.cat(scores, dim=1), torch.cat(anchors, dim=1), torch.cat(labels, dim=1)

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The `max_detections` best of the candidates that survive NMS within their classes."""
        keep = self.postprocess.max_detections
        own = labels[:, None] == torch.arange(self.detector.num_classes)[:, None]  # [N, K, P]
        kept = nms_mask(boxes, torch.where(own, scores[:, None], 0.0), self.postprocess.nms_iou, keep)
        return self._packed(boxes, torch.where(kept, scores, 0.0), labels)


@torch.no_grad()
def look(detector: Detector, images: Tensor, sizes: Sequence[Size]) -> tuple[list[Detections], list[Candidates]]:
    """PyTorch's detections and candidates per image; `close` are those about which rounding decides.

    They are at the score threshold or at the last place of `pre_nms`, by what these look at: in FCOS and ATSS the
    class probability, and not the score, which is that times centerness. Or they have hardly any area.
    """
    config, head = detector.config.postprocess, detector.head
    predictions = head(detector.features(images))
    candidates = []
    for found in head.candidates(predictions, sizes, config, slack=SCORE_TOLERANCE):
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        candidates.append(replace(found, close=found.close | (sides.amin(dim=1) <= BOX_TOLERANCE)))
    return head.detect(predictions, sizes, config), candidates
