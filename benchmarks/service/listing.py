"""`GET /jobs` among few and many jobs, on SQLite and on Postgres, over HTTP.

    python -m benchmarks.service.listing [--backends sqlite postgresql] [--most 1000000] [--rounds 20]

For each filter: the first page (50 jobs) and the last, among 100, 10,000 and 1,000,000 jobs. The requests take turns; a
figure is the least of the rounds, in milliseconds: what the work costs where nothing disturbs it. It is met where the
last page takes at most 1.5 times as long as the first (two times less than a millisecond apart count as the same). The
jobs are written straight into the tables: of 1,000, four are queued, one runs, the rest have succeeded; a tenth is
ann's, half are of one team, every thousandth has a rare label. Beside them one job by its id, whose place in the queue
is counted, and the figures for Prometheus.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import httpx
from sqlalchemy import text

from api.models import Job
from benchmarks.service.stack import Service
from benchmarks.timing import in_turn

PAGE = 50
RATIO = 1.5
SAME = 0.001  # seconds
Query = list[tuple[str, str | int | float | bool | None]]


class Filter(NamedTuple):
    query: Query
    fits: Callable[[int], bool]  # whether the job of this number fits


# By the remainder of a job's number; the same is told to the database below.
FILTERS = {
    "none": Filter([], lambda i: True),  # noqa: ARG005 - a filter is asked about a number
    "status=succeeded": Filter([("status", "succeeded")], lambda i: i % 1000 > 4),
    "status=queued,running": Filter([("status", "queued"), ("status", "running")], lambda i: i % 1000 <= 4),
    "owner=ann": Filter([("owner", "ann")], lambda i: i % 10 == 3),
    "label=team": Filter([("label", "team=cells")], lambda i: i % 2 == 1),
    "label=rare": Filter([("label", "rare=yes")], lambda i: i % 1000 == 3),
    "status=queued, label=team": Filter([("status", "queued"), ("label", "team=cells")], lambda i: i % 1000 in (1, 3)),
    "owner, status, label": Filter(
        [("owner", "ann"), ("status", "succeeded"), ("label", "team=cells")], lambda i: i % 10 == 3 and i % 1000 > 4
    ),
}
STATUS = "CASE WHEN i % 1000 = 0 THEN 'running' WHEN i % 1000 <= 4 THEN 'queued' ELSE 'succeeded' END"
OWNER = "CASE WHEN i % 10 = 3 THEN 'ann' ELSE 'bob' END"
LABELS = {"team": ("cells", "i % 2 = 1"), "rare": ("yes", "i % 1000 = 3")}
# Numbers from :first below :stop, and ids that sort as they do.
NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :stop)",
    "postgresql": "WITH n AS (SELECT i FROM generate_series(CAST(:first AS bigint), CAST(:stop AS bigint) - 1) AS i)",
}
ID = {"sqlite": "printf('%032x', i)", "postgresql": "lpad(to_hex(i), 32, '0')"}


def fill(service: Service, model: str, first: int, stop: int) -> None:
    """Write the jobs with the numbers from `first` below `stop`, copies of the job `model` but for what is filtered."""
    own = {"id": ID[service.backend], "owner": OWNER, "status": STATUS}
    same = [column.name for column in Job.__table__.columns if column.name not in own]
    numbers, bounds = NUMBERS[service.backend], {"first": first, "stop": stop}
    with service.database.transaction() as session:
        columns, values = ", ".join([*own, *same]), ", ".join([*own.values(), *(f"model.{name}" for name in same)])
        source = "FROM n, (SELECT * FROM jobs WHERE id = :model) AS model"
        insert = f"INSERT INTO jobs ({columns}) {numbers} SELECT {values} {source}"
        session.execute(text(insert), {**bounds, "model": model})
        for key, (value, where) in LABELS.items():
            what = f"SELECT {own['id']}, '{key}', '{value}' FROM n WHERE {where}"
            session.execute(text(f"INSERT INTO job_labels (job_id, key, value) {numbers} {what}"), bounds)
    if service.backend == "postgresql":  # as its autovacuum would, a little later
        with service.database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
                "VACUUM ANALYZE jobs, job_labels"
            )


def last_page(wanted: Filter, count: int) -> Query:
    """The query of the page that ends with the oldest job that fits."""
    fitting = [number for number in range(min(count, 100_000)) if wanted.fits(number)]
    below = fitting[PAGE] if len(fitting) > PAGE else count
    return [*wanted.query, ("after", f"{below:032x}")]


def get(service: Service, path: str, query: Query) -> Any:
    answer = service.http.get(path, params=httpx.QueryParams(query))
    answer.raise_for_status()
    return answer


def measure(service: Service, count: int, rounds: int) -> bool:
    """Print a row for each filter; whether all of them hold."""
    oldest = [("limit", str(PAGE))]
    calls = [
        partial(get, service, "/jobs", [*query, *oldest])
        for wanted in FILTERS.values()
        for query in (wanted.query, last_page(wanted, count))
    ]
    queued = service.http.get("/jobs?status=queued&limit=1").json()["items"][0]["id"]
    *times, one = map(min, in_turn([*calls, partial(get, service, f"/jobs/{queued}", [])], rounds))
    met = True
    for name, first, last in zip(FILTERS, times[::2], times[1::2], strict=True):
        holds = last <= RATIO * first or last - first < SAME
        met &= holds
        row = f"| {service.backend} | {count:,} | {name} | {1000 * first:.1f} | {1000 * last:.1f} |"
        print(f"{row} {last / first:.2f}{'' if holds else ' MISSED'} |", flush=True)
    ((figures,),) = in_turn([partial(get, service, "/metrics", [])], 1)
    print(
        f"{service.backend}, {count:,} jobs: one job {1000 * one:.1f} ms; figures {1000 * figures:.1f} ms", flush=True
    )
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=list(ID), default=list(ID))
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    met = True
    print("| database | jobs | filter | first page | last page | last / first |")
    print("|---|---|---|---|---|---|")
    for backend in arguments.backends:
        with Service(backend) as service:
            model = service.post()
            first = 0
            for count in sorted({min(size, arguments.most) for size in (100, 10_000, 1_000_000)}):
                for start in range(first, count, 100_000):
                    fill(service, model, start, min(count, start + 100_000))
                first = count
                met &= measure(service, count, arguments.rounds)
    print(f"last page within {RATIO}x of the first: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
