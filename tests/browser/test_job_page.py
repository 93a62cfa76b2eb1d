"""The page of a job in a real browser; the test plays its worker."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from client.stack.services import free_port
from tests.support.api_server import Service, digest_of, serve
from tests.support.browser import OpenPage, assert_accessible, drop
from tests.support.coco_files import write_spec
from tests.support.evaluations import EVALUATION, evaluation
from tests.support.tiny_graph import CLASSES, tiny_graph
from tests.support.worker_calls import Worker, checkpoint

pytestmark = pytest.mark.browser

AT = "2026-01-01T00:00:00Z"
SCRIPT = "<img src=x onerror=\"document.title = 'taken'\">"


class Training:
    """A worker's reports, which it numbers."""

    def __init__(self, service: Service, job: str) -> None:
        self.worker: Worker = service.claimed(job)
        self._metrics = self._logs = 0

    def train(self, first: int, last: int, loss: float | str = 0.5, total: int = 100) -> None:
        """Report the steps from `first` to `last`, one batch for each."""
        for step in range(first, last + 1):
            values = {"loss": loss, "lr": 0.01, "crosskd_cls": 0.2, "images_per_second": 30.0}
            points = [{"key": key, "step": step, "value": value, "at": AT} for key, value in values.items()]
            progress = {
                "phase": "training",
                "step": step,
                "total_steps": total,
                "epoch": step / 50,
                "eta_seconds": 60.0,
            }
            body = {"sequence": self._metrics, "points": points, "progress": progress}
            assert self.worker.post("metrics", body).is_success
            self._metrics += 1

    def say(self, *lines: str, level: str = "info") -> None:
        told = [{"at": AT, "text": line, "level": level} for line in lines]
        assert self.worker.post("logs", {"sequence": self._logs, "lines": told}).is_success
        self._logs += 1

    def publish(self, name: str, content: bytes) -> None:
        assert self.worker.put(name, content, **digest_of(content)).is_success


def address(service: Service, job: str) -> str:
    return f"{service.url}/web/jobs/{job}"


def numbers_of_lines(page: Page) -> list[int]:
    found: list[int] = page.eval_on_selector_all(
        ".log .line", "lines => lines.map(line => Number(line.dataset.number))"
    )
    return found


def test_a_training_is_watched_from_its_beginning_to_its_end(service: Service, open_page: OpenPage) -> None:
    job = service.post(SCRIPT)
    page = open_page(address(service, job))
    expect(page.get_by_role("heading", level=1)).to_have_text(SCRIPT)
    expect(page.get_by_text("Nothing is reported yet.")).to_be_visible()
    expect(page.get_by_text("It has published no file yet.")).to_be_visible()

    training = Training(service, job)
    expect(page.locator(".title .state")).to_have_text("running")
    training.train(1, 3)
    training.train(4, 4, loss="NaN")
    points = page.locator("#points")
    expect(points).to_have_text("4 points of loss up to step 4, the last is NaN.")
    expect(page.get_by_text("Not finite (crosses): loss NaN at step 4.")).to_be_visible()
    charts = page.locator("#charts .graph")
    expect(charts.locator("h2")).to_have_text(["Losses", "Learning rate", "Throughput"])
    expect(charts.locator("canvas")).to_have_count(3)
    expect(page.get_by_label("4 of 100 steps")).to_be_visible()

    training.worker.post("evaluations", evaluation("teacher", 0, 0.5))
    training.worker.post("evaluations", EVALUATION | {"per_class": {SCRIPT: 0.2, "square": 0.3}})
    expect(page.get_by_role("region", name="AP by class").locator("tbody tr").first).to_contain_text(SCRIPT)
    numbers = page.get_by_role("region", name="COCO's 12 numbers")
    expect(numbers.locator("tbody tr").first).to_have_text("AP IoU 0.50:0.950.2500.500\N{MINUS SIGN}0.250")
    expect(charts.locator("h2")).to_have_text(["Losses", "COCO AP", "Learning rate", "Throughput"])
    expect(page.locator(".figures")).to_contain_text("student \N{MINUS SIGN}0.250")

    training.say("the first line", SCRIPT)
    training.say("something is odd", level="warning")
    lines = page.locator(".log .line")
    expect(lines).to_have_text([re.compile("the first line"), re.compile("<img src"), re.compile("WARNING something")])
    page.get_by_label("Only lines with").fill("ODD")
    expect(page.get_by_text("1 of the last 3 lines")).to_be_visible()
    expect(page.locator(".log .line:visible")).to_have_count(1)

    weights = b"weights"
    training.publish("best.safetensors?kind=weights&step=4", weights)
    training.worker.finish("succeeded")
    expect(page.locator(".title .state")).to_have_text("succeeded")
    expect(page.get_by_text("The job has no graph")).to_be_visible()
    expect(page.locator("#head")).to_contain_text("7 B, SHA-256 9a129038")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download weights").click()
    assert Path(download.value.path()).read_bytes() == weights
    with page.expect_download() as card:
        page.get_by_role("button", name="Model card").click()
    assert card.value.suggested_filename == "README.md"
    expect(page.get_by_role("link", name="New job like this")).to_have_attribute("href", f"/web/new?like={job}")
    expect(page.get_by_role("link", name="Report")).to_have_attribute("href", f"/jobs/{job}/report")
    assert page.title().startswith(SCRIPT)


