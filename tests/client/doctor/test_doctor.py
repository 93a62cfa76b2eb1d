"""What `crosskd doctor` finds, on this machine and of a real API."""

from __future__ import annotations

import json
import shutil
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.doctor import machine, service
from client.doctor.finding import Finding
from client.stack.services import free_port
from tests.support.api_server import Service, served
from tests.support.crosskd_command import run
from tests.support.worker_calls import WORKER

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def service_with_workers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with served(tmp_path_factory.mktemp("service")) as found:
        yield found


def findings(found: Service, code: int) -> dict[str, list[tuple[str, str]]]:
    """Of each check: its states and details."""
    done = run(found, "doctor", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    by_check: dict[str, list[tuple[str, str]]] = {}
    for item in json.loads(done.stdout)["items"]:
        by_check.setdefault(item["check"], []).append((item["state"], item["detail"]))
        assert bool(item["remedy"]) == (item["state"] in ("warning", "error"))
    return by_check


def register(found: Service, name: str, **more: Any) -> None:
    body = {"worker": name, "device": "cpu", "versions": {"crosskd": version(found)}, **more}
    assert httpx.post(f"{found.url}/worker/register", json=body, headers=WORKER).status_code == 204


def version(found: Service) -> str:
    return str(httpx.get(f"{found.url}/health").json()["version"])


def roots(found: Service) -> list[str]:
    return list(httpx.get(f"{found.url}/workers").json()["data_roots"])


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The try of PyTorch takes a process that imports it, seconds each time."""
    monkeypatch.setattr(machine, "torch", lambda: iter(()))


def test_this_machine_and_a_service_without_workers(service_with_workers: Service) -> None:
    seen = findings(service_with_workers, 1)
    for check in ("Python", "packages", "PyTorch", "service", "clock"):
        assert {state for state, _ in seen[check]} == {"ok"}, seen
    assert seen["broker"] == [("error", "it does not answer")]
    assert seen["migrations"][0][0] == "error"
    assert seen["workers"] == [("error", "no worker was heard of within a week")]


@pytest.mark.usefixtures("without_torch")
def test_workers(service_with_workers: Service) -> None:
    found = service_with_workers

    above = [str(Path(root).parent) for root in roots(found)]
    well = {"data_roots": above, "free_bytes": 1 << 40, "shared_memory_bytes": 1 << 32}
    register(found, "well", machine=well | {"seconds": time.time()})
    register(found, "older", versions={"crosskd": "0.1.0"})
    small = {"data_roots": [], "free_bytes": 5, "shared_memory_bytes": 1 << 26}
    register(found, "small", machine=small | {"seconds": time.time() + 90})
    seen = findings(found, 1)
    assert [state for state, _ in seen["worker well (cpu)"]] == ["ok"]
    assert seen["worker older (cpu)"] == [("warning", f"version 0.1.0, the API's is {version(found)}")]
    states, details = zip(*seen["worker small (cpu)"], strict=True)
    assert states == ("error", "error", "warning", "warning")
    for part, detail in zip(
        (f"cannot list {roots(found)[0]}", "0.0 GiB", "/dev/shm", "ahead of"), details, strict=True
    ):
        assert part in detail


@pytest.mark.usefixtures("without_torch")
def test_a_person_reads_lines_with_remedies(service_with_workers: Service) -> None:
    lines = run(service_with_workers, "doctor").stdout.splitlines()
    assert any(line.startswith("ok       service: http://") for line in lines)
    place = next(i for i, line in enumerate(lines) if line.startswith("ERROR    worker small"))
    assert lines[place + 1].startswith(" " * 9)


@pytest.mark.usefixtures("without_torch")
def test_a_service_that_is_not_there(service_with_workers: Service) -> None:
    done = run(service_with_workers, "doctor", "--url", f"http://127.0.0.1:{free_port(0)}")
    assert done.returncode == 1
    assert "ERROR    service: No answer from" in done.stdout
    assert "crosskd up" in done.stdout


def answering(folder: Path, script: str) -> str:
    """A program that stands for Python, and answers as a broken installation does."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def told(cuda: str | None, *devices: str) -> str:
    found = {"torch": "2.0", "torchvision": "0.1", "cuda": cuda, "threads": 2, "devices": devices, "sum": 16.0}
    return f"echo '{json.dumps(found)}'"


@pytest.mark.parametrize(
    ("script", "driver", "expected"),
    [
        (told(None), None, ("ok", "no NVIDIA driver")),
        (told(None), "555.1", ("error", "built for the CPU alone")),
        (told("13.0"), "555.1", ("error", "sees no device with the driver 555.1")),
        (told("13.0", "H200"), "555.1", ("ok", "H200 (CUDA 13.0)")),
        ("echo 'ImportError: libfoo' >&2; exit 1", None, ("error", "ImportError: libfoo")),
        ("kill -9 $$", None, ("error", "it ended with -9")),
        ("exec sleep 60", None, ("error", "within 1 s")),
    ],
)
def test_pytorch_and_its_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, driver: str | None, expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(machine, "driver_version", lambda: driver)
    *_, last = machine.torch(answering(tmp_path, script), seconds=1.0)
    assert last.state == expected[0]
    assert expected[1] in last.detail


def sized(total: int, free: int) -> Callable[[object], Any]:
    return lambda _: shutil._ntuple_diskusage(total, total - free, free)


@pytest.mark.parametrize(
    ("gibibytes", "disk", "memory"), [(0.5, "error", "warning"), (5, "warning", "ok"), (50, "ok", "ok")]
)
def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gibibytes: float, disk: str, memory: str) -> None:
    size = int(gibibytes * machine.GIBIBYTE)
    monkeypatch.setattr(shutil, "disk_usage", sized(size, size))
    monkeypatch.chdir(tmp_path)
    found = machine.disk(Path("not") / "there")  # not made yet: its disk is that of the folder above
    assert found.state == disk
    assert found.detail.endswith(f"free for the state folder of `crosskd up`, {tmp_path / 'not' / 'there'}")
    assert machine.shared_memory(tmp_path).state == memory
    assert machine.shared_memory(tmp_path / "none").state == "skipped"


@pytest.mark.parametrize(("behind", "state"), [(0, "ok"), (-4, "ok"), (60, "warning"), (-60, "warning")])
def test_the_clock(behind: float, state: str) -> None:
    date = format_datetime(NOW - timedelta(seconds=behind), usegmt=True)
    found: Finding = service.clock(date, NOW)
    assert found.state == state
    assert ("ahead of" if behind > 0 else "behind") in found.detail or state == "ok"
    assert service.clock(None, NOW).state == "skipped"


def test_another_version_is_told() -> None:
    assert service.versions("http://x", "2.0", "1.0").state == "warning"


@pytest.mark.parametrize(
    ("verb", "example"),
    [
        ("doctor", "crosskd doctor --url http://gpu-box:8470"),
        ("submit", "as /data/teacher.safetensors or /data/rtdetr_r50vd"),
    ],
)
def test_help_shows_an_example_of_what_is_asked_for(verb: str, example: str) -> None:
    told = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "400"}).output
    assert example in " ".join(told.split())
