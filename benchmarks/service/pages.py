"""The pages in a real browser: how soon they are painted, how soon a point is seen, and what fifty of them cost.

    python -m benchmarks.service.pages [--rounds 7] [--pages 50] [--seconds 60]

One API process on SQLite with 1,000 jobs, one of which has a series of 100,000 points. A figure of painting is the
browser's own `first-contentful-paint`, with nothing kept from before; beside it, when the page's content stood there.
A point counts as seen when the page shows its step, from when its report was sent. For the cost of many pages, a page
of jobs and a page of a running job are opened in Chromium and what they ask is noted; then a process of its own asks
the same, as often, for so many pages (half of each kind), each of which also follows its job's events. Meanwhile ten
workers report once a second, and four callers ask for a job, a list, an evaluation list and `/health`, four times a
second. A latency counts from when a request was due.

It is met where every first paint comes within 500 ms, every point is seen within a second, the API needs less than
half a core, and the 99th percentile of the others' requests is under 250 ms. Needs Chromium (Debian: `chromium`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.service.listing import fill as fill_jobs
from benchmarks.service.series import fill as fill_series
from benchmarks.service.stack import Attempt, Service
from benchmarks.timing import percentile

PAINTED, SEEN, CORES, OTHERS = 0.5, 1.0, 0.5, 0.25  # seconds, seconds, cores, seconds at the 99th percentile
JOBS, POINTS = 1000, 100_000
LISTENED_SECONDS = 20.0  # for what a page asks
WORKERS = 10
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


class Kind(NamedTuple):
    """A kind of page: its address, and what stands there once its content does."""

    name: str
    path: str
    content: str


class Asked(NamedTuple):
    """What a page asks for in so many seconds after it has come to rest."""

    paths: list[tuple[float, str]]  # seconds since the beginning, and path
    streams: list[str]


def painted(browser: Browser, url: str, kind: Kind) -> tuple[float, float]:
    """Seconds to the first paint and to the content, in a browser that has nothing kept."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url + kind.path)
    page.wait_for_selector(kind.content)
    content = time.perf_counter() - began
    page.wait_for_function(f"{PAINT} !== null")
    paint = float(page.evaluate(PAINT)) / 1000
    context.close()
    return paint, content


def report(service: Service, attempt: Attempt, sequence: int, step: int) -> None:
    at = "2026-01-01T00:00:00Z"
    points = [{"key": f"loss_{key}", "step": step, "value": 1 / step, "at": at} for key in range(10)]
    progress = {"phase": "training", "step": step, "total_steps": 10_000_000, "epoch": 1.0}
    body = {"sequence": sequence, "points": points, "progress": progress}
    service.http.post(f"{attempt.path}/metrics", json=body, headers=attempt.headers).raise_for_status()


def seen(browser: Browser, service: Service, rounds: int) -> list[float]:
    """Seconds from the report of a point until the page of its job shows it."""
    attempt = service.claim(service.post("watched"))
    report(service, attempt, 0, 1)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{service.url}/web/jobs/{attempt.job}")
    shown(page, 1)
    page.wait_for_selector(".chart canvas")
    times = []
    for number in range(1, rounds + 1):
        began = time.perf_counter()
        report(service, attempt, number, number + 1)
        shown(page, number + 1)
        times.append(time.perf_counter() - began)
        time.sleep(0.3)
    context.close()
    return times


def shown(page: Page, step: int) -> None:
    page.wait_for_selector(f'progress[aria-label^="{step} of "]')


