"""API tokens, for callers with the scope `admin`. The first is made on the server: `python -m api.tokens create`."""

from __future__ import annotations

from fastapi import APIRouter, Response, status

from api.database import ReadDep, SessionDep
from api.http.idempotent import IdempotencyDep, IdempotentRoute
from api.services import tokens
from wire.tokens import NewToken, Token, TokenCreate, TokenList

router = APIRouter(prefix="/tokens", tags=["tokens"], route_class=IdempotentRoute)


@router.post("", status_code=status.HTTP_201_CREATED, dependencies=[IdempotencyDep])
def create_token(order: TokenCreate, response: Response, session: SessionDep) -> NewToken:
    """Make a token. Its secret is in this answer and nowhere else."""
    response.headers["Cache-Control"] = "no-store"
    return tokens.create(session, order)


@router.get("")
def list_tokens(session: ReadDep) -> TokenList:
    """All tokens without their secrets, revoked ones too, newest first."""
    return tokens.listing(session)


@router.delete("/{token}")
def revoke_token(token: str, session: SessionDep) -> Token:
    """Refuse the token from now on; it stays in the list."""
    return tokens.revoke(session, token)
