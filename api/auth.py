"""Who may call: workers present the worker token, of which the API knows only the sha256, and a fencing token."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.errors import Unauthorized
from api.schemas.reports import FENCING_HEADER

_bearer = HTTPBearer(auto_error=False, scheme_name="worker", description="The worker token.")


def require_worker(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Raises `Unauthorized` unless the worker token came along."""
    if credentials is None:
        raise Unauthorized("no worker token", remedy="Send `Authorization: Bearer <worker token>`.")
    digest = hashlib.sha256(credentials.credentials.encode(errors="surrogateescape")).hexdigest()
    # Constant time: how long a wrong token takes must not tell how much of it is right.
    if not hmac.compare_digest(digest, request.app.state.settings.worker_token_sha256):
        raise Unauthorized("wrong worker token", remedy="Set CROSSKD_WORKER_TOKEN to the API's.")


WorkerDep = Depends(require_worker)


class Fence(NamedTuple):
    """An attempt and the token that proves to speak for it."""

    attempt: str
    token: int


def _fence(attempt: str, token: Annotated[int, Header(alias=FENCING_HEADER, ge=1, lt=2**31)]) -> Fence:
    return Fence(attempt, token)


FenceDep = Annotated[Fence, Depends(_fence)]
