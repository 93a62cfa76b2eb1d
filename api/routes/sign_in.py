"""Signing in: a browser's page shows an API token once, and has a cookie from then on that no script can read."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from api import browser_sessions
from api.auth import CallerDep
from api.database import SessionDep
from api.http.transactional import Transactional
from api.services import sign_in as service
from wire.sign_in import SignIn, WhoAmI

router = APIRouter(tags=["sign-in"], route_class=Transactional)


@router.post("/sign-in", status_code=HTTPStatus.NO_CONTENT)
def sign_in(order: SignIn, request: Request, response: Response, session: SessionDep) -> None:
    """Give the browser a cookie in place of an API token, for a week or until the token ends."""
    browser_sessions.refuse_foreign(request)  # else another page could have somebody work under its own name
    browser_sessions.set_cookie(request, response, service.sign_in(session, order.token))


@router.post("/sign-out", status_code=HTTPStatus.NO_CONTENT)
def sign_out(request: Request, response: Response, session: SessionDep) -> None:
    """Forget the session of the cookie."""
    browser_sessions.refuse_foreign(request)
    if secret := request.cookies.get(browser_sessions.COOKIE):
        service.sign_out(session, secret)
    browser_sessions.delete_cookie(response)


@router.get("/me")
async def get_caller(request: Request, caller: CallerDep) -> WhoAmI:
    """Who calls, and what that caller may do."""
    by_cookie = "authorization" not in request.headers and browser_sessions.COOKIE in request.cookies
    signed_in = by_cookie and caller.token_id is not None
    return WhoAmI(owner=caller.owner, scopes=sorted(caller.scopes), signed_in=signed_in)
