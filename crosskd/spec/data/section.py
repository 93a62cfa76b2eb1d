"""The data of a training: files, augmentation, loading. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from crosskd.spec.bounds import AtMost
from crosskd.spec.data.mixing import AffineConfig, CropConfig, HSVConfig, MixUpConfig, MosaicConfig
from crosskd.spec.section import MAX_PIXELS, ClassNames, PathText, Probability, Section, refused


class CocoSplit(Section):
    """One split: a COCO instances file and the folder that its `file_name`s are relative to."""

    annotations: PathText = Field(description="Path of the COCO instances file (JSON).")
    images: PathText = Field(description="Folder that the file's `file_name`s are relative to.")


class UnlabelledConfig(Section):
    """Images without labels, on which the student learns from the teacher alone."""

    images: PathText = Field(description="Folder of the images. Without `names`, all in it and below it are taken.")
    names: PathText | None = Field(
        default=None,
        description="Path of a file that names the images, relative to `images`: a JSON list of names, or one a line.",
    )
    ratio: float = Field(
        default=1.0,
        gt=0,
        le=16,
        description="Images without labels for each labelled one. A batch has its `batch_size` labelled images, and so "
        "many times as many of these besides.",
    )
    confidence: Probability = Field(
        default=0.3,
        description="Detections of the teacher from this score on say what is positive in an image without labels, and "
        "so by what losses are divided. None of them is learnt as a label.",
    )

    def per_batch(self, batch_size: int) -> int:
        """Images without labels in a batch of so many labelled ones."""
        return round(self.ratio * batch_size)


DATASET_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(@[0-9a-f]{6,64})?$"
DATASET = (
    "A data set that the service has imported, as NAME or NAME@DIGEST, in place of the files: it names them itself. A "
    "digest may be cut short, to six digits at least; the job says it whole. Default: the files are named."
)
DatasetRef = Annotated[str, Field(max_length=128, pattern=DATASET_PATTERN)]


def annotations_of(dataset: str, split: str) -> str:
    """How a specification calls the annotation file of a split of a data set that the service has."""
    return f"{dataset}/{split}.json"


def with_splits(value: Any, *splits: str) -> Any:
    """The values of a section, with the splits that its `dataset` stands for where they are not given."""
    dataset = value.get("dataset") if isinstance(value, Mapping) else None
    if not isinstance(dataset, str) or not re.fullmatch(DATASET_PATTERN, dataset):
        return value
    named = {split: {"annotations": annotations_of(dataset, split), "images": f"{dataset}/images"} for split in splits}
    return {**value, **{split: files for split, files in named.items() if value.get(split) is None}}


def without_required(*names: str) -> ConfigDict:
    """Of a section whose `dataset` may stand for the fields `names`: its schema does not ask for them."""

    def relax(schema: dict[str, Any]) -> None:
        schema["required"] = [name for name in schema.get("required", ()) if name not in names]

    return ConfigDict(json_schema_extra=relax)


class DataConfig(Section):
    """Training and validation split. `classes` is read from the training file when it is not given."""

    model_config = without_required("train", "val")

    dataset: DatasetRef | None = Field(default=None, description=DATASET)
    train: CocoSplit = Field(description="What is trained on.")
    val: CocoSplit = Field(description="What AP is measured on.")
    classes: ClassNames | None = Field(
        default=None, description="Class names in label order; default: the categories by ascending id."
    )
    max_corrupt_images: int = Field(
        default=0, ge=0, description="Unreadable images that are skipped before the run fails."
    )
    max_image_pixels: int = Field(
        default=64_000_000, ge=1, le=MAX_PIXELS, description="An image of more pixels than this is refused unread."
    )
    unlabelled: UnlabelledConfig | None = Field(
        default=None, description="Images without labels to learn from besides, with a teacher; null: none."
    )

    @model_validator(mode="before")
    @classmethod
    def _splits_of_the_dataset(cls, value: Any) -> Any:
        return with_splits(value, "train", "val")

    @model_validator(mode="after")
    def _classes_once(self) -> DataConfig:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise refused("classes must be unique; remove the repeated names", "classes")
        return self


SixteenBit = Literal["high_byte", "own_range"]
ANTIALIAS = (
    "Of images that are made smaller. False: plain bilinear interpolation, as in MMDetection and torchvision, which "
    "skips pixels."
)
SIXTEEN_BIT = (
    "How 16-bit images become 8-bit ones. high_byte: the lower byte is dropped, with a warning where an image is "
    "nearly black then; own_range: each image is stretched from its darkest value to its brightest."
)


KEEP_RATIO = (
    "False: images are stretched to a square of the short edge, as for published RT-DETRs and D-FINEs; `long_edge` is "
    "then only the most that it may be."
)


class AugmentConfig(Section):
    """Images are resized, keeping their ratio, to fit `short_edge` x `long_edge`, then flipped, then padded.

    With `keep_ratio: false` they are stretched to a square of the short edge instead. With a `letterbox` all this is so
    in evaluations alone: training images come in squares, and may be mixed.
    """

    short_edges: Annotated[list[Annotated[int, Field(ge=32, le=4096)]], Field(min_length=1), AtMost(64)] = Field(
        default=[800], description="Pixels; more than one: drawn anew for each image (multi-scale)."
    )
    long_edge: int = Field(default=1333, ge=32, le=8192, description="The longer side fits into so many pixels.")
    val_short_edge: int | None = Field(
        default=None, ge=32, le=4096, description="As `short_edges`, in evaluations. Default: the largest of them."
    )
    keep_ratio: bool = Field(default=True, description=KEEP_RATIO + " Of several edges one is drawn for each batch.")
    flip: Probability = Field(default=0.5, description="How often an image is mirrored left to right, 0..1.")
    pad_to: int = Field(default=32, ge=1, le=1024, description="Batches are padded to a multiple of so many pixels.")
    min_side: float = Field(default=1.0, ge=0, description="Boxes narrower than so many original pixels train nothing.")

    antialias: bool | None = Field(
        default=None, description=f"{ANTIALIAS} Default: as the teacher was trained; without one, true."
    )
    sixteen_bit: SixteenBit | None = Field(
        default=None, description=f"{SIXTEEN_BIT} Default: as the teacher was trained; without one, high_byte."
    )

    letterbox: (
        Annotated[list[Annotated[int, Field(ge=32, le=2048, multiple_of=32)]], Field(min_length=1), AtMost(64)] | None
    ) = Field(
        default=None,
        description="Training images are fitted into a square of so many pixels and padded to it; more than one: drawn "
        "anew for each batch. Default: by `short_edges`, without squares.",
    )
    mosaic: MosaicConfig | None = Field(default=None, description="Four images in one; null: none.")
    affine: AffineConfig | None = Field(default=None, description="Turns, scales and shears mosaics; null: none.")
    crop: CropConfig | None = Field(default=None, description="Random pieces of scaled images; null: none.")
    hsv: HSVConfig | None = Field(default=None, description="Changes of colour; null: none.")
    mixup: MixUpConfig | None = Field(default=None, description="The mean of two images; null: none.")

    @model_validator(mode="after")
    def _fits(self) -> AugmentConfig:
        largest = max(self.short_edges)
        if self.long_edge >= largest:
            return self
        if "long_edge" in self.model_fields_set:
            raise refused(f"long_edge {self.long_edge} is below the largest short edge {largest}", "long_edge")
        raise refused(
            f"the short edge {largest} is above the long edge, which is {self.long_edge} by default; give `long_edge`",
            "short_edges",
        )

    @model_validator(mode="after")
    def _one_square(self) -> AugmentConfig:
        if self.letterbox is not None and not self.keep_ratio:
            raise refused("a letterbox keeps the ratio of images; leave it out, or keep_ratio", "keep_ratio")
        return self

    @model_validator(mode="after")
    def _squares(self) -> AugmentConfig:
        if self.letterbox is None:
            for name in ("mosaic", "affine", "crop", "mixup"):
                if getattr(self, name) is not None:
                    raise refused(f"{name} makes squares; give their side as `letterbox`, or leave it out", name)
        elif len(self.short_edges) > 1:
            raise refused(
                "with a letterbox the short edge is that of evaluations alone; give one, and the sides to draw from as "
                "`letterbox`",
                "short_edges",
            )
        if self.affine is not None and self.mosaic is None:
            raise refused("affine is of mosaics; add `mosaic`, or take `crop`", "affine")
        if self.affine is not None and self.crop is not None:
            raise refused("affine and crop both say what is shown of a mosaic; leave one out", "crop")
        return self


class LoaderConfig(Section):
    workers: int = Field(default=2, ge=0, le=64, description="Loader processes; 0 loads in the training process.")
    drop_empty: bool = Field(default=True, description="Leave training images without any box out.")
    min_image_side: int = Field(
        default=0, ge=0, description="Leave training images out whose shorter side has fewer pixels, as stored."
    )
    group_by_aspect: bool = Field(default=True, description="Wide images and tall ones in batches of their own.")
    cache_mib: int = Field(
        default=0,
        ge=0,
        le=2**20,
        description="MiB of decoded training images that each training process keeps, in equal shares of its loader "
        "processes; 0: none.",
    )
