"""`GET /jobs/{id}/metrics?buckets=1000` of a million points, on SQLite and on Postgres, over HTTP.

    python -m benchmarks.service.series [--backends sqlite postgresql] [--points 1000000] [--rounds 20]

Once of one key at a million steps, once of ten keys at a hundred thousand steps: all keys, one of them, and a stretch
in the middle. The points come in through the service's own functions, in batches of 1,000, and half way the attempt is
lost and another goes on from an older step. It is met where every median is under 300 ms and the API's resident memory
grows by less than 32 MiB over all requests behind the first ten. Beside it, in the same run, the naive way: every point
of one key, page by page.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from api.auth import Fence
from api.models import Attempt as AttemptRow
from api.services.history import reports
from benchmarks.service.stack import Attempt, Service
from benchmarks.timing import in_turn
from wire.reports import MetricBatch, MetricPoint

SECONDS = 0.3
GROWTH = 32.0  # MiB
BUCKETS = 1000
BATCH = 1000
START = datetime(2026, 1, 1, tzinfo=UTC)


def batches(first: int, last: int, keys: int) -> Iterator[list[MetricPoint]]:
    """All keys of a step, then those of the next."""
    rows: list[MetricPoint] = []
    for step in range(first, last):
        at = START + timedelta(milliseconds=100 * step)
        for key in range(keys):
            value: Any = "NaN" if step % 9973 == 5 else math.sin(step / 1000 + key)
            rows.append(MetricPoint.model_construct(key=f"loss_{key}", step=step, value=value, at=at))
        if len(rows) >= BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def report(service: Service, attempt: Attempt, first: int, last: int, keys: int) -> None:
    fence = Fence(attempt.path.rpartition("/")[2], int(attempt.headers["Fencing-Token"]), None)
    for sequence, rows in enumerate(batches(first, last, keys)):
        with service.database.transaction() as session:
            reports.add_batch(session, fence, MetricBatch.model_construct(sequence=sequence, points=rows))


def fill(service: Service, points: int, keys: int) -> str:
    """A job with so many points that count, and the id of it."""
    steps = points // keys
    half = steps // 2
    job = service.post()
    attempt = service.claim(job)
    report(service, attempt, 0, half + half // 4, keys)
    body = {"outcome": "released"}
    service.http.post(f"{attempt.path}/finish", json=body, headers=attempt.headers).raise_for_status()
    attempt = service.claim(job)
    with service.database.transaction() as session:  # there is no checkpoint: the step that one would have had
        session.get_one(AttemptRow, attempt.path.rpartition("/")[2]).resumed_from_step = half + 7
    report(service, attempt, half + 8, steps, keys)
    return job


def read(service: Service, job: str, **query: Any) -> Any:
    answer = service.http.get(f"/jobs/{job}/metrics", params=query)
    answer.raise_for_status()
    return answer.json()


def read_all(service: Service, job: str) -> int:
    """Every point of a key; how many."""
    count, since = 0, 0
    while True:
        page = read(service, job, key="loss_0", limit=10_000, since_step=since)
        count += len(page["items"])
        if not page["has_more"]:
            return count
        since = page["next_step"]


def measure(service: Service, points: int, keys: int, rounds: int) -> bool:
    job = fill(service, points, keys)
    steps = points // keys
    middle = {"since_step": steps // 3, "until_step": steps // 3 + steps // 5}
    cases: dict[str, dict[str, Any]] = {
        "all keys": {},
        "one key": {"key": "loss_0"},
        "one key, a fifth of the steps": {"key": "loss_0", **middle},
    }
    calls = [partial(read, service, job, buckets=BUCKETS, **query) for query in cases.values()]
    in_turn(calls, 10)
    before = service.memory
    times = in_turn(calls, rounds)
    grown = service.memory - before
    began = time.perf_counter()
    naive = read_all(service, job)
    seconds = time.perf_counter() - began
    met = grown < GROWTH
    for (name, query), found in zip(cases.items(), times, strict=True):
        items = read(service, job, buckets=BUCKETS, **query)["items"]
        if not query:
            assert sum(bucket["points"] for bucket in items) == points
        middle_time = statistics.median(found)
        met &= middle_time < SECONDS
        spread = f"**{1000 * middle_time:.0f}** ({1000 * min(found):.0f}..{1000 * max(found):.0f})"
        print(f"| {service.backend} | {keys} x {steps:,} | {name} | {len(items):,} | {spread} |", flush=True)
    print(f"| | | all {naive:,} points of one key, in pages | | {1000 * seconds:,.0f} |")
    print(
        f"{service.backend}, {keys} keys: the API's memory is {before:.0f} MiB and grew by {grown:.1f} MiB", flush=True
    )
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    met = True
    print("| database | keys x steps | what | buckets | ms, median (min..max) |")
    print("|---|---|---|---|---|")
    for backend in arguments.backends:
        with Service(backend) as service:
            for keys in (1, 10):
                met &= measure(service, arguments.points, keys, arguments.rounds)
    print(f"under {1000 * SECONDS:g} ms in constant memory: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
