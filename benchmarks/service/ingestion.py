"""Points per second into Postgres, against an `mlflow` server's `log-batch`, side by side in one run.

    python -m benchmarks.service.ingestion [--rounds 6] [--seconds 2] [--mlflow PATH]

One API process and one `mlflow server --workers 1`, each with a database of its own on the same Postgres server. One
client, one connection, one request after the other, the same for both; the rounds alternate, and which side goes first
alternates too, so that a machine whose speed drifts slows both alike. The ratio is the median over the rounds.

mlflow lives in an environment of its own, made once by venv and pip below the user's cache folder (minutes the first
time); `--mlflow` names the `mlflow` of another. The API keeps its journal, fencing and summaries meanwhile: nothing is
turned off for the measurement.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.service.stack import Postgres, Service
from client.stack import services

VERSION = "mlflow>=3,<4"
TARGETS = {1000: 5.0, 1: 2.0}  # points in a batch: how many times as many points per second
KEYS = ("loss", "loss_cls", "loss_box", "loss_dfl", "loss_kd", "lr", "grad_norm", "data_wait", "steps_per_second", "ap")
START_SECONDS = 120.0
AT = 1_767_225_600_000  # milliseconds since 1970

Send = Callable[[int, int], None]  # the number of the request, and of its first point; raises for a refusal


def mlflow_command(given: str | None) -> str:
    """The `mlflow` of an environment of its own; made now if it is not there."""
    if given:
        return given
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosskd-benchmarks" / "mlflow"
    command = cache / "bin" / "mlflow"
    if not command.exists():
        print(f"installing {VERSION} into {cache}, once", file=sys.stderr)
        venv.create(cache, with_pip=True, clear=True)
        subprocess.run([cache / "bin" / "pip", "install", "--quiet", VERSION, "psycopg2-binary"], check=True)
    return str(command)


@contextmanager
def mlflow_server(command: str, database: str) -> Iterator[str]:
    """The address of a running server."""
    port = services.free_port(0)
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        serve = [command, "server", "--backend-store-uri", database, "--artifacts-destination", folder]
        serve += ["--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        environment.pop("PYTHONPATH", None)  # its environment is its own
        server = subprocess.Popen(serve, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(f"{url}/health"):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"mlflow does not start; its log ends:\n{log.read()[-2000:]}")
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            server.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def to_mlflow(http: httpx.Client, count: int) -> Send:
    answer = http.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0", "start_time": AT})
    answer.raise_for_status()
    run = answer.json()["run"]["info"]["run_id"]

    def send(_number: int, first: int) -> None:
        metrics = [
            {"key": key, "value": value, "timestamp": AT + step, "step": step}
            for key, step, value in points(first, count)
        ]
        http.post("/api/2.0/mlflow/runs/log-batch", json={"run_id": run, "metrics": metrics}).raise_for_status()

    return send


def to_crosskd(service: Service, count: int) -> Send:
    attempt = service.claim(service.post())

    def send(number: int, first: int) -> None:
        rows = [
            {"key": key, "step": step, "value": value, "at": "2026-01-01T00:00:00Z"}
            for key, step, value in points(first, count)
        ]
        body: dict[str, Any] = {"sequence": number, "points": rows, "progress": {"step": first // len(KEYS)}}
        service.http.post(f"{attempt.path}/metrics", json=body, headers=attempt.headers).raise_for_status()

    return send


def points(first: int, count: int) -> Iterator[tuple[str, int, float]]:
    """As a training makes them: all keys of a step, then those of the next."""
    for number in range(first, first + count):
        yield KEYS[number % len(KEYS)], number // len(KEYS), 1.0 + 1.0 / (1 + number)


class Side:
    """Sends one request after the other, and says how many points per second were taken."""

    def __init__(self, send: Send, count: int) -> None:
        self._send = send
        self._count = count
        self._number = 0

    def run(self, seconds: float) -> float:
        began, start = time.perf_counter(), self._number
        while time.perf_counter() - began < seconds:
            self._send(self._number, self._number * self._count)
            self._number += 1
        return (self._number - start) * self._count / (time.perf_counter() - began)


def compare(ours: Side, theirs: Side, rounds: int, seconds: float) -> list[tuple[float, float]]:
    for side in (ours, theirs):
        side.run(seconds / 2)  # warm
    found = []
    for number in range(rounds):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        rates = {side: side.run(seconds) for side in order}
        found.append((rates[ours], rates[theirs]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each side in each round")
    parser.add_argument("--mlflow", help="the mlflow command of an environment that has psycopg2")
    arguments = parser.parse_args()
    command = mlflow_command(arguments.mlflow)
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    postgres = Postgres()
    met = True
    try:
        with (
            Service("postgresql", postgres=postgres) as service,
            mlflow_server(command, postgres.url("mlflow", "psycopg2")) as url,
            httpx.Client(base_url=url, timeout=60) as http,
        ):
            print(f"{version}; {arguments.rounds} rounds of {arguments.seconds:g} s a side; points per second, medians")
            print("| points in a batch | CrossKD | mlflow | ratio (min..max) | target |")
            print("|---|---|---|---|---|")
            for count, target in TARGETS.items():
                sides = Side(to_crosskd(service, count), count), Side(to_mlflow(http, count), count)
                found = compare(*sides, arguments.rounds, arguments.seconds)
                ratios = [ours / theirs for ours, theirs in found]
                ours, theirs = (statistics.median(rates) for rates in zip(*found, strict=True))
                ratio = statistics.median(ratios)
                met &= ratio >= target
                spread = f"**{ratio:.1f}** ({min(ratios):.1f}..{max(ratios):.1f})"
                print(f"| {count} | {ours:,.0f} | {theirs:,.0f} | {spread} | {target:g} |", flush=True)
    finally:
        postgres.close()
    print(f"targets: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
