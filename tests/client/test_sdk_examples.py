"""The examples in the SDK's docstrings, run against the real API."""

from __future__ import annotations

import asyncio
import doctest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from client import sdk
from client.resources import job, job_results, jobs, service, sweeps
from client.sdk import AsyncCrosskd, Crosskd
from tests.support.api_server import Service, digest_of
from tests.support.coco_files import content, write
from tests.support.evaluations import EVALUATION
from tests.support.sweeps import order, train
from tests.support.tiny_graph import tiny_graph
from tests.support.worker_calls import Worker

MODULES = (sdk, jobs, job, job_results, sweeps, service)
OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def documented() -> Iterator[tuple[str, str]]:
    """Every class and method with an example: its name, and its docstring."""
    for module in MODULES:
        for name, kind in vars(module).items():
            if not isinstance(kind, type) or kind.__module__ != module.__name__:
                continue
            for what, found in ((name, kind), *((f"{name}.{key}", value) for key, value in vars(kind).items())):
                if ">>>" in (getattr(found, "__doc__", None) or ""):
                    yield what, found.__doc__


EXAMPLES = dict(documented())


@pytest.fixture(scope="module")
def names(service: Service, home: Path) -> Iterator[dict[str, Any]]:
    """What the examples speak of: a client, a job and a sweep that have ended."""
    for split in ("train", "val"):
        write(home / "data" / "set", content(), name=f"{split}.json")
    Image.new("RGB", (400, 200)).save(home / "street.png")
    with service.client() as client:
        posted = client.jobs.create({"name": "student", "labels": {"team": "vision"}, "spec": service.spec})
        finish_job(service, posted.id)
        created = client.sweeps.create(order(service.spec, name="does it help?"))
        for child, ap in zip(created.children, (0.20, 0.25, 0.30, 0.35), strict=True):
            train(Worker(service.http), child.job, ap)  # type: ignore[arg-type]  # any client of httpx will do
        known = {"job": client.jobs.get(posted.id), "sweep": client.sweeps.get(created.id), "client": client}
        yield known | {"url": service.url, "spec": service.spec} | vars(sdk) | {"asyncio": asyncio}


def finish_job(service: Service, job: str) -> None:
    worker, at = service.claimed(job), "2026-01-01T00:00:00Z"
    points = [{"key": "loss", "step": step, "value": 2.0 ** (1 - step), "at": at} for step in (1, 2, 3)]
    assert worker.post("metrics", {"sequence": 0, "points": points}).is_success
    assert worker.post("evaluations", EVALUATION).is_success
    line = {"at": at, "level": "info", "text": "epoch 1: AP 0.250"}
    assert worker.post("logs", {"sequence": 0, "lines": [line]}).is_success
    for name, kind, file in (("best.safetensors", "weights", b"weights"), ("model.onnx", "onnx", tiny_graph())):
        assert worker.put(f"{name}?kind={kind}&step=3", file, **digest_of(file)).is_success
    assert worker.finish("succeeded").is_success


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_happens(
    name: str, names: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    test = doctest.DocTestParser().get_doctest(EXAMPLES[name], dict(names), name, None, 0)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=told.append)
    assert "".join(told) == ""


def test_an_example_that_is_wrong_is_found(names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(">>> job.status\n'queued'\n", dict(names), "wrong", None, 0)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=told.append)
    assert "'succeeded'" in "".join(told)


def test_both_clients_have_the_same_operations() -> None:
    blocking, awaiting = Crosskd(), AsyncCrosskd()
    groups = {"jobs", "sweeps", "datasets", "presets", "workers"}
    assert {name for name in vars(blocking) if not name.startswith("_")} == groups
    for group in groups:
        assert type(getattr(blocking, group)) is type(getattr(awaiting, group))
    blocking.close()
    asyncio.run(awaiting.close())
