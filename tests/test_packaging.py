"""What pip installs: the API without torch, and archives that hold the data files and no tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow  # it installs the package anew

ROOT = Path(__file__).parent.parent
TORCH = {"torch", "torchvision", "pycocotools"}
DATA_FOLDERS = ("crosskd/backbones", "crosskd/recipes", "migrations")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree to build in: setuptools leaves its traces where it works."""
    copy = tmp_path_factory.mktemp("checkout") / "crosskd"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@dataclass(frozen=True)
class Archives:
    """The files in sdist and wheel, relative to the project, and what the wheel's metadata requires."""

    sdist: set[str]
    wheel: set[str]
    requires: list[str]


@pytest.fixture(scope="module")
def archives(checkout: Path) -> Archives:
    program = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    result = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (sdist,) = (checkout / "dist").glob("*.tar.gz")
    (wheel,) = (checkout / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
        (metadata,) = (name for name in in_wheel if name.endswith(".dist-info/METADATA"))
        requires = message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    return Archives(in_sdist, in_wheel, requires)


def required(archives: Archives, extra: str) -> set[str]:
    """What `pip install crosskd[extra]` installs here: the packages that the wheel requires, those that they do, …"""
    found: set[str] = set()
    waiting = [(archives.requires, frozenset({extra}))]
    while waiting:
        lines, extras = waiting.pop()
        for wanted in map(Requirement, lines):
            marker, name = wanted.marker, canonicalize_name(wanted.name)
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
                continue
            if name not in found or wanted.extras:
                found.add(name)
                waiting.append((distribution(name).requires or [], frozenset(wanted.extras)))
    return found


def test_the_api_requires_no_torch(archives: Archives) -> None:
    names = required(archives, "api")
    assert {"fastapi", "sqlalchemy", "starlette"} <= names
    assert names & TORCH == set()
    assert not any(name.startswith("nvidia-") for name in names)


def test_the_worker_requires_torch(archives: Archives) -> None:
    assert required(archives, "worker") >= TORCH
    for name in TORCH:
        assert any(line.startswith(f"{name}>=") for line in archives.requires)


def test_archives_hold_every_data_file(checkout: Path, archives: Archives) -> None:
    data = {
        str(path.relative_to(checkout))
        for folder in DATA_FOLDERS
        for path in (checkout / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    for folder in ("crosskd/backbones/timm_models.json", "crosskd/recipes", "migrations"):
        assert any(name.startswith(folder) for name in data), f"{folder} is empty: nothing would be tested"
    for archive in (archives.sdist, archives.wheel):
        assert data - archive == set()


def test_archives_hold_every_module_and_no_test(checkout: Path, archives: Archives) -> None:
    modules = {
        str(path.relative_to(checkout))
        for package in ("api", "worker", "crosskd", "client", "report", "wire", "migrations")
        for path in (checkout / package).rglob("*.py")
    }
    for archive in (archives.sdist, archives.wheel):
        assert modules - archive == set()
        assert {name for name in archive if name.startswith(("tests/", "benchmarks/"))} == set()


def test_the_sdist_can_migrate(archives: Archives) -> None:
    assert {"alembic.ini", "LICENSE", "README.md", "pyproject.toml"} <= archives.sdist
