"""What the parts of the core hand to each other, with shapes.

N images in a batch, L pyramid levels, a anchors a cell (9 in RetinaNet, else 1), A anchors over all levels
(A = sum of a * H_l * W_l), G boxes in an image, K classes, B numbers in a box code, D detections. Boxes are
(x1, y1, x2, y2) in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Size = tuple[int, int]  # height, width
_FILES = ("curves", "matches", "samples", "detections")  # fields of an `Evaluation` that become files


@dataclass(frozen=True)
class TargetTable:
    """The ground truth of a batch in three tensors, so that nobody goes through its images one by one.

    G is the largest number of boxes in an image here, 1 at least; B boxes are in the batch.
    """

    boxes: Tensor  # [N, G, 4]; 0 where an image has no more
    numbers: Tensor  # [N, G + 5] long: labels (0 where there are no more), count, and both sizes as in `Targets`
    place: Tensor  # [B] long: where each box lies among the N * G, image after image

    @classmethod
    def of(cls, targets: Targets) -> TargetTable:
        boxes = pad_sequence(targets.boxes, batch_first=True)
        labels = pad_sequence(targets.labels, batch_first=True)
        if boxes.shape[1] == 0:
            boxes, labels = boxes.new_zeros(len(boxes), 1, 4), labels.new_zeros(len(boxes), 1)
        counts, most = [len(each) for each in targets.boxes], boxes.shape[1]
        rows = [[n, *size, *step] for n, size, step in zip(counts, targets.sizes, targets.padded, strict=True)]
        place = [image * most + box for image, count in enumerate(counts) for box in range(count)]
        on = labels.device
        return cls(
            boxes,
            torch.cat((labels, torch.tensor(rows, dtype=torch.long).to(on)), dim=1),
            torch.tensor(place, dtype=torch.long).to(on),
        )

    @property
    def labels(self) -> Tensor:
        """[N, G] long; 0 where an image has no more boxes."""
        return self.numbers[:, :-5]

    @property
    def there(self) -> Tensor:
        """[N, G] bool: whether an image has as many boxes."""
        return torch.arange(self.boxes.shape[1], device=self.numbers.device) < self.numbers[:, -5:-4]

    @property
    def sizes(self) -> Tensor:
        """[N, 2] long: `Targets.sizes`."""
        return self.numbers[:, -4:-2]

    @property
    def padded(self) -> Tensor:
        """[N, 2] long: `Targets.padded`."""
        return self.numbers[:, -2:]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TargetTable:
        """`dtype` is that of the boxes."""
        boxes, numbers, place = (
            # What is not pinned is copied while the host waits.
            (x.pin_memory() if torch.device(device).type == "cuda" and x.device.type == "cpu" else x).to(
                device, non_blocking=True
            )
            for x in (self.boxes, self.numbers, self.place)
        )
        return TargetTable(boxes.to(dtype or boxes.dtype), numbers, place)


class Shown(NamedTuple):
    """What is to be seen in an image of a batch, for who keeps what a model makes of it."""

    digest: str  # sha256 of its pixels before they are mirrored, and of their size
    mirrored: bool  # left to right


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch."""

    boxes: list[Tensor]  # N times [G, 4]
    labels: list[Tensor]  # N times [G], long, 0..K-1
    sizes: list[Size]  # of each image before padding: detections are clipped to it
    padded: list[Size]  # rounded up to the padding multiple: cells centred outside train nothing
    unlabelled: int = 0  # so many of the last images have no ground truth: nobody knows what is in them
    shown: list[Shown] | None = None  # of each image, where the loader was asked for it

    def part(self, images: slice) -> Targets:
        """Those of some of the images, either all with ground truth or all without."""
        first = images.indices(len(self.boxes))[0]
        boxes = self.boxes[images]
        unlabelled = len(boxes) if first >= len(self.boxes) - self.unlabelled else 0
        shown = None if self.shown is None else self.shown[images]
        return Targets(boxes, self.labels[images], self.sizes[images], self.padded[images], unlabelled, shown)

    @cached_property
    def table(self) -> TargetTable:
        """All of it, made once."""
        return TargetTable.of(self)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Targets:
        """In one copy for the whole batch; `dtype` is that of the boxes, which are views of the table then."""
        wanted, now = torch.device(device), self.boxes[0].device
        if wanted.type == now.type and wanted.index in (None, now.index) and dtype in (None, self.boxes[0].dtype):
            return self
        table = self.table.to(device, dtype)
        counts = [len(boxes) for boxes in self.boxes]
        boxes = [row[:count] for row, count in zip(table.boxes.unbind(), counts, strict=True)]
        labels = [row[:count] for row, count in zip(table.labels.unbind(), counts, strict=True)]
        moved = replace(self, boxes=boxes, labels=labels)
        vars(moved)["table"] = table
        return moved


@dataclass(frozen=True)
class Batch:
    """What the loader yields: images ready for the network, their targets, and the way back to the original."""

    images: Tensor  # [N, 3, H, W], normalised; where padded as `PixelConfig` says
    targets: Targets
    image_ids: list[int]
    scales: list[tuple[float, float]]  # (x, y): network pixels per original pixel
    original_sizes: list[Size]

    def to(self, device: torch.device | str) -> Batch:
        return replace(self, images=self.images.to(device, non_blocking=True), targets=self.targets.to(device))


@dataclass(frozen=True)
class Held:
    """Both towers' maps where the head was cut: per level, [N, C, H_l, W_l] each."""

    cls: list[Tensor]
    box: list[Tensor]
    activated: bool = True  # whether the activation at the cut has been applied


@dataclass(frozen=True)
class Moments:
    """What is to be known of a map's values, image by image and channel by channel, to join images to a batch."""

    count: Tensor  # [N, 1]: cells
    mean: Tensor  # [N, C]
    squares: Tensor  # [N, C]: the sum of squared deviations from that image's mean


@dataclass(frozen=True)
class HeldMoments:
    """`Held`, of which the statistics alone are left."""

    cls: list[Moments]
    box: list[Moments]
    activated: bool = True


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
    positives: Tensor  # [N] long: per image
    level_sizes: list[int]  # anchors per level; sums to A
    centerness: Tensor | None = None  # [N, A]: of a positive, 0 elsewhere; ATSS and FCOS
    # [N, A]: the IoU of a positive's own box with the one it learns, 0 elsewhere; RTMDet and YOLOX
    quality: Tensor | None = None
    most: int | None = None  # positives of the batch, at most, as is known without a look; None: all anchors

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
