"""The load of `benchmarks.load`, in a process of its own: workers that report, streams that follow, a few readers.

Reads from its input what to do, as JSON, and prints what it has seen. HTTP is written out by hand on asyncio's streams:
with a client library this process would take a core that the service needs.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

POINTS = 10  # a second, of each worker
BEAT_SECONDS = 5.0
HOLD_SECONDS = (15, 20)  # of a request for commands
PATIENCE = 30.0

Latencies = dict[str, list[float]]
Answer = tuple[int, dict[str, str]]  # status, and headers by their names in small letters


class Connection:
    """One connection that is kept; opened anew after a fault."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        """Status and headers of the answer, whose body is read and dropped. Raises `OSError` or `EOFError`."""
        try:
            reader, status, told = await self.send(method, path, headers, body)
            if length := int(told.get("content-length", 0)):
                await reader.readexactly(length)
        except (OSError, EOFError):
            self.close()
            raise
        return status, told

    async def send(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[asyncio.StreamReader, int, dict[str, str]]:
        """The answer's body to read, its status and its headers."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self._port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        told = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        return reader, int(head[0].split()[1]), told

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def points(step: int) -> list[dict[str, Any]]:
    """What a worker reports of a step."""
    names = (f"metric_{number}" for number in range(POINTS))
    return [{"key": name, "step": step, "value": 1.0 / (step + 1), "at": "2026-01-01T00:00:00Z"} for name in names]


class Load:
    """What is going on, and how long it took. A time counts from when a request was due, not from when it was sent."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.start = time.monotonic()
        self.end = self.start + seconds
        self.latencies: Latencies = {}
        self.faults: dict[str, int] = {}
        self.events = 0

    def fault(self, name: str) -> None:
        self.faults[name] = self.faults.get(name, 0) + 1

    async def every(self, interval: float, begin: float, name: str, act: Callable[[], Awaitable[Answer]]) -> None:
        """Do it at fixed times, the first `begin` seconds after the start."""
        due = self.start + begin
        while due < self.end:
            await asyncio.sleep(due - time.monotonic())
            await self.timed(name, due, act())
            due += interval

    async def timed(self, name: str, due: float, call: Awaitable[Answer]) -> dict[str, str]:
        """The headers of the answer; none after a fault."""
        told: dict[str, str] = {}
        try:
            async with asyncio.timeout(PATIENCE):
                status, told = await call
            if status >= 400:
                self.fault(f"{name}: {status}")
        except (OSError, EOFError) as error:
            self.fault(f"{name}: {type(error).__name__}")
        self.latencies.setdefault(name, []).append(time.monotonic() - due)
        return told

    async def worker(self, attempt: dict[str, Any], first: int) -> None:
        path, headers = attempt["path"], attempt["headers"]
        begin = random.random() * BEAT_SECONDS
        await asyncio.sleep(begin)
        reports, beats, holds = (Connection(self.port) for _ in range(3))
        typed = headers | {"Content-Type": "application/json"}

        async def report() -> None:
            """A step a second; a batch after each, or as rarely as the API asks for: as real workers do."""
            due, step, interval = self.start + begin, first, 1.0
            while due < self.end:
                await asyncio.sleep(due - time.monotonic())
                last = first + int(due - self.start)
                some = [point for number in range(step, last + 1) for point in points(number)]
                body = {"sequence": last, "points": some, "progress": {"step": last, "phase": "training"}}
                told = await self.timed(
                    "POST metrics", due, reports.call("POST", f"{path}/metrics", typed, json.dumps(body).encode())
                )
                step = last + 1
                interval = float(told.get("report-interval", 1.0))
                due += interval

        async def beat() -> Answer:
            return await beats.call("POST", f"{path}/heartbeat", headers)

        async def hold() -> None:
            while time.monotonic() < self.end:
                await holds.call("GET", f"{path}/commands?wait={random.randint(*HOLD_SECONDS)}", headers)

        held = asyncio.create_task(hold())
        try:
            await asyncio.gather(report(), self.every(BEAT_SECONDS, begin, "POST heartbeat", beat))
        finally:
            held.cancel()
            with suppress(asyncio.CancelledError, OSError, EOFError):
                await held
            for connection in (reports, beats, holds):
                connection.close()

    async def stream(self, job: str, after: int) -> None:
        connection = Connection(self.port)
        try:
            path = f"/jobs/{job}/events?after={after}"
            reader, status, _ = await connection.send("GET", path, {"Accept": "text/event-stream"}, b"")
            if status != 200:
                self.fault(f"GET events: {status}")
                return
            while chunk := await reader.read(1 << 16):
                self.events += chunk.count(b"\nevent: ")
            self.fault("GET events: ended")
        except (OSError, EOFError) as error:
            self.fault(f"GET events: {type(error).__name__}")
        finally:
            connection.close()

    async def reader(self, name: str, path: str) -> None:
        connection = Connection(self.port)
        await self.every(1.0, random.random(), name, lambda: connection.call("GET", path, {}))
        connection.close()


async def run(order: dict[str, Any]) -> dict[str, Any]:
    load = Load(order["port"], order["seconds"])
    job = order["attempts"][0]["job"]
    readers = {
        "GET jobs": "/jobs",
        "GET job": f"/jobs/{job}",
        "GET metrics": f"/jobs/{job}/metrics?limit=100",
        "GET metrics, buckets": f"/jobs/{job}/metrics?buckets=200",
        "GET artifacts": f"/jobs/{job}/artifacts",
        "GET health": "/health",
    }
    streams = [
        asyncio.create_task(load.stream(attempt["job"], attempt["last_event"]))
        for attempt in order["attempts"][: order["streams"]]
    ]
    await asyncio.gather(
        *(load.worker(attempt, order["first"]) for attempt in order["attempts"]),
        *(load.reader(name, path) for name, path in readers.items()),
    )
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "latencies": load.latencies,
        "faults": load.faults,
        "events": load.events,
        "cpu": used.ru_utime + used.ru_stime,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
