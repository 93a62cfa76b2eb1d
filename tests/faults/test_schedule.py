"""All faults in a random order while jobs keep coming: nothing that was accepted is lost, nothing runs twice."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.final_check import judge, told
from tests.faults.load import Load
from tests.faults.schedule import LANES, Schedule, lane
from tests.faults.stack import Stack

SECONDS = float(os.environ.get("CROSSKD_FAULTS_SECONDS") or 180)
SEED = int(os.environ.get("CROSSKD_FAULTS_SEED") or 1)
REPORT = os.environ.get("CROSSKD_FAULTS_REPORT")  # a file for the figures, as JSON
ON_THEIR_WAY = 4  # jobs: one more than there are workers


def test_a_lane_follows_from_its_seed_and_deals_every_fault() -> None:
    first = list(itertools.islice(lane(7, 0), 2 * len(FAULTS)))
    assert first == list(itertools.islice(lane(7, 0), 2 * len(FAULTS)))
    assert Counter(turn.fault for turn in first) == dict.fromkeys(FAULTS, 2)
    others = [list(itertools.islice(lane(seed, number), len(FAULTS))) for seed, number in ((7, 1), (8, 0))]
    assert all(first[: len(FAULTS)] != other for other in others)


@pytest.mark.faults
@pytest.mark.timeout(SECONDS + 900)
def test_no_schedule_of_faults_breaks_a_promise(stack: Stack, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()

    def say(line: str) -> None:
        with capsys.disabled():  # where something stands is seen while it runs, not three minutes later
            sys.stderr.write(f"\n{time.monotonic() - began:6.1f} s  {line}")  # a process of pytest-xdist has no output
            sys.stderr.flush()

    say(f"seed {SEED}, {SECONDS:g} s, {len(FAULTS)} faults in {LANES} lanes: CROSSKD_FAULTS_SEED={SEED} repeats it")
    schedule = Schedule(stack, load, SEED, SECONDS, say)
    with load.keeping(ON_THEIR_WAY):
        schedule.run()
    history, violations = judge(stack, load)
    jobs = Counter(job.status for job in history.jobs)
    figures = {
        "seed": SEED,
        "seconds": SECONDS,
        "faults": schedule.injected.total(),
        "faults_by_name": dict(sorted(schedule.injected.items())),
        "passed_over": schedule.passed_over.total(),
        "jobs": dict(jobs),
        "attempts": dict(Counter(attempt.status for attempt in history.attempts)),
        "points": len(history.points),
        "observations": len(load.seen.observations),
        "violations": list(map(str, violations)),
        "seconds_in_all": round(time.monotonic() - began, 1),
    }
    say(
        f"seed {SEED}: {figures['faults']} faults injected, {figures['passed_over']} passed over; {jobs.total()} jobs,"
        f" {len(history.attempts)} attempts, {len(history.points)} metric points; {len(violations)} violations\n"
    )
    if REPORT:
        Path(REPORT).write_text(json.dumps(figures, indent=2) + "\n")
    assert violations == [], told(violations)
    assert schedule.broken == []
    assert schedule.injected.total() >= SECONDS / 15, "so few faults prove little"
    assert set(jobs) == {"succeeded"}
