"""Artifacts on the wire: checkpoints, weights, log, manifest, curves, matches."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

# The core names its files, and they keep their names; `GET /jobs/{id}/weights` serves the best weights.
from crosskd.spec.files import BEST_WEIGHTS as BEST_WEIGHTS
from crosskd.spec.files import LAST_WEIGHTS as LAST_WEIGHTS
from crosskd.spec.files import LOG as LOG
from crosskd.spec.files import MANIFEST as MANIFEST
from crosskd.spec.files import MATCHES_FILES as MATCHES_FILES
from crosskd.spec.files import ONNX as ONNX
from crosskd.spec.files import FileKind, curves_name

ArtifactKind = FileKind
ArtifactName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

OFFSET_HEADER = "Upload-Offset"  # bytes of an upload that have arrived
LENGTH_HEADER = "Upload-Length"  # bytes of the whole file

curves_artifact = curves_name


class Artifact(BaseModel):
    """A published file. Bytes and digest never change while a name stands; a newer upload replaces both at once."""

    name: ArtifactName
    kind: ArtifactKind
    size: int = Field(ge=0, description="Bytes.")
    sha256: Sha256
    step: int | None = Field(default=None, description="The optimizer step it was made at.")
    attempt: int
    created_at: datetime
    url: str


class ArtifactList(BaseModel):
    items: list[Artifact]


class ArtifactRef(BaseModel):
    """Where a worker fetches a file from; `url` is a path below the API's address."""

    name: str
    url: str
    sha256: Sha256
    size: int
    step: int | None = None
