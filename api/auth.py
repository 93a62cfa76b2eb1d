"""Who may call. Four kinds of caller, each with `Authorization: Bearer`, never with a secret in an address:

an API token      `ck_…`   scopes read < write < admin; its sha256 stands in the table `tokens`
the worker token           claims jobs, keeps leases, reads artifacts; its sha256 is a setting
an attempt token  `cka_…`  reports for one attempt while that lives; its sha256 stands beside the attempt
nobody                     everything, but only from this very machine, and only where `CROSSKD_AUTH` is `loopback`

A browser that has signed in with an API token shows a cookie in its place (`api/browser_sessions.py`).

A GET needs `read`, as a prediction and the reading of a text do, the rest `write`, and administration `admin`.
`authenticate` is called by the class of the routes (`api/http/authenticated.py`), before anything of a body is read:
nobody without a token can make the API work.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from fastapi import Depends, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select

from api import browser_sessions
from api.database import Database, Session
from api.errors import Forbidden, Unauthorized
from api.models import ID, ApiToken, Attempt
from api.settings import Settings
from wire.loopback import is_loopback
from wire.reports import FENCING_HEADER
from wire.tokens import LOCAL_OWNER, Scope

TOKEN_PREFIX = "ck_"  # noqa: S105 - it tells a token by sight, also to scanners that look for leaked ones
ATTEMPT_PREFIX = "cka_"
SECRET_BYTES = 32
IMPLIED_SCOPES: dict[Scope, frozenset[Scope]] = {
    "read": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "admin": frozenset({"read", "write", "admin"}),
}
WORKER_PATHS = "/worker/"
ADMIN_PATHS = ("/tokens", "/audit")
# What a probe or a browser asks before it can show a token. None of it tells of a job.
PUBLIC_PATHS = frozenset(
    {"/health", "/ready", "/docs", "/docs/oauth2-redirect", "/redoc", "/sign-in", "/sign-out", "/"}
)
PAGES = "/web/"  # the pages themselves tell of no job: what they show, they ask for
# Nothing is made or changed: who may download a model may also ask it, and a queue bounds the work.
READING_PATHS = frozenset({"/jobs/{job}/predict", "/specs/parse", "/specs/edit"})
WORKER_READABLE_PATHS = "/jobs/{job}/artifacts/"  # checkpoints to resume from, weights of former jobs
PROXIED = frozenset({"forwarded", "via", "x-real-ip"})  # a proxy has handed the request on
_READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_api_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="An API token: `crosskd token create`.")
_worker_bearer = HTTPBearer(auto_error=False, scheme_name="worker", description="The worker token, or an attempt's.")


class Caller(NamedTuple):
    """Who calls. `token_id` is None for whoever needs no token."""

    owner: str
    scopes: frozenset[Scope]
    token_id: str | None = None


LOCAL = Caller(LOCAL_OWNER, IMPLIED_SCOPES["admin"])
WORKER = Caller("worker", IMPLIED_SCOPES["read"])


def new_secret(prefix: str) -> str:
    """A secret of 256 random bits."""
    return prefix + secrets.token_urlsafe(SECRET_BYTES)


def digest(secret: str) -> str:
    """What is kept of a secret: its sha256 in hex. It is random, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


# --- clients ---------------------------------------------------------------------------------------------------------


async def authenticate(request: Request) -> None:
    """Let the request through, and note its caller for `CallerDep`. Reads nothing of its body.

    Raises:
        Unauthorized: no token where one is needed, or one that is unknown, revoked or expired.
        Forbidden: its scopes do not reach so far.
        TooManyRequests: it was used too often in too short a time.
    """
    path = request.scope["route"].path
    if path.startswith(WORKER_PATHS):
        await _authenticate_worker(request, await _worker_bearer(request))
    elif not is_public(path):
        await _authenticate_client(request, path, await _api_bearer(request))
    request.state.authenticated = True


async def require_authenticated(
    request: Request, _described: Annotated[HTTPAuthorizationCredentials | None, Depends(_api_bearer)]
) -> None:
    """A dependency of the whole application, for a route of another class: nobody gets past it either."""
    if not getattr(request.state, "authenticated", False):
        await authenticate(request)


async def _authenticate_client(request: Request, path: str, credentials: HTTPAuthorizationCredentials | None) -> None:
    request.state.caller = caller = await _caller_of(request, path, credentials)
    if caller.token_id is not None:
        request.app.state.rates.consume(caller.token_id)
    needed = _needed(request.method, path)
    if needed not in caller.scopes:
        raise Forbidden(
            f"this needs a token with the scope `{needed}`", remedy="Use one that an administrator has given it."
        )


def is_public(path: str) -> bool:
    """Whether everybody may call the route of this path."""
    return path in PUBLIC_PATHS or path.startswith(PAGES)


def security(settings: Settings, path: str) -> list[dict[str, list[str]]]:
    """What a path asks for, in OpenAPI's words; an empty alternative is this machine, where that needs no token."""
    if is_public(path):
        return []
    if path.startswith(WORKER_PATHS):
        return [{"worker": []}]
    also: list[dict[str, list[str]]] = [{"worker": []}] if path.startswith(WORKER_READABLE_PATHS) else []
    return [{"token": []}, *also, *([{}] if settings.auth == "loopback" else [])]


def _needed(method: str, path: str) -> Scope:
    if path.startswith(ADMIN_PATHS):
        return "admin"
    return "read" if method in _READ_METHODS or path in READING_PATHS else "write"


