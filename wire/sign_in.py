"""Signing in with a browser, and who calls."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from wire.request import RequestModel
from wire.tokens import Scope


class SignIn(RequestModel):
    """`POST /sign-in`."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)] = Field(
        repr=False, description="The secret of an API token. It is not kept; the cookie stands for it."
    )


class WhoAmI(BaseModel):
    """`GET /me`: what the service knows of its caller."""

    owner: str = Field(description="Whose jobs those are that the caller posts; `local`: nobody showed a token.")
    scopes: list[Scope] = Field(description="What the caller may do.")
    signed_in: bool = Field(description="Whether a browser's cookie says so: then it can sign out.")
