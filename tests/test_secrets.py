"""No secret in a log, a file or an address: what a real stack writes while a job runs is searched for each of them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from client.sdk import Client
from client.stack.tokens import manage
from tests.support.processes import command_of, processes_of
from tests.support.service import PATIENCE, Service

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service.start(tmp_path_factory.mktemp("home"), CROSSKD_LOG_LEVEL="DEBUG")
    try:
        yield service
    finally:
        service.close()


def variable_of_training(home: Path, name: str) -> str:
    """A variable in the environment of the training that runs, or will run in a moment."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for pid in processes_of(home):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            except OSError:
                continue
            if b"worker.training.run" in command:
                return dict(line.partition("=")[::2] for line in variables)[name]
        time.sleep(0.05)
    raise AssertionError("no training was started")


def readable(home: Path) -> Iterator[tuple[Path, str]]:
    """Every file of the home but those that hold a secret by purpose, each readable by its owner alone."""
    purpose = {home / "worker-token", home / "valkey" / "valkey.conf"}
    for path in home.rglob("*"):
        if path in purpose:
            assert path.stat().st_mode & 0o077 == 0
        else:
            with suppress(OSError):  # a folder, or a file that has just gone
                yield path, path.read_bytes().decode(errors="replace")


def test_nothing_that_is_written_holds_a_secret(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    home = service.home
    assert manage(service.stack.home, ["create", "tester", "--scope", "write"]) == 0
    api_token = capfd.readouterr().out.strip()
    worker_token = (home / "worker-token").read_text().strip()
    password = re.search(r"^requirepass (\S+)$", (home / "valkey" / "valkey.conf").read_text(), re.MULTILINE)
    assert password is not None

    service.client.close()
    with Client(service.stack.url, token=api_token) as client:
        service.client = client
        job = service.post("with a token", epochs=200)
        attempt_token = variable_of_training(home, "CROSSKD_WORKER_TOKEN")
        service.train_until(job, 5)
        meanwhile = list(readable(home))
        assert any(path.name == "claim.json" for path, _ in meanwhile)
        # What goes wrong is logged more than what goes well.
        wrong = "ck_" + "w" * 43
        for secret in (wrong, api_token, worker_token, attempt_token):
            headers = {"Authorization": f"Bearer {secret}", "Fencing-Token": "x"}
            for method, path in (
                ("GET", f"/jobs?limit=x&access_token={secret}"),
                ("POST", "/worker/attempts/x/heartbeat"),
                ("POST", "/tokens"),
            ):
                answer = httpx.request(method, service.stack.url + path, headers=headers, trust_env=False, content=b"{")
                assert answer.is_client_error
                assert secret not in answer.text
        client.cancel(job.id)
        assert client.wait(job.id, interval=0.2, timeout=PATIENCE).status == "cancelled"
        tail = client.job(job.id).model_dump_json()

    assert attempt_token.startswith("cka_")
    assert len({api_token, worker_token, attempt_token, password[1]}) == 4
    texts = [*meanwhile, *readable(home), (Path("the job as it is told"), tail)]
    assert len([path for path, text in texts if "logs" in path.parts and text]) >= 3
    for path, text in texts:
        for secret in (api_token, worker_token, attempt_token, password[1], wrong):
            assert secret not in text, path
    commands = [command_of(pid) for pid in processes_of(home) if pid != os.getpid()]
    assert any(commands)
    for secret in (api_token, worker_token, attempt_token, password[1]):
        assert not any(secret in command for command in commands)