def test_a_service_that_goes_away_costs_no_point_and_no_line(tmp_path: Path, open_page: OpenPage) -> None:
    for folder in ("data", "artifacts"):
        (tmp_path / folder).mkdir()
    spec, port = write_spec(tmp_path / "data"), free_port(0)
    with serve(tmp_path, port) as url, httpx.Client(base_url=url, trust_env=False) as http:
        service = Service(url, spec, http)
        job = service.post()
        training = Training(service, job)
        training.train(1, 3)
        training.say("before")
        page = open_page(address(service, job), cut_off=True)
        training.train(4, 5)
        expect(page.locator("#points")).to_contain_text("5 points of loss up to step 5,")
    expect(page.get_by_role("status").filter(has_text="Trying again …")).to_be_visible()
    with serve(tmp_path, port) as url, httpx.Client(base_url=url, trust_env=False) as http:
        training.worker.client = http  # type: ignore[assignment]  # any client of httpx will do
        training.train(6, 8)
        training.say("while nobody could look", "and another")
        expect(page.locator("#points")).to_contain_text("8 points of loss up to step 8,")
        expect(page.locator("#connection")).to_be_hidden()
        training.train(9, 9)
        training.say("after")
        expect(page.locator("#points")).to_contain_text("9 points of loss up to step 9,")
        expect(page.locator(".log .line")).to_have_count(4)
        assert numbers_of_lines(page) == [1, 2, 3, 4]
        page.close()


def test_a_resumed_attempt_takes_the_place_of_what_it_repeats(service: Service, open_page: OpenPage) -> None:
    job = service.post("resumed")
    first = Training(service, job)
    page = open_page(address(service, job))
    first.train(1, 4)
    checkpoint(first.worker, 4)
    first.train(5, 9, loss=7.0)
    expect(page.locator("#points")).to_have_text("9 points of loss up to step 9, the last is 7.")
    lost = {"failure_class": "infrastructure", "message": "the disk is full", "remedy": "Make room."}
    first.worker.finish("failed", failure=lost | {"log_tail": ["the last words", SCRIPT]})
    expect(page.locator("#failure")).to_contain_text(
        "Its last attempt failed: infrastructurethe disk is fullMake room."
    )
    second = Training(service, job)
    expect(page.locator("#points")).to_have_text("4 points of loss up to step 4, the last is 0.5.")
    second.train(5, 6, loss=0.25)
    expect(page.locator("#points")).to_have_text("6 points of loss up to step 6, the last is 0.25.")

    attempts = page.get_by_role("region", name="Attempts").locator("tbody tr")
    expect(attempts).to_have_count(2)
    expect(attempts.nth(1)).to_contain_text("running")
    attempts.nth(0).get_by_text("The last 2 lines of its log").click()
    expect(attempts.nth(0).locator("pre")).to_have_text(f"the last words\n{SCRIPT}")
    second.worker.finish("failed", failure=lost | {"failure_class": "data", "where": "images/<b>.jpg"})
    expect(page.locator("#failure code")).to_have_text("images/<b>.jpg")
    expect(page.get_by_role("region", name="States of the job").locator("tbody tr")).to_have_count(5)


