"""Machines that disagree about what time it is."""

from __future__ import annotations

import time

from tests.faults.processes import until
from tests.faults.proxy import Cut
from tests.faults.scene import Injected, Scene
from tests.faults.stack import CLOCK, LEASE, WORKERS

HOUR = 3600.0


def wrong_clock(scene: Scene) -> Injected:
    """A worker is restarted normally with a clock that is an hour off, works, and is restarted with the right one."""
    name = scene.pick(WORKERS)
    offset = scene.random.choice((-HOUR, HOUR))
    with scene.stack.holding(name):
        scene.stack.restart(name, PYTHONPATH=str(CLOCK), FAULTS_CLOCK_OFFSET=str(offset))
        try:
            if scene.alone:
                others = [f"{other}:broker" for other in WORKERS if other != name]
                with scene.stack.proxy.troubled(Cut(), *others):
                    job = scene.load.post()
                    until(lambda: _off(scene, job), 120, "a metric with a wrong time")
                until(lambda: scene.load.statuses()[job] == "succeeded", 240, "the end of its job")
            else:
                time.sleep(4 * LEASE)
        finally:
            scene.stack.restart(name, PYTHONPATH="", FAULTS_CLOCK_OFFSET="")
    return Injected(f"{name}, by {offset:+.0f} s", lambda: not scene.alone or _off(scene, job))


def _off(scene: Scene, job: str) -> bool:
    """Whether points of a job tell of another time than the database's."""
    return bool(
        scene.stack.postgres.rows(
            "SELECT 1 FROM metric_points p JOIN attempts a ON a.id = p.attempt_id"
            " WHERE a.job_id = %(job)s AND abs(extract(epoch FROM p.at - a.started_at)) > 1800 LIMIT 1",
            job=job,
        )
    )
