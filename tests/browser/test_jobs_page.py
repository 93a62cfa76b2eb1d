"""The list of jobs in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.support.api_server import Service
from tests.support.browser import OpenPage, assert_accessible

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def jobs(service: Service) -> list[str]:
    """One that runs and one that waits, with a name that would be a script."""
    running = service.succeeded("ended", b"weights")
    return [running, service.post("<script>document.title = 'taken'</script>")]


def test_jobs_are_listed_filtered_and_acted_on(service: Service, jobs: list[str], open_page: OpenPage) -> None:
    page = open_page(service.url, refusals={422})
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("<script>document.title = 'taken'</script>")
    expect(page).to_have_title(re.compile("^Jobs "))
    expect(rows.nth(1).locator(".sparkline path")).to_have_count(1)
    expect(rows.nth(1).locator("a.name")).to_have_attribute("href", f"/web/jobs/{jobs[0]}")

    page.get_by_label("State").select_option("succeeded")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(1)
    expect(page).to_have_url(f"{service.url}/?status=succeeded")
    page.get_by_label("State").select_option("")
    page.get_by_label("Kind").select_option("distill")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No job fits these filters.")).to_be_visible()
    page.get_by_label("Label").fill("no pair")
    with page.expect_response("**/jobs?*") as asked:  # meanwhile: what is only half written does not count yet
        pass
    assert "label" not in asked.value.url
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("alert")).to_contain_text("is no key=value")
    page.get_by_label("Label").fill("")
    page.get_by_label("Kind").select_option("")
    page.get_by_role("button", name="Filter").click()

    posted = service.post("came while one looked")
    expect(rows).to_have_count(3)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel: came while one looked").click()
    expect(rows.nth(0)).to_contain_text("cancelled")
    assert service.http.get(f"/jobs/{posted}").json()["status"] == "cancelled"
    page.get_by_label(f"Compare ended {jobs[0]}").check()
    page.get_by_label(f"Compare came while one looked {posted}").check()
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_enabled()


def test_the_theme_is_the_readers(service: Service, jobs: list[str], open_page: OpenPage) -> None:
    page = open_page(service.url, dark=True)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(22, 24, 28)"
    page.get_by_role("button", name="Change between dark and light").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_everybody_can_read_it(service: Service, jobs: list[str], open_page: OpenPage, width: int, dark: bool) -> None:
    page = open_page(service.url, width=width, dark=dark)
    expect(page.locator("tbody tr").nth(1)).to_be_visible()
    assert_accessible(page)
