"""What runs before a change is accepted: the workflow, the script that it calls, and the hooks before a commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"
GITHUB = "vendor.github-workflows"
TIMEOUT = "custom.github-workflows-require-timeout"


def check(schema: str, workflow: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(workflow)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("schema", [GITHUB, TIMEOUT])
def test_the_workflow_is_one(schema: str) -> None:
    result = check(schema, WORKFLOW)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("schema", "line", "planted"),
    [(GITHUB, "runs-on: ubuntu-latest", "runs-where: here"), (TIMEOUT, "timeout-minutes: 120", "")],
)
def test_a_planted_fault_in_it_is_found(tmp_path: Path, schema: str, line: str, planted: str) -> None:
    text = WORKFLOW.read_text()
    assert line in text
    wrong = tmp_path / "ci.yml"
    wrong.write_text(text.replace(line, planted))
    assert check(schema, wrong).returncode == 1


def test_it_runs_the_script_on_the_oldest_python() -> None:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    (python,) = (step["with"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == f">={python['python-version']}"
    assert (python["cache"], python["cache-dependency-path"]) == ("pip", "pyproject.toml")


def test_the_script_names_targets_that_there_are() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = re.findall(r"^ *make (\S+)$", script.read_text(), re.MULTILINE)
    assert set(called) == {"test", "lint", "test-slow", "test-faults", "test-browser"}
    assert set(called) <= targets


QUICK = ["make test", "make lint", "make test-slow", "make test-faults"]
APT = ["apt-get update --quiet", "apt-get install --quiet --yes --no-install-recommends chromium"]


@pytest.mark.parametrize(
    ("programs", "user", "called"),
    [
        (["chromium"], "1000", [*QUICK, "make test-browser"]),
        (["apt-get"], "0", [*QUICK, *APT, "make test-browser"]),
        (["apt-get", "sudo"], "1000", [*QUICK, *(f"sudo {line}" for line in APT), "make test-browser"]),
        (["apt-get"], "1000", QUICK),
        ([], "0", QUICK),
    ],
    ids=["there", "installed by root", "installed by sudo", "nobody may install it", "nothing can install it"],
)
def test_the_pages_are_tried_wherever_a_browser_can_be_had(
    tmp_path: Path, programs: list[str], user: str, called: list[str]
) -> None:
    """The real script; the programs that it calls write down how they were called."""
    bin, calls = tmp_path / "bin", tmp_path / "calls"
    bin.mkdir()
    for name in ("bash", "dirname"):
        (bin / name).symlink_to(str(shutil.which(name)))
    note = f'#!{shutil.which("bash")}\necho "${{0##*/}} $*" >> {calls}\n'
    scripts = dict.fromkeys(["make", *programs], note)
    scripts |= {"id": f"#!{shutil.which('bash')}\necho {user}\n", "env": f'#!{shutil.which("bash")}\n"${{@:2}}"\n'}
    if "sudo" in programs:
        scripts["sudo"] = (
            f'#!{shutil.which("bash")}\nwhile [[ $1 != apt-get ]]; do [ "$1" = true ] && exit; shift; done\n'
        )
        scripts["sudo"] += f'echo "sudo $*" >> {calls}\n'
    for name, text in scripts.items():
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    result = subprocess.run([ROOT / ".ci" / "run"], env={"PATH": str(bin)}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert calls.read_text().splitlines() == called
    assert ("THE PAGES WERE NOT TESTED" in result.stderr) == ("make test-browser" not in called)


# --- before a commit -------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with our hooks, our rules and our tools."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in (HOOKS.name, "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (folder / ".gitignore").write_text(".venv\n")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def hooks(folder: Path) -> tuple[int, str]:
    """How the hooks end on all files of a repository, and what they say."""
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook's own
    environment = inherited | {"PRE_COMMIT_HOME": str(folder.parent / "pre-commit")}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("source", "failed"),
    [
        ('"""A module."""\n\nVALUE = 1\n', set()),
        ('"""A module."""\n\nimport os\n', {"ruff check"}),
        ('"""A module."""\n\nVALUE  =  1\n', {"ruff format"}),
    ],
    ids=["clean", "an unused import", "not formatted"],
)
def test_the_hooks_see_what_the_tools_see(checkout: Path, source: str, failed: set[str]) -> None:
    (checkout / "module.py").write_text(source)
    status, said = hooks(checkout)
    assert set(re.findall(r"^(.+?)\.+Failed$", said, re.MULTILINE)) == failed, said
    assert set(re.findall(r"^(.+?)\.+Passed$", said, re.MULTILINE)) == {"ruff check", "ruff format"} - failed, said
    assert (status != 0) == bool(failed)


def test_the_hooks_are_those_of_make_lint() -> None:
    """Two tools, two rules in one file: what a commit lets through is not refused by the lint behind it."""
    config: dict[str, Any] = yaml.safe_load(HOOKS.read_text())
    entries = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert [entry.split()[:2] for entry in entries] == [
        [".venv/bin/ruff", command] for command in re.findall(r"\$\(BIN\)/ruff (\w+)", lint)
    ]
