"""The list of sweeps and the page of one in a real browser; the test trains the jobs by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.api_server import Service
from tests.support.browser import OpenPage, assert_accessible, assert_not_pressed
from tests.support.sweeps import order, train
from tests.support.worker_calls import Worker

pytestmark = pytest.mark.browser

SCRIPT = "<script>document.title = 'taken'</script>"
ARM = "a+b.c-d_e"  # whatever an arm may be called
NONE = "\N{EN DASH}"
FAILURE = {"failure_class": "diverged", "message": f"not finite {SCRIPT}", "remedy": "Lower `optimizer.lr`."}
APS = {"alone": [0.20, 0.21, 0.19], ARM: [0.262, 0.27, 0.255]}


def posted(service: Service, **changes: Any) -> dict[str, Any]:
    answer = service.http.post("/sweeps", json=order(service.spec, **changes))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def jobs_of(sweep: dict[str, Any], arm: str) -> list[str]:
    return [child["job"] for child in sweep["children"] if child["arm"] == arm]


def lost(service: Service, job: str) -> None:
    assert service.claimed(job).finish("failed", failure=FAILURE).is_success


@pytest.fixture(scope="module")
def ended(service: Service) -> dict[str, Any]:
    """A sweep of which one job has failed."""
    arms = {"alone": {}, ARM: {"optimizer": {"lr": 0.02}}}
    sweep = posted(service, name=f"does it help? {SCRIPT}", arms=arms, seeds=[1, 2, 3, 4], labels={"team": "cells"})
    worker = Worker(service.http)  # type: ignore[arg-type]  # any client of httpx will do
    for arm, aps in APS.items():
        for job, ap in zip(jobs_of(sweep, arm), aps, strict=False):
            train(worker, job, ap)
    train(worker, jobs_of(sweep, "alone")[3], 0.205)
    lost(service, jobs_of(sweep, ARM)[3])
    return sweep


def cells(page: Page, section: str, row: str) -> list[str]:
    return page.locator(f"#{section} tbody tr").filter(has_text=row).first.locator("td").all_inner_texts()


def test_the_verdict_comes_first_and_rests_on_figures(
    service: Service, ended: dict[str, Any], open_page: OpenPage
) -> None:
    page = open_page(f"{service.url}/web/sweeps/{ended['id']}")
    told = service.http.get(f"/sweeps/{ended['id']}").json()
    expect(page.locator("#answer .verdict p")).to_have_text(told["answer"])
    assert told["answer"][0].startswith(f"{ARM} helps: ")
    expect(page.locator("h1")).to_have_text(ended["name"])
    assert page.title().startswith("does it help? <script>")

    arm = told["results"][1]
    signed = [f"{100 * arm['difference'][name]:+.2f}" for name in ("mean", "low", "high")]
    spread = f"{arm['ap']['mean']:.3f} ± {arm['ap']['standard_error']:.3f}"
    assert cells(page, "arms", ARM) == [ARM, "helps", spread, signed[0], " to ".join(signed[1:]), "3", NONE, "3 of 4"]
    costs = cells(page, "sizes", ARM)
    assert (costs[0], costs[-4], costs[-1]) == (ARM, "1,000", "1:00")
    for chart in ("differences", "ap", "classes"):
        expect(page.locator(f"#chart-{chart} canvas")).to_be_visible()

    failed = page.locator("#failed li")
    expect(failed).to_contain_text(f"diverged: not finite {SCRIPT}")
    expect(failed.locator("code")).to_have_text("optimizer.lr")
    expect(page.locator("#children tbody tr")).to_have_count(8)
    expect(page.locator("#children a").first).to_have_attribute("href", f"/web/jobs/{jobs_of(ended, 'alone')[0]}")
    assert page.get_by_role("link", name="Report (HTML)").get_attribute("href") == f"/sweeps/{ended['id']}/report"


def test_a_verdict_appears_while_one_looks(service: Service, open_page: OpenPage) -> None:
    """Also with a smaller knob: the rows of the charts grow, and what is open or focused stays so."""
    sweep = posted(service, name="live", grid={"optimizer.momentum": [0.8, 0.9]}, seeds=[1, 2])
    page = open_page(f"{service.url}/web/sweeps/{sweep['id']}")
    expect(page.locator("#answer")).to_contain_text("no pair of the same seed has ended well yet")
    expect(page.locator("#chart-differences canvas")).to_have_count(0)
    page.get_by_text("Specification, as it was posted").click()
    page.locator("#children a").first.focus()

    worker = Worker(service.http)  # type: ignore[arg-type]  # any client of httpx will do
    for arm, ap in (("alone", 0.2), ("faster", 0.3)):
        for number, job in enumerate(jobs_of(sweep, arm)):
            train(worker, job, ap + number / 1000 + (number % 2 if arm == "faster" else 0) / 500)
        expect(page.locator("#chart-ap canvas")).to_be_visible()
    expect(page.locator("#answer .verdict p").first).to_contain_text("faster helps: ")
    expect(page.get_by_role("heading", name="Verdict", exact=True)).to_be_visible()
    expect(page.locator("#arms tbody tr").first).to_contain_text(re.compile(r"faster.*helps.*0\.30\d ± 0\.00\d"))
    expect(page.locator("#points tbody tr")).to_have_count(4)
    expect(page.locator("#chart-differences canvas")).to_be_visible()
    assert_not_pressed(page)
    expect(page.locator("#spec details")).to_have_attribute("open", "")
    assert page.evaluate("document.activeElement.getAttribute('href')") == f"/web/jobs/{jobs_of(sweep, 'alone')[0]}"


def test_a_sweep_is_steered_as_a_whole(service: Service, open_page: OpenPage) -> None:
    sweep = posted(service, name="steered")
    asked: list[str] = []
    page = open_page(f"{service.url}/web/sweeps/{sweep['id']}", refusals={409})
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    states = page.locator("#summary")

    def press(name: str) -> None:
        page.get_by_role("button", name=name, exact=True).click()

    press("Pause")
    expect(states).to_contain_text("4 paused")
    press("Resume")
    expect(states).to_contain_text("4 queued")
    lost(service, jobs_of(sweep, "alone")[0])
    press("Retry what failed")
    expect(states).to_contain_text("4 queued")
    service.http.post(f"/sweeps/{sweep['id']}/pause")
    service.http.post(f"/sweeps/{sweep['id']}/cancel")
    press("Pause")  # of what the page has not heard yet
    expect(page.get_by_role("alert")).to_contain_text("no job of it can be paused: 4 cancelled")
    expect(states).to_contain_text("4 cancelled")
    press("Retry what failed")
    press("Cancel")
    expect(states).to_contain_text("4 cancelled")
    press("Delete")
    expect(page).to_have_url(f"{service.url}/web/sweeps")
    assert service.http.get(f"/sweeps/{sweep['id']}").status_code == 404
    assert [message.split()[0] for message in asked] == ["Cancel", "Delete"]


def test_a_sweep_that_is_not_there_says_so(service: Service, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/sweeps/{'0' * 32}", refusals={404})
    expect(page.get_by_role("alert").locator("p")).to_have_text(
        ["there is no such sweep", "GET /sweeps lists the sweeps."]
    )


def test_sweeps_are_listed_with_their_verdicts(service: Service, ended: dict[str, Any], open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/sweeps")
    row = page.locator("tbody tr").filter(has_text=SCRIPT)
    expect(row).to_contain_text(f"{ARM} helps")
    expect(row).to_contain_text("7 succeeded")
    expect(row).to_contain_text("alone (baseline)")
    expect(row.locator("a.name")).to_have_attribute("href", f"/web/sweeps/{ended['id']}")
    posted(service, name="came while one looked")
    expect(page.locator("tbody tr").first).to_contain_text("came while one looked")
    for number in range(25):
        posted(service, name=f"of many {number}", seeds=[0])
    expect(page.locator("tbody tr")).to_have_count(25)
    page.get_by_role("button", name="Older").click()
    expect(row).to_be_visible()
    page.get_by_role("button", name="Newer").click()
    expect(page.locator("tbody tr").first).to_contain_text("of many 24")
    page.get_by_label("Owner").fill("nobody")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No sweep fits these filters.")).to_be_visible()
    page.get_by_label("Owner").fill("@me")
    page.get_by_label("Name").fill("of many 7")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("of many 7")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_everybody_can_read_them(
    service: Service, ended: dict[str, Any], open_page: OpenPage, width: int, dark: bool
) -> None:
    page = open_page(f"{service.url}/web/sweeps/{ended['id']}", width=width, dark=dark)
    expect(page.locator("#chart-classes canvas")).to_be_visible()
    page.get_by_text("AP by class, in figures").click()
    page.get_by_text("Specification, as it was posted").click()
    assert_accessible(page)
    page.goto(f"{service.url}/web/sweeps")
    expect(page.locator("tbody tr").first).to_be_visible()
    assert_accessible(page)
