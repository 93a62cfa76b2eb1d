"""Artifacts on the wire: checkpoints, weights, log, manifest, curves, matches, detections, annotations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

# The core names its files, and they keep their names; `GET /jobs/{id}/weights` serves the best weights.
from crosskd.spec.results.files import ANNOTATIONS as ANNOTATIONS
from crosskd.spec.results.files import BEST_WEIGHTS as BEST_WEIGHTS
from crosskd.spec.results.files import DATASET_REPORT as DATASET_REPORT
from crosskd.spec.results.files import LAST_WEIGHTS as LAST_WEIGHTS
from crosskd.spec.results.files import LOG as LOG
from crosskd.spec.results.files import MANIFEST as MANIFEST
from crosskd.spec.results.files import ONNX as ONNX
from crosskd.spec.results.files import FileKind, curves_name

ArtifactKind = FileKind
ArtifactName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

OFFSET_HEADER = "Upload-Offset"  # bytes of an upload that have arrived
LENGTH_HEADER = "Upload-Length"  # bytes of the whole file

curves_artifact = curves_name


class Artifact(BaseModel):
    """A published file. Bytes and digest never change while a name stands; a newer upload replaces both at once."""

    name: ArtifactName = Field(description="Its name, which no other file of the job has.")
    kind: ArtifactKind = Field(
        description="What it is: a checkpoint to resume from, weights, the log, the manifest, an ONNX graph, "
        "curves, matches, detections or those of an evaluation in its sample images; of an import annotations and "
        "the report."
    )
    size: int = Field(ge=0, description="Its length in bytes, from 0.")
    sha256: Sha256 = Field(description="Digest of its bytes, 64 hex digits.")
    step: int | None = Field(
        default=None, description="The optimizer step it was made at, from 0; null: it belongs to none."
    )
    attempt: int = Field(description="Number of the attempt that made it, from 1.")
    created_at: datetime = Field(description="When it was published, in UTC.")
    url: str = Field(description="Its path below the API's address.")


class ArtifactList(BaseModel):
    items: list[Artifact] = Field(description="The published files of the job, by name.")


class ArtifactRef(BaseModel):
    """Where a worker fetches a file from; `url` is a path below the API's address."""

    name: str = Field(description="Its name in the job that made it.")
    url: str = Field(description="Its path below the API's address.")
    sha256: Sha256 = Field(description="Digest of its bytes, 64 hex digits.")
    size: int = Field(description="Its length in bytes, from 0.")
    step: int | None = Field(
        default=None, description="The optimizer step it was made at, from 0; null: it belongs to none."
    )
