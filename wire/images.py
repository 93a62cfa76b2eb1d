"""Validation images of a job on the wire: what was to be found in them, and what teacher and student have found."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from wire.errors import Text

Order = Literal["f1_loss", "gain", "id"]
BoxKind = Literal["true", "false", "missed", "ignored"]
IOU = 0.5  # from which on a detection has found a box
MAX_PAGE, PAGE = 100, 20  # images
THUMBNAIL = 320  # pixels of the longer side, by default
MIN_SIDE, MAX_SIDE = 32, 2048
Xywh = tuple[float, float, float, float]


class TruthBox(BaseModel):
    """A box that the annotation file has."""

    class_name: Text = Field(description="The name of its class.")
    box: Xywh = Field(description="x, y, width, height in pixels of the image, upright as it was annotated.")
    ignored: bool = Field(description="Whether it is neither to be found nor missed: a crowd, or flagged `ignore`.")
    crowd: bool = Field(description="Whether it stands for many things that lie close together.")


class ModelBox(BaseModel):
    """A detection, or a box that was missed."""

    class_name: Text = Field(description="The name of its class.")
    box: Xywh = Field(description="x, y, width, height in pixels of the image, upright as it was annotated.")
    score: float | None = Field(description="Of the detection, 0..1; null: it was missed.")
    kind: BoxKind = Field(
        description="`true`: it has found a box of its class at IoU 0.5. `false`: it has not. `missed`: no detection "
        "has found this box. `ignored`: a detection of a crowd or an ignored box, which counts neither way."
    )
    truth: int | None = Field(description="Which of the image's `truth` it has found or missed, from 0; null: none.")


class ModelCounts(BaseModel):
    """How a model did, at its score."""

    true: int = Field(description="Detections, from 0, that have found a box.")
    false: int = Field(description="Detections, from 0, that have not.")
    missed: int = Field(description="Boxes, from 0, that were not found.")
    f1: float = Field(description="2 TP / (2 TP + FP + FN), 0..1; 1 where nothing was to be found, and nothing was.")


class ImageModel(ModelCounts):
    """How a model did in one image."""

    boxes: list[ModelBox] = Field(description="Its detections from its score on, best first, then what it missed.")


class ShownModel(ModelCounts):
    """How a model did in all images that the list has, and at which score."""

    job: str = Field(description="The job whose evaluation found these detections.")
    step: int | None = Field(description="The optimizer step, from 0, that the evaluation was made at.")
    score: float | None = Field(
        description="Detections count from this score on, 0..1: there F1 at IoU 0.5 is highest over all validation "
        "images and all classes together. null: no detection is right, and none is shown."
    )


class JobImage(BaseModel):
    """A validation image."""

    id: int = Field(description="Its id in the annotation file, any number of 64 bits.")
    file_name: Text = Field(description="Its name below the folder of the images.")
    width: int = Field(description="In pixels, from 1, as it was annotated.")
    height: int = Field(description="In pixels, from 1, as it was annotated.")
    url: str = Field(description="The path of the image itself below the API's address.")
    thumbnail: str = Field(description="The path of its thumbnail; `?size=` sets the longer side.")
    f1_loss: float = Field(
        description="The teacher's F1 less the student's, -1..1; without detections of a teacher, 1 less the student's."
    )
    gain: float | None = Field(
        default=None, description="The student's F1 less that of the job it is held `against`, -1..1; null: of none."
    )
    truth: list[TruthBox] = Field(description="What was to be found.")
    student: ImageModel = Field(description="The student, or the detector that an evaluation measured.")
    teacher: ImageModel | None = Field(default=None, description="The teacher; null: it left no detections.")
    against: ImageModel | None = Field(default=None, description="The student of the other job; null: there is none.")


class ImagePage(BaseModel):
    """`GET /jobs/{id}/images`: a page of the validation images."""

    items: list[JobImage] = Field(description="The images, in the order that was asked for.")
    has_more: bool = Field(description="Whether there are more: ask for those `after` the id of the last.")
    images: int = Field(description="How many there are in all, from 0.")
    iou: float = Field(description="From which IoU on, 0..1, a detection has found a box: 0.5.")
    classes: list[Text] = Field(description="The classes, in label order.")
    samples: bool = Field(description="Whether these are the sample images of one evaluation (`step`).")
    student: ShownModel = Field(description="The student over all of them.")
    teacher: ShownModel | None = Field(default=None, description="The teacher over all of them; null: there is none.")
    against: ShownModel | None = Field(default=None, description="The other job's student; null: there is none.")
    remarks: list[Text] = Field(description="What does not fit: an annotation file that was changed since, say.")
