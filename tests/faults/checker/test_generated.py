"""Nothing is found whatever befalls the trainings of a service without a fault; one random wrong is always found."""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.faults.checker import check
from tests.faults.checker.plan import Plan, Try
from tests.faults.checker.rows import History
from tests.faults.checker.synthetic import Maker
from worker.training.audit_log import Ended

ENDINGS = ("lost", "failed", "released", "paused", "cancelled", "user", "succeeded")
HOUR = timedelta(hours=1)
MUTATIONS = ("drop", "double", "flip a byte", "flip a bit", "shift")
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@st.composite
def histories(draw: st.DrawFn) -> History:
    maker = Maker(max_resumes=draw(st.integers(0, 3)))
    for number in range(draw(st.integers(1, 3))):
        steps = draw(st.integers(1, 14))
        tries = st.builds(Try, st.integers(0, 14), st.sampled_from(ENDINGS), st.integers(0, 30))
        knobs = {name: draw(st.integers(1, 6)) for name in ("log_every", "checkpoint_every", "evaluate_every")}
        plan = Plan(f"job {number}", tuple(draw(st.lists(tries, max_size=6))), steps=steps, **knobs)
        if number and draw(st.booleans()):
            plan = replace(plan, needs=draw(st.sampled_from([job.id for job in maker.history.jobs])))
        former = maker.job(plan)
        (row,) = [job for job in maker.history.jobs if job.id == former]
        if row.status in ("failed", "cancelled") and draw(st.booleans()):
            numbers = {attempt.id: attempt.number for attempt in maker.history.attempts}
            kept = [row for row in maker.history.artifacts if row.job_id == former and row.kind == "checkpoint"]
            newest = max(kept, key=lambda row: (numbers[row.attempt_id], row.step), default=None)
            start = newest.step or 0 if newest else 0
            maker.job(replace(plan, name=f"retry {number}", retried_from=former, start_step=start,
                              tries=tuple(draw(st.lists(tries, max_size=3)))))  # fmt: skip
    return maker.history


@quick
@given(histories())
def test_nothing_is_found_where_all_went_right(history: History) -> None:
    assert [str(violation) for violation in check(history)] == []


def rows_that_must_be_there(history: History) -> list[tuple[list[Any], Any]]:
    """Each with its table. Left out is what may be missing: what was told too late, and what was replaced since."""
    whole = {
        audit_log.attempt_id
        for audit_log in history.audit_logs
        if isinstance(last := audit_log.records[-1], Ended) and last.delivered
    }
    reports: list[Any] = [history.points, history.evaluations]
    others: list[Any] = [
        history.jobs,
        history.dependencies,
        history.transitions,
        history.attempts,
        history.batches,
        history.events,
    ]
    found = [(table, row) for table in reports for row in table if row.attempt_id in whole]
    return found + [(table, row) for table in [*others, history.files] for row in table]


@quick
@given(histories(), st.sampled_from(MUTATIONS), st.data())
def test_one_random_wrong_is_found(history: History, mutation: str, data: st.DataObject) -> None:
    def chosen(rows: list[Any]) -> Any:
        assume(rows)
        return data.draw(st.sampled_from(range(len(rows))).map(rows.__getitem__), label=mutation)

    match mutation:
        case "drop":
            table, row = chosen(rows_that_must_be_there(history))
            table.remove(row)
        case "double":
            one_of = [history.points, history.batches, history.evaluations, history.events, history.transitions]
            table, row = chosen([(table, row) for table in [*one_of, history.attempts] for row in table])
            table.append(row)
        case "flip a byte":
            file = chosen(history.files)
            flipped = format(int(file.sha256[0], 16) ^ 1, "x") + file.sha256[1:]
            history.files[history.files.index(file)] = replace(file, sha256=flipped)
        case "flip a bit":
            point = chosen([point for point in history.points if point.value is not None])
            (bits,) = struct.unpack("<Q", struct.pack("<d", point.value))
            (value,) = struct.unpack("<d", struct.pack("<Q", bits ^ 1 << data.draw(st.integers(0, 51))))
            history.points[history.points.index(point)] = replace(point, value=value)
        case "shift":
            attempt = chosen(history.attempts)
            by = data.draw(st.sampled_from([-HOUR, HOUR]))
            history.attempts[history.attempts.index(attempt)] = replace(
                attempt, started_at=attempt.started_at + by, ended_at=attempt.ended_at + by
            )
    assert check(history) != []
