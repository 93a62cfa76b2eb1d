"""A worker says that it is there before it has any job."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.api_double import TOKEN, Double, Fault
from worker.settings import read_settings
from worker.supervise import registration
from worker.supervise.shutdown import ShutdownNotice


def test_a_worker_registers_itself_also_when_the_api_is_away_at_first(
    double: Double, until: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"API_URL": double.url, "WORKER_TOKEN": TOKEN, "HOME": str(tmp_path), "DEVICES": "cpu", "WORKER_NAME": "w"}
    for name, value in values.items():
        monkeypatch.setenv(f"CROSSKD_{name}", value)
    double.faults["register"].append(Fault(status=503))
    notice = ShutdownNotice()
    thread = registration.start(read_settings(), notice)
    until(lambda: len(double.seen("register")) == 2)
    told = json.loads(double.seen("register")[1].body)
    assert (told["worker"], told["device"], len(told["devices"])) == ("w", "cpu", 1)
    assert ("timm" in told["versions"]) == (find_spec("timm") is not None)
    notice.listen()  # it closes the writing end: the notice comes
    thread.join(30)
    assert not thread.is_alive()
