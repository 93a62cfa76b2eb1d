"""Which package may import which: the contracts of pyproject.toml, and what a fresh interpreter really loads."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.sources import PACKAGES, ROOT, sources

TORCH = {"torch", "torchvision", "pycocotools"}
CORE = "of crosskd, the api and the wire see only spec and predict"
LAYERS = "api, worker and client above the wire, above crosskd"  # a contract's name
SERVICE = {"fastapi", "sqlalchemy", "celery", "httpx"}
ATTIC = "api/attic.py"  # a module that has no layer

# Where a forbidden import is planted, and the contract that must name it.
PLANTED = [
    ("api/main.py", "import worker.deliver.retry", LAYERS),
    ("worker/deliver/client.py", "import api.errors", LAYERS),
    ("client/cli.py", "import worker.settings", LAYERS),
    ("client/sdk.py", "import api.models", LAYERS),
    ("wire/jobs.py", "import client.errors", LAYERS),
    ("crosskd/evaluation/evaluate.py", "import wire.jobs", LAYERS),
    ("crosskd/runs/train.py", "import httpx", "crosskd is a library: it knows no service"),
    ("api/settings.py", "import torch", "the api stays without torch"),
    ("api/services/jobs/store.py", "import crosskd.losses", CORE),
    ("worker/training/run.py", "import sqlalchemy", "the api alone touches SQL and serves HTTP"),
    ("client/terminal/tables.py", "import crosskd.runs.train", "the client starts the others as processes"),
    ("wire/jobs.py", "import fastapi", "the wire is plain pydantic"),
    ("wire/retry_after.py", "import httpx", "the wire is plain pydantic"),
    ("wire/download.py", "import sqlalchemy", "the wire is plain pydantic"),
    ("report/job.py", "import api.models", LAYERS),
    ("report/job.py", "import httpx", "a report is made of what the wire says"),
    ("wire/sweeps.py", "import report.verdict", LAYERS),
    ("report/verdict.py", "import crosskd.spec.registry", "a report is made of what the wire says"),
    ("worker/training/run.py", "import report.verdict", "the worker makes no reports"),
    ("wire/jobs.py", "import wire.download", "client and worker alone fetch files"),
    ("api/storage.py", "import wire.storage", "client and worker alone fetch files"),
    ("worker/tasks.py", "import crosskd.runs.train", "celery's process stays free of torch"),
    ("api/models.py", "import api.services.jobs.store", "api layers"),
    ("api/services/jobs/store.py", "import api.services.history.logs", "the rooms of the api's services"),
    (
        "api/services/lifecycle/control.py",
        "import api.services.submission.roots",
        "the rooms of the api's services",
    ),
    (
        "api/services/submission/validation.py",
        "import api.services.files.artifacts",
        "a specification is judged without the other rooms",
    ),
    ("worker/supervise/lease.py", "import worker.training.run", "worker layers"),
    ("crosskd/boxes/ops.py", "import crosskd.detectors.dense.gfl", "crosskd layers"),
]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of `root`'s pyproject.toml against the packages that lie in `root`."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", "pyproject.toml"]
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_import_contracts_are_kept() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each contract says of a copy of the packages in which all faults are planted at once."""
    house = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", house)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, house / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module, statement, _ in PLANTED:
        with (house / module).open("a") as file:
            file.write(f"\n{statement}\n")
    (house / ATTIC).touch()
    result = lint_imports(house)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = result.stdout.partition("Broken contracts")[2]
    _, *parts = re.split(r"\n([^\n]+)\n-{3,}\n", broken)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize(("module", "statement", "contract"), PLANTED)
def test_a_planted_import_breaks_its_contract(told: dict[str, str], module: str, statement: str, contract: str) -> None:
    found = f"{module.removesuffix('.py').replace('/', '.')} -> {statement.removeprefix('import ')} (l."
    assert found in told[contract]


def test_nothing_of_the_core_is_forgotten_in_its_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (found for found in contracts if found.get("source_modules") == ["api", "report", "wire"])
    rooms = {path.stem for path in (ROOT / "crosskd").glob("*.py")} | {
        path.parent.name for path in (ROOT / "crosskd").glob("*/*.py")
    }
    seen = {"__init__", "spec", "predict", "errors"}
    assert set(contract["forbidden_modules"]) == {f"crosskd.{room}" for room in rooms - seen}


def test_a_new_module_needs_a_layer(told: dict[str, str]) -> None:
    assert "attic" in told["api layers"]


def first_loader(modules: list[str], packages: set[str], home: Path) -> dict[str, str]:
    """Of `packages` those that a fresh interpreter holds after the imports, and which module's import was the first."""
    program = """
import importlib, sys
for module in sys.argv[1].split():
    importlib.import_module(module)
    for name in sys.argv[2].split():
        if name in sys.modules:
            print(name, module)
"""
    settings = {  # worker.app reads them as it is imported
        "CROSSKD_HOME": str(home),
        "CROSSKD_API_URL": "http://127.0.0.1:1",
        "CROSSKD_WORKER_TOKEN": "a-token-that-opens-nothing",
    }
    result = subprocess.run(
        [sys.executable, "-c", program, " ".join(modules), " ".join(packages)],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return dict(reversed([line.split() for line in result.stdout.splitlines()]))


def test_a_fresh_interpreter_stays_free_of_torch(tmp_path: Path) -> None:
    """After all of these, so after each of them."""
    service = ["api.main", "api.relay", "worker.app", "worker.tasks", "worker.settings", "client.cli", "client.sdk"]
    core = ["crosskd", "crosskd.__main__", "crosskd.spec.config", "crosskd.spec.weights.shapes", "api.predict.process"]
    assert first_loader([*service, *core], TORCH | {"timm"}, tmp_path) == {}


def test_training_loads_torch_and_no_service_and_the_worker_never_touches_sql(tmp_path: Path) -> None:
    """Also the proof that the check above would see torch."""
    modules = ["crosskd", "crosskd.runs.train", "worker.tasks", "worker.training.run"]
    found = first_loader(modules, {"torch", "alembic"} | SERVICE, tmp_path)
    assert found == {"torch": "crosskd.runs.train", "celery": "worker.tasks", "httpx": "worker.tasks"}


def imports_in(code: str) -> set[str]:
    """Modules, and names out of modules, that code imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_package_files_are_empty() -> None:
    """import-linter sees no import in a root package's `__init__.py`; an empty one hides none.

    `crosskd.load` alone stands in one. What it imports is named here, and nobody in the service may reach it there.
    """
    full = {path for path in sources(*PACKAGES) if path.name == "__init__.py" and path.read_text()}
    assert {str(path.relative_to(ROOT)) for path in full} == {"crosskd/__init__.py"}
    ours = {name for path in full for name in imports_in(path.read_text()) if name.startswith(PACKAGES)}
    assert ours == {
        "crosskd.inference.LoadedDetector",
        "crosskd.inference.load_detector",
        "crosskd.spec.model.ModelConfig",
    }
    for path in sources("api", "worker", "client", "report", "wire"):
        assert not imports_in(path.read_text()) & {"crosskd", "crosskd.load", "crosskd.*"}, path
