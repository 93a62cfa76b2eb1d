"""COCO average precision of a detector on the validation split, by pycocotools, in pixels of the original images."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crosskd.config import ModelConfig, PostprocessConfig, TrainConfig
from crosskd.convert.load import load_weights
from crosskd.data.annotations import Annotations, read_annotations, read_classes
from crosskd.data.loader import build_loader
from crosskd.data.transforms import scale_settings
from crosskd.detectors.detector import Detector, build_detector
from crosskd.engine.device import choose_device, memory_errors
from crosskd.engine.weights import FORMAT, read_header
from crosskd.errors import ConfigError, WeightsError
from crosskd.structures import Batch, Detections, Evaluation, Size

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
NOTHING = -1.0  # what COCO says where there is nothing to measure


@dataclass(frozen=True)
class Found:
    """The detections of one image in its own pixels."""

    boxes: NDArray[np.float64]  # [D, 4] x1 y1 x2 y2
    scores: NDArray[np.float64]  # [D]
    labels: NDArray[np.int64]  # [D]


def evaluate(
    detector: Detector,
    batches: Iterable[Batch],
    *,
    annotations: Annotations | Path | str,
    classes: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    model: str = "student",
    step: int = 0,
    epoch: float = 0.0,
) -> Evaluation:
    """Measure `detector` on every image that `batches` has; images it leaves out are not counted as missed.

    `annotations` is the ground truth: what a loader has read (`loader.dataset.annotations`), or a COCO file with
    `classes` in label order. `milliseconds_per_image` is the detector's time alone, from the batch on its device to
    the detections.

    Raises:
        ConfigError: the detector has another number of classes than the data.
        DataError: the annotation file is broken, or an image cannot be read.
        OutOfMemory: the batch is too large for the device.
    """
    truth = annotations if isinstance(annotations, Annotations) else read_annotations(annotations, classes)
    if detector.num_classes != len(truth.classes):
        raise ConfigError(
            f"the {model} knows {detector.num_classes} classes, the data has {len(truth.classes)}",
            where="/data/classes",
            remedy="Give the classes that the model was trained on.",
        )
    start = time.perf_counter()
    found: dict[int, Found] = {}
    clock = _Clock(torch.device(device))
    training = detector.training
    detector.eval()
    try:
        for batch in batches:
            batch = batch.to(device)
            with memory_errors(device, batch.images), clock.measure(len(batch.image_ids)):
                detections = detector.detect(batch.images, batch.targets.sizes)
            found |= _original(batch, detections)
    finally:
        detector.train(training)
    metrics, per_class = average_precision(truth, found)
    return Evaluation(
        model=model,
        step=step,
        epoch=epoch,
        metrics=metrics,
        per_class=per_class,
        images=len(found),
        seconds=time.perf_counter() - start,
        milliseconds_per_image=clock.milliseconds_per_image,
    )


def evaluate_weights(config: TrainConfig, weights: Path | str) -> Evaluation:
    """Measure a weights file on the validation split of `config`.

    A file that this project wrote says which model it is, and in which order it knows the classes; of that model,
    `config` can only change how detections are chosen: the fields of `student.postprocess` that it sets. Of any
    other file, `config.student` and `config.data` say everything.

    Raises:
        WeightsError: the file is no weights file, or not of that model or those classes.
        DataError, ConfigError: as `evaluate`.
    """
    model, classes = config.student, config.data.classes
    if metadata := _metadata(Path(weights)):
        model, known = _described(metadata, Path(weights))
        model = _with_postprocess(model, config.student.postprocess)
        wanted = classes or read_classes(config.data.val.annotations)
        if set(wanted) != set(known):
            raise WeightsError(
                f"{Path(weights).name} knows the classes {', '.join(known)}; the data has {', '.join(wanted)}",
                where="/data/classes",
                remedy="Evaluate on data with the classes that the model was trained on.",
            )
        classes = known
    device = choose_device(config.device)
    loader = build_loader(config, "val", classes, pixels=model.pixels, device=device)
    detector = build_detector(model, len(loader.classes), pretrained=False)
    load_weights(detector, weights)
    return evaluate(detector.to(device), loader, annotations=loader.dataset.annotations, device=device)


def recorded_settings(weights: Path) -> dict[str, Any]:
    """The sections of a `TrainConfig` that a weights file of ours records: the scale at which it was evaluated.

    Empty for any other file. Raises `WeightsError`.
    """
    metadata = _metadata(weights)
    try:
        return {"augment": scale_settings(metadata["augment"])} if "augment" in metadata else {}
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{weights.name} has a broken description of its scale: {error}") from error


def average_precision(truth: Annotations, found: dict[int, Found]) -> tuple[dict[str, float], dict[str, float]]:
    """The 12 COCO numbers and AP per class name, over the images in `found` (image id -> detections).

    -1 stands where there is no ground truth. Ground truth flagged `ignore` is neither missed nor found; pycocotools
    overwrites that flag by `iscrowd`, and so would count it as any other.
    """
    positions = {int(image_id): index for index, image_id in enumerate(truth.image_ids)}
    there = sorted((positions[image_id], detections) for image_id, detections in found.items())
    if not there or not truth.classes:
        return dict.fromkeys(METRICS, NOTHING), dict.fromkeys(truth.classes, NOTHING)
    images = [{"id": index + 1} for index, _ in there]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(truth.classes)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and its table
        expected = _coco(images, categories, [box for index, _ in there for box in _expected(truth, index)])
        answered = _coco(
            images, categories, [box for index, detections in there for box in _answered(index, detections)]
        )
        result = _Evaluator(expected, answered, iouType="bbox")
        result.evaluate()
        result.accumulate()
        result.summarize()
    metrics = dict(zip(METRICS, map(float, result.stats), strict=True))
    return metrics, dict(zip(truth.classes, _class_precision(result.eval["precision"]), strict=True))


class _Evaluator(COCOeval):  # type: ignore[misc]  # pycocotools has no types
    def _prepare(self) -> None:
        super()._prepare()
        for boxes in self._gts.values():
            for box in boxes:
                box["ignore"] = bool(box["iscrowd"] or box["set_aside"])


class _Clock:
    """The time that a detector takes, without what surrounds it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spans: list[tuple[float, int]] = []

    @contextlib.contextmanager
    def measure(self, images: int) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.spans.append((time.perf_counter() - start, images))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def milliseconds_per_image(self) -> float | None:
        spans = self.spans[1:] or self.spans  # the first batch also warms everything up
        images = sum(count for _, count in spans)
        return 1000 * sum(seconds for seconds, _ in spans) / images if images else None


