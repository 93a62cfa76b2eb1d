"""How a worker brings a file to the storage by itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, FailFast, Field, StringConstraints

from crosskd.spec.bounds import AtMost
from wire.artifacts import ArtifactKind, Sha256
from wire.scalars import Count

MAX_PARTS = 100_000
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class UploadRequest(BaseModel):
    """The file that is to come; `kind` and `step` follow from the names that the core gives its files."""

    size: Count = Field(description="Its length in bytes.")
    sha256: Sha256 = Field(description="Digest of the whole file, 64 hex digits.")
    kind: ArtifactKind | None = Field(default=None, description="What it is; default: as its name tells.")
    step: Count | None = Field(
        default=None, description="The optimizer step it was made at; default: as its name tells."
    )


class UploadPart(BaseModel):
    """Bytes `offset` up to `offset + size` of the file, to be sent by PUT, without a token, to `url`."""

    url: str = Field(description="Where to PUT it: an address of the storage.")
    offset: int = Field(description="The byte of the file at which it begins, from 0.")
    size: int = Field(description="Its length in bytes, from 1.")
    arrived: bool = Field(description="Whether that many bytes lie there already.")


class UploadPlan(BaseModel):
    """Where the bytes go.

    `api`: by PUT, and PATCH, to this API. `storage`: each of `parts` to its own address until `expires_at`, then
    commit.
    """

    through: Literal["api", "storage"] = Field(description="Who takes the bytes.")
    parts: list[UploadPart] = Field(default=[], description="The parts in their order; of `api`, none.")
    expires_at: datetime | None = Field(
        default=None, description="Until when the addresses are good, in UTC; null: there are none."
    )


class UploadCommit(UploadRequest):
    """All parts were sent."""

    md5: Annotated[list[Md5], FailFast(), AtMost(MAX_PARTS)] = Field(
        description="Of each part, in order; the storage checks it too."
    )
