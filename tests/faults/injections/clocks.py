"""Machines that disagree about what time it is."""

from __future__ import annotations

import time

from tests.faults.injection_context import Injected, InjectionContext
from tests.faults.processes import until
from tests.faults.proxy import Cut
from tests.faults.stack import CLOCK, LEASE, WORKERS

HOUR = 3600.0


def wrong_clock(context: InjectionContext) -> Injected:
    """A worker is restarted normally with a clock that is an hour off, works, and is restarted with the right one."""
    name = context.pick(WORKERS)
    offset = context.random.choice((-HOUR, HOUR))
    with context.stack.holding(name):
        context.stack.restart(name, PYTHONPATH=str(CLOCK), FAULTS_CLOCK_OFFSET=str(offset))
        try:
            if context.alone:
                others = [f"{other}:broker" for other in WORKERS if other != name]
                with context.stack.proxy.troubled(Cut(), *others):
                    job = context.load.post()
                    until(lambda: _off(context, job), 120, "a metric with a wrong time")
                until(lambda: context.load.statuses()[job] == "succeeded", 240, "the end of its job")
            else:
                time.sleep(4 * LEASE)
        finally:
            context.stack.restart(name, PYTHONPATH="", FAULTS_CLOCK_OFFSET="")
    return Injected(f"{name}, by {offset:+.0f} s", lambda: not context.alone or _off(context, job))


def _off(context: InjectionContext, job: str) -> bool:
    """Whether points of a job tell of another time than the database's."""
    return bool(
        context.stack.postgres.rows(
            "SELECT 1 FROM metric_points p JOIN attempts a ON a.id = p.attempt_id"
            " WHERE a.job_id = %(job)s AND abs(extract(epoch FROM p.at - a.started_at)) > 1800 LIMIT 1",
            job=job,
        )
    )
