"""The validation images on the page of a job, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.api_server import Service
from tests.support.browser import OpenPage, assert_accessible
from tests.support.evaluations import evaluation
from tests.support.job_images import Jobs, measured, split

pytestmark = pytest.mark.browser

IMAGES = 15  # more than a page has


@pytest.fixture(scope="module")
def job(service: Service) -> str:
    """Of which two evaluations have left their boxes; the second is the best."""
    root = Path(service.spec["data"]["train"]["annotations"]).parent / "pictures"
    root.mkdir()
    known = split(root, images=IMAGES)
    jobs = Jobs(service.http, service.spec, known, root)  # type: ignore[arg-type]  # any client of httpx will do
    teacher = measured(known, 1, model="teacher", step=0)
    found = jobs.finished(measured(known, 2), teacher, outcome=None)
    for report in (evaluation("teacher", 0, 0.5), evaluation("student", 7, 0.3, best=True)):
        assert jobs.worker.post("evaluations", report).is_success
    assert jobs.worker.finish("succeeded").is_success
    return found


def test_boxes_are_told_by_more_than_colour(service: Service, job: str, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/jobs/{job}")
    panel = page.locator("#image-panel")
    cards = panel.locator("figure.card")
    expect(cards).to_have_count(12)
    told = service.http.get(f"/jobs/{job}/images?limit=12").json()
    first = told["items"][0]
    student = first["student"]
    expect(cards.nth(0)).to_contain_text(
        f"Student: {student['true']} found, {student['false']} false, {student['missed']} missed"
    )
    missed = cards.nth(0).locator("rect.kind-missed")
    expect(missed).to_have_count(student["missed"])
    dashes = {
        kind: page.locator(f"rect.kind-{kind}").nth(0).get_attribute("stroke-dasharray") for kind in ("false", "missed")
    }
    assert len({None, *dashes.values()}) == 3
    expect(cards.nth(0).locator("img")).to_have_js_property("complete", True)
    expect(panel.locator(".told")).to_contain_text(f"{IMAGES} validation images")

    panel.get_by_label("teacher").check()
    expect(cards.nth(0).locator("text").filter(has_text="Teacher")).not_to_have_count(0)
    panel.get_by_role("button", name="More images").click()
    expect(cards).to_have_count(IMAGES - 12)
    panel.get_by_role("button", name="Previous images").click()
    expect(cards).to_have_count(12)

    name = told["classes"][1]
    panel.get_by_label("Class").select_option(name)
    of_class = service.http.get(f"/jobs/{job}/images", params={"class": name}).json()
    expect(panel.locator(".told")).to_contain_text(f"{of_class['images']} validation images")
    panel.get_by_label("Class").select_option("all")
    panel.get_by_label("Order").select_option("id")
    expect(cards.nth(0)).to_contain_text("id 1")

    slider = panel.get_by_label("Evaluation")
    slider.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "step 7, sample images")
    expect(panel.locator(".told")).to_contain_text("sample images of this evaluation")

    panel.get_by_label("Order").select_option("gain")
    panel.get_by_label("Other job", exact=True).fill(job)
    panel.get_by_label("Other job", exact=True).press("Enter")
    expect(panel.get_by_text("Other job:").first).to_be_visible()

    panel.get_by_role("button", name="Enlarge").nth(0).press("Enter")
    expect(panel.get_by_role("dialog").get_by_role("table")).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel.get_by_role("dialog")).to_be_hidden()


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1440, False)])
def test_everybody_can_read_it(service: Service, job: str, open_page: OpenPage, width: int, dark: bool) -> None:
    page = open_page(f"{service.url}/web/jobs/{job}", width=width, dark=dark)
    panel = page.locator("#image-panel")
    panel.scroll_into_view_if_needed()
    expect(panel.locator("figure.card")).to_have_count(12)
    assert_accessible(page)
    panel.get_by_role("button", name="Enlarge").nth(0).click()
    expect(panel.get_by_role("dialog")).to_be_visible()
    assert_accessible(page)
