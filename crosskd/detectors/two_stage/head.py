"""Faster R-CNN's head: proposals (`proposals.py`), and what the second stage says of each region."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from crosskd.boxes.coding import decode_deltas, encode_deltas
from crosskd.boxes.ops import area, clip
from crosskd.boxes.suppression import class_nms
from crosskd.detectors.pooling import level_of, pool
from crosskd.detectors.two_stage.proposals import Objects, ProposalNetwork, box_loss
from crosskd.detectors.two_stage.regions import RegionPredictions, Regions, Sampler, sample_regions
from crosskd.losses import EPSILON as DIVISOR_EPSILON
from crosskd.losses import at_least_float32, rank_own
from crosskd.spec.config import ModelConfig, PostprocessConfig
from crosskd.structures import Detections, Losses, Size, Targets

SIDE = 7  # cells of a pooled region


class RegionHead(nn.Module):
    """Regions by RoIAlign (arXiv 1703.06870) from the level of their size, then shared layers, classes and deltas.

    The background is the last class, and has no deltas. Versions: `v1` two fully connected layers; `v2` (arXiv
    2111.11429) four convolutions with batch norm and one fully connected layer.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        assert config.regions is not None
        self.config, self.num_classes, self.strides = config.regions, num_classes, list(config.strides)
        channels, width = config.neck.channels, config.regions.channels
        self.rpn = ProposalNetwork(config)
        self.region = (
            TwoMLPHead(channels * SIDE**2, width)
            if self.config.version == "v1"
            else FastRCNNConvFCHead((channels, SIDE, SIDE), [channels] * 4, [width], norm_layer=nn.BatchNorm2d)
        )
        self.cls = nn.Linear(width, num_classes + 1)
        self.box = nn.Linear(width, 4 * num_classes)
        self.channels = channels
        # P2..P5 have regions; P6 proposes alone. Of several levels of one stride, the first alone has any.
        self.levels = 1 + int(math.log2(self.strides[-2] / self.strides[0]))
        self.sampler = Sampler(0.5, 0.5, self.config.samples, self.config.positives, best_of_each=False)

    def select_classes(self, kept: Sequence[int]) -> None:
        """Keep the logits and deltas of the classes `kept`, in that order, and the background's.

        Probabilities are then those among the classes that are left.
        """
        old, index = self.state_dict(), torch.tensor(kept)
        rows = torch.cat((index, torch.tensor([self.num_classes])))
        corners = (4 * index[:, None] + torch.arange(4)).flatten()
        width = self.cls.in_features
        self.cls, self.box = nn.Linear(width, len(rows)), nn.Linear(width, len(corners))
        for layer, taken in (("cls", rows), ("box", corners)):
            self.get_submodule(layer).load_state_dict({k: old[f"{layer}.{k}"][taken] for k in ("weight", "bias")})
        self.num_classes = len(kept)

    # --- the two stages -----------------------------------------------------------------------------------------------

    def proposals(
        self, objects: Objects, sizes: Sequence[Size], config: PostprocessConfig | None = None
    ) -> list[Tensor]:
        """Of each image, (height, width) `sizes`, boxes [P, 4]: as many as training or detecting asks for."""
        if config is None:
            pre_nms, keep = self.config.train_pre_nms, self.config.train_proposals
        else:
            pre_nms, keep = config.pre_nms, self.config.proposals
        return self.rpn.propose(objects, sizes, pre_nms=pre_nms, keep=keep)

    def sample(self, proposals: Sequence[Tensor], targets: Targets) -> Regions:
        """The regions of a batch that it learns from."""
        return sample_regions(proposals, targets, self.num_classes, self.sampler)

    def predict(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> RegionPredictions:
        """What it says of the regions `boxes` (N times [R_i, 4]) on the pyramid's maps, in full precision."""
        return self.say(self.pool(features, boxes))

    def say(self, maps: Tensor) -> RegionPredictions:
        """What it says of regions by their own maps [R, C, 7, 7], in full precision."""
        shared = self.region(maps)
        deltas = at_least_float32(self.box(shared))
        return RegionPredictions(at_least_float32(self.cls(shared)), deltas.view(-1, self.num_classes, 4))

    def pool(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The regions' maps [R, C, 7, 7], in full precision."""
        whole = torch.cat(list(boxes))
        image = torch.cat([b.new_full((len(b),), i, dtype=torch.long) for i, b in enumerate(boxes)])
        return self.pool_at(features, whole, image, self.level_of(area(whole).sqrt()))

    def pool_at(self, features: Sequence[Tensor], boxes: Tensor, image: Tensor, level: Tensor) -> Tensor:
        """`pool` of the regions `boxes` [R, 4] of `image` [R], each from the map of its `level` [R]."""
        maps = [at_least_float32(source) for source in features[: self.levels]]
        return pool(maps, boxes, image, level, self.scales, SIDE, self.config.sampling_ratio, self.config.aligned)

    def level_of(self, side: Tensor) -> Tensor:
        """The level [R] whose map a region is pooled from, by the root of its area in pixels [R]."""
        return level_of(side, self.levels, self.strides[0])

    @property
    def scales(self) -> list[float]:
        """Cells of a pixel, of each level that has regions."""
        return [1 / stride for stride in self.strides[: self.levels]]

    def loss(self, predictions: RegionPredictions, regions: Regions) -> Losses:
        """Cross entropy, and (smooth) L1 of the deltas of a positive's class, by the number of regions; []."""
        with torch.autocast(predictions.cls.device.type, enabled=False):
            positive = (regions.labels < self.num_classes).nonzero()[:, 0]
            divisor = rank_own(predictions.cls.new_tensor(float(len(regions.labels))), least=1) + DIVISOR_EPSILON
            aims = encode_deltas(regions.all_boxes[positive], regions.aims[positive], self.config.box_stds)
            deltas = predictions.box[positive, regions.labels[positive]]
            return {
                "loss_cls": F.cross_entropy(predictions.cls, regions.labels, reduction="sum") / divisor,
                "loss_bbox": box_loss(deltas, aims, self.config.box_beta) / divisor,
            }

    @torch.no_grad()
    def detect(self, features: Sequence[Tensor], sizes: Sequence[Size], config: PostprocessConfig) -> list[Detections]:
        """One `Detections` per image, best score first; boxes are clipped to the image's (height, width) in `sizes`."""
        proposals = self.proposals(self.rpn.look(features), sizes, config)
        predictions = self.predict(features, proposals)
        counts = [len(boxes) for boxes in proposals]
        scores = torch.split(predictions.cls.softmax(-1)[:, :-1], counts)
        of_image = torch.split(predictions.box, counts)
        found = []
        for boxes, score, deltas, size in zip(proposals, scores, of_image, sizes, strict=True):
            row, label = (score > config.score_threshold).nonzero(as_tuple=True)
            decoded = clip(decode_deltas(boxes[row], deltas[row, label], self.config.box_stds), size)
            best = class_nms(decoded, score[row, label], label, threshold=config.nms_iou, keep=config.max_detections)
            found.append(best)
        return found
