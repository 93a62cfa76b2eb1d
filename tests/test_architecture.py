"""The rules that hold the house up: imports, torch-free processes, closed names, no unpickling, small files."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosskd.spec import registry

ROOT = Path(__file__).parent.parent
PACKAGES = ("api", "worker", "client", "report", "wire", "crosskd")
LONGEST_FILE = 500  # lines
TORCH = {"torch", "torchvision", "pycocotools"}
LAYERS = "api, worker and client above the wire, above crosskd"  # a contract's name
SERVICE = {"fastapi", "sqlalchemy", "celery", "httpx"}

# Calls that run what they read. Each could turn a file or a job into code.
FORBIDDEN_CALLS = {
    "pickle.load": "read safetensors or JSON",
    "pickle.loads": "read safetensors or JSON",
    "pickle.Unpickler": "read safetensors or JSON",
    "marshal.load": "read JSON",
    "marshal.loads": "read JSON",
    "shelve.open": "use the database",
    "yaml.load": "use yaml.safe_load",
    "yaml.load_all": "use yaml.safe_load_all",
    "yaml.full_load": "use yaml.safe_load",
    "yaml.unsafe_load": "use yaml.safe_load",
    "os.system": "use subprocess with a list of arguments",
    "eval": "parse the value",
    "exec": "call a function",
}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


# --- imports ---------------------------------------------------------------------------------------------------------


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of `root`'s pyproject.toml against the packages that lie in `root`."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", "pyproject.toml"]
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, to plant faults in."""
    copy = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_import_contracts_are_kept() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("api/main.py", "import worker.deliver.retry", LAYERS),
        ("worker/deliver/client.py", "import api.errors", LAYERS),
        ("client/cli.py", "import worker.settings", LAYERS),
        ("client/sdk.py", "import api.models", LAYERS),
        ("wire/jobs.py", "import client.errors", LAYERS),
        ("crosskd/evaluation/evaluate.py", "import wire.jobs", LAYERS),
        ("crosskd/runs/train.py", "import httpx", "crosskd is a library: it knows no service"),
        ("api/settings.py", "import torch", "the api stays without torch"),
        ("api/services/jobs/store.py", "import crosskd.losses", "of crosskd, the api and the wire see only the spec"),
        ("worker/training/run.py", "import sqlalchemy", "the api alone touches SQL and serves HTTP"),
        ("client/tables.py", "import crosskd.runs.train", "the client starts the others as processes"),
        ("wire/jobs.py", "import fastapi", "the wire is plain pydantic"),
        ("wire/retry_after.py", "import httpx", "the wire is plain pydantic"),
        ("wire/download.py", "import sqlalchemy", "the wire is plain pydantic"),
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
        ("crosskd/boxes/ops.py", "import crosskd.detectors.gfl", "crosskd layers"),
    ],
)
def test_a_planted_import_breaks_its_contract(house: Path, module: str, statement: str, contract: str) -> None:
    path = house / module
    original = path.read_text()
    try:
        path.write_text(f"{original}\n{statement}\n")
        result = lint_imports(house)
    finally:
        path.write_text(original)
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(rf"^{re.escape(contract)}.* BROKEN", result.stdout, re.MULTILINE), result.stdout


def test_nothing_of_the_core_is_forgotten_in_its_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (found for found in contracts if found.get("source_modules") == ["api", "wire"])
    rooms = {path.stem for path in (ROOT / "crosskd").glob("*.py")} | {
        path.parent.name for path in (ROOT / "crosskd").glob("*/*.py")
    }
    assert set(contract["forbidden_modules"]) == {f"crosskd.{room}" for room in rooms - {"__init__", "spec", "errors"}}


def test_a_new_module_needs_a_layer(house: Path) -> None:
    path = house / "api" / "attic.py"
    try:
        path.touch()
        result = lint_imports(house)
    finally:
        path.unlink()
    assert result.returncode == 1
    assert re.search(r"^api layers.* BROKEN", result.stdout, re.MULTILINE), result.stdout


def loaded_by(module: str, home: Path) -> set[str]:
    """The top-level packages that a fresh interpreter holds after `import module`."""
    program = f"import sys, {module}; print('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    settings = {  # worker.app reads them as it is imported
        "CROSSKD_HOME": str(home),
        "CROSSKD_API_URL": "http://127.0.0.1:1",
        "CROSSKD_WORKER_TOKEN": "a-token-that-opens-nothing",
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "api.main",
        "api.relay",
        "worker.app",
        "worker.tasks",
        "worker.settings",
        "client.cli",
        "client.sdk",
        "crosskd",
        "crosskd.spec.config",
        "crosskd.spec.shapes",
    ],
)
def test_a_fresh_interpreter_stays_free_of_torch(module: str, tmp_path: Path) -> None:
    assert not loaded_by(module, tmp_path) & TORCH


def test_training_loads_torch_and_no_service(tmp_path: Path) -> None:
    """Also the proof that the check above would see torch."""
    loaded = loaded_by("crosskd.runs.train", tmp_path)
    assert "torch" in loaded
    assert not loaded & SERVICE


def test_the_worker_never_touches_sql(tmp_path: Path) -> None:
    for module in ("worker.tasks", "worker.training.run"):
        assert not loaded_by(module, tmp_path) & {"sqlalchemy", "alembic", "fastapi"}


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


# --- what the code never does ----------------------------------------------------------------------------------------


def dangers(source: str) -> list[str]:
    """The calls in `source` that could run what they read, as `line: why`. Follows import aliases."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # local name → dotted name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})

    def dotted(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        true_keywords = {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value is True}
        if name in FORBIDDEN_CALLS:
            found.append(f"{node.lineno}: {name}: {FORBIDDEN_CALLS[name]}")
        elif name == "torch.load" and "weights_only" not in true_keywords:
            found.append(f"{node.lineno}: torch.load without weights_only=True unpickles code")
        elif name.startswith("subprocess.") and "shell" in true_keywords:
            found.append(f"{node.lineno}: {name} through a shell: pass a list of arguments")
        elif name == "numpy.load" and "allow_pickle" in true_keywords:
            found.append(f"{node.lineno}: numpy.load(allow_pickle=True) unpickles code")
    return found


def test_nothing_from_outside_is_run() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{danger}"
        for path in sources(*PACKAGES, "migrations")
        for danger in dangers(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "from pickle import loads as parse\nparse(data)",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "from torch import load\nload(path, weights_only=flag)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import subprocess\nsubprocess.run(line, shell=True)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_a_planted_danger_is_found(source: str) -> None:
    assert len(dangers(source)) == 1


def test_the_safe_ways_are_allowed() -> None:
    assert (
        dangers(
            "import torch, yaml, subprocess\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)\nsubprocess.run([a])"
        )
        == []
    )


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
    "crosskd/detectors/head.py",
    "crosskd/detectors/gfl.py",
    "crosskd/distill/distiller.py",
    "crosskd/distill/crosskd.py",
    "crosskd/distill/mimic.py",
    "crosskd/distill/pkd.py",
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
    folders = "api|worker|crosskd|client|wire|tests|docs|migrations|benchmarks|deploy"
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
    whole = {folder for folder in folders if folder.parts[:1] == ("faults",)}  # of no package: all of them at work
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
