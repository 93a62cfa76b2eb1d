"""API tokens on the wire. The secret itself is in one answer only: that to its creation."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from crosskd.spec.bounds import AtMost
from wire.request import RequestModel

Scope = Literal["read", "write", "admin"]
OWNER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$"

LOCAL_OWNER = "local"  # of what is done without a token
Owner = Annotated[str, StringConstraints(pattern=OWNER_PATTERN)]


class TokenCreate(RequestModel):
    """`POST /tokens`."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True, pattern=r"^[^\x00]+$")]
    scopes: Annotated[list[Scope], Field(min_length=1), AtMost(3)] = Field(
        default=["write"], description="`write` may read too, `admin` everything."
    )
    owner: Owner = Field(default="admin", description="Whose jobs those are that it posts; quotas count by owner.")
    days: Annotated[int, Field(strict=True, ge=1, le=3650)] | None = Field(
        default=None, description="Until it expires."
    )


class Token(BaseModel):
    """A token as it is listed: all but the secret."""

    id: str
    name: str
    owner: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class NewToken(Token):
    """The answer to `POST /tokens`."""

    token: str = Field(repr=False, description="The secret. It is shown this once: only its sha256 is kept.")


class TokenList(BaseModel):
    """`GET /tokens`, newest first."""

    items: list[Token]
