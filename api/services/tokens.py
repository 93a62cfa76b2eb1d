"""API tokens: made, listed, revoked. Only a secret's sha256 is stored, so nobody can read one out again."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import or_, select

from api.auth import TOKEN_PREFIX, digest, new_secret
from api.database import Session
from api.errors import NotFound
from api.models import ID, ApiToken
from wire import tokens as wire


def create(session: Session, order: wire.TokenCreate) -> wire.NewToken:
    """Store a new token; the answer alone holds its secret."""
    secret, now = new_secret(TOKEN_PREFIX), session.now()
    token = ApiToken(
        name=order.name,
        owner=order.owner,
        scopes=sorted(set(order.scopes)),
        sha256=digest(secret),
        created_at=now,
        expires_at=now + timedelta(days=order.days) if order.days else None,
    )
    session.add(token)
    session.flush()
    return wire.NewToken(**_wire(token).model_dump(), token=secret)


def listing(session: Session) -> wire.TokenList:
    """All tokens, the revoked ones too, newest first."""
    return wire.TokenList(
        items=[_wire(token) for token in session.scalars(select(ApiToken).order_by(ApiToken.id.desc()))]
    )


def revoke(session: Session, token_id: str) -> wire.Token:
    """From now on the token is refused. Again changes nothing. Raises: `NotFound`."""
    token = session.get(ApiToken, token_id) if ID.fullmatch(token_id) else None
    if token is None:
        raise NotFound("there is no such token", remedy="GET /tokens lists them with their ids.")
    if token.revoked_at is None:
        token.revoked_at = session.now()
    return _wire(token)


def any_live(session: Session) -> bool:
    """Whether there is a token that would be let in."""
    lasting = or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > session.now())
    return session.scalar(select(ApiToken.id).where(ApiToken.revoked_at.is_(None), lasting).limit(1)) is not None


def _wire(token: ApiToken) -> wire.Token:
    return wire.Token.model_validate(token, from_attributes=True)