def _original(batch: Batch, detections: list[Detections]) -> dict[int, Found]:
    """Image id -> detections in the pixels of the original image."""
    return {
        image_id: Found(
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


def _coco(images: list[dict[str, Any]], categories: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> COCO:
    """Ids start at 1: pycocotools takes a matched annotation with id 0 for an unmatched one."""
    coco = COCO()
    annotations = [{"id": number, **box} for number, box in enumerate(boxes, start=1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _expected(truth: Annotations, index: int) -> list[dict[str, Any]]:
    rows = truth.rows(index)
    return [
        {
            "image_id": index + 1,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(crowd),
            "set_aside": ignore,
        }
        for (x1, y1, x2, y2), label, area, crowd, ignore in zip(
            truth.boxes[rows].tolist(),
            truth.labels[rows].tolist(),
            truth.areas[rows].tolist(),
            truth.crowd[rows].tolist(),
            truth.ignore[rows].tolist(),
            strict=True,
        )
    ]


def _answered(index: int, found: Found) -> list[dict[str, Any]]:
    return [
        {
            "image_id": index + 1,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        )
    ]


def _class_precision(precision: NDArray[np.float64]) -> list[float]:
    """AP per class out of COCOeval's [IoU, recall, class, area, detections], of all areas and most detections."""
    tables = [precision[:, :, label, 0, -1] for label in range(precision.shape[2])]
    measured = [table[table > NOTHING] for table in tables]
    return [float(values.mean()) if values.size else NOTHING for values in measured]


def _metadata(path: Path) -> dict[str, str]:
    """What a weights file of ours says of itself; of any other file, nothing."""
    metadata = read_header(path)[0] if path.suffix == ".safetensors" else {}
    return metadata if metadata.get("format") == FORMAT else {}


def _with_postprocess(model: ModelConfig, wanted: PostprocessConfig) -> ModelConfig:
    """`model` with the fields that `wanted` was given, and its own others."""
    given = wanted.model_dump(include=wanted.model_fields_set)
    return model.model_copy(update={"postprocess": model.postprocess.model_copy(update=given)})


def _described(metadata: dict[str, str], path: Path) -> tuple[ModelConfig, list[str]]:
    """The model and the classes that a weights file of ours names."""
    try:
        model = ModelConfig.model_validate_json(metadata["model"])
        classes = json.loads(metadata["classes"])
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path.name} has a broken description of its model: {error}") from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise WeightsError(f"{path.name} names its classes as {classes!r:.80}, not as a list of strings")
    return model, classes
