"""What an import of a data set is told: the `spec` of a job of kind `import`. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from crosskd.spec.section import PathText, Section

Format = Literal["coco", "yolo", "voc"]
BY_FOLDER = "folder"


class SplitConfig(Section):
    """How images are divided into training and validation."""

    validation: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="The share of the images that validates, between 0 and 1."
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="By which the images are drawn.")
    group_by: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="Images of one group stay in one split. `folder`: those of one folder are a group; else a regular "
        "expression that is searched in the file name: its first group, or all that it matches, names the group. "
        "Default: each image by itself. Files of the same bytes always stay together.",
    )

    @field_validator("group_by")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value not in (None, BY_FOLDER):
            try:
                re.compile(value)
            except (re.error, RecursionError, OverflowError, Warning) as error:
                raise ValueError(f"{value!r} is no regular expression: {error}; give one, or `folder`") from None
        return value


class ImportConfig(Section):
    """A data set that is checked, and written in the form that trainings read."""

    version: Literal[1] = Field(default=1, description="Version of this format.")
    source: PathText = Field(
        description="Path of the data set: its folder; or its annotation file (COCO), or data.yaml (YOLO)."
    )
    format: Literal["auto"] | Format = Field(
        default="auto", description="How its boxes are written; auto: by the files that are there."
    )
    images: PathText | None = Field(
        default=None,
        description="Folder that the `file_name`s of a COCO file are relative to; default: it is looked for.",
    )
    split: SplitConfig | None = Field(
        default=None,
        description="Divide training and validation images anew; null: by the splits that the source has.",
    )
    on_fault: Literal["drop", "refuse"] = Field(
        default="drop",
        description="drop: faulty boxes and images are left out, counted and named; refuse: the import fails if there "
        "are any.",
    )
    near_duplicates: bool = Field(
        default=True, description="Whether to look for images that nearly show the same, by a perceptual hash."
    )
