"""Signing in with a real browser, where everybody needs a token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from api.database import Database
from api.services import tokens
from tests.support.api_server import Service, served
from tests.support.browser import OpenPage, assert_accessible
from wire.tokens import TokenCreate

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A service where everybody needs a token, and one of them."""
    home = tmp_path_factory.mktemp("locked")
    with served(home, auth="tokens") as service:
        database = Database(f"sqlite:///{home / 'crosskd.db'}")
        with database.transaction() as session:
            secret = tokens.create(session, TokenCreate(name="t", owner="ann", scopes=["read"])).token
        database.close()
        yield service, secret


def test_signing_in_and_out(locked: tuple[Service, str], open_page: OpenPage) -> None:
    service, secret = locked
    page = open_page(f"{service.url}/?status=failed", refusals={401})
    expect(page).to_have_url(f"{service.url}/web/sign-in?next=%2F%3Fstatus%3Dfailed")
    assert_accessible(page)
    page.get_by_label("API token").fill("ck_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("the token is unknown, revoked or expired")
    page.get_by_label("API token").fill(secret)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{service.url}/?status=failed")
    expect(page.get_by_text("ann")).to_be_visible()

    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert secret not in str(page.context.storage_state()) + page.evaluate("document.cookie") + page.url
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API token")).to_be_visible()
    assert page.context.cookies() == []
    used = page.request.get(f"{service.url}/jobs", headers={"cookie": f"{cookie['name']}={cookie['value']}"})
    assert used.status == 401


def test_the_way_back_leads_nowhere_else(locked: tuple[Service, str], open_page: OpenPage) -> None:
    service, secret = locked
    page = open_page(f"{service.url}/web/sign-in?next=//example.com/")
    page.get_by_label("API token").fill(secret)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{service.url}/")
