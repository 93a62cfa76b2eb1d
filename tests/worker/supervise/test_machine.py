"""What a worker says of its devices. A machine without a GPU has none to ask: NVML's absence is a case too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.settings import Settings, read_settings
from worker.supervise.machine import devices


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    def read(device_set: str) -> Settings:
        values = {
            "API_URL": "http://127.0.0.1:1",
            "WORKER_TOKEN": "x" * 16,
            "HOME": str(tmp_path),
            "DEVICES": device_set,
        }
        for name, value in values.items():
            monkeypatch.setenv(f"CROSSKD_{name}", value)
        return read_settings()

    return read


def test_a_cpu_worker_tells_of_the_machine(settings: Callable[[str], Settings]) -> None:
    (machine,) = devices(settings("cpu"))
    assert str(os.cpu_count()) in machine.name
    assert machine.memory_bytes is not None
    assert machine.memory_used_bytes is not None
    assert 0 < machine.memory_used_bytes < machine.memory_bytes
    assert machine.utilisation is None


def test_gpus_that_nobody_tells_of_are_named_all_the_same(settings: Callable[[str], Settings]) -> None:
    found = devices(settings("97,GPU-0000"))
    assert [device.name for device in found] == ["GPU 97", "GPU GPU-0000"]
    assert [device.memory_bytes for device in found] == [None, None]