def listened(browser: Browser, service: Service, kind: Kind) -> Asked:
    """What an open page of this kind asks the API for."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(service.url + kind.path)
    page.wait_for_selector(kind.content)
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if request.resource_type == "eventsource" else None)
    page.reload()
    page.wait_for_selector(kind.content)
    time.sleep(3)  # until it has come to rest
    paths: list[tuple[float, str]] = []
    began = time.perf_counter()

    def note(request: Any) -> None:
        if request.resource_type != "eventsource":
            parts = urlsplit(request.url)
            paths.append((time.perf_counter() - began, parts.path + (f"?{parts.query}" if parts.query else "")))

    page.on("request", note)
    page.wait_for_timeout(1000 * LISTENED_SECONDS)
    context.close()
    return Asked(paths, [urlsplit(url).path for url in streams])


class Cost(NamedTuple):
    """What many pages cost."""

    cores: float  # of the API
    generator: float  # of the process that stands for the pages
    latencies: dict[str, list[float]]  # of the others' requests
    asked: int  # requests of the pages
    events: int
    faults: int


def cost(service: Service, kinds: list[Asked], pages: int, seconds: float) -> Cost:
    """So many pages, half of each kind; those that follow events follow a job of their own each, of ten."""
    attempts = [service.claim(service.post(f"running {number}")) for number in range(WORKERS)]
    order = {
        "url": service.url,
        "seconds": seconds,
        "pages": pages,
        "period": LISTENED_SECONDS,
        "kinds": [asked._asdict() for asked in kinds],
        "attempts": [attempt._asdict() for attempt in attempts],
    }
    command = [sys.executable, "-m", "benchmarks.service.page_load"]
    used, began = service.cpu, time.monotonic()
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=True)
    wall, cpu = time.monotonic() - began, service.cpu - used
    found = json.loads(done.stdout)
    return Cost(cpu / wall, found["cpu"] / wall, found["latencies"], found["asked"], found["events"], found["faults"])


def table(browser: Browser, service: Service, kinds: list[Kind], rounds: int) -> bool:
    met = True
    print("| page | first paint, ms: median (max) | content, ms: median (max) |")
    print("|---|---|---|")
    for kind in kinds:
        painted(browser, service.url, kind)  # the server's own first time
        times = [painted(browser, service.url, kind) for _ in range(rounds)]
        met &= max(paint for paint, _ in times) < PAINTED
        columns = zip(*times, strict=True)
        print(f"| {kind.name} | {' | '.join(spread(list(column)) for column in columns)} |", flush=True)
    return met


def spread(values: list[float]) -> str:
    return f"**{1000 * statistics.median(values):.0f}** ({1000 * max(values):.0f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("There is no Chromium: apt-get install chromium")
    with Service("sqlite") as service, sync_playwright() as playwright:
        long = fill_series(service, POINTS, 1)
        fill_jobs(service, service.post("one of many"), 1, JOBS - 1)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        jobs = Kind(f"{JOBS:,} jobs", "/", "tbody tr")
        job = Kind(f"a job with {POINTS:,} points", f"/web/jobs/{long}", ".chart canvas")
        results: dict[str, bool] = {"painted": table(browser, service, [jobs, job], arguments.rounds)}
        times = seen(browser, service, max(20, arguments.rounds))
        results["seen"] = max(times) < SEEN
        print(f"a point is seen after {spread(times)} ms, median (max)", flush=True)
        running = Kind("a running job", job.path, job.content)
        asked = [listened(browser, service, kind) for kind in (jobs, running)]
        browser.close()
        found = cost(service, asked, arguments.pages, arguments.seconds)
    results["cost"] = found.cores < CORES and not found.faults
    show(found, asked, arguments.pages)
    results["others"] = max(percentile(values, 0.99) for values in found.latencies.values()) < OTHERS
    print("; ".join(f"{name}: {'met' if met else 'MISSED'}" for name, met in results.items()))
    return 0 if all(results.values()) else 1


def show(found: Cost, asked: list[Asked], pages: int) -> None:
    each: Callable[[Asked], float] = lambda one: len(one.paths) / LISTENED_SECONDS  # noqa: E731 - said once
    print(f"a page of jobs asks {each(asked[0]):.2f} times a second, one of a job {each(asked[1]):.2f} times")
    print(f"{pages} pages: {found.asked:,} requests, {found.events:,} events, {found.faults} faults; ", end="")
    print(f"the API needs {found.cores:.2f} of a core, the process that stands for the pages {found.generator:.2f}")
    print("| request of others | number | median, ms | p99, ms | max, ms |")
    print("|---|---|---|---|---|")
    for name, values in sorted(found.latencies.items()):
        figures = (statistics.median(values), percentile(values, 0.99), max(values))
        print(f"| {name} | {len(values):,} | {' | '.join(f'{1000 * figure:.0f}' for figure in figures)} |")


if __name__ == "__main__":
    sys.exit(main())
