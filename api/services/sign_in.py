"""Signing in and out with a browser. As of a token, only a cookie's sha256 is stored."""

from __future__ import annotations

from sqlalchemy import delete

from api.auth import digest, live_token, new_secret
from api.browser_sessions import LIFETIME
from api.database import Session
from api.errors import Unauthorized
from api.models import BrowserSession

_PREFIX = "ckb_"


def sign_in(session: Session, token: str) -> str:
    """Make a session of the token's holder; gives the cookie's secret. Raises `Unauthorized` for no live token."""
    found = live_token(session, token)
    if found is None:
        raise Unauthorized(
            "the token is unknown, revoked or expired",
            remedy="Ask an administrator for a new one; `crosskd token create` makes one on the server.",
        )
    now = session.now()
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= now))
    secret = new_secret(_PREFIX)
    made = BrowserSession(sha256=digest(secret), token_id=found.id, created_at=now, expires_at=now + LIFETIME)
    session.add(made)
    return secret


def sign_out(session: Session, secret: str) -> None:
    """Forget the session, if there is one."""
    session.execute(delete(BrowserSession).where(BrowserSession.sha256 == digest(secret)))
