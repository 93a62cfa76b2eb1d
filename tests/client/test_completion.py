"""Completion by the shell: of commands, options, jobs, presets and charts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.api_server import Service
from tests.support.crosskd_command import run, variables
from tests.support.sources import ROOT

BASH = """
eval "$SCRIPT"
COMP_WORDS=($LINE) COMP_CWORD=$AT
_crosskd_completion crosskd
printf '%s\\n' "${COMPREPLY[@]}"
"""


def asked(shell: str, service: Service | str, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What a shell would be told for the last of these words."""
    monkeypatch.setenv("_CROSSKD_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "crosskd " + " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "crosskd " + " ".join(words))
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    return run(service, home=None).stdout.splitlines()


@pytest.fixture(scope="module")
def job(service: Service) -> str:
    return service.post("completed")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sub"], "submit"),
        (["sweeps", "can"], "cancel"),
        (["show", "compl"], "completed"),
        (["show", "--js"], "--json"),
        (["submit", "demo_t"], "demo_teacher"),
        (["chart", "x", "through"], "throughput"),
    ],
)
def test_a_word_is_completed(
    shell: str, words: list[str], found: str, service: Service, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(found in line for line in asked(shell, service, monkeypatch, *words))


def test_names_that_a_shell_would_quote_are_called_by_their_ids(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = service.post("odd $(rm -rf ~)")
    words = asked("bash", service, monkeypatch, "show", odd[:8])
    assert odd in words
    assert not any("rm" in word for word in words)


def test_without_a_service_nothing_is_completed_and_nothing_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked("bash", "http://127.0.0.1:9", monkeypatch, "show", "x") in ([], [""])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CROSSKD_COMPLETE", f"source_{shell}")
    assert "crosskd" in run("http://127.0.0.1:9").stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_itself_completes(service: Service, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "crosskd"  # as pip installs it
    command.write_text(f"#!{sys.executable}\nfrom client.cli import main\nmain()\n")
    command.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("_CROSSKD_COMPLETE", "source_bash")
        script = run(service).stdout
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    more = {"SCRIPT": script, "LINE": "crosskd show compl", "AT": "2", **path}
    environment = {**os.environ, **variables(service), **more}
    done = subprocess.run(["bash", "-c", BASH], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["completed"], done.stderr
