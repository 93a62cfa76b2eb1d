"""Weights in use: images in, boxes out, exactly as an evaluation makes them. `crosskd.load` is the way in."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from crosskd.convert.classes import published_classes
from crosskd.convert.convert import Conversion, prepare
from crosskd.convert.load import listed, narrow
from crosskd.data.coco import Example
from crosskd.data.images import BROKEN, ImageFolder, as_rgb
from crosskd.data.sampler import validation_batches
from crosskd.data.transforms import Sample, collate, padded, validation_sample
from crosskd.detectors.detector import Detector, build_detector
from crosskd.engine.device import choose_device, memory_errors
from crosskd.errors import ConfigError, CrossKDError, DataError, OutOfMemory, WeightsError
from crosskd.evaluation.evaluate import original_detections
from crosskd.spec.config import ModelConfig, ScaleConfig
from crosskd.spec.evaluate_export import augment_at
from crosskd.spec.results.input_contract import input_contract
from crosskd.spec.unused_classes import used
from crosskd.weights.description import Description
from crosskd.weights.tensors import check_finite

log = logging.getLogger(__name__)

_MEND = "Give another image, or mend this one."
_LARGER = "Shrink it, or give `crosskd.load` a larger `max_image_pixels`."

ImageInput = str | PathLike[str] | Image.Image | NDArray[np.uint8]
_WANTED = "the path of an image, a PIL image, or a uint8 array [height, width, 3] in RGB; or a list of these"


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image, best score first."""

    boxes: NDArray[np.float64]  # [n, 4] x1 y1 x2 y2 in pixels of the upright original image
    scores: NDArray[np.float64]  # [n] 0..1
    labels: NDArray[np.int64]  # [n] positions in the detector's `classes`
    classes: list[str]  # n names

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class LoadedDetector:
    """A detector with its weights, in evaluation mode on `device`."""

    detector: Detector
    classes: list[str]  # in label order
    scale: ScaleConfig  # at which it sees images; no field is None
    input: dict[str, Any]  # what it wants of its images, as the file says it; `detect` does all of this
    device: torch.device
    max_image_pixels: int

    @overload
    def detect(self, images: ImageInput, *, batch_size: int = ...) -> ImageResult: ...

    @overload
    def detect(self, images: list[Any] | tuple[Any, ...], *, batch_size: int = ...) -> list[ImageResult]: ...

    def detect(
        self, images: ImageInput | list[Any] | tuple[Any, ...], *, batch_size: int = 16
    ) -> ImageResult | list[ImageResult]:
        """Find objects in an image, or in each image of a list, in its order.

        An image is a path, a PIL image or a uint8 array [height, width, 3] in RGB, at any size. The EXIF orientation
        of a path or PIL image is applied. All else is done as `crosskd evaluate` does it, with the same boxes: images
        of a list that are padded to one size make batches of up to `batch_size`, and none is padded for another.

        Raises:
            ConfigError: `batch_size` is below 1.
            DataError: something is no image, cannot be read, or has more than `max_image_pixels` pixels.
            OutOfMemory: the batch is too large for the device.
        """
        if not isinstance(images, list | tuple):
            return self._batch([self._sample(images, 0, "")])[0]
        if batch_size < 1:
            raise ConfigError(f"`batch_size` is {batch_size}", where="batch_size", remedy="Give 1 or more.")
        samples = [self._sample(image, number, f"images[{number}]") for number, image in enumerate(images)]
        found: dict[int, ImageResult] = {}
        for batch in validation_batches([padded(sample.size, self.scale.pad_to) for sample in samples], batch_size):
            results = self._batch([samples[number] for number in batch])
            found.update(zip(batch, results, strict=True))
        return [found[number] for number in range(len(samples))]

    def _sample(self, image: Any, number: int, place: str) -> Sample:
        rgb = self._rgb(image, place)
        if not min(rgb.size):
            raise _no_image(f"an image of {rgb.width} x {rgb.height} pixels", place)
        example = Example(number, rgb, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        return validation_sample(example, augment_at(self.scale))

    def _rgb(self, image: Any, place: str) -> Image.Image:
        if isinstance(image, str | PathLike):
            return self._from_path(Path(image))
        if isinstance(image, Image.Image):
            return self._from_pillow(image, place)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise _no_image(f"an array of {image.dtype} {list(image.shape)}", place)
            return Image.fromarray(np.ascontiguousarray(image)) if image.size else Image.new("RGB", image.shape[1::-1])
        raise _no_image(f"{type(image).__module__}.{type(image).__name__}".removeprefix("builtins."), place)

    def _from_path(self, path: Path) -> Image.Image:
        try:
            path = path.resolve()  # a link may lead anywhere here: whoever calls has named it
            folder = ImageFolder(path.parent, self.max_image_pixels, self._sixteen_bit)
            image = folder.read(path.name)
        except DataError as error:
            remedy = _LARGER if "max_image_pixels" in error.message else _MEND
            raise DataError(error.message, where=error.where, remedy=remedy) from error
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte in the name
            raise DataError(f"the path cannot be opened: {error}", where=str(path), remedy="Check the path.") from error
        for remark in folder.dark.values():
            log.warning("%s: %s", path.name, remark)
        return image

    def _from_pillow(self, image: Image.Image, place: str) -> Image.Image:
        where = place or str(getattr(image, "filename", "")) or "a PIL image"
        if image.width * image.height > self.max_image_pixels:
            raise DataError(
                f"the image of {image.width} x {image.height} has more than max_image_pixels "
                f"({self.max_image_pixels}) pixels",
                where=where,
                remedy=_LARGER,
            )
        try:
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                rgb, remark = as_rgb(image, where, self._sixteen_bit)
        except BROKEN as error:
            message = f"the image cannot be decoded: {str(error) or type(error).__name__}"
            raise DataError(message, where=where, remedy=_MEND) from error
        if remark:
            log.warning("%s: %s", where, remark)
        return rgb

    @property
    def _sixteen_bit(self) -> Any:
        return self.scale.sixteen_bit or "high_byte"

    def _batch(self, samples: list[Sample]) -> list[ImageResult]:
        batch = collate(samples, self.detector.config.pixels, self.scale.pad_to).to(self.device)
        try:
            with memory_errors(self.device, batch.images):
                detections = self.detector.detect(batch.images, batch.targets.sizes)
        except OutOfMemory as error:
            raise OutOfMemory(error.message, remedy="Lower `batch_size`, or use another device.") from error
        found = original_detections(batch, detections)
        return [
            ImageResult(image.boxes, image.scores, image.labels, [self.classes[label] for label in image.labels])
            for image in (found[sample.image_id] for sample in samples)
        ]


def load_detector(
    path: str | PathLike[str],
    *,
    device: str | torch.device,
    model: ModelConfig | Mapping[str, Any] | None,
    classes: Sequence[str] | None,
    max_image_pixels: int,
) -> LoadedDetector:
    """See `crosskd.load`."""
    if isinstance(classes, str):
        raise ConfigError("`classes` is one text", where="classes", remedy="Give a list of names in label order.")
    if max_image_pixels < 1:
        message = f"`max_image_pixels` is {max_image_pixels}"
        raise ConfigError(message, where="max_image_pixels", remedy="Give 1 or more.")
    place, path = _device(device), Path(path)
    conversion = _read(path, _model(model), classes)
    names = _names(conversion, path.name)
    detector = build_detector(conversion.model, len(names), pretrained=False)
    detector.load_state_dict(dict(conversion.state))
    if classes is None:
        kept = used(names)
        narrow(detector, names, kept, path.name)
        names = kept
    scale = Description(path.name, conversion.extra).evaluation_scale()
    with memory_errors(place):
        detector = detector.eval().requires_grad_(False).to(place)
    return LoadedDetector(
        detector=detector,
        classes=names,
        scale=scale,
        input=input_contract(conversion.model, json.loads(conversion.extra.get("augment", "{}"))),
        device=place,
        max_image_pixels=max_image_pixels,
    )


def _no_image(what: str, place: str) -> DataError:
    return DataError(f"this is no image, but {what}", where=place, remedy=f"Give {_WANTED}.")


def _read(path: Path, model: ModelConfig | None, classes: Sequence[str] | None) -> Conversion:
    try:
        conversion = prepare(path, "native", model=model, classes=classes)
    except CrossKDError as error:
        # What the command line calls an option is an argument here.
        for option in ("model", "classes"):
            error.message = error.message.replace(f"--{option}", f"`{option}`")
            error.remedy = error.remedy.replace(f"--{option}", f"`{option}`")
        raise
    report = conversion.report
    if report.missing or report.unexpected:
        raise WeightsError(
            f"{path.name} does not fit a {report.detector} with {report.backbone}: "
            f"{listed('missing', report.missing)}; {listed('unknown', report.unexpected)}",
            remedy="Give `model`, the detector that the file was trained as.",
        )
    check_finite(conversion.state, path.name)
    for note in report.notes:
        log.info("%s: %s", path.name, note)
    return conversion


def _names(conversion: Conversion, file: str) -> list[str]:
    report = conversion.report
    names = conversion.classes or published_classes(report.source, report.classes)
    if names is None:
        raise ConfigError(
            f"{file} does not say how its {report.classes} classes are called",
            where="classes",
            remedy="Give `classes`, the names in label order.",
        )
    return names


def _model(model: ModelConfig | Mapping[str, Any] | None) -> ModelConfig | None:
    if model is None:
        return None
    try:
        return ModelConfig.model_validate(model)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'model'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        message = f"this is no model: {'; '.join(faults)}"
        raise ConfigError(message, where="model", remedy="Give the values of a `ModelConfig`.") from error


def _device(name: str | torch.device) -> torch.device:
    if name in ("auto", "cpu", "cuda"):
        return choose_device(name)  # type: ignore[arg-type]
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the device {str(name)!r} cannot be used: {reason}", where="device", remedy="Use `auto` or `cpu`."
        ) from error
    return device
