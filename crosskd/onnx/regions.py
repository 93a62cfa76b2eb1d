"""A two-stage detector as a graph: proposals of a fixed number an image, and what is said of each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.boxes.coding import decode_deltas
from crosskd.boxes.ops import area
from crosskd.detectors.two_stage import proposals
from crosskd.onnx.operators import nms_mask, pool_regions
from crosskd.onnx.pipeline import TINY, Pipeline, clipped


class RegionPipeline(Pipeline):
    """See `Pipeline`. Where an image has fewer proposals than it may have, the rest are empty boxes that say nothing.

    So all shapes are known before; with the default numbers an image of common size has all its proposals.
    """

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head, config = self.detector.head, self.postprocess
        features = self.detector.features(self._normalised(images, sizes))
        boxes, there = self._proposals(features, sizes)  # [N, P, 4], [N, P]
        count, classes = boxes.shape[1], head.num_classes
        image = torch.arange(images.shape[0])[:, None].expand(-1, count).reshape(-1)
        flat = boxes.reshape(-1, 4)
        maps = features[: head.levels]
        of_regions = head.config.sampling_ratio, head.config.aligned
        level = head.level_of(area(flat).sqrt())
        said = head.say(pool_regions(maps, flat, image, level, head.scales, *of_regions))
        scores = said.cls.softmax(-1)[:, :-1].reshape(-1, count, classes)  # [N, P, K]
        deltas = said.box.reshape(-1, count, classes, 4)
        decoded = decode_deltas(boxes[:, :, None], deltas, head.config.box_stds).reshape(-1, count * classes, 4)
        decoded = clipped(decoded, sizes)
        solid = (decoded[..., 2] > decoded[..., 0]) & (decoded[..., 3] > decoded[..., 1])
        passed = there[..., None] & (scores > config.score_threshold) & solid.reshape(-1, count, classes)
        scores = torch.where(passed, scores, 0.0)
        by_class = decoded.reshape(-1, count, classes, 4).transpose(1, 2).reshape(-1, count, 4)  # [N * K, P, 4]
        of_class = scores.transpose(1, 2).reshape(-1, 1, count)
        kept = nms_mask(by_class, of_class, config.nms_iou, config.max_detections)
        kept = kept.reshape(-1, classes, count).transpose(1, 2)
        labels = torch.arange(classes).repeat(count).expand(images.shape[0], -1)
        return self._packed(decoded, torch.where(kept, scores, 0.0).flatten(1), labels)

    def _proposals(self, features: list[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [N, P, 4] best first, and which of them there are [N, P]; see `ProposalNetwork.propose`."""
        head, pre_nms = self.detector.head, self.postprocess.pre_nms
        objects = head.rpn.look(features)
        logits, places, there, start = [], [], [], 0
        for count in objects.anchors.level_sizes:
            level = F.pad(objects.logits[:, start : start + count], (0, pre_nms), value=-torch.inf)
            best, place = level.topk(pre_nms, dim=1)
            logits.append(best)
            there.append(place < count)
            places.append(torch.where(place < count, place, 0) + start)
            start = start + count
        place = torch.cat(places, dim=1)  # [N, L * B]
        deltas = objects.deltas.gather(1, place[..., None].expand(-1, -1, 4))
        boxes = clipped(decode_deltas(objects.anchors.boxes()[place], deltas, proposals.STDS), sizes)
        solid = torch.cat(there, dim=1) & proposals.has_sides(boxes)
        scores = torch.cat(logits, dim=1).sigmoid()
        passed = solid & (scores >= head.config.rpn_score_threshold)
        scores = torch.where(passed, scores.clamp(min=TINY), 0.0)
        keep = head.config.proposals
        by_level = boxes.reshape(-1, pre_nms, 4), scores.reshape(-1, 1, pre_nms)  # [N * L, B, 4], [N * L, 1, B]
        kept = nms_mask(*by_level, head.config.rpn_nms_iou, keep).reshape(scores.shape)
        scores, row = F.pad(torch.where(kept, scores, 0.0), (0, keep)).topk(keep, dim=1)
        found = torch.where(scores > 0, row, 0)
        boxes = boxes.gather(1, found[..., None].expand(-1, -1, 4))
        return torch.where((scores > 0)[..., None], boxes, 0.0), scores > 0
