"""What workers call: make themselves known, claim a job, keep its lease, report, finish."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status
from starlette.concurrency import run_in_threadpool

from api.auth import FenceDep, WorkerDep
from api.database import DatabaseDep, SessionDep
from api.http.idempotent import IdempotencyDep, IdempotentRoute
from api.report_interval import MIN_SECONDS
from api.services.files import artifacts
from api.services.history import logs, reports
from api.services.jobs.journal import commands_topic
from api.services.lifecycle import attempts, workers
from api.storage import StorageDep
from wire.logs import LogBatch
from wire.reports import (
    INTERVAL_HEADER,
    Claim,
    ClaimRequest,
    Command,
    EvaluationReport,
    Finish,
    FinishReport,
    Heartbeat,
    MetricBatch,
    WorkerCommand,
)
from wire.workers import HeartbeatReport, Registration

router = APIRouter(prefix="/worker", tags=["worker"], dependencies=[WorkerDep], route_class=IdempotentRoute)

POLL_SECONDS = 1.0  # between two looks while no news come from other processes; should one get lost, a heartbeat tells


@router.post("/register", status_code=status.HTTP_204_NO_CONTENT)
def register_worker(body: Registration, session: SessionDep) -> None:
    """Note that a worker is there, with its devices and versions. The same again only says that it still is."""
    workers.register(session, body)


@router.post("/jobs/{job}/claim", dependencies=[IdempotencyDep])
def claim_job(
    job: str, body: ClaimRequest, request: Request, session: SessionDep, database: DatabaseDep, storage: StorageDep
) -> Claim:
    """Make an attempt of a queued job; one of several claims wins, the others get 409."""
    lost = artifacts.lost_checkpoints(database, storage, job)  # before the transaction, which waits for no bucket
    return attempts.claim(session, request.app.state.settings, job, body, lost)


@router.post("/attempts/{attempt}/heartbeat")
def renew_lease(
    fence: FenceDep, request: Request, session: SessionDep, report: HeartbeatReport | None = None
) -> Heartbeat:
    """Renew the lease, and tell how the worker's devices are, if it says so."""
    return attempts.heartbeat(session, request.app.state.settings, fence, report)


@router.get("/attempts/{attempt}/commands")
async def wait_for_command(
    fence: FenceDep,
    request: Request,
    database: DatabaseDep,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds that it may be held.")] = 20,
    known: Annotated[WorkerCommand | None, Query(description="The command that the worker has heard.")] = None,
) -> Command:
    """Held until there is another command than `known`, or the time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    waiting = await run_in_threadpool(attempts.read_command, database, fence)
    woken = asyncio.Event()
    with database.notifier.listening(commands_topic(waiting.job_id), lambda: loop.call_soon_threadsafe(woken.set)):
        while True:
            woken.clear()
            # Looked up once news are listened for: what came in between is not missed.
            waiting = await run_in_threadpool(attempts.read_command, database, fence)
            if waiting.command.command != known:
                return waiting.command
            while not woken.is_set():
                left = deadline - loop.time()
                if left <= 0 or request.app.state.closing.is_set() or await request.is_disconnected():
                    return waiting.command
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), min(left, POLL_SECONDS))
                if not database.notifier.connected:
                    break


@router.post("/attempts/{attempt}/metrics", status_code=status.HTTP_204_NO_CONTENT)
def report_metrics(
    batch: MetricBatch, fence: FenceDep, request: Request, response: Response, session: SessionDep
) -> None:
    """Store a batch of points, all or none; the same sequence again changes nothing.

    Where many workers report, `Report-Interval` asks each to gather its points for so many seconds.
    """
    reports.add_batch(session, fence, batch)
    if (seconds := request.app.state.report_intervals.next_interval(fence.attempt)) > MIN_SECONDS:
        response.headers[INTERVAL_HEADER] = f"{seconds:.1f}"


@router.post("/attempts/{attempt}/evaluations", status_code=status.HTTP_204_NO_CONTENT)
def report_evaluation(report: EvaluationReport, fence: FenceDep, session: SessionDep) -> None:
    """Store an evaluation; one of the same model and step changes nothing."""
    reports.add_evaluation(session, fence, report)


@router.post("/attempts/{attempt}/logs", status_code=status.HTTP_204_NO_CONTENT)
def report_log(batch: LogBatch, fence: FenceDep, request: Request, session: SessionDep) -> None:
    """Store lines of the log; the same sequence again changes nothing."""
    logs.add(session, fence, batch, request.app.state.settings.log_limit)


@router.post("/attempts/{attempt}/finish")
def finish_attempt(report: FinishReport, fence: FenceDep, request: Request, session: SessionDep) -> Finish:
    """End the attempt; the same report again gets the same answer."""
    return attempts.finish(session, request.app.state.settings, fence, report)
