"""What the parts of the core hand to each other, with shapes.

N images in a batch, L pyramid levels, a anchors a cell (9 in RetinaNet, else 1), A anchors over all levels
(A = sum of a * H_l * W_l), G boxes in an image, K classes, B numbers in a box code, D detections. Boxes are
(x1, y1, x2, y2) in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]  # height, width
_FILES = ("curves", "matches", "samples", "detections")  # fields of an `Evaluation` that become files


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch."""

    boxes: list[Tensor]  # N times [G, 4]
    labels: list[Tensor]  # N times [G], long, 0..K-1
    sizes: list[Size]  # of each image before padding: detections are clipped to it
    padded: list[Size]  # rounded up to the padding multiple: cells centred outside train nothing

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Targets:
        boxes = [b.to(device=device, dtype=dtype, non_blocking=True) for b in self.boxes]
        labels = [label.to(device, non_blocking=True) for label in self.labels]
        return Targets(boxes, labels, self.sizes, self.padded)


@dataclass(frozen=True)
class Batch:
    """What the loader yields: images ready for the network, their targets, and the way back to the original."""

    images: Tensor  # [N, 3, H, W], normalised; where padded as `PixelConfig` says
    targets: Targets
    image_ids: list[int]
    scales: list[tuple[float, float]]  # (x, y): network pixels per original pixel
    original_sizes: list[Size]

    def to(self, device: torch.device | str) -> Batch:
        images = self.images.to(device, non_blocking=True)
        return Batch(images, self.targets.to(device), self.image_ids, self.scales, self.original_sizes)

    def share_memory(self) -> None:
        """Move the tensors to shared memory, where they stay. Raises `RuntimeError` where there is no room."""
        for tensor in (self.images, *self.targets.boxes, *self.targets.labels):
            tensor.share_memory_()  # type: ignore[no-untyped-call]

    def pin_memory(self) -> Batch:
        pinned = Targets(
            [b.pin_memory() for b in self.targets.boxes],
            [label.pin_memory() for label in self.targets.labels],
            self.targets.sizes,
            self.targets.padded,
        )
        return Batch(self.images.pin_memory(), pinned, self.image_ids, self.scales, self.original_sizes)


@dataclass(frozen=True)
class Held:
    """Both towers' maps where the head was cut: per level, [N, C, H_l, W_l] each."""

    cls: list[Tensor]
    box: list[Tensor]
    activated: bool = True  # whether the activation at the cut has been applied


@dataclass(frozen=True)
class Predictions:
    """What a head says, per level; the channels of a cell's first anchor come first."""

    cls: list[Tensor]  # [N, a * K, H_l, W_l] logits
    box: list[Tensor]  # [N, a * B, H_l, W_l]; B = 4 * (reg_max + 1) logits in GFL, else 4 distances or deltas
    centerness: list[Tensor] | None = None  # [N, 1, H_l, W_l] logits; ATSS and FCOS
    objectness: list[Tensor] | None = None  # [N, 1, H_l, W_l] logits; YOLOX


@dataclass(frozen=True)
class Assignment:
    """Which anchor learns which box. All levels one after the other."""

    labels: Tensor  # [N, A] long: 0..K-1 positive, K background
    label_weights: Tensor  # [N, A]: 1, or 0 where the anchor lies in the padding or is ignored
    boxes: Tensor  # [N, A, 4]: the box of a positive, 0 elsewhere
    positives: list[int]  # per image
    level_sizes: list[int]  # anchors per level; sums to A
    centerness: Tensor | None = None  # [N, A]: of a positive, 0 elsewhere; ATSS and FCOS
    # [N, A]: the IoU of a positive's own box with the one it learns, 0 elsewhere; RTMDet and YOLOX
    quality: Tensor | None = None

    def positives_per_level(self, classes: int) -> list[int]:
        hits = (self.labels >= 0) & (self.labels < classes)
        return [int(h.sum()) for h in torch.split(hits, self.level_sizes, dim=1)]


@dataclass(frozen=True)
class Detections:
    """One image's result, best score first."""

    boxes: Tensor  # [D, 4]
    scores: Tensor  # [D]
    labels: Tensor  # [D] long


@dataclass(frozen=True)
class Candidates:
    """What one image's detections are chosen from, before suppression."""

    boxes: Tensor  # [D, 4], clipped (but YOLOX's), with those without area
    scores: Tensor  # [D]
    labels: Tensor  # [D] long
    close: Tensor  # [D] bool: whether it is about as good as what it had to reach (a dense one's: before centerness)


# A detection or distillation loss: term name -> [L], one value per level, or [] where levels are not told apart. The
# loss of the step is the sum of all.
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Curves:
    """Precision over recall, per class: boxes of all areas, all detections of an image, as COCO interpolates it.

    The mean of a class's last curve is its AP.
    """

    classes: tuple[str, ...]
    precision: NDArray[np.float64]  # [3, K, 101]: IoU 0.50, 0.75, mean of 0.50 ... 0.95; -1 without ground truth


@dataclass(frozen=True)
class Evaluation:
    """COCO AP of one model on the validation split."""

    model: str  # "student" or "teacher"
    step: int
    epoch: float
    metrics: dict[str, float]  # AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl; -1: nothing to measure
    per_class: dict[str, float] = field(default_factory=dict)  # class name -> AP
    class_metrics: dict[str, dict[str, float]] = field(default_factory=dict)  # class name -> AP50 AP75 AR100
    images: int = 0
    seconds: float = 0.0
    milliseconds_per_image: float | None = None
    best: bool = False
    max_detections: int = 100  # an image, and so in AP, in AR by area and in the curves; AR100 counts 100 at most
    boxes: int = 0  # of the ground truth, in the whole file
    boxes_left_out: int = 0  # besides: nothing of them lies in their image, or they have no size
    as_is: bool = False  # the ground truth as it stands in the file: plain pycocotools' numbers
    # For whoever stores them; a run's history keeps the numbers alone.
    curves: Curves | None = field(default=None, repr=False, compare=False)
    # What `crosskd/evaluation/matches.py` packs; on the main rank alone, as the next two.
    matches: bytes | None = field(default=None, repr=False, compare=False)
    # The file of sample images, and what makes that of all images: of most evaluations nobody asks for it.
    samples: bytes | None = field(default=None, repr=False, compare=False)
    detections: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def ap(self) -> float:
        return self.metrics["AP"]

    def ground_truth(self) -> dict[str, Any]:
        """What the numbers were measured against, for a manifest."""
        return {"boxes": self.boxes, "left_out": self.boxes_left_out, "as_is": self.as_is}

    def numbers(self) -> dict[str, Any]:
        """Every field but those of files, as plain values: what JSON and a checkpoint take."""
        numbers = asdict(self.without_files())
        return {name: value for name, value in numbers.items() if name not in _FILES}

    def without_files(self) -> Evaluation:
        """The numbers alone."""
        return replace(self, curves=None, matches=None, samples=None, detections=None)
