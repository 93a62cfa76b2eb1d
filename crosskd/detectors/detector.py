"""What all detectors have. Read this first, then the folder of a family: `dense/detector.py` and `dense/head.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.detectors.view import Kept, Pass, kept_maps, levels_of
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig, PostprocessConfig
from crosskd.spec.distill.needs import Need, Side
from crosskd.structures import Detections, Losses, Size, Targets


class Detector(nn.Module, ABC):
    """Images to losses (`forward`, for training) or to detections (`detect`); to a distillation, what terms need.

    A family adds its neck and its head, in this order. `train()` keeps frozen stages, and batch norm where `norm_eval`
    says so, in evaluation mode.
    """

    neck: nn.Module
    head: Any  # each family's own
    least_side = 0  # pixels up to which `features` pads smaller images itself
    step = 1  # pixels to a multiple of which `features` pads images itself

    def __init__(self, config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.strides = list(config.strides)
        backbone = registry.load(registry.lookup(registry.BACKBONES, config.backbone.name, "backbone").target)
        self.backbone: Any = backbone(config.backbone, load=pretrained)

    @property
    def max_detections(self) -> int:
        """The most detections that `detect` makes of an image, as the detector's own knobs say."""
        return self.config.postprocess.max_detections

    def select_classes(self, kept: Sequence[int]) -> None:
        """Keep these classes alone, in this order: the detector becomes one of `len(kept)` classes."""
        self.head.select_classes(kept)
        self.num_classes = len(kept)

    def sometimes_idle(self) -> list[str]:
        """Names of parameters that a step may leave without a gradient, such as one on images without objects."""
        return []

    def begin_epoch(self, index: int, epochs: int) -> None:
        """Epoch `index` of `epochs`, from 0, begins or goes on: for losses that change in the end."""

    def padded(self, height: int, width: int) -> Size:
        """The (height, width) that `features` pads such images to itself."""
        high, wide = (-(-max(side, self.least_side) // self.step) * self.step for side in (height, width))
        return high, wide

    def features(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the pyramid's maps, finest first, each [N, C, H_l, W_l]."""
        maps: list[Tensor] = self.neck(self.backbone(images))
        return maps

    def forward(self, images: Tensor, targets: Targets) -> Losses:
        """The detection loss of a batch, images [N, 3, H, W]: term -> [L], one value per level, or one alone."""
        return self.view("student", self.features(images), targets, ()).losses()

    @abstractmethod
    @torch.no_grad()
    def detect(
        self, images: Tensor, sizes: Sequence[Size], postprocess: PostprocessConfig | None = None
    ) -> list[Detections]:
        """One `Detections` per image, in pixels of `images`; clipped to each image's (height, width), but YOLOX's."""

    @abstractmethod
    @torch.no_grad()
    def found(self, made: Any, sizes: Sequence[Size], postprocess: PostprocessConfig) -> list[Detections]:
        """What `detect` says of a batch, out of a pass that this model has made already."""

    def part(self, features: list[Tensor], images: slice) -> list[Tensor]:
        """The maps of some of the images."""
        return [maps[images] for maps in features]

    @abstractmethod
    def view(
        self, side: Side, features: list[Tensor], targets: Targets, needs: Sequence[Need], assigned: Any = None
    ) -> Pass:
        """The way of this model, which is `side` of a pair, through a batch from its pyramid `features` on.

        It makes what `needs` ask of this side, and the detection loss. `assigned` is what the other model has assigned,
        where this one would assign the same (`crosskd.spec.alike`).
        """

    def kept(self, made: Any) -> Kept:
        """What has to be kept of a teacher's pass, so that `recalled` makes the same of it without the images.

        The maps of the pyramid, where a family knows nothing smaller.
        """
        return kept_maps(made.features)

    def recalled(self, kept: Kept, whole: Size, targets: Targets, needs: Sequence[Need]) -> Pass:  # noqa: ARG002
        """The teacher's `view` of a batch of images of (height, width) `whole`, out of what was `kept` of each.

        `needs` are those that it was kept for, or some of them.
        """
        return self.view("teacher", levels_of(kept, "maps"), targets, needs)

    @abstractmethod
    def network(self, images: Tensor) -> None:
        """Every convolution and product of one pass over `images`, whatever they find: what a pass costs."""

    @abstractmethod
    def convolutions(self) -> list[tuple[nn.Module, str]]:
        """The methods, each with its module, whose shapes depend on the images' size alone: what can be compiled."""

    def recomputed(self) -> list[tuple[nn.Module, str]]:
        """The methods, each with its module, that activation checkpointing runs again in the backward pass."""
        return [(module, "forward") for module in self.backbone.recomputed()]


def build_detector(config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> Detector:
    """A detector as `config` says; `pretrained=False` leaves `backbone.init` out, for weights that come later.

    Raises `WeightsError` where the backbone's weights cannot be had.
    """
    family = registry.lookup(registry.DETECTORS, config.detector, "detector").family
    detector: Detector = registry.load(registry.FAMILIES[family])(config, num_classes, pretrained=pretrained)
    return detector
