"""The verdict over a training of several processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from crosskd.data.demo import write_demo
from crosskd.engine.launch import RankEnd
from tests.support.api_double import TOKEN
from tests.support.worker_stack import claim, spec
from wire.jobs import Failure, FailureClass
from wire.reports import Claim
from worker.folder import Order, Outcome, WorkFolder
from worker.training.launch import judge
from worker.training.run import EXIT_FAILED, EXIT_LOST

# Ranks whose training ends with an error, and whose group, as NCCL's would, waits for the others when it is left. Each
# in a process of its own, which begins where torch is imported already.
FAILING = """
import atexit, os, runpy, sys, time
import torch.distributed as dist
import crosskd.runs.train
from crosskd.engine import distributed
from crosskd.errors import DataError

def fail(*_, **__):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    atexit.register(time.sleep, 300)
    if fault == "data":
        raise DataError("an image is broken")
    with distributed.detecting_lost_ranks():
        raise dist.DistBackendError("NCCL error: /dev/shm is full")

crosskd.runs.train.train = fail
for fault, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    child = os.fork()
    if child:
        print(fault, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.setsid()
    os.environ["CROSSKD_LAUNCHER"] = str(os.getppid())
    sys.argv = ["run", folder]
    runpy.run_module("worker.training.run", run_name="__main__")
    sys.exit("it has not ended")
"""
DONE, RELEASED, STALE = Outcome(outcome="succeeded"), Outcome(outcome="released"), Outcome(outcome="stale")


LOST = Outcome(outcome="failed", failure=Failure(failure_class="infrastructure", message="NCCL error: no memory"))


def failed(why: FailureClass) -> Outcome:
    return Outcome(outcome="failed", failure=Failure(failure_class=why, message=why))


def killed(rank: int) -> RankEnd:
    return RankEnd(rank, -9, 1.0)


def lost(rank: int) -> RankEnd:
    return RankEnd(rank, EXIT_LOST, 1.0)


@pytest.mark.parametrize(
    ("outcomes", "ends", "outcome", "rank"),
    [
        ({0: DONE, 1: DONE}, [], DONE, 0),
        ({0: RELEASED, 1: RELEASED}, [], RELEASED, 0),
        ({}, [], RELEASED, 0),  # they were stopped before they had begun
        ({0: STALE}, [killed(0), lost(1)], STALE, 0),
        ({1: failed("data")}, [lost(0), RankEnd(1, 1, 1.0)], failed("data"), 1),
        ({0: failed("diverged"), 1: failed("diverged")}, [RankEnd(1, 1, 1.0)], failed("diverged"), 0),
        ({0: RELEASED, 1: failed("out_of_memory")}, [RankEnd(1, 1, 1.0)], failed("out_of_memory"), 1),
        ({1: failed("infrastructure")}, [lost(0), RankEnd(1, 1, 2.0)], failed("infrastructure"), 1),
        # One that only lost another has a failure to tell, too: it counts where there is no other.
        ({0: LOST, 1: failed("infrastructure")}, [lost(0), RankEnd(1, 1, 2.0)], failed("infrastructure"), 1),
        ({0: LOST, 1: failed("data")}, [RankEnd(1, 1, 1.0), lost(0)], failed("data"), 1),
        ({0: LOST, 1: LOST}, [lost(1), lost(0)], LOST, 1),
        ({0: LOST, 1: RELEASED}, [lost(0)], LOST, 0),
    ],
)
def test_what_a_rank_says_decides(
    outcomes: dict[int, Outcome], ends: list[RankEnd], outcome: Outcome, rank: int
) -> None:
    assert judge(outcomes, ends, 2, 0) == (outcome, rank)


@pytest.mark.parametrize(
    ("outcomes", "ends", "rank", "message"),
    [
        ({}, [killed(1), lost(0)], 1, "rank 1 of 4 training processes was killed by signal 9 (SIGKILL)"),
        ({}, [lost(0), killed(2)], 2, "rank 2 of 4 training processes was killed by signal 9 (SIGKILL)"),
        ({0: LOST}, [lost(0), killed(2)], 2, "rank 2 of 4 training processes was killed by signal 9 (SIGKILL)"),
        # It was asked to stop because the other was dead, and did.
        ({0: RELEASED}, [killed(1)], 1, "rank 1 of 4 training processes was killed by signal 9 (SIGKILL)"),
        ({0: failed("infrastructure")}, [killed(1)], 1, "rank 1 of 4 training processes was killed by signal 9"),
        ({}, [RankEnd(3, 1, 1.0), lost(0)], 3, "rank 3 of 4 training processes exited with status 1"),
        ({}, [lost(2), lost(1)], 2, "rank 2 of 4 training processes exited with status 5"),
    ],
)
def test_a_rank_that_cannot_say_anything_is_told_by_its_end(
    outcomes: dict[int, Outcome], ends: list[RankEnd], rank: int, message: str
) -> None:
    outcome, decider = judge(outcomes, ends, 4, 0)
    assert (outcome.outcome, decider) == ("failed", rank)
    assert outcome.failure is not None
    assert outcome.failure.failure_class == "infrastructure"
    assert outcome.failure.message.startswith(message)


def test_a_rank_leaves_its_outcome_and_does_not_wait_for_the_others(tmp_path: Path) -> None:
    cases = {"data": (EXIT_FAILED, "an image is broken"), "nccl": (EXIT_LOST, "NCCL error: /dev/shm is full")}
    write_demo(tmp_path / "data", train=2, val=2, size=64, classes=2)
    claimed = claim("job", spec(tmp_path / "data", epochs=1), attempt="attempt-1", resume=None)
    with contextlib.ExitStack() as kept:
        folders = {}
        for fault in cases:
            folders[fault] = WorkFolder.create(tmp_path / "work", fault)
            kept.callback(folders[fault].release, keep=True)
            folders[fault].write_order(Order(claim=Claim.model_validate(claimed), supervisor=os.getpid()))
        settings = {"API_URL": "http://127.0.0.1:9", "WORKER_TOKEN": TOKEN, "HOME": tmp_path, "DATA_ROOTS": tmp_path}
        environment = os.environ | {f"CROSSKD_{name}": str(value) for name, value in settings.items()}
        environment |= {"CROSSKD_DEVICES": "cpu", "RANK": "1"}
        ranks = [argument for fault, folder in folders.items() for argument in (fault, str(folder.path))]
        command = [sys.executable, "-c", FAILING, *ranks]
        with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, text=True) as process:
            assert process.stdout is not None
            said = process.stdout.read()
        assert said.splitlines() == [f"{fault} {status}" for fault, (status, _) in cases.items()]
        for fault, (_, message) in cases.items():
            outcome = folders[fault].read_outcome(1)
            assert outcome is not None
            assert outcome.failure is not None
            assert message in outcome.failure.message
            assert any(message in line for line in folders[fault].log_tail(1))
