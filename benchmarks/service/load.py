"""Many workers and readers on one API process with Postgres: how long requests take, and whether memory stays flat.

    python -m benchmarks.service.load [--workers 200] [--streams 200] [--seconds 600]
    python -m benchmarks.service.load --knee [--seconds 20]

As a real one, a worker makes ten points a second and posts them once a second, or as rarely as the API asks
(`Report-Interval`); it posts a heartbeat every 5 s, a line of its log at some moment of each minute, an evaluation
(80 classes) at some moment of each ten minutes, and holds a request for commands. All come within the first 5 s.
A stream follows the events of one job; eight readers ask for lists, a job, its series, evaluations and log once a
second. A latency counts from when a request was due; of held requests and streams it is counted what failed.
The load comes from a process of its own (`generator.py`), whose share of the CPU is shown beside that of the
API and of Postgres: all of them share the machine's cores.

It is met where the 99th percentile of every endpoint in the table is under 250 ms, nothing failed, the streams have
told at least 95 % of the batches that their workers posted (the last ones are on their way), and the API's memory over
the second half of the run grows by less than 2 % (by the line of least squares). `--knee` doubles the workers (a
stream each) until a 99th percentile passes 250 ms or one of the others fails, then halves the distance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from benchmarks.service.stack import Attempt, Service
from benchmarks.timing import percentile

TARGET = 0.25  # seconds, 99th percentile
FLAT = 0.02
TOLD = 0.95  # of the batches, by the streams
LOOK_SECONDS = 1.0


class Round(NamedTuple):
    latencies: dict[str, list[float]]
    faults: dict[str, int]
    events: int  # that the streams told of batches
    batches: int  # that were taken from workers whose job has a stream
    held: int  # requests for commands that were answered
    memory: list[float]  # MiB, once a second
    shares: dict[str, float]  # of one core, by process

    @property
    def worst(self) -> float:
        return max(percentile(values, 0.99) for values in self.latencies.values())

    @property
    def carried(self) -> bool:
        """In time, without a fault, and told to the streams."""
        return self.worst < TARGET and not self.faults and self.events >= TOLD * self.batches


class Bench:
    """A service and the attempts of its workers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._attempts: list[Attempt] = []
        self._first = 0  # step of the next batch, the same for all workers

    def run(self, workers: int, streams: int, seconds: float) -> Round:
        while len(self._attempts) < workers:
            self._attempts.append(self._service.claim(self._service.post()))
        attempts = [
            {**attempt._asdict(), "last_event": self._service.http.get(f"/jobs/{attempt.job}").json()["last_event"]}
            for attempt in self._attempts[:workers]
        ]
        port = urlsplit(self._service.url).port
        order = {"port": port, "seconds": seconds, "streams": streams, "first": self._first, "attempts": attempts}
        self._first += int(seconds) + 2
        command = [sys.executable, "-m", "benchmarks.service.generator"]
        began, used, postgres = time.monotonic(), self._service.cpu, _postgres_cpu()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
            assert generator.stdin is not None
            assert generator.stdout is not None
            generator.stdin.write(json.dumps(order))
            generator.stdin.close()
            memory = []
            while time.monotonic() - began < seconds:
                memory.append(self._service.memory)
                time.sleep(LOOK_SECONDS)
            found = json.loads(generator.stdout.read())
        wall = time.monotonic() - began
        shares = {
            "API": (self._service.cpu - used) / wall,
            "Postgres": (_postgres_cpu() - postgres) / wall,
            "load generator": found["cpu"] / wall,
        }
        counts = (found["events"], found["batches"], found["held"])
        return Round(found["latencies"], found["faults"], *counts, memory, shares)


def _postgres_cpu() -> float:
    """Seconds of CPU that all of Postgres has used, as far as its processes still live."""
    found = 0.0
    for process in psutil.process_iter(["name", "cpu_times"]):
        if process.info["name"] == "postgres" and process.info["cpu_times"] is not None:
            found += process.info["cpu_times"].user + process.info["cpu_times"].system
    return found


def growth(memory: list[float]) -> float:
    """By how much of itself it grows over the second half of the run, by the line of least squares."""
    half = memory[len(memory) // 2 :]
    if len(half) < 2:
        return 0.0
    slope = statistics.linear_regression(range(len(half)), half).slope
    return slope * len(half) / statistics.mean(half)


def show(result: Round) -> None:
    print("| endpoint | requests | median, ms | p99, ms | max, ms |")
    print("|---|---|---|---|---|")
    for name, values in sorted(result.latencies.items()):
        figures = (statistics.median(values), percentile(values, 0.99), max(values))
        print(f"| {name} | {len(values):,} | {' | '.join(f'{1000 * figure:.0f}' for figure in figures)} |")
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.shares.items())
    print(f"the streams told {result.events:,} of {result.batches:,} batches; {result.held:,} held requests answered")
    print(f"CPU, of one core: {shares}; faults: {result.faults or 'none'}")
    first, last = result.memory[0], result.memory[-1]
    half = f"second half {100 * growth(result.memory):+.2f} %"
    print(f"memory of the API: {first:.0f} MiB at the start, {last:.0f} MiB at the end, {half}", flush=True)


def steady(bench: Bench, workers: int, streams: int, seconds: float) -> bool:
    bench.run(min(workers, 20), min(streams, 20), 3)  # warm
    result = bench.run(workers, streams, seconds)
    print(f"{workers} workers, {streams} streams, {seconds:g} s")
    show(result)
    return result.carried and growth(result.memory) < FLAT


def knee(bench: Bench, seconds: float) -> None:
    """Print rounds of growing and then of nearer numbers of workers."""
    carried, refused = 0, 0
    print("| workers and streams | worst p99, ms | API, % of a core | load generator |")
    print("|---|---|---|---|")
    while refused == 0 or refused - carried > max(10, carried // 10):
        workers = (carried + refused) // 2 if refused else max(25, 2 * carried)
        result = bench.run(workers, workers, seconds)
        shares = f"{100 * result.shares['API']:.0f} | {100 * result.shares['load generator']:.0f}"
        print(f"| {workers} | {1000 * result.worst:.0f} | {shares} |", flush=True)
        if result.carried:
            carried = workers
        else:
            refused = workers
    print(f"one API process carries about {carried} workers with a stream each")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, help="default 600, in a round of --knee 20")
    parser.add_argument("--knee", action="store_true")
    arguments = parser.parse_args()
    with Service("postgresql", CROSSKD_MAX_STREAMS="5000") as service:
        bench = Bench(service)
        if arguments.knee:
            knee(bench, arguments.seconds or 20.0)
            return 0
        met = steady(bench, arguments.workers, arguments.streams, arguments.seconds or 600.0)
    print(f"p99 under {1000 * TARGET:g} ms, batches told to the streams, memory flat: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
