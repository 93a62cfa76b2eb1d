"""Browsers that have signed in: a cookie that no script can read stands for the API token that was shown once.

It is sent for the service's own pages alone (`SameSite=Strict`), and whatever changes something must also say that it
comes from such a page (`refuse_foreign`): another page on the same host, under another port, is the same site.
"""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

from fastapi import Request, Response

from api.database import Session
from api.errors import Forbidden
from api.models import ApiToken, BrowserSession

COOKIE = "crosskd_session"
LIFETIME = timedelta(days=7)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def token_of(session: Session, sha256: str) -> ApiToken | None:
    """The live token behind the cookie of this digest; None if nobody is signed in with it any more."""
    found = session.get(BrowserSession, sha256)
    now = session.now()
    if found is None or found.expires_at <= now:
        return None
    token = session.get(ApiToken, found.token_id)
    return token if token is not None and token.is_live(now) else None


def refuse_foreign(request: Request) -> None:
    """Raises `Forbidden` for a change that another origin's page asks for, or that does not say who asks (CSRF)."""
    if request.method in _SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    if site == "same-origin":
        return
    if site is None and (origin := request.headers.get("origin")) and _same_host(origin, request.headers.get("host")):
        return  # a browser that does not know Sec-Fetch-Site yet
    raise Forbidden(
        "a cookie alone does not allow this from another page",
        remedy="Use the service's own pages, or send `Authorization: Bearer <token>`.",
    )


def _same_host(origin: str, host: str | None) -> bool:
    try:
        return host is not None and urlsplit(origin).netloc == host
    except ValueError:
        return False


def set_cookie(request: Request, response: Response, secret: str) -> None:
    """Have the browser keep `secret`, over TLS alone if it came that way."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https",
    )


def delete_cookie(response: Response) -> None:
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
