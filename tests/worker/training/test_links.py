"""Images that are links, as the training process of a worker reads them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from crosskd.data.demo import write_demo
from tests.support.api_double import TOKEN, Double
from tests.support.worker_stack import claim, spec
from wire.reports import Claim
from worker.folder import Order, WorkFolder
from worker.settings import Settings
from worker.training.run import train


@pytest.mark.parametrize(("pool", "outcome"), [("data/pool", "succeeded"), ("elsewhere", "failed")])
def test_links_may_lead_anywhere_in_the_data_roots(
    double: Double, folder: WorkFolder, tmp_path: Path, pool: str, outcome: str
) -> None:
    data = tmp_path / "data"
    write_demo(data, train=4, val=2, size=64, classes=2)
    (tmp_path / pool).mkdir()
    for image in (data / "images").iterdir():
        moved = image.rename(tmp_path / pool / image.name)
        image.symlink_to(moved)
    told = {"attempt": "attempt-1", "resume": None}
    order = Order(claim=Claim.model_validate(claim("job", spec(data, epochs=1), **told)), supervisor=os.getpid())
    settings = Settings(
        devices="cpu", worker_name="tester", api_url=double.url, worker_token=TOKEN, home=tmp_path, data_roots=[data]
    )  # type: ignore[arg-type]
    found = train(order, folder, settings, threading.Event())
    assert found.outcome == outcome, found
    if found.failure is not None:
        assert found.failure.failure_class == "data"
        assert "4 of 4 images are links that lead out of the data" in found.failure.message
