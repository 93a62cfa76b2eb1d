"""More requests for the same rows than the API has threads: each is served, none waits for one that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

import api.routes
from api.http.transactional import Transactional
from tests.support.worker_calls import Worker

PostJob = Callable[..., str]

CROWD = 60  # and 40 threads


def at_the_same_time(app: FastAPI, requests: list[dict[str, Any]]) -> list[int]:
    """The statuses of the answers."""

    async def send() -> list[int]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8470", timeout=60) as client:
            answers = await asyncio.gather(*(client.request(**request) for request in requests))
        return [answer.status_code for answer in answers]

    return asyncio.run(send())


def test_heartbeats_of_one_attempt(app: FastAPI, post_job: PostJob, worker: Worker) -> None:
    worker.claim(post_job())
    beat = {"method": "POST", "url": f"/worker/attempts/{worker.attempt}/heartbeat", "headers": worker.headers}
    assert at_the_same_time(app, [beat] * CROWD) == [200] * CROWD


def test_jobs_of_one_owner_whose_answers_are_kept(app: FastAPI, post_job: PostJob, spec: dict[str, Any]) -> None:
    post_job()  # the files are checked once, and not by many at a time
    order = {"method": "POST", "url": "/jobs", "json": {"kind": "train", "name": "a job", "spec": spec}}
    posts = [order | {"headers": {"Idempotency-Key": f"key {number}"}} for number in range(CROWD)]
    assert at_the_same_time(app, posts) == [201] * CROWD


def test_every_endpoint_with_a_session_commits_it() -> None:
    modules = [import_module(f"api.routes.{module.name}") for module in iter_modules(api.routes.__path__)]
    routes = [route for module in modules for route in getattr(module, "router", APIRouter()).routes]
    found = [
        route
        for route in routes
        if isinstance(route, APIRoute) and any(need.name == "session" for need in route.dependant.dependencies)
    ]
    assert len(found) > 20
    assert [route for route in found if not isinstance(route, Transactional)] == []
