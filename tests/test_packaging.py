"""What pip installs: the API without torch, and archives that hold the data files and no tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def archives(checkout: Path) -> tuple[set[str], set[str]]:
    """The files in the sdist and in the wheel, relative to the project."""
    program = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    result = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (sdist,) = (checkout / "dist").glob("*.tar.gz")
    (wheel,) = (checkout / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    return in_sdist, set(zipfile.ZipFile(wheel).namelist())


def resolved(project: Path, extra: str, *options: str) -> set[str]:
    """The packages that `pip install .[extra]` would install."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", *options, f".[{extra}]"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return {item["metadata"]["name"].lower() for item in json.loads(result.stdout)["install"]}


def test_the_api_resolves_without_torch(checkout: Path) -> None:
    names = resolved(checkout, "api", "--ignore-installed")
    assert {"crosskd", "fastapi", "sqlalchemy"} <= names
    assert names & TORCH == set()
    assert not any(name.startswith("nvidia-") for name in names)


def test_the_worker_asks_for_torch(checkout: Path) -> None:
    """The proof that the report would name it. Only our own metadata is read: torch's wheels need not be fetched."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed"]
    result = subprocess.run(
        [*command, "--report", "-", ".[worker]"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    (item,) = json.loads(result.stdout)["install"]
    wanted = " ".join(item["metadata"]["requires_dist"])
    assert all(f"{name}>=" in wanted for name in TORCH)


def test_archives_hold_every_data_file(checkout: Path, archives: tuple[set[str], set[str]]) -> None:
    data = {
        str(path.relative_to(checkout))
        for folder in DATA_FOLDERS
        for path in (checkout / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    for folder in ("crosskd/backbones/timm_models.json", "crosskd/recipes", "migrations"):
        assert any(name.startswith(folder) for name in data), f"{folder} is empty: nothing would be tested"
    for archive in archives:
        assert data - archive == set()


def test_archives_hold_every_module_and_no_test(checkout: Path, archives: tuple[set[str], set[str]]) -> None:
    modules = {
        str(path.relative_to(checkout))
        for package in ("api", "worker", "crosskd", "client", "report", "wire", "migrations")
        for path in (checkout / package).rglob("*.py")
    }
    for archive in archives:
        assert modules - archive == set()
        assert {name for name in archive if name.startswith(("tests/", "benchmarks/"))} == set()


def test_the_sdist_can_migrate(archives: tuple[set[str], set[str]]) -> None:
    in_sdist, _ = archives
    assert {"alembic.ini", "LICENSE", "README.md", "pyproject.toml"} <= in_sdist
