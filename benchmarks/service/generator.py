"""The load of `load.py`, in a process of its own: workers that report, streams that follow, a few readers.

Reads from its input what to do, as JSON, and prints what it has seen. HTTP is written out by hand on asyncio's streams:
with a client library this process would take a core that the service needs.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

POINTS = 10  # a second, of each worker
BEAT_SECONDS = 5.0
LOG_SECONDS = 60.0  # a line at some moment of each
EVALUATION_SECONDS = 600.0  # one at some moment of each
CLASSES = 80  # of an evaluation, as COCO has
HOLD_SECONDS = (15, 20)  # of a request for commands
PAUSE_SECONDS = 1.0  # after one that failed
PATIENCE = 30.0
SETTLE_SECONDS = 1.0  # for the last events to arrive
COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
NEWS = b"\nevent: metrics"  # of a stream: a batch

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
        except (OSError, EOFError, asyncio.CancelledError):  # else the next call would read this one's answer
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


def line(sequence: int) -> dict[str, Any]:
    """A batch of the log with one line."""
    text = "epoch 3/12 step 1230/4920 loss 1.2345 lr 0.0100 AP 0.312 AP50 0.498 AP75 0.331"
    return {"sequence": sequence, "lines": [{"at": "2026-01-01T00:00:00Z", "text": text}]}


def evaluation(step: int) -> dict[str, Any]:
    names = [f"class {number:02}" for number in range(CLASSES)]
    each = {"AP50": 0.41234, "AP75": 0.31234, "AR100": 0.51234}
    figures = {
        "metrics": dict.fromkeys(COCO, 0.31234),
        "per_class": dict.fromkeys(names, 0.31234),
        "class_metrics": dict.fromkeys(names, each),
    }
    return {"model": "student", "step": step, "images": 5000, **figures}


def moments(every: float, until: float) -> list[float]:
    """Seconds from the start: one at random in each stretch of `every` seconds."""
    found = [(number + random.random()) * every for number in range(math.ceil(until / every))]
    return [moment for moment in found if moment < until]


class Load:
    """What is going on, and how long it took. A time counts from when a request was due, not from when it was sent."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.start = time.monotonic()
        self.end = self.start + seconds
        self.latencies: Latencies = {}
        self.faults: dict[str, int] = {}
        self.batches: dict[str, int] = {}  # of metrics that were taken, by job
        self.events: dict[str, int] = {}  # of them that a stream told, by job
        self.held = 0  # requests for commands that were answered

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
                status, headers = await call
            if status < 400:
                told = headers
            else:
                self.fault(f"{name}: {status}")
        except (OSError, EOFError) as error:
            self.fault(f"{name}: {type(error).__name__}")
        self.latencies.setdefault(name, []).append(time.monotonic() - due)
        return told

    async def worker(self, attempt: dict[str, Any], first: int) -> None:
        path, headers = attempt["path"], attempt["headers"]
        begin = random.random() * BEAT_SECONDS
        await asyncio.sleep(begin)
        reports, rare, beats, holds = (Connection(self.port) for _ in range(4))
        typed = headers | {"Content-Type": "application/json"}

        async def report() -> None:
            """A step a second; a batch after each, or as rarely as the API asks for: as real workers do."""
            due, step, interval = self.start + begin, first, 1.0
            while due < self.end:
                await asyncio.sleep(due - time.monotonic())
                last = first + int(due - self.start)
                some = [point for number in range(step, last + 1) for point in points(number)]
                body = {"sequence": last, "points": some, "progress": {"step": last, "phase": "training"}}
                call = reports.call("POST", f"{path}/metrics", typed, json.dumps(body).encode())
                if told := await self.timed("POST metrics", due, call):
                    self.batches[attempt["job"]] = self.batches.get(attempt["job"], 0) + 1
                step = last + 1
                interval = float(told.get("report-interval", 1.0))
                due += interval

        async def tell() -> None:
            """What comes rarely: a line of the log, an evaluation."""
            seconds = self.end - self.start
            plan = [(moment, "logs", line(first + k)) for k, moment in enumerate(moments(LOG_SECONDS, seconds))]
            plan += [
                (moment, "evaluations", evaluation(first + k))
                for k, moment in enumerate(moments(EVALUATION_SECONDS, seconds))
            ]
            for moment, what, body in sorted(plan, key=lambda planned: planned[0]):
                due = max(self.start + moment, time.monotonic())  # the worker itself may have come later
                await asyncio.sleep(due - time.monotonic())
                call = rare.call("POST", f"{path}/{what}", typed, json.dumps(body).encode())
                await self.timed(f"POST {what}", due, call)
                rare.close()  # as a worker drops what idles longer than the API keeps it

        async def beat() -> Answer:
            return await beats.call("POST", f"{path}/heartbeat", headers)

        async def hold() -> None:
            while time.monotonic() < self.end:
                wait = random.randint(*HOLD_SECONDS)
                try:
                    async with asyncio.timeout(wait + PATIENCE):
                        status, _ = await holds.call("GET", f"{path}/commands?wait={wait}", headers)
                except (OSError, EOFError) as error:
                    self.fault(f"GET commands: {type(error).__name__}")
                else:
                    if status < 400:
                        self.held += 1
                        continue
                    self.fault(f"GET commands: {status}")
                await asyncio.sleep(PAUSE_SECONDS)

        held = asyncio.create_task(hold())
        try:
            await asyncio.gather(report(), tell(), self.every(BEAT_SECONDS, begin, "POST heartbeat", beat))
        finally:
            held.cancel()
            with suppress(asyncio.CancelledError):
                await held
            for connection in (reports, rare, beats, holds):
                connection.close()

    async def stream(self, job: str, after: int) -> None:
        connection = Connection(self.port)
        try:
            path = f"/jobs/{job}/events?after={after}"
            reader, status, _ = await connection.send("GET", path, {"Accept": "text/event-stream"}, b"")
            if status != 200:
                self.fault(f"GET events: {status}")
                return
            rest = b""
            while chunk := await reader.read(1 << 16):
                rest += chunk  # a piece may end in the midst of a word
                self.events[job] = self.events.get(job, 0) + rest.count(NEWS)
                rest = rest[1 - len(NEWS) :]
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
        "GET evaluations": f"/jobs/{job}/evaluations",
        "GET logs": f"/jobs/{job}/logs",
        "GET artifacts": f"/jobs/{job}/artifacts",
        "GET health": "/health",
    }
    followed = order["attempts"][: order["streams"]]
    streams = [asyncio.create_task(load.stream(attempt["job"], attempt["last_event"])) for attempt in followed]
    await asyncio.gather(
        *(load.worker(attempt, order["first"]) for attempt in order["attempts"]),
        *(load.reader(name, path) for name, path in readers.items()),
    )
    await asyncio.sleep(SETTLE_SECONDS if streams else 0)
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "latencies": load.latencies,
        "faults": load.faults,
        "events": sum(load.events.values()),
        "batches": sum(load.batches.get(attempt["job"], 0) for attempt in followed),
        "held": load.held,
        "cpu": used.ru_utime + used.ru_stime,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
