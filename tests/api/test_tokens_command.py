"""`python -m api.tokens`: the way to the first token, called in this process, and once as a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api import tokens
from tests.support.worker_calls import DIGEST

Run = Callable[..., subprocess.CompletedProcess[str]]


def variables(database_url: str, home: Path) -> dict[str, str]:
    """An environment with these settings of the service and no others."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CROSSKD_")}
    own = {
        "CROSSKD_HOME": str(home),
        "CROSSKD_DATABASE_URL": database_url,
        "CROSSKD_WORKER_TOKEN_SHA256": DIGEST,
    }
    return inherited | own


@pytest.fixture
def run(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    environment = variables(database_url, tmp_path / "home")

    def start(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", environment | more)
            try:
                code = tokens.main(arguments)
            except SystemExit as end:
                code = int(str(end.code))
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return start


def test_a_token_from_its_making_to_its_end(run: Run, client: TestClient) -> None:
    assert run("check").returncode == 3
    made = run("create", "ci", "--scope", "read", "--owner", "ann", "--days", "7")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.removesuffix("\n")
    assert "\n" not in secret  # nothing else stands there: $(…) takes it as it is
    assert secret not in made.stderr
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get("/jobs", headers=headers).status_code == 200
    assert client.get("/tokens", headers=headers).status_code == 403
    assert run("check").returncode == 0

    listed = run("list").stdout
    assert secret not in listed
    (line,) = listed.splitlines()
    assert "ann" in line
    assert "until 2" in line
    assert [token["owner"] for token in json.loads(run("list", "--json").stdout)] == ["ann"]
    assert json.loads(run("check", "--json").stdout) == {"live": True}
    other = json.loads(run("create", "machine", "--json").stdout)
    assert json.loads(run("revoke", other["id"], "--json").stdout)["revoked_at"]
    revoked = run("revoke", line.split()[0])
    assert "(revoked 2" in revoked.stdout
    assert client.get("/jobs", headers=headers).status_code == 401
    assert run("check").returncode == 3


def test_what_cannot_be_done_is_told(run: Run) -> None:
    unknown = run("revoke", "0" * 32)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no such token" in unknown.stderr
    wrong = run("create", "ci", "--owner", "a b", "--days", "0")
    assert wrong.returncode == 1
    assert "owner" in wrong.stderr
    assert "days" in wrong.stderr
    assert run("create").returncode == 2
    unset = run("list", CROSSKD_DATABASE_URL="mysql://x")
    assert unset.returncode == 2
    assert "CROSSKD_DATABASE_URL" in unset.stderr


def test_it_is_a_command(empty_file: Path, tmp_path: Path) -> None:
    environment = variables(f"sqlite:///{empty_file}", tmp_path / "home")
    command = [sys.executable, "-m", "api.tokens", "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" not in done.stderr
