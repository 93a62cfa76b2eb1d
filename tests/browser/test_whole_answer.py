"""Does it help? From the form to the verdict in a browser: a real sweep, trained by a real worker behind a real broker.

`CROSSKD_SCREENSHOTS=docs/img make test-browser` also keeps pictures of the pages that it comes by, for the documents.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.browser import OpenPage, assert_not_pressed, drop
from tests.support.service import SPEC, Service

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SECONDS = 600.0  # for five trainings, on a machine that does other things too
SCREENSHOTS = os.environ.get("CROSSKD_SCREENSHOTS")
SIZE = {"width": 1280, "height": 900}
# What the form does not offer, as somebody would paste it.
BASE = {name: SPEC[name] for name in ("loader", "clip_norm", "threads", "log_every", "export")}
BASE["student"] = {name: part for name, part in SPEC["student"].items() if name != "backbone"}
BASE["optimizer"] = {"name": "adamw", "base_batch": None, "weight_decay": 0.0}
BASE["schedule"] = {"warmup_steps": 5, "decay": "cosine"}
TEACHER = {
    **{name: SPEC[name] for name in ("student", "augment", "batch_size", "optimizer", "schedule", "loader", "threads")},
    "log_every": 1,
    "export": {"check_images": 1},  # for predictions
}
ORDER = {
    "name": "to be named",
    "base": BASE,
    "arms": {"alone": {"distill": None}},
    "seeds": [0],
    "teacher": TEACHER,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    found = Service.start(tmp_path_factory.mktemp("whole"))
    yield found
    found.close()


@pytest.fixture
def keep(service: Service) -> Callable[[Page, str], None]:
    """Keeps a picture of a page in few colours, where somebody has asked for pictures."""

    def shoot(page: Page, name: str) -> None:
        if not SCREENSHOTS:
            return
        folder = Path(SCREENSHOTS)
        folder.mkdir(parents=True, exist_ok=True)
        page.set_viewport_size({"width": SIZE["width"], "height": SIZE["height"]})
        page.evaluate("window.scrollTo(0, 0)")
        for text in page.locator("textarea").all():
            text.evaluate("area => { area.scrollTop = 0; }")
        for root in page.get_by_text(str(service.home)).all():
            root.evaluate("element => { element.textContent = '/data'; }")  # else a folder of the machine's
        page.wait_for_timeout(500)  # charts take their new width
        path = folder / f"{name}.png"
        page.screenshot(path=path)
        with Image.open(path) as image:
            image.convert("RGB").quantize(96).save(path, optimize=True)
        assert path.stat().st_size < 150_000

    return shoot


def fill_in(page: Page, data: dict[str, Any]) -> None:
    """What somebody would do: paste what is special, then fill in the rest."""
    without_aliases = json.loads(json.dumps(ORDER))
    page.locator("#yaml").fill(yaml.safe_dump(without_aliases, sort_keys=False))
    expect(page.get_by_label("Name", exact=True)).to_have_value("to be named")
    page.get_by_label("Name", exact=True).fill("does it help?")
    for split, label in (("train", "Training"), ("val", "Validation")):
        for part in ("annotations", "images"):
            path = Path(data[split][part])  # below the data root, as its folder is
            page.get_by_label(f"{label} {part}", exact=True).fill(str(path.relative_to(path.parents[1])))
    page.get_by_label("Backbone", exact=True).fill("resnet_tiny")
    page.get_by_label("Epochs", exact=True).fill("20")
    page.get_by_label("Batch size", exact=True).fill("8")
    page.get_by_label("Learning rate", exact=True).fill("0.004")
    page.get_by_label("Short edge of images, pixels").fill("64")
    page.get_by_label("Long edge of images, pixels").fill("64")
    page.get_by_label("Seeds").fill("0, 1")
    page.get_by_label("Another arm").select_option("crosskd")
    page.get_by_role("button", name="Add the arm").click()


def test_from_the_form_to_the_verdict(
    service: Service, open_page: OpenPage, keep: Callable[[Page, str], None], tmp_path: Path
) -> None:
    url = service.stack.url
    page = open_page(f"{url}/web/new?sweep", width=SIZE["width"], refusals={422})
    fill_in(page, service.data)
    expect(page.get_by_text("This would be taken as 5 jobs, compared with the arm alone.")).to_be_visible()
    keep(page, "new")
    page.get_by_role("button", name="Post the sweep").click()
    expect(page).to_have_url(re.compile(r"/web/sweeps/[0-9a-f]{32}$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("does it help?")
    sweep = service.client.sweeps.get(page.url[-32:])
    teacher, *students = sweep.children

    watched = open_page(f"{url}/web/jobs/{teacher.job}", width=SIZE["width"])
    jobs = open_page(url, width=SIZE["width"])
    states = jobs.locator("tbody .state")
    expect(states).to_have_count(5)
    until = {"timeout": SECONDS * 1000}
    expect(watched.locator(".title .state")).to_have_text("succeeded", **until)  # nobody has loaded it anew
    steps = service.client.jobs.get(teacher.job).progress
    assert steps is not None
    expect(watched.locator("#points")).to_contain_text(f"up to step {steps.total_steps},")
    predict_and_download(watched, service, teacher.job, tmp_path)
    keep(watched, "job")

    # The page of the sweep was never touched: the verdict comes to whoever looks.
    page.wait_for_function(
        "() => document.querySelectorAll('#children .state.succeeded').length === 5", timeout=SECONDS * 1000
    )
    ended = service.client.sweeps.get(sweep.id)
    assert ended.status == "finished"
    expect(page.locator("#answer .verdict p")).to_have_text(list(ended.answer))
    expect(page.locator("#chart-differences canvas")).to_be_visible()
    assert_not_pressed(page)
    expect(states.filter(has_text="succeeded")).to_have_count(5)
    keep(page, "sweep")
    keep(jobs, "jobs")

    two = [next(child.job for child in students if child.arm == arm) for arm in ("alone", "crosskd")]
    compared = open_page(f"{url}/web/compare?job={two[0]}&job={two[1]}", width=SIZE["width"])
    rows = compared.locator("#numbers table").first.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(compared.locator("#curves canvas")).to_be_visible()
    keep(compared, "compare")


def predict_and_download(page: Page, service: Service, job: str, folder: Path) -> None:
    """A training image is dropped on the page of its job, and the weights come down as they were uploaded."""
    image = sorted(Path(service.data["train"]["images"]).iterdir())[0]
    drop(page, image.name, image.read_bytes())
    expect(page.get_by_role("img", name=re.compile(f"^{re.escape(image.name)} with"))).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download weights").click()
    download.value.save_as(folder / "weights")
    (known,) = [one for one in service.client.jobs.artifacts(job) if one.name == "best.safetensors"]
    assert hashlib.sha256((folder / "weights").read_bytes()).hexdigest() == known.sha256
