"""The one Celery task: a bell rang for a job."""

from __future__ import annotations

import logging
import re

from api.schemas.tasks import RUN_JOB
from worker import supervisor
from worker.app import app, settings, shutdown_notice

logger = logging.getLogger(__name__)

_JOB = re.compile(r"[A-Za-z0-9_-]{1,64}")


@app.task(name=RUN_JOB)  # type: ignore[untyped-decorator]  # celery ships no types
def run_job(job_id: str) -> None:
    """Work on the job, if it is still to be had."""
    if not isinstance(job_id, str) or not _JOB.fullmatch(job_id):
        logger.error("a message names %r, which is no job's id", job_id)
        return
    supervisor.run_job(job_id, settings, shutdown_notice)
