"""The registry of faults is closed, and every fault says what it does."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from tests.faults import injections
from tests.faults.faults import FAULTS
from tests.faults.injections.disks import flip


def test_every_function_that_injects_is_in_the_registry_and_says_what_it_does() -> None:
    found = [
        name
        for module in pkgutil.iter_modules(injections.__path__, f"{injections.__name__}.")
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction)
        if function.__module__ == module.name and function.__annotations__.get("return") == "Injected"
        if not name.startswith("_")
    ]
    assert sorted(found) == sorted(FAULTS)
    assert all((fault.__doc__ or "").endswith(".") for fault in FAULTS.values())


def test_every_fault_is_described_for_readers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    assert [name for name in FAULTS if f"`{name}`" not in page] == []


def test_flipped_twice_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    flip(path)
    assert path.read_bytes().count(0xFF) == 16
    flip(path)
    assert path.read_bytes() == bytes(100)
