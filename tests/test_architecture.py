"""The rules that hold the house up: closed names, small files, everything in its place."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from crosskd.spec import registry
from tests.support.sources import PACKAGES, ROOT, sources

LONGEST_FILE = 500  # lines


# --- the registry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    sorted(
        {entry.target for table in (registry.BACKBONES, registry.DETECTORS, registry.TERMS) for entry in table.values()}
    ),
)
def test_every_registered_name_leads_to_a_class_of_ours(target: str) -> None:
    assert target.startswith("crosskd.")
    assert isinstance(registry.load(target), type)


def test_files_stay_small() -> None:
    lengths = {
        path: len(path.read_text().splitlines()) for path in sources(*PACKAGES, "tests", "benchmarks", "migrations")
    }
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LONGEST_FILE} == {}


# --- the map ---------------------------------------------------------------------------------------------------------

# What everyone looks for by name, in its final place.
ROOMS = [
    "Makefile",
    ".ci/run",
    ".github/workflows/ci.yml",
    ".pre-commit-config.yaml",
    "Dockerfile",
    "docker-compose.yml",
    "alembic.ini",
    "migrations",
    "benchmarks",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "docs/architecture.md",
    "docs/api/README.md",
    "docs/api/calling.md",
    "docs/api/jobs.md",
    "docs/api/results.md",
    "docs/api/workers.md",
    "docs/api/operations.md",
    "docs/settings.md",
    "docs/benchmarks.md",
    "api/main.py",
    "api/settings.py",
    "api/database.py",
    "api/models.py",
    "api/errors.py",
    "api/auth.py",
    "api/queue.py",
    "api/relay.py",
    "api/storage.py",
    "api/routes",
    "api/services",
    "wire/jobs.py",
    "worker/app.py",
    "worker/tasks.py",
    "worker/training/run.py",
    "worker/settings.py",
    "worker/deliver/client.py",
    "worker/training/reporter.py",
    "client/sdk.py",
    "client/resources/jobs.py",
    "client/cli.py",
    "client/stack/stack.py",
    "client/demo.py",
    "crosskd/__main__.py",
    "crosskd/spec/config.py",
    "crosskd/spec/registry.py",
    "crosskd/errors.py",
    "crosskd/runs/train.py",
    "crosskd/structures.py",
    "crosskd/evaluation/evaluate.py",
    "crosskd/losses.py",
    "crosskd/backbones",
    "crosskd/boxes",
    "crosskd/detectors/detector.py",
    "crosskd/detectors/fpn.py",
    "crosskd/detectors/dense/head.py",
    "crosskd/detectors/dense/gfl.py",
    "crosskd/distill/distiller.py",
    "crosskd/distill/crosskd.py",
    "crosskd/distill/mimic.py",
    "crosskd/distill/maps/pkd.py",
    "crosskd/data/demo.py",
    "crosskd/engine/loop.py",
    "crosskd/engine/callbacks.py",
    "crosskd/engine/checkpoint.py",
    "crosskd/convert",
    "crosskd/recipes",
    "tests/test_architecture.py",
    "tests/test_end_to_end.py",
    "tests/oracle",
]


def test_every_room_is_in_its_place() -> None:
    assert [room for room in ROOMS if not (ROOT / room).exists() and not (ROOT / f"{room}.py").exists()] == []


DOCUMENTS = [*(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("document", sorted(str(path.relative_to(ROOT)) for path in DOCUMENTS))
def test_documents_name_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    folders = "api|worker|crosskd|client|report|wire|tests|docs|migrations|benchmarks|deploy"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]*)`", text))
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES, "benchmarks")
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_tests_mirror_the_packages() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in sources("tests") if path.name.startswith("test_")}
    whole = {
        folder for folder in folders if folder.parts[:1] in (("faults",), ("browser",))
    }  # of no package: all of them at work
    strays = {str(folder) for folder in folders - whole if not (ROOT / folder).is_dir()}
    assert strays == set()
    assert {folder.parts[0] for folder in folders - whole if folder.parts} == set(PACKAGES)


def borrowed(source: str) -> list[str]:
    """The modules of `source`'s imports that are a conftest or a test module."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return sorted(module for module in modules if re.match(r"tests\.(.*\.)?(conftest|test_\w+)$", module))


def test_what_tests_share_lies_in_support() -> None:
    """What others import has a file of its own, whose name says what it is."""
    found = {str(path.relative_to(ROOT)): borrowed(path.read_text()) for path in sources("tests", "benchmarks")}
    assert {path: modules for path, modules in found.items() if modules} == {}


@pytest.mark.parametrize(
    "statement",
    [
        "from tests.api.conftest import WORKER",
        "from tests.client.stack.test_up import up",
        "from tests.client import test_up",
        "import tests.test_demo",
    ],
)
def test_a_planted_loan_is_found(statement: str) -> None:
    assert len(borrowed(statement)) == 1


def test_every_package_is_installed_from_this_tree() -> None:
    """A test that imported another copy would prove nothing about this one."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        assert Path(spec.origin).parent.parent == ROOT