async def _caller_of(request: Request, path: str, credentials: HTTPAuthorizationCredentials | None) -> Caller:
    settings = request.app.state.settings
    if credentials is None:
        if "authorization" in request.headers:  # who shows something means it: an empty token is no caller's either
            raise Unauthorized("what `Authorization` says is no token", remedy="Send `Authorization: Bearer <token>`.")
        if secret := request.cookies.get(browser_sessions.COOKIE):
            signed_in = await run_in_threadpool(_look_up_session, request.app.state.database, secret)
            if signed_in is not None:
                browser_sessions.refuse_foreign(request)
                return signed_in
        if settings.auth == "loopback" and is_local(request):
            return LOCAL
        raise Unauthorized(
            "no token", remedy="Send `Authorization: Bearer <token>`; `crosskd token create` makes one on the server."
        )
    if path.startswith(WORKER_READABLE_PATHS) and _is_worker(request, credentials):
        return WORKER
    # Also where none is needed: who shows a token means it, and must learn that it is wrong.
    caller = await run_in_threadpool(_look_up, request.app.state.database, credentials.credentials)
    if caller is None:
        raise Unauthorized("the token is unknown, revoked or expired", remedy="Ask an administrator for a new one.")
    return caller


def live_token(session: Session, secret: str) -> ApiToken | None:
    """The API token whose secret this is; None if it is unknown, revoked or expired."""
    token = session.scalar(select(ApiToken).where(ApiToken.sha256 == digest(secret)))
    return token if token is not None and token.is_live(session.now()) else None


def _look_up(database: Database, secret: str) -> Caller | None:
    with database.reading() as session:
        token = live_token(session, secret)
        return None if token is None else _holder(token)


def _look_up_session(database: Database, secret: str) -> Caller | None:
    with database.reading() as session:
        token = browser_sessions.token_of(session, digest(secret))
        return None if token is None else _holder(token)


def _holder(token: ApiToken) -> Caller:
    granted = [IMPLIED_SCOPES[scope] for scope in token.scopes]
    return Caller(token.owner, frozenset().union(*granted), token.id)


def is_local(request: Request) -> bool:
    """Whether both ends are this machine, and no proxy or foreign web page speaks through it.

    The name asked for must be the machine's own too: else any page could reach the service through a host name that
    it points to 127.0.0.1 (DNS rebinding). A proxy that hides itself cannot be told: behind one, `CROSSKD_AUTH=tokens`.
    """
    headers = request.headers
    if any(name in PROXIED or name.startswith("x-forwarded-") for name in headers):
        return False
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):  # a browser, on behalf of another's page
        return False
    server = request.scope.get("server")
    if request.client is None or server is None:
        return False
    asked = [f"//{headers.get('host', '')}", *headers.getlist("origin")]
    return all(map(is_loopback, (request.client.host, server[0], *map(_host, asked))))


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


# --- workers ---------------------------------------------------------------------------------------------------------


def _is_worker(request: Request, credentials: HTTPAuthorizationCredentials) -> bool:
    # Constant time: how long a wrong token takes must not tell how much of it is right.
    return hmac.compare_digest(digest(credentials.credentials), request.app.state.settings.worker_token_sha256)


async def _authenticate_worker(request: Request, credentials: HTTPAuthorizationCredentials | None) -> None:
    """Raises `Unauthorized` unless the worker token came along, or on an attempt's routes that attempt's own token."""
    if credentials is None:
        raise Unauthorized("no worker token", remedy="Send `Authorization: Bearer <worker token>`.")
    if _is_worker(request, credentials):
        return
    attempt = request.path_params.get("attempt")
    if attempt is None or not credentials.credentials.startswith(ATTEMPT_PREFIX):
        raise Unauthorized("wrong worker token", remedy="Set CROSSKD_WORKER_TOKEN to the API's.")
    proven: AttemptTokens = request.app.state.attempt_tokens
    if not await proven.prove(request.app.state.database, attempt, digest(credentials.credentials)):
        raise not_its_own()


def not_its_own() -> Unauthorized:
    return Unauthorized("the token is not this attempt's", remedy="Use the one that the claim answered with.")


class AttemptTokens:
    """Which attempts' tokens have been right: a report is let in without a look-up of its own.

    An attempt keeps its token, and `services/jobs/fencing.py` holds it against the row once more, where the report
    is stored. For the event loop's thread.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._proven: dict[str, str] = {}

    async def prove(self, database: Database, attempt: str, sha256: str) -> bool:
        kept = self._proven.get(attempt)
        if kept is None:
            kept = await run_in_threadpool(_attempt_sha256, database, attempt)
            if kept is None or not hmac.compare_digest(kept, sha256):
                return False
            if len(self._proven) >= self._size:
                self._proven.clear()
            self._proven[attempt] = kept
        return hmac.compare_digest(kept, sha256)


def _attempt_sha256(database: Database, attempt: str) -> str | None:
    if not ID.fullmatch(attempt):
        return None
    with database.reading() as session:
        return session.scalar(select(Attempt.token_sha256).where(Attempt.id == attempt))


async def _described(_credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_worker_bearer)]) -> None:
    """Tells FastAPI of the scheme, for the description of the API."""


WorkerDep = Depends(_described)


class Fence(NamedTuple):
    """An attempt, the number that proves to be its latest, and the secret that came along.

    `secret_sha256` is None where the worker token did: its holder may speak for each of its attempts.
    """

    attempt: str
    token: int
    secret_sha256: str | None


async def _fence(
    attempt: str,
    token: Annotated[int, Header(alias=FENCING_HEADER, ge=1, lt=2**31)],
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_worker_bearer)],
) -> Fence:
    if credentials is None:
        raise Unauthorized("no worker token", remedy="Send `Authorization: Bearer <worker token>`.")
    known = _is_worker(request, credentials)
    return Fence(attempt, token, None if known else digest(credentials.credentials))


FenceDep = Annotated[Fence, Depends(_fence)]
