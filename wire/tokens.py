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
ME = "@me"  # in a filter: the owner of the token that asks; no owner is called that
Owner = Annotated[str, StringConstraints(pattern=OWNER_PATTERN)]


class TokenCreate(RequestModel):
    """`POST /tokens`."""

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True, pattern=r"^[^\x00]+$")
    ] = Field(description="What the token is for, in the list of tokens.")
    scopes: Annotated[list[Scope], Field(min_length=1), AtMost(3)] = Field(
        default=["write"], description="`write` may read too, `admin` everything."
    )
    owner: Owner = Field(default="admin", description="Whose jobs those are that it posts; quotas count by owner.")
    days: Annotated[int, Field(strict=True, ge=1, le=3650)] | None = Field(
        default=None, description="Until it expires."
    )


class Token(BaseModel):
    """A token as it is listed: all but the secret."""

    id: str = Field(description="Of the token: 32 hex digits; it revokes the token, and is no secret.")
    name: str = Field(description="What the token is for.")
    owner: str = Field(description="Whose jobs those are that it posts.")
    scopes: list[Scope] = Field(description="What it may do.")
    created_at: datetime = Field(description="When it was made, in UTC.")
    expires_at: datetime | None = Field(default=None, description="When it ends by itself, in UTC; null: never.")
    revoked_at: datetime | None = Field(default=None, description="When it was revoked, in UTC; null: it was not.")


class NewToken(Token):
    """The answer to `POST /tokens`."""

    token: str = Field(repr=False, description="The secret. It is shown this once: only its sha256 is kept.")


class TokenList(BaseModel):
    """`GET /tokens`, newest first."""

    items: list[Token] = Field(description="All tokens, newest first.")
