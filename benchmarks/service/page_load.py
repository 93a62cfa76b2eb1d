"""The load of `pages.py`, in a process of its own: pages that ask and follow, workers that report, others.

Reads from its input what to do, as JSON, and prints what it has seen.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx

OTHERS_SECONDS = 0.25
REPORT_SECONDS = 1.0


class Load:
    """What one run has seen."""

    def __init__(self, order: dict[str, Any], http: httpx.AsyncClient) -> None:
        self._order = order
        self._http = http
        self._until = time.monotonic() + order["seconds"]
        self.latencies: dict[str, list[float]] = {}
        self.asked = self.events = self.faults = 0

    async def run(self) -> None:
        kinds, attempts = self._order["kinds"], self._order["attempts"]
        work: list[Awaitable[None]] = []
        for number in range(self._order["pages"]):
            kind = kinds[number % len(kinds)]
            work.append(self._page(kind["paths"]))
            work += [self._follow(attempts[number % len(attempts)]["job"]) for _ in kind["streams"]]
        work += [self._reports(attempt) for attempt in attempts]
        job = attempts[0]["job"]
        for path in (f"/jobs/{job}", "/jobs?limit=50", f"/jobs/{job}/evaluations", "/health"):
            name = "GET " + path.partition("?")[0].replace(job, "{job}")
            work.append(self._others(name, partial(self._http.get, path), OTHERS_SECONDS))
        await asyncio.gather(*work)

    async def _page(self, paths: list[tuple[float, str]]) -> None:
        """As a page asked, again and again; each page begins at a moment of its own."""
        period = self._order["period"]
        began = time.monotonic() - random.uniform(0, period)
        while time.monotonic() < self._until:
            for after, path in paths:
                await _sleep_until(began + after)
                if began + after < time.monotonic() - 1 or time.monotonic() >= self._until:
                    continue  # before this page began, or behind the end
                self.asked += 1
                self._note(await self._http.get(path))
            began += period
            await _sleep_until(min(began, self._until))

    async def _follow(self, job: str) -> None:
        """The events of a job, as a page of it does."""
        try:
            async with self._http.stream("GET", f"/jobs/{job}/events", timeout=None) as answer:
                self._note(answer)
                async for line in answer.aiter_lines():
                    self.events += line.startswith("event:")
                    if time.monotonic() >= self._until:
                        return
        except httpx.TransportError:
            self.faults += 1

    async def _reports(self, attempt: dict[str, Any]) -> None:
        sequence = 0

        async def report() -> httpx.Response:
            nonlocal sequence
            step = sequence + 1
            points = [
                {"key": f"loss_{key}", "step": step, "value": 1 / step, "at": "2026-01-01T00:00:00Z"}
                for key in range(10)
            ]
            progress = {"phase": "training", "step": step, "total_steps": 1000, "epoch": 1.0}
            body = {"sequence": sequence, "points": points, "progress": progress}
            sequence += 1
            return await self._http.post(f"{attempt['path']}/metrics", json=body, headers=attempt["headers"])

        await self._others("POST …/metrics", report, REPORT_SECONDS)

    async def _others(self, name: str, call: Callable[[], Awaitable[httpx.Response]], every: float) -> None:
        due = time.monotonic() + random.uniform(0, every)
        while due < self._until:
            await _sleep_until(due)
            self._note(await call())
            self.latencies.setdefault(name, []).append(time.monotonic() - due)
            due += every

    def _note(self, answer: httpx.Response) -> None:
        self.faults += not answer.is_success


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def main() -> None:
    order = json.load(sys.stdin)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=order["url"], timeout=30, trust_env=False, limits=limits) as http:
        load = Load(order, http)
        await load.run()
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "latencies": load.latencies,
        "asked": load.asked,
        "events": load.events,
        "faults": load.faults,
        "cpu": used.ru_utime + used.ru_stime,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
