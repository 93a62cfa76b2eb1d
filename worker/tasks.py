"""The one Celery task: a job was dispatched."""

from __future__ import annotations

import logging
import re

from celery import Task
from structlog.contextvars import bound_contextvars

from wire import tracing
from wire.process_log import request_id
from wire.tasks import RUN_JOB
from worker.app import app, settings, shutdown_notice
from worker.supervise import supervisor
from worker.supervise.supervisor import Origin

logger = logging.getLogger(__name__)

_JOB = re.compile(r"[A-Za-z0-9_-]{1,64}")


@app.task(name=RUN_JOB, bind=True)  # type: ignore[untyped-decorator]  # celery ships no types
def run_job(task: Task, job_id: str) -> None:
    """Work on the job, if it is still to be had."""
    if not isinstance(job_id, str) or not _JOB.fullmatch(job_id):
        logger.error("a message names %r, which is no job's id", job_id)
        return
    headers = task.request.headers or {}
    origin = Origin(request_id(headers.get("request_id")), str(headers.get(tracing.TRACEPARENT, ""))[:55])
    with bound_contextvars(job=job_id, request_id=origin.request_id):
        tracing.start("crosskd-worker", settings.otel_endpoint)
        supervisor.run_job(job_id, settings, shutdown_notice, origin)
        tracing.flush()  # Celery's parent may end this process at any time
