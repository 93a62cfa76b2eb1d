"""COCO average precision of a detector on the validation split, in pixels of the original images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosskd.data.annotations import Annotations, read_annotations
from crosskd.engine import distributed
from crosskd.engine.device import memory_errors
from crosskd.errors import ConfigError, Interrupted, NoAnswer
from crosskd.evaluation.average_precision import (
    ImageDetections,
    average_precision,
    counted_detections,
    image_order,
)
from crosskd.evaluation.detections import packed_detections, packed_samples
from crosskd.spec.results.detections import sample_ids
from crosskd.structures import Batch, Detections, Evaluation, Size


class Evaluable(Protocol):
    """What can be evaluated: a detector, or one behind something that mends its input."""

    training: bool

    @property
    def num_classes(self) -> int:
        """Its labels are 0 .. num_classes - 1."""

    @property
    def max_detections(self) -> int:
        """The most detections that it makes of an image: AP counts them all."""

    def detect(self, images: Tensor, sizes: Sequence[Size]) -> list[Detections]:
        """As `Detector.detect`."""

    def train(self, mode: bool = True) -> Any:
        """As `Module.train`."""


def evaluate(
    detector: Evaluable,
    batches: Iterable[Batch],
    *,
    annotations: Annotations | Path | str,
    classes: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    model: str = "student",
    step: int = 0,
    epoch: float = 0.0,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluate `detector` on every image that `batches` has; images it leaves out are not counted as missed.

    `annotations` is the ground truth: what a loader has read (`loader.dataset.annotations`), or a COCO file with
    `classes` in label order. Where it was read `as_is`, the numbers are plain pycocotools'. `milliseconds_per_image` is
    the detector's time alone, from the batch on its device to the detections. `stopping` is asked before
    each batch; there is nothing to save then, a resume evaluates again.

    In a process group every rank calls this with its own share of the batches and gets the same result. Shares are
    whole batches (`build_loader(..., rank=, world_size=)`), and the main rank puts all detections in the order of
    the images: the evaluation sees the very list that one process would have made.

    Raises:
        ConfigError: the detector has another number of classes than the data.
        DataError: the annotation file is broken, or an image cannot be read.
        OutOfMemory: the batch is too large for the device.
        Interrupted: a stop was requested, on this rank or another.
    """
    truth = annotations if isinstance(annotations, Annotations) else read_annotations(annotations, classes)
    if detector.num_classes != len(truth.classes):
        raise ConfigError(
            f"the {model} knows {detector.num_classes} classes, the data has {len(truth.classes)}",
            where="/data/classes",
            remedy="Give the classes that the model was trained on.",
        )
    start = time.perf_counter()
    share = _RankDetections()
    training = detector.training
    detector.train(False)
    try:
        for batch in _in_step(batches, stopping, step):
            share.add(detector, batch.to(device), torch.device(device))
    finally:
        detector.train(training)
    shares = distributed.gather(share)
    result = measured = None
    if shares is not None:
        measured = _measured(truth, _merged(shares), detector.max_detections, model, step, epoch)
        result = replace(measured.without_files(), curves=measured.curves, seconds=time.perf_counter() - start)
    result = distributed.broadcast(result)  # what follows from it (the best, an early stop) is decided by each rank
    assert result is not None
    if measured is None:
        return result
    return replace(result, matches=measured.matches, samples=measured.samples, detections=measured.detections)


def _measured(truth: Annotations, whole: _RankDetections, most: int, model: str, step: int, epoch: float) -> Evaluation:
    """What all detections come to, of which an image has at most `most`."""
    limit = counted_detections(truth, most)
    numbers = average_precision(truth, whole.found, max_detections=limit)
    found, order, ids = whole.found, image_order(truth, whole.found), truth.category_ids
    samples = [image_id for image_id in sample_ids(truth.image_ids[truth.used].tolist()) if image_id in found]
    return Evaluation(
        model=model,
        step=step,
        epoch=epoch,
        metrics=numbers.metrics,
        per_class=numbers.per_class,
        class_metrics=numbers.class_metrics,
        images=len(whole.found),
        milliseconds_per_image=whole.milliseconds_per_image,
        max_detections=limit,
        boxes=len(truth.boxes if truth.as_is is None else truth.as_is),
        boxes_left_out=truth.left_out if truth.as_is is None else 0,
        as_is=truth.as_is is not None,
        curves=numbers.curves,
        matches=numbers.matches,
        samples=packed_samples(found, samples, ids, model=model, step=step, score=numbers.score) if samples else None,
        detections=partial(packed_detections, found, order, ids) if found else None,
    )


def _in_step(batches: Iterable[Batch], stopping: Callable[[], bool], step: int) -> Iterator[Batch]:
    """This rank's batches, for as long as any rank has one: nobody waits in a collective that another never enters.

    Shares differ in length, and a stop reaches the ranks at different moments. Raises `Interrupted` on all of them.
    """
    source, interrupted = iter(batches), f"stopped on request in an evaluation after step {step}"
    while True:
        try:
            batch = next(source, None)
        except NoAnswer as stuck:
            raise Interrupted(f"{interrupted}, in which the loader gave no batch", step=step) from stuck
        stop, left = distributed.any_of(stopping(), batch is not None)
        if not left:
            return
        if stop:
            raise Interrupted(interrupted, step=step)
        if batch is not None:
            yield batch


@dataclass
class _RankDetections:
    """What one rank has found, and how long its detector took: without what surrounds it."""

    found: dict[int, ImageDetections] = field(default_factory=dict)  # image id -> detections
    spans: list[tuple[float, int]] = field(default_factory=list)  # seconds, images

    def add(self, detector: Evaluable, batch: Batch, device: torch.device) -> None:
        _wait(device)
        start = time.perf_counter()
        with memory_errors(device, batch.images):
            detections = detector.detect(batch.images, batch.targets.sizes)
        _wait(device)
        self.spans.append((time.perf_counter() - start, len(batch.image_ids)))
        self.found |= original_detections(batch, detections)

    @property
    def milliseconds_per_image(self) -> float | None:
        images = sum(count for _, count in self.spans)
        return 1000 * sum(seconds for seconds, _ in self.spans) / images if images else None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _merged(shares: list[_RankDetections]) -> _RankDetections:
    """All shares as one. A rank's first batch warms it up and is not timed, unless it is the only one."""
    whole = _RankDetections()
    for share in shares:
        if twice := whole.found.keys() & share.found:
            raise ValueError(f"image {min(twice)} was evaluated by two ranks: give each rank a share of its own")
        whole.found |= share.found
        whole.spans += share.spans[1:] or share.spans
    return whole


def original_detections(batch: Batch, detections: list[Detections]) -> dict[int, ImageDetections]:
    """Image id -> detections in the pixels of the original image."""
    return {
        image_id: ImageDetections(
            boxes=original_boxes(found.boxes.double().cpu().numpy(), scale, size),
            scores=found.scores.double().cpu().numpy(),
            labels=found.labels.cpu().numpy(),
        )
        for image_id, found, scale, size in zip(
            batch.image_ids, detections, batch.scales, batch.original_sizes, strict=True
        )
    }


def original_boxes(boxes: NDArray[np.float64], scale: tuple[float, float], size: Size) -> NDArray[np.float64]:
    """Boxes [D, 4] from the network's pixels to the original's, clipped to the image of `size` (height, width)."""
    height, width = size
    scaled: NDArray[np.float64] = boxes / np.array([*scale, *scale])
    return scaled.clip(0, [width, height, width, height])
