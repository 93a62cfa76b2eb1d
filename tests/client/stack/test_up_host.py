"""`crosskd up --host`: nobody else gets in without a token, and without any token it does not even start."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from client.errors import ApiProblem
from client.sdk import Crosskd
from client.stack import services
from client.stack.home import Home, read_owner
from tests.support.crosskd_command import UP, status, up
from tests.support.processes import processes_of
from tests.support.waiting import until

EVERYWHERE = "0.0.0.0"
SECONDS = 120.0


def test_it_refuses_to_start_without_tokens_and_asks_for_them_with_some(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def crosskd(*arguments: str, **more: str) -> tuple[int, str]:
        """In this process; the commands of tokens start another."""
        ended = status({"CROSSKD_HOME": str(tmp_path), **more}, *arguments)
        return ended, capfd.readouterr().out.strip()

    command = [*UP, "--host", EVERYWHERE]
    environment = {**os.environ, "CROSSKD_HOME": str(tmp_path)}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert refused.returncode == 1
    assert "there is no API token" in refused.stderr
    assert "crosskd token create" in refused.stderr
    assert processes_of(tmp_path) == []

    made, secret = crosskd("token", "create", "me", "--scope", "admin")
    assert made == 0
    with up(tmp_path, "--host", EVERYWHERE) as process:
        owner = read_owner(tmp_path)
        assert owner is not None
        url = owner.url
        assert url.startswith("http://127.0.0.1:")
        with Crosskd(url) as nobody:
            assert nobody.health().status == "ok"
            with pytest.raises(ApiProblem, match="no token"):
                list(nobody.jobs.list())
        with Crosskd(url, token=secret) as client:
            assert list(client.jobs.list()) == []
        assert crosskd("jobs", "--json", CROSSKD_TOKEN=secret) == (0, "[]")
        token_id = crosskd("token", "list")[1].split()[0]  # beside the running stack
        headers = {"Authorization": f"Bearer {secret}"}
        assert httpx.delete(f"{url}/tokens/{token_id}", headers=headers, trust_env=False).is_success
        with Crosskd(url, token=secret) as client, pytest.raises(ApiProblem, match="revoked"):
            list(client.jobs.list())
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
