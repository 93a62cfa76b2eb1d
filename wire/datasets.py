"""Data sets on the wire: what is posted to import one, its versions, what an import found."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from crosskd.spec.bounds import AtMost
from crosskd.spec.data.import_config import Format, ImportConfig
from crosskd.spec.results.dataset_report import DatasetReport, ImportedSplit
from wire.jobs import LabelKey, LabelValue, Priority
from wire.tasks import NORMAL_PRIORITY

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
NAME_REMEDY = "Give up to 63 letters, digits, dots, dashes and underscores, a letter or a digit first."
SHORTEST_DIGEST = 6  # hex digits of a digest's beginning by which a version is named
MAX_VERSIONS = 1000  # of a data set that are listed

DatasetName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class DatasetCreate(ImportConfig):
    """`POST /datasets`: the fields of an import, and those of its job."""

    name: DatasetName = Field(description="What jobs will call the data set; an import of a known name is a version.")
    labels: Annotated[dict[LabelKey, LabelValue], AtMost(64)] = Field(
        default={}, description="Up to 64 words of your own to find the import's job by."
    )
    priority: Priority = NORMAL_PRIORITY

    def spec(self) -> dict[str, Any]:
        """The specification of the job."""
        return self.model_dump(include=set(ImportConfig.model_fields))


class ImportResult(BaseModel):
    """Of an import's manifest, what the service keeps with the version."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="Of the content: 64 hex digits.")
    format: Format = Field(description="How its boxes were written.")
    images: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")] = Field(
        description="Folder that the `file_name`s of the annotation files are relative to."
    )
    splits: Annotated[list[ImportedSplit], Field(min_length=2, max_length=3)] = Field(
        description="Images and boxes of each split."
    )
    classes: Annotated[list[str], AtMost(10_000)] = Field(description="Names of the classes, in label order.")
    faults: Annotated[int, Field(ge=0)] = Field(description="Faults that were found, of all kinds.")


class DatasetVersion(ImportResult):
    """A version of a data set: its content never changes."""

    job: str = Field(description="Id of the newest job that has imported this content; its files are the artifacts.")
    created_at: datetime = Field(description="When this content was first imported, in UTC.")
    imported_at: datetime = Field(description="When it was last imported, in UTC.")


class DatasetVersionDetail(DatasetVersion):
    """`GET /datasets/{name}/versions/{digest}`."""

    name: DatasetName = Field(description="Name of the data set.")
    report: DatasetReport = Field(description="What the import found, and what it did.")


class DatasetSummary(BaseModel):
    """A data set in a list."""

    name: DatasetName = Field(description="What jobs call it.")
    owner: str = Field(description="Of the token that imported it first, and alone may add versions.")
    created_at: datetime = Field(description="When its first import was posted, in UTC.")
    version_count: int = Field(ge=0, description="How many versions it has, from 0.")
    newest: DatasetVersion | None = Field(
        description="The version that was imported last, which its name means; null: no import has succeeded yet."
    )


class Dataset(DatasetSummary):
    """`GET /datasets/{name}`."""

    versions: list[DatasetVersion] = Field(description="The last imported first, 1000 at most.")
    importing: list[str] = Field(description="Ids of the jobs that are about to import it, 100 at most.")


class DatasetPage(BaseModel):
    """`GET /datasets`, by name; `after` is the name of the last data set of the page before."""

    items: list[DatasetSummary] = Field(description="The data sets of this page, by name.")
    has_more: bool = Field(description="Whether there are further ones.")
