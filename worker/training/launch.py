"""A training of several processes: `python -m worker.training.launch FOLDER RANKS` starts them by torchrun.

Each rank is a `worker.training.run` and leaves an outcome of its own; here they become the training's one. When a rank
dies, torchrun ends the others, and the outcome says which it was, with the end of its log.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from crosskd.engine.launch import RankEnd, RanksFailed, RanksStopped, launch
from worker.abnormal_exit import abnormal_exit, oom_kills
from worker.folder import Outcome, WorkFolder
from worker.orphan_guard import tie_to
from worker.settings import read_settings
from worker.training.run import EXIT_FAILED, EXIT_LOST, write_log

logger = logging.getLogger("worker.training.launch")

QUOTED_LINES = 100  # of the log of the rank that ended first: half of what is reported


def judge(
    outcomes: Mapping[int, Outcome], ends: list[RankEnd], ranks: int, oom_kills_before: int
) -> tuple[Outcome, int]:
    """The training's outcome and the rank that decided it.

    `outcomes` is what ranks said of their end, `ends` those that ended with an error, the first of them first. A rank
    that only lost another exits with `EXIT_LOST`, and what it says counts only where nobody knows better; torchrun's
    own signals to the rest come later.
    """
    lost = [end.rank for end in ends if end.status == EXIT_LOST]
    for rank, outcome in outcomes.items():
        if outcome.outcome == "stale":
            return outcome, rank
    failed = [
        (rank, outcomes[rank]) for rank in sorted(outcomes) if outcomes[rank].outcome == "failed" and rank not in lost
    ]
    for rank, outcome in failed:
        if outcome.failure is not None and outcome.failure.failure_class != "infrastructure":
            return outcome, rank
    silent = [end for end in ends if end.rank not in outcomes and end.status != EXIT_LOST]
    if silent:
        first = silent[0]
        failure = abnormal_exit(f"rank {first.rank} of {ranks} training processes", first.status, oom_kills_before)
        return Outcome(outcome="failed", failure=failure), first.rank
    if failed:
        return failed[0][1], failed[0][0]
    for rank in lost:
        if rank in outcomes:
            return outcomes[rank], rank
    if ends:
        failure = abnormal_exit(f"rank {ends[0].rank} of {ranks} training processes", ends[0].status, oom_kills_before)
        return Outcome(outcome="failed", failure=failure), ends[0].rank
    return outcomes.get(0, Outcome(outcome="released")), 0


def main(argv: list[str]) -> int:
    """Train what the folder's claim says in several processes. Returns the exit status."""
    folder, ranks = WorkFolder(Path(argv[1])), int(argv[2])
    order, settings = folder.read_order(), read_settings()
    write_log(settings, order.claim)
    tie_to(order.supervisor)
    before = oom_kills()
    ends: list[RankEnd] = []
    try:
        launch("worker.training.run", [argv[1]], ranks, grace=settings.grace_seconds, scratch=folder.path)
    except RanksStopped as exc:
        logger.info("all ranks have ended: %s", exc)
    except RanksFailed as exc:
        ends = exc.ends
        logger.error("the training has ended: %s", exc)
    outcomes = {rank: outcome for rank in range(ranks) if (outcome := folder.read_outcome(rank)) is not None}
    outcome, rank = judge(outcomes, ends, ranks, before)
    if outcome.outcome == "failed" and rank:
        lines = folder.log_tail(rank)[-QUOTED_LINES:]
        sys.stderr.write("\n".join([f"--- the end of what rank {rank} printed:", *lines, ""]))
        sys.stderr.flush()
    folder.write_outcome(outcome)
    return EXIT_FAILED if outcome.outcome == "failed" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