def picture(width: int, height: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (width, height), (40, 90, 60)).save(held, "PNG")
    return held.getvalue()


@pytest.fixture(scope="module")
def with_graph(service: Service) -> str:
    job = service.post("with a graph")
    training = Training(service, job)
    training.train(1, 3)
    training.say("all is well", level="info")
    training.say("not quite", level="warning")
    for report in (evaluation("teacher", 0, 0.5), EVALUATION):
        assert training.worker.post("evaluations", report).is_success
    training.publish("best.safetensors?kind=weights&step=3", b"weights")
    training.publish("model.onnx?kind=onnx&step=3", tiny_graph())
    assert training.worker.finish("succeeded").is_success
    return job


def test_an_image_is_dropped_and_its_boxes_are_drawn(service: Service, with_graph: str, open_page: OpenPage) -> None:
    page = open_page(address(service, with_graph), refusals={415})
    drop(page, "a.png", picture(90, 60))
    boxes, labels = page.locator(".boxed rect:not(.halo)"), page.locator(".boxed text")
    expect(labels).to_have_text(["ring 0.90"])
    shown: dict[str, Any] = boxes.evaluate("box => ({x: box.x.baseVal.value, width: box.width.baseVal.value})")
    assert shown == {"x": 0, "width": 45}
    page.get_by_label("Scores from").fill("0.1")
    expect(labels).to_have_text(["ring 0.90", f"{CLASSES[1]} 0.20"])
    found = page.get_by_role("region", name="What was found").locator("tbody tr")
    expect(found.nth(1)).to_contain_text(CLASSES[1])

    drop(page, "page.html", b"<html>" + bytes(100))
    expect(page.locator("#predictor").get_by_role("alert")).to_contain_text("JPEG, PNG, WEBP")
    tiff = io.BytesIO()
    Image.new("RGB", (60, 40)).save(tiff, "TIFF")
    page.get_by_label("Drop an image here").set_input_files(
        {"name": "a.tiff", "mimeType": "image/tiff", "buffer": tiff.getvalue()}
    )
    drawn = page.get_by_role("img", name="a.tiff with 2 boxes")
    expect(drawn).to_have_js_property("naturalWidth", 60)  # no browser knows TIFF: the service has drawn it
    expect(boxes).to_have_count(0)


def test_what_is_too_large_is_told(service: Service, with_graph: str, open_page: OpenPage) -> None:
    page = open_page(address(service, with_graph), refusals={413})
    drop(page, "large.png", picture(8, 8), more=32_000_000)
    expect(page.locator("#predictor").get_by_role("alert")).to_contain_text("larger than 32000000 bytes")


def test_no_such_job(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service, "0" * 32), refusals={404})
    expect(page.get_by_role("heading", name="No such job")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("there is no such job")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_everybody_can_read_it(service: Service, with_graph: str, open_page: OpenPage, width: int, dark: bool) -> None:
    page = open_page(address(service, with_graph), width=width, dark=dark)
    expect(page.locator(".graph canvas")).to_have_count(4)
    drop(page, "a.png", picture(90, 60))
    expect(page.locator(".boxed text")).to_have_count(1)
    assert_accessible(page)
