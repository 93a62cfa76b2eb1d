"""What a detector has found in images that nobody has annotated, in the form of COCO's files. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

FaultKind = Literal["format", "broken", "pixels", "memory", "time", "crash"]
DEFAULT_SCORE = 0.05  # as COCO's evaluation takes them
PICTURE_SCORE = 0.3  # below it a picture is full of boxes that mean little
MAX_DETECTIONS = 1000


class CocoResult(BaseModel):
    """A detection as pycocotools' `loadRes` reads it."""

    image_id: int = Field(description="The `id` of its image in this answer.")
    category_id: int = Field(description="The `id` of its category in this answer.")
    bbox: tuple[float, float, float, float] = Field(
        description="x, y, width, height in pixels of the upright original image."
    )
    score: float = Field(description="0..1.")


class Category(BaseModel):
    """A class of the model. The id is the annotation file's where the graph says it, else 1, 2, … in label order."""

    id: int
    name: str


class Milliseconds(BaseModel):
    """Where the time of an image went."""

    model: float = Field(description="The network alone.")
    total: float = Field(description="From the image's bytes to its detections, or to the picture.")


class ImageFault(BaseModel):
    """Why an image has no result."""

    kind: FaultKind = Field(
        description="`format`: no image of a known format; `broken`: it cannot be decoded; `pixels`: it has too many; "
        "`memory`, `time`: it took too much of it; `crash`: the process that read it has died."
    )
    detail: str = Field(description="What is wrong.")
    remedy: str = Field(default="", description="What to do about it.")


class PredictedImage(BaseModel):
    """One image, in the order in which they were sent; `width` and `height` as seen, after its EXIF orientation."""

    id: int = Field(description="Its place among the images, from 0.")
    file_name: str = Field(default="", description="As it was sent; empty where no name came along.")
    width: int | None = Field(default=None, description="Pixels.")
    height: int | None = Field(default=None, description="Pixels.")
    left_out: int = Field(default=0, description="Detections of the model that `score` and `max` have left out.")
    remark: str = Field(default="", description="What else is to be known of it, such as that it is nearly black.")
    milliseconds: Milliseconds | None = None
    fault: ImageFault | None = Field(default=None, description="Why it has no result; null where it has one.")


class PredictionModel(BaseModel):
    """What has made the predictions."""

    name: str = Field(description="Of the file.")
    sha256: str = Field(description="Of the file, in hex.")
    weights_sha256: str = Field(default="", description="Of the weights that an ONNX graph was written from, in hex.")


class Predictions(BaseModel):
    """Images, categories and results, as COCO names them: `results` is what pycocotools' `loadRes` takes."""

    model: PredictionModel
    categories: list[Category]
    images: list[PredictedImage]
    results: list[CocoResult] = Field(description="All images' detections, best score first within an image.")
