"""What a detector has found in images that nobody has annotated, in the form of COCO's files. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

FaultKind = Literal["format", "broken", "pixels", "memory", "time", "crash"]
DEFAULT_SCORE = 0.05  # as COCO's evaluation takes them
PICTURE_SCORE = 0.3  # below it a picture is full of boxes that mean little
MAX_DETECTIONS = 1000


def _encodable(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


# Linux and the charset of a form know names with half a surrogate pair, which UTF-8 cannot spell.
FileName = Annotated[str, BeforeValidator(_encodable)]


class CocoResult(BaseModel):
    """A detection as pycocotools' `loadRes` reads it."""

    image_id: int = Field(description="The `id` of its image in this answer, from 0.")
    category_id: int = Field(description="The `id` of its category in this answer, from 0.")
    bbox: tuple[float, float, float, float] = Field(
        description="x, y, width, height in pixels of the upright original image."
    )
    score: float = Field(description="How sure the model is of it, 0..1.")


class Category(BaseModel):
    """A class of the model. The id is the annotation file's where the graph says it, else 1, 2, … in label order."""

    id: int = Field(description="As the annotation file has it, from 0; else its place in label order, from 1.")
    name: str = Field(description="Name of the class.")


class Milliseconds(BaseModel):
    """Where the time of an image went."""

    model: float = Field(description="Milliseconds of the network alone, from 0.")
    total: float = Field(
        description="Milliseconds from the image's bytes to its detections, or to the picture, from 0."
    )


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
    file_name: FileName = Field(default="", description="As it was sent; empty where no name came along.")
    width: int | None = Field(default=None, description="Pixels from left to right, from 1; null: not known.")
    height: int | None = Field(default=None, description="Pixels from top to bottom, from 1; null: not known.")
    left_out: int = Field(
        default=0, description="Detections of the model, from 0, that `score` and `max` have left out."
    )
    remark: str = Field(default="", description="What else is to be known of it, such as that it is nearly black.")
    milliseconds: Milliseconds | None = Field(
        default=None, description="Where the time went; null where it has no result."
    )
    fault: ImageFault | None = Field(default=None, description="Why it has no result; null where it has one.")


class PredictionModel(BaseModel):
    """What has made the predictions."""

    name: FileName = Field(description="Of the file.")
    sha256: str = Field(description="Of the file, in hex.")
    weights_sha256: str = Field(default="", description="Of the weights that an ONNX graph was written from, in hex.")


class Predictions(BaseModel):
    """Images, categories and results, as COCO names them: `results` is what pycocotools' `loadRes` takes."""

    model: PredictionModel = Field(description="What has made them.")
    categories: list[Category] = Field(description="The classes of the model, in label order.")
    images: list[PredictedImage] = Field(description="The images, in the order in which they were sent.")
    results: list[CocoResult] = Field(description="All images' detections, best score first within an image.")
