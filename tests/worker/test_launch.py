"""The verdict over a training of several processes."""

from __future__ import annotations

import pytest

from api.schemas.jobs import Failure, FailureClass
from crosskd.engine.launch import RankEnd
from worker.folder import Outcome
from worker.launch import judge
from worker.run import EXIT_LOST

DONE, RELEASED, STALE = Outcome(outcome="succeeded"), Outcome(outcome="released"), Outcome(outcome="stale")


def failed(why: FailureClass) -> Outcome:
    return Outcome(outcome="failed", failure=Failure(failure_class=why, message=why))


def killed(rank: int) -> RankEnd:
    return RankEnd(rank, -9, 1.0)


def lost(rank: int) -> RankEnd:
    return RankEnd(rank, EXIT_LOST, 1.0)


@pytest.mark.parametrize(
    ("told", "ends", "outcome", "rank"),
    [
        ({0: DONE, 1: DONE}, [], DONE, 0),
        ({0: RELEASED, 1: RELEASED}, [], RELEASED, 0),
        ({}, [], RELEASED, 0),  # they were stopped before they had begun
        ({0: STALE}, [killed(0), lost(1)], STALE, 0),
        ({1: failed("data")}, [lost(0), RankEnd(1, 1, 1.0)], failed("data"), 1),
        ({0: failed("diverged"), 1: failed("diverged")}, [RankEnd(1, 1, 1.0)], failed("diverged"), 0),
        ({0: RELEASED, 1: failed("out_of_memory")}, [RankEnd(1, 1, 1.0)], failed("out_of_memory"), 1),
        ({1: failed("infrastructure")}, [lost(0), RankEnd(1, 1, 2.0)], failed("infrastructure"), 1),
    ],
)
def test_what_a_rank_says_decides(told: dict[int, Outcome], ends: list[RankEnd], outcome: Outcome, rank: int) -> None:
    assert judge(told, ends, 2, 0) == (outcome, rank)


@pytest.mark.parametrize(
    ("told", "ends", "rank", "message"),
    [
        ({}, [killed(1), lost(0)], 1, "rank 1 of 4 training processes was killed by signal 9 (SIGKILL)"),
        ({}, [lost(0), killed(2)], 2, "rank 2 of 4 training processes was killed by signal 9 (SIGKILL)"),
        # It was asked to stop because the other was dead, and did.
        ({0: RELEASED}, [killed(1)], 1, "rank 1 of 4 training processes was killed by signal 9 (SIGKILL)"),
        ({0: failed("infrastructure")}, [killed(1)], 1, "rank 1 of 4 training processes was killed by signal 9"),
        ({}, [RankEnd(3, 1, 1.0), lost(0)], 3, "rank 3 of 4 training processes exited with status 1"),
        ({}, [lost(2), lost(1)], 2, "rank 2 of 4 training processes exited with status 5"),
    ],
)
def test_a_rank_that_cannot_say_anything_is_told_by_its_end(
    told: dict[int, Outcome], ends: list[RankEnd], rank: int, message: str
) -> None:
    outcome, decider = judge(told, ends, 4, 0)
    assert (outcome.outcome, decider) == ("failed", rank)
    assert outcome.failure is not None
    assert outcome.failure.failure_class == "infrastructure"
    assert outcome.failure.message.startswith(message)
