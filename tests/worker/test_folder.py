from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from wire.reports import Claim
from worker.folder import TAIL_CHARACTERS, Order, Outcome, WorkFolder, sweep

CLAIM = Claim(attempt="a", fencing_token=1, lease_seconds=30, job="j", kind="train", spec={"x": 1})


def age(path: Path, hours: float) -> None:
    then = time.time() - hours * 3600
    for entry in [*path.iterdir(), path]:
        os.utime(entry, (then, then))


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".", "a" * 65, "-x", "x\0"])
def test_an_attempt_cannot_lead_out_of_the_work_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no attempt's id"):
        WorkFolder.create(tmp_path, name)


def test_an_attempt_is_worked_on_once(tmp_path: Path, folder: WorkFolder) -> None:
    with pytest.raises(FileExistsError):
        WorkFolder.create(tmp_path / "work", folder.path.name)


def test_order_and_outcome_are_read_back(folder: WorkFolder) -> None:
    order = Order(claim=CLAIM, supervisor=12, resume=folder.resume)
    folder.write_order(order)
    assert folder.read_order() == order
    secret = "cka_" + "s" * 43
    folder.write_order(Order(claim=CLAIM.model_copy(update={"attempt_token": secret}), supervisor=12))
    assert folder.read_order() == Order(claim=CLAIM, supervisor=12)
    assert secret not in (folder.path / "claim.json").read_text()
    assert folder.read_outcome() is None
    folder.write_outcome(Outcome(outcome="succeeded", result={"AP": 0.5}))
    assert folder.read_outcome() == Outcome(outcome="succeeded", result={"AP": 0.5})


def test_the_log_tail_is_bounded(folder: WorkFolder) -> None:
    assert folder.log_tail() == []
    folder.output.write_bytes(b"\xff\0\n" + b"".join(b"line %d\n" % n for n in range(500)) + b"x" * 10_000)
    tail = folder.log_tail()
    assert len(tail) == 200
    assert tail[-2] == "line 499"
    assert len(tail[-1]) == TAIL_CHARACTERS


def test_success_leaves_nothing_and_failure_leaves_everything(tmp_path: Path) -> None:
    good, bad = (WorkFolder.create(tmp_path, name) for name in ("good", "bad"))
    good.release(keep=False)
    bad.release(keep=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_sweeping_spares_the_young_and_the_living(tmp_path: Path) -> None:
    old, young, alive = (WorkFolder.create(tmp_path, name) for name in ("old", "young", "alive"))
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (tmp_path / "link").symlink_to(outside)
    old.release(keep=True)
    young.release(keep=True)
    for folder in (old, alive):
        age(folder.path, 30)
    assert sweep(tmp_path, 24, 720) == [old.path]
    assert {path.name for path in tmp_path.iterdir()} == {"young", "alive", "link"}
    assert outside.is_dir()
    alive.release(keep=False)


def test_sweeping_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert sweep(tmp_path / "none", 1, 1) == []
