"""Large bodies go on one after the other, until they have been read; small ones and others need not wait."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api import turns
from api.limits import BodyLimit
from api.services.submission import validation
from tests.support.databases import ONE_DATABASE

LARGE, HUGE = (b"x" * (size + 1) for size in (turns.LARGE, turns.HUGE))
STEPS = 20  # of the event loop: many more than one request of this file takes


class Application:
    """Behind `BodyLimit`: reads a body, then works on it until it is told to go on."""

    def __init__(self, after_reading: Callable[[], None] = lambda: None) -> None:
        self.after_reading = after_reading
        self.read: list[str] = []  # names of the requests whose body has been read
        self.go_on = {name: asyncio.Event() for name in "abc"}
        settings = SimpleNamespace(body_limit=2 * len(HUGE), predict_body_limit=2 * len(HUGE))
        self.state = SimpleNamespace(settings=settings, turns=turns.Turns())
        self.limited = BodyLimit(self)

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":  # read beyond its end, as some do
            pass
        self.after_reading()
        self.read.append(scope["name"])
        await self.go_on[scope["name"]].wait()
        if scope["path"] == "/fails":
            raise ValueError
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def post(self, name: str, body: bytes, path: str = "/jobs") -> asyncio.Task[None]:
        parts = [{"body": body[:10], "more_body": True}, {"body": body[10:], "more_body": False}]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", **parts.pop(0)} if parts else {"type": "http.disconnect"}

        async def send(_: Any) -> None: ...

        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "app": self, "name": name}
        return asyncio.ensure_future(self.limited(scope, receive, send))  # type: ignore[arg-type]


async def steps() -> None:
    for _ in range(STEPS):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("path", "body"), [("/jobs", LARGE), ("/jobs", HUGE), ("/fails", HUGE)])
def test_a_large_body_waits_until_the_one_before_has_been_answered(path: str, body: bytes) -> None:
    async def run() -> None:
        application = Application()
        first, second = application.post("a", body, path), application.post("b", body, path)
        small = application.post("c", b"x" * turns.LARGE, path)
        await steps()
        assert application.read == ["c", "a"]  # the small one need not wait at all
        for name in "ab":
            assert gc.isenabled() == (body is LARGE)  # nobody looks at all values of a huge one that is at work
            application.go_on[name].set()
            await steps()
        assert application.read == ["c", "a", "b"]
        assert gc.isenabled()
        application.go_on["c"].set()
        ended = await asyncio.gather(first, second, small, return_exceptions=True)
        assert [type(error) for error in ended] == [ValueError if path == "/fails" else type(None)] * 3

    asyncio.run(run())


def test_it_waits_no_longer_once_the_other_has_been_read_and_for_no_pictures() -> None:
    async def run(application: Application, path: str) -> None:
        tasks = [application.post(name, LARGE, path) for name in "abc"]
        await steps()
        assert application.read == ["a", "b", "c"]  # all of them are at work
        for event in application.go_on.values():
            event.set()
        await asyncio.gather(*tasks)

    asyncio.run(run(Application(after_reading=turns.end), "/jobs"))
    asyncio.run(run(Application(), "/jobs/0/predict"))


def test_between_two_large_bodies_others_are_answered() -> None:
    """What takes as few steps of the loop as `/health` waits for one of them at most."""

    async def run() -> None:
        application = Application()
        first, second = application.post("a", LARGE), application.post("b", LARGE)
        await steps()
        application.go_on["a"].set()  # now comes what has waited for it
        for _ in range(3):
            await asyncio.sleep(0)
            assert application.read == ["a"]
        await steps()
        assert application.read == ["a", "b"]
        application.go_on["b"].set()
        await asyncio.gather(first, second)

    asyncio.run(run())


def test_who_goes_away_while_waiting_leaves_the_turn_to_others() -> None:
    async def run() -> None:
        application = Application()
        first, gone, last = (application.post(name, LARGE) for name in "abc")
        await steps()
        gone.cancel()
        application.go_on["a"].set()
        await steps()
        assert application.read == ["a", "c"]
        application.go_on["c"].set()
        await asyncio.gather(first, last)
        assert gone.cancelled()

    asyncio.run(run())


def test_a_body_that_comes_behind_the_beginning_of_the_answer_holds_nobody_up() -> None:
    async def run() -> None:
        async def stream(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
            """As server-sent events, which wait for the reader's leaving while they are sent."""
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await application(scope, receive, send)

        application = Application()
        limited, application.limited = application.limited, BodyLimit(stream)  # type: ignore[arg-type]
        first = application.post("a", LARGE)
        await steps()
        application.limited = limited
        second = application.post("b", LARGE)
        await steps()
        assert application.read == ["a", "b"]
        for name in "ab":
            application.go_on[name].set()
        await asyncio.gather(first, second)

    asyncio.run(run())


@ONE_DATABASE
def test_a_large_body_that_is_refused_waits_for_files_beside_others(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def look(*_: Any) -> list[Any]:
        held.append(client.app.state.turns._lock.locked())  # type: ignore[attr-defined]
        return []

    monkeypatch.setattr(validation, "further_faults", look)
    assert client.post("/jobs", json={"name": LARGE.decode(), "spec": {}}).status_code == 422
    assert held == [False]
