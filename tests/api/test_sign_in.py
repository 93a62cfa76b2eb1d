"""Signing in with a browser: a cookie in place of a token, for the service's own pages alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.browser_sessions import COOKIE, LIFETIME
from api.database import Database
from api.main import create_app
from api.models import BrowserSession
from api.services import tokens
from api.settings import Settings
from tests.support.api_client import HERE, problem
from tests.support.databases import ONE_DATABASE
from wire.tokens import NewToken, TokenCreate

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def locked(make_settings: Callable[..., Settings]) -> Iterator[TestClient]:
    """A browser on this machine, where everybody needs a token."""
    with TestClient(create_app(make_settings(auth="tokens")), raise_server_exceptions=False, **HERE) as client:
        yield client


@pytest.fixture
def token(database: Database) -> NewToken:
    with database.transaction() as session:
        return tokens.create(session, TokenCreate(name="t", owner="ann", scopes=["write"]))


def sign_in(client: TestClient, token: NewToken) -> None:
    answer = client.post("/sign-in", json={"token": token.token}, headers=OWN)
    assert answer.status_code == 204, answer.text


def test_a_cookie_stands_for_the_token(locked: TestClient, token: NewToken, database: Database) -> None:
    problem(locked.get("/me"), 401)
    answer = locked.post("/sign-in", json={"token": f" {token.token}\n"}, headers=OWN)
    flags = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert flags == {"httponly", "samesite=strict", "path=/", f"max-age={7 * 24 * 3600}"}
    assert locked.get("/me").json() == {"owner": "ann", "scopes": ["read", "write"], "signed_in": True}
    with database.reading() as session:
        (kept,) = session.scalars(select(BrowserSession))
        assert kept.token_id == token.id
        assert locked.cookies[COOKIE] not in repr(vars(kept))

    secret = locked.cookies[COOKIE]
    assert locked.post("/sign-out", headers=OWN).status_code == 204
    assert COOKIE not in locked.cookies
    problem(locked.get("/me", headers={"Cookie": f"{COOKIE}={secret}"}), 401)
    assert locked.post("/sign-out", headers=OWN).status_code == 204  # nobody is signed in, which is no fault


@ONE_DATABASE
def test_over_tls_the_cookie_is_for_tls_alone(locked: TestClient, token: NewToken) -> None:
    headers = OWN | {"X-Forwarded-Proto": "https"}
    answer = locked.post("/sign-in", json={"token": token.token}, headers=headers)
    assert "; secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("body", [{"token": "ck_unknown"}, {"token": "x" * 201}, {"token": ""}, {}, {"token": 1}])
@ONE_DATABASE
def test_what_is_no_token_signs_nobody_in(locked: TestClient, body: dict[str, object]) -> None:
    answer = locked.post("/sign-in", json=body, headers=OWN)
    problem(answer, 401 if body == {"token": "ck_unknown"} else 422)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of the same host
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
        ({"Origin": "http://127.0.0.1:8470"}, 404),  # as an old browser says it; 404: there is no such job
        (OWN, 404),
    ],
)
@ONE_DATABASE
def test_a_cookie_changes_nothing_for_another_page(
    locked: TestClient, token: NewToken, headers: dict[str, str], status: int
) -> None:
    sign_in(locked, token)
    problem(locked.post(f"/jobs/{'0' * 32}/cancel", headers=headers), status)
    assert locked.post("/sign-out", headers=headers).status_code == (204 if status == 404 else 403)


@pytest.mark.parametrize("ended", ["revoked", "expired", "over"])
def test_a_session_ends_with_its_token_or_its_week(
    locked: TestClient, token: NewToken, database: Database, ended: str
) -> None:
    sign_in(locked, token)
    with database.transaction() as session:
        past = session.now() - timedelta(seconds=1)
        if ended == "revoked":
            tokens.revoke(session, token.id)
        elif ended == "expired":
            session.get_one(tokens.ApiToken, token.id).expires_at = past
        else:
            session.execute(update(BrowserSession).values(expires_at=past))
    problem(locked.get("/me"), 401)


@ONE_DATABASE
def test_sessions_that_are_over_are_forgotten(locked: TestClient, token: NewToken, database: Database) -> None:
    sign_in(locked, token)
    with database.transaction() as session:
        session.execute(update(BrowserSession).values(expires_at=session.now() - LIFETIME))
    sign_in(locked, token)
    with database.reading() as session:
        assert len(session.scalars(select(BrowserSession)).all()) == 1


@ONE_DATABASE
def test_a_token_counts_more_than_a_cookie(locked: TestClient, token: NewToken, database: Database) -> None:
    sign_in(locked, token)
    with database.transaction() as session:
        other = tokens.create(session, TokenCreate(name="t", owner="bob", scopes=["admin"]))
    headers = {"Authorization": f"Bearer {other.token}"}  # no page sends that by itself: no CSRF to fear
    assert locked.get("/me", headers=headers).json()["owner"] == "bob"
    problem(locked.post(f"/jobs/{'0' * 32}/cancel", headers=headers), 404)
