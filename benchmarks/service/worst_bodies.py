"""How long `/health` takes while every endpoint is sent the worst bodies there are, over real sockets.

    python -m benchmarks.service.worst_bodies [--backend sqlite] [--at-once 1] [--rounds 1]

One API process. For each endpoint that takes JSON, the bodies of `bodies.py` are sent one after the other, on
`--at-once` connections at the same time; a process of its own asks for `/health` all the while, every few
milliseconds, and counts what the answer took from the moment in which it was asked for. It is met where the slowest
answer comes within 250 ms. Bodies must be refused; any other answer is a fault, and so is one above a megabyte.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import httpx

from benchmarks.service.bodies import of_every_endpoint
from benchmarks.service.stack import Attempt, Service
from benchmarks.timing import percentile

BOUND = 0.25  # seconds
EVERY = 0.005  # seconds between two requests for /health, where the first is answered at once
REFUSED = (400, 404, 409, 413, 422)
LARGEST = 1_000_000  # bytes of an answer


def ask(url: str, pipe: Connection) -> None:
    """Until told to stop: ask for /health. Sends what the answers took since the last time it was asked, in seconds."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        took: list[float] = []
        while True:
            if pipe.poll():
                if not pipe.recv():
                    return
                pipe.send(took)
                took = []
            began = time.perf_counter()
            http.get("/health").raise_for_status()
            took.append(time.perf_counter() - began)
            time.sleep(EVERY)


@contextmanager
def asking(url: str) -> Iterator[Connection]:
    """A process that asks for /health; `send(True)` makes it send what it measured."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=ask, args=(url, there), daemon=True)
    process.start()
    try:
        yield here
    finally:
        here.send(False)
        process.join(60)


def measured(pipe: Connection) -> list[float]:
    pipe.send(True)
    answer: list[float] = pipe.recv()
    return answer


def send(service: Service, attempt: Attempt, method: str, path: str, body: str) -> str:
    """What is wrong with the answer; empty where nothing is."""
    headers = {"Content-Type": "application/json"}
    if "{attempt}" in path:
        headers |= attempt.headers
    elif path.startswith("/worker/"):
        headers |= service.as_worker
    concrete = path.replace("{attempt}", attempt.path.rpartition("/")[2]).replace("{job}", "0" * 32)
    answer = service.http.request(method, concrete, content=body, headers=headers)
    if answer.status_code not in REFUSED:
        return f"{method} {path}: {answer.status_code} for {body[:80]}"
    return f"{method} {path}: an answer of {len(answer.content)} bytes" if len(answer.content) > LARGEST else ""


def run(service: Service, at_once: int, rounds: int) -> bool:
    """Print a row for each endpoint. Returns whether the target is met."""
    attempt = service.claim(service.post())
    description = service.http.get("/openapi.json").raise_for_status().json()
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for method, path, body in of_every_endpoint(description):
        groups[method, path].append(body)
    everything: list[float] = []
    faults: list[str] = []
    print(f"{'endpoint':<50} {'bodies':>6} {'seconds':>8} {'/health: p99, ms':>17} {'slowest, ms':>12}")
    with asking(service.url) as pipe, ThreadPoolExecutor(at_once) as threads:
        while not measured(pipe):  # it has begun
            time.sleep(0.1)
        for (method, path), bodies in groups.items():
            measured(pipe)
            began = time.perf_counter()
            jobs: list[Any] = [threads.submit(send, service, attempt, method, path, body) for body in bodies * rounds]
            faults += filter(None, [job.result() for job in jobs])
            seconds = time.perf_counter() - began
            time.sleep(2 * EVERY)
            took = measured(pipe)
            everything += took
            name, p99, worst = f"{method.upper()} {path}", percentile(took, 0.99) * 1000, max(took) * 1000
            print(f"{name:<50} {len(bodies) * rounds:>6} {seconds:>8.1f} {p99:>17.0f} {worst:>12.0f}", flush=True)
    print(*faults, sep="\n", end="\n" if faults else "")
    worst = max(everything)
    print(f"the slowest /health of {len(everything):,}: {worst * 1000:.0f} ms (target: under {BOUND * 1000:.0f} ms)")
    return worst < BOUND and not faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--at-once", type=int, default=1, help="requests with worst bodies at the same time")
    parser.add_argument("--rounds", type=int, default=1, help="how often each body is sent")
    arguments = parser.parse_args()
    with Service(arguments.backend) as service:
        met = run(service, arguments.at_once, arguments.rounds)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
