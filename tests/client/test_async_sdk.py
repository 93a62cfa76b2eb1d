"""`AsyncCrosskd` against the real API: the same operations, with `await`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from client.errors import ApiProblem, ClientError, Conflict, InvalidRequest, NotFound, ServiceFault, TooMany
from client.resources.job import Job
from client.sdk import AsyncCrosskd, Crosskd
from crosskd.spec.config import TrainConfig
from tests.support.api_server import Service
from wire.jobs import JobCreate

WEIGHTS = b"weights" * 100_000


@pytest.fixture(scope="module")
def finished(service: Service) -> str:
    return service.succeeded("finished", WEIGHTS)


def test_a_job_is_posted_followed_and_read(service: Service, tmp_path: Path) -> None:
    seen: list[str] = []

    async def look(now: Job) -> None:
        await asyncio.sleep(0)
        seen.append(now.status)

    async def live() -> None:
        async with AsyncCrosskd(service.url) as client:
            posted = await client.jobs.create({"name": "awaited", "spec": service.spec})
            worker = service.claimed(posted.id)
            waiting = asyncio.create_task(posted.wait(on_progress=look, interval=0.05, timeout=60))
            while seen == []:
                await asyncio.sleep(0.01)
            sent = await asyncio.to_thread(worker.finish, "failed", failure={"failure_class": "user", "message": "no"})
            assert sent.is_success
            assert (await waiting).status == "failed"
            events = [event.data.to_status async for event in posted.events(kinds=["transition"])]
            assert events == ["queued", "running", "failed"]
            assert [job.id async for job in client.jobs.list(search="awaited")] == [posted.id]
            assert [line async for line in client.jobs.logs(posted.id, follow=True)] == []

    asyncio.run(live())
    assert (seen[0], seen[-1]) == ("running", "failed")


def test_weights_are_downloaded_and_verified(service: Service, finished: str, tmp_path: Path) -> None:
    async def fetch() -> Path:
        async with AsyncCrosskd(service.url) as client:
            job = await client.jobs.get(finished)
            assert len(await job.metrics(key="loss")) == 3
            return await job.weights(tmp_path)

    assert asyncio.run(fetch()).read_bytes() == WEIGHTS


def test_a_cancelled_download_ends_and_is_gone_on_with_later(service: Service, finished: str, tmp_path: Path) -> None:
    held, told = threading.Event(), list[int]()

    async def fetch() -> None:
        begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_bytes(done: int, _size: int) -> None:
            told.append(done)
            loop.call_soon_threadsafe(begun.set)
            assert held.wait(60)

        async with AsyncCrosskd(service.url) as client:
            task = asyncio.create_task(client.jobs.weights(finished, tmp_path / "w", on_bytes))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            held.set()

    asyncio.run(fetch())  # which waits for its threads
    assert len(told) == 1
    assert not (tmp_path / "w").exists()
    with service.client() as client:
        assert client.jobs.weights(finished, tmp_path / "w").read_bytes() == WEIGHTS


def test_a_loop_that_is_left_early_closes_its_stream(service: Service) -> None:
    """Otherwise the service would go on sending to nobody."""
    job = service.post("endless")

    async def first() -> int:
        async with AsyncCrosskd(service.url) as client:
            events = client.jobs.events(job)
            async for event in events:
                await events.aclose()  # type: ignore[attr-defined]
                return event.id
        return 0

    assert asyncio.run(first()) == 1


def test_an_async_client_waits_for_a_service_that_is_away() -> None:
    answers = [httpx.Response(503, headers={"retry-after": "0"}), httpx.ReadError("gone"), None]

    def answer(_: httpx.Request) -> httpx.Response:
        told = answers.pop(0)
        if isinstance(told, httpx.ReadError):
            raise told
        return told or httpx.Response(200, json={"status": "ok", "version": "1"})

    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://service") as http:
            return (await AsyncCrosskd(http=http).health()).status

    assert asyncio.run(ask()) == "ok"
    assert answers == []


@pytest.mark.parametrize("status", [502, 504])
def test_what_creates_is_repeated_under_its_key(status: int, service: Service) -> None:
    """As a proxy says it, whether the job was stored or not."""
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            return httpx.Response(status)
        return httpx.Response(422, json={"title": "Invalid", "status": 422})

    transport = httpx.MockTransport(answer)
    with httpx.Client(transport=transport, base_url="http://service") as http, pytest.raises(InvalidRequest):
        Crosskd(http=http).jobs.create({"name": "x", "spec": {}})
    assert len(keys) == 2
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("act", "kind", "status"),
    [
        (lambda client, job: client.jobs.get("0" * 32), NotFound, 404),
        (lambda client, job: client.jobs.get("nobody"), NotFound, 404),
        (lambda client, job: client.jobs.cancel(job), Conflict, 409),
        (lambda client, job: client.jobs.create({"name": "x", "spec": {"seed": -1}}), InvalidRequest, 422),
        (lambda client, job: list(client.jobs.list(status="nonsense")), InvalidRequest, 422),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(
    service: Service, finished: str, act: Callable[[Crosskd, str], object], kind: type[ApiProblem], status: int
) -> None:
    with service.client() as client, pytest.raises(kind) as caught:
        act(client, finished)
    assert caught.value.status == caught.value.problem.status == status
    assert caught.value.title
    assert caught.value.detail


@pytest.mark.parametrize(("status", "kind"), [(429, TooMany), (500, ServiceFault), (507, ServiceFault)])
def test_so_is_one_that_the_service_cannot_help(status: int, kind: type[ApiProblem]) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text="no"))
    with httpx.Client(transport=transport, base_url="http://service") as http, pytest.raises(kind):
        Crosskd(http=http, patience=0).health()


def test_a_refused_spec_points_to_its_faults(service: Service) -> None:
    with service.client() as client, pytest.raises(InvalidRequest) as caught:
        client.jobs.create({**service.spec, "batch_size": 0, "seed": -1}, name="bare spec")
    assert sorted(caught.value.pointers) == ["/spec/batch_size", "/spec/seed"]
    assert caught.value.type == "/problems/invalid-request"


def test_a_job_comes_of_a_file_a_preset_or_a_model(service: Service, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 5\nname: no field of a spec\n")
    with service.client() as client:
        with pytest.raises(InvalidRequest, match="name"):
            client.jobs.create(path)
        spec = TrainConfig.model_validate(service.spec)
        for source in (spec, JobCreate(name="typed", spec=spec), service.spec):
            found = client.jobs.dry_run(source, name="typed", labels={"a": "b"}, priority=7)
            assert (found.name, found.labels, found.priority) == ("typed", {"a": "b"}, 7)
        with pytest.raises(ClientError, match="There is no preset or file 'demo_techer'"):
            client.jobs.create("demo_techer")
