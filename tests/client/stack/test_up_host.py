"""`crosskd up --host`: nobody else gets in without a token, and without any token it does not even start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from client.errors import ApiProblem
from client.sdk import Client
from client.stack import services
from client.stack.home import Home, read_owner
from tests.support.crosskd_command import up
from tests.support.processes import processes_of
from tests.support.waiting import until

EVERYWHERE = "0.0.0.0"
SECONDS = 120.0


def crosskd(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CROSSKD_HOME": str(home), **more}
    command = [sys.executable, "-m", "client.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)


def test_it_refuses_to_start_without_tokens_and_asks_for_them_with_some(tmp_path: Path) -> None:
    refused = crosskd(tmp_path, "up", "--host", EVERYWHERE, "--port", "0")
    assert refused.returncode == 1
    assert "there is no API token" in refused.stderr
    assert "crosskd token create" in refused.stderr
    assert processes_of(tmp_path) == []

    made = crosskd(tmp_path, "token", "create", "me", "--scope", "admin")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    with up(tmp_path, "--host", EVERYWHERE) as process:
        owner = read_owner(tmp_path)
        assert owner is not None
        url = owner.url
        assert url.startswith("http://127.0.0.1:")
        with Client(url) as nobody:
            assert nobody.health().status == "ok"
            with pytest.raises(ApiProblem, match="no token"):
                list(nobody.jobs())
        with Client(url, token=secret) as client:
            assert list(client.jobs()) == []
        listed = crosskd(tmp_path, "jobs", "--json", CROSSKD_TOKEN=secret)
        assert (listed.returncode, listed.stdout) == (0, "[]\n"), listed.stderr
        token_id = crosskd(tmp_path, "token", "list").stdout.split()[0]  # beside the running stack
        headers = {"Authorization": f"Bearer {secret}"}
        assert httpx.delete(f"{url}/tokens/{token_id}", headers=headers, trust_env=False).is_success
        with Client(url, token=secret) as client, pytest.raises(ApiProblem, match="revoked"):
            list(client.jobs())
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    until(lambda: processes_of(tmp_path) == [])
    assert read_owner(tmp_path) is None


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("192.0.2.1", "http://192.0.2.1:1"),
    ],
)
def test_how_this_machine_reaches_it(host: str, address: str) -> None:
    assert services.address(host, 1) == address


def test_nobody_is_told_the_secrets_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CROSSKD_TOKEN", "CROSSKD_TOKEN_FILE", "CROSSKD_WORKER_TOKEN_FILE"):
        monkeypatch.setenv(name, "ck_mine")
    environments = services.environments(Home(tmp_path), "", "", [], {})
    assert "ck_mine" not in {*environments.api.values(), *environments.worker.values()}
