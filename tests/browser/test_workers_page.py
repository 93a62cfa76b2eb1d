"""The list of workers in a real browser; the test plays them."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.api_server import Service
from tests.support.browser import OpenPage, assert_accessible
from tests.support.worker_calls import WORKER

pytestmark = pytest.mark.browser

NAME = "<img src=x onerror=alert(1)>"
GPU = {"name": "NVIDIA H200", "memory_bytes": 150_000_000_000, "memory_used_bytes": 42_000_000_000, "utilisation": 0.83}
REGISTRATION: dict[str, Any] = {
    "worker": NAME,
    "device": "0,1",
    "versions": {"python": "3.12.3", "torch": "2.9.1", "timm": "1.0.1"},
    "devices": [GPU, {"name": "another"}],
}


def test_workers_come_and_work_while_one_looks(service: Service, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/workers")
    expect(page.locator(".empty")).to_contain_text("crosskd up")
    expect(page.locator(".empty")).to_contain_text("python -m worker")
    assert_accessible(page)

    assert service.http.post("/worker/register", json=REGISTRATION, headers=WORKER).is_success
    row = page.locator("tbody tr").filter(has_text=NAME)
    for told in (
        "idle",
        "GPU 0,1",
        "NVIDIA H200, 42 GB of 150 GB, 83 % busy",
        "python 3.12.3, torch 2.9.1",
        "just now",
    ):
        expect(row).to_contain_text(told)
    versions = row.locator("summary")
    versions.click()
    expect(row.get_by_text("timm 1.0.1")).to_be_visible()
    versions.focus()

    job = service.post("<b>a job</b>")
    claim = {name: REGISTRATION[name] for name in ("worker", "device", "versions")}
    assert service.http.post(f"/worker/jobs/{job}/claim", json=claim, headers=WORKER).is_success
    expect(row).to_contain_text("at work")
    link = row.get_by_role("link", name="<b>a job</b>")
    expect(link).to_have_attribute("href", f"/web/jobs/{job}")
    expect(row.get_by_text("timm 1.0.1")).to_be_visible()  # what was opened stays open, and the focus where it was
    assert versions.evaluate("summary => document.activeElement === summary")

    for width in (390, 1440):
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            assert_accessible(page)
