"""`crosskd predict FILE IMAGE...` without a service: an ONNX graph by onnxruntime, any other weights by PyTorch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from crosskd.errors import ConfigError, CrossKDError
from crosskd.predict.answer import Answer, Wanted, answer
from crosskd.predict.found import Found
from crosskd.predict.output import OutputFolder, escaped, read_image, table_rows
from crosskd.predict.picture import BadImage
from crosskd.spec.evaluate_export import ScaleConfig
from crosskd.spec.inputs import is_folder
from crosskd.spec.results.predictions import (
    Category,
    CocoResult,
    ImageFault,
    PredictedImage,
    PredictionModel,
    Predictions,
)
from crosskd.spec.section import MAX_PIXELS
from crosskd.weights.files import file_digest

ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True)
class Model:
    """What finds objects, and what it says of itself."""

    detect: Callable[[Image.Image], Found]
    scale: ScaleConfig
    categories: list[Category]
    told: PredictionModel


def predict(
    file: Path, images: Sequence[Path], output: Path, *, score: float, most: int
) -> tuple[Predictions, list[Path | None]]:
    """Find objects in `images`; pictures and `predictions.json` go to `output`. Returns the answer and the pictures.

    An image that cannot be used has its fault in the answer, and no picture.

    Raises:
        CrossKDError: the file is no model, or the folder cannot be written.
    """
    model = load(file)
    folder = OutputFolder(output, images)
    wanted = Wanted(score, most, MAX_PIXELS, picture=True)
    results: list[CocoResult] = []
    told: list[PredictedImage] = []
    pictures: list[Path | None] = []
    for number, path in enumerate(images):
        found = _answer(model, path, wanted, number)
        told.append(found.image)
        results += found.results
        picture = folder.picture(path) if found.picture else None
        if picture is not None:
            folder.write(picture, found.picture)
        pictures.append(picture)
    predictions = Predictions(
        model=model.told,
        categories=model.categories,
        images=told,
        results=results,
    )
    folder.write_answer(predictions)
    return predictions, pictures


def load(file: Path) -> Model:
    """The model in a file, by its suffix. Imports onnxruntime or torch only now."""
    if not file.is_file() and not is_folder(file):
        raise ConfigError("there is no such file", where=str(file), remedy="Name a .onnx or .safetensors file.")
    if file.suffix.lower() == ONNX_SUFFIX:
        return _graph(file)
    from crosskd.inference import load_detector

    loaded = load_detector(file, device="auto", model=None, classes=None, max_image_pixels=MAX_PIXELS)
    told = PredictionModel(name=file.name, sha256=file_digest(file))
    categories = [Category(id=label + 1, name=name) for label, name in enumerate(loaded.classes)]

    def detect(image: Image.Image) -> Found:
        begin = time.perf_counter()
        found = loaded.detect(image)
        milliseconds = 1000 * (time.perf_counter() - begin)
        return Found(found.boxes, found.scores, found.labels, 0, milliseconds)

    return Model(detect, loaded.scale, categories, told)


def _graph(file: Path) -> Model:
    try:
        from crosskd.predict.graph import OnnxDetector
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise ConfigError("there is no onnxruntime here", remedy="pip install 'crosskd[export]'.") from error
    graph = OnnxDetector(file)
    told = PredictionModel(name=file.name, sha256=file_digest(file), weights_sha256=graph.weights_sha256)
    return Model(graph.detect, graph.scale, graph.categories, told)


def _answer(model: Model, path: Path, wanted: Wanted, number: int) -> Answer:
    try:
        content = read_image(path)
        return answer(model.detect, model.scale, model.categories, content, wanted, number=number, name=path.name)
    except BadImage as error:
        fault = ImageFault(kind=error.kind, detail=error.message, remedy=error.remedy)
    except CrossKDError as error:
        fault = ImageFault(kind="broken", detail=error.message, remedy=error.remedy)
    return Answer(PredictedImage(id=number, file_name=path.name, fault=fault), [])


def show(predictions: Predictions, pictures: Sequence[Path | None]) -> None:
    """Print a row for each image; text from outside is shown, never obeyed."""
    table = Table(box=None, pad_edge=False)
    for column in ("image", "objects", "surest", "picture"):
        table.add_column(column, no_wrap=True, overflow="ignore")
    for row in table_rows(predictions, pictures):
        table.add_row(*map(escaped, row))
    # A file or a pipe has no width to fit into: lines stay whole.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 10_000, soft_wrap=True)
    console.print(table)
    for image in predictions.images:
        if image.remark:
            console.print(escaped(f"{image.file_name}: {image.remark}"))
