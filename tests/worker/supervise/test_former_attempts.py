"""What an attempt finds on the disk of the attempts before it, and hands on."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from crosskd.spec.results.files import CHECKPOINTS, checkpoint_name, curves_name, samples_name
from tests.support.api_double import TOKEN, Double
from tests.support.worker_stack import claim
from wire.jobs import Failure
from wire.logs import LogBatch, LogLine
from wire.reports import Claim, CocoMetrics, EvaluationReport, MetricBatch, MetricPoint
from worker.deliver.client import AttemptClient, WorkerClient
from worker.deliver.spool import Record, Spool
from worker.folder import REPORTS, UNDELIVERED, Order, Outcome, WorkFolder, sweep
from worker.settings import Settings
from worker.supervise.former_attempts import FormerAttempts, has_undelivered
from worker.supervise.lease import Control
from worker.supervise.supervisor import Supervisor
from worker.training.reporter import Reporter

AT = datetime(2026, 1, 31, tzinfo=UTC)
CURVES, SAMPLES = curves_name("student", 7), samples_name("student", 7)
LATER_CURVES = curves_name("student", 8)
POINTS = MetricBatch(sequence=3, points=[MetricPoint(key="loss", step=step, value=1.0, at=AT) for step in (6, 7)])
ZERO = CocoMetrics(**dict.fromkeys(CocoMetrics.model_fields, 0))
EVALUATION = EvaluationReport(model="student", step=7, metrics=ZERO)
LINES = LogBatch(sequence=9, lines=[LogLine(at=AT, text="a line")])


def former(work: Path, number: int, job: str = "j", steps: tuple[int, ...] = (), reported: int = 100) -> WorkFolder:
    """A folder as an attempt leaves it that was killed while its files waited. `reported`: the step up to which its
    reports were taken."""
    folder = WorkFolder.create(work, f"{job}-{number}")
    claim = Claim(attempt=f"{job}-{number}", fencing_token=number, lease_seconds=30, job=job, kind="train", spec={})
    folder.write_order(Order(claim=claim, supervisor=1))
    (folder.run / CHECKPOINTS).mkdir(parents=True)
    for step in steps:
        path = folder.run / CHECKPOINTS / checkpoint_name(step)
        path.write_bytes(b"%d" % step)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    spool = Spool(folder.spool / REPORTS, 100_000)
    for record in map(Record.of, (MetricBatch(sequence=2), POINTS, EVALUATION, LINES)):
        spool.append(record)
    with spool.head():
        pass
    spool.note_reported(reported)
    spool.close()
    folder.staging.mkdir()
    (folder.staging / f"000001-{CURVES}").write_text("{}")
    (folder.staging / f"000004-{LATER_CURVES}").write_text("{}")
    (folder.staging / f"000003-{SAMPLES}").write_bytes(b"")
    (folder.staging / "000002-checkpoint-00000007.pt").write_bytes(b"7")
    folder.release(keep=True, undelivered=True)
    return folder


def test_the_newest_sound_checkpoint_of_the_job_is_found(tmp_path: Path) -> None:
    former(tmp_path, 1, steps=(5, 6))
    second = former(tmp_path, 2, steps=(7,))
    former(tmp_path, 1, job="another", steps=(9,))
    with FormerAttempts(tmp_path, "j") as found:
        assert found.newest is not None
        assert (found.newest.attempt, found.newest.step, found.newest.path.read_bytes()) == (2, 7, b"7")
        assert found.newest.reference.step == 7
        with FormerAttempts(tmp_path, "j") as locked:  # nobody takes from it meanwhile
            assert locked.newest is None
    (second.run / CHECKPOINTS / "checkpoint-00000007.pt").write_bytes(b"damaged")
    with FormerAttempts(tmp_path, "j") as found:
        assert found.newest is not None
        assert (found.newest.attempt, found.newest.step) == (1, 6)
        found.release(keep=False)
    assert [path.name for path in tmp_path.iterdir()] == ["another-1"]


def test_undelivered_files_are_kept_for_longer(tmp_path: Path) -> None:
    folder = former(tmp_path, 1)
    assert has_undelivered(folder)
    assert sweep(tmp_path, hours=0, undelivered_hours=720) == []
    assert sweep(tmp_path, hours=0, undelivered_hours=0) == [folder.path]


def test_a_later_attempt_counts_more_than_a_later_step(tmp_path: Path) -> None:
    """It may have begun before that step: what the former one made then is replaced."""
    former(tmp_path, 1, steps=(5, 90))
    former(tmp_path, 2, steps=(8,))
    with FormerAttempts(tmp_path, "j") as found:
        assert found.newest is not None
        assert (found.newest.attempt, found.newest.step) == (2, 8)


@pytest.mark.parametrize(("reported", "newest"), [(9, 7), (7, 7), (6, 5), (4, None)])
def test_where_reports_are_missing_nothing_is_gone_on_from(tmp_path: Path, reported: int, newest: int | None) -> None:
    """They are the former attempt's own: the series would have a hole."""
    former(tmp_path, 1, steps=(5, 7), reported=reported)
    with FormerAttempts(tmp_path, "j") as found:
        assert (found.newest.step if found.newest else None) == newest


def test_what_the_next_attempt_makes_no_more_is_delivered_by_it(
    tmp_path: Path, double: Double, attempt: AttemptClient, folder: WorkFolder
) -> None:
    """The checkpoint that it goes on from, so that another worker can, too, and files of the evaluations before it."""
    former(tmp_path / "former", 1, steps=(5, 7))
    with FormerAttempts(tmp_path / "former", "j") as found:
        found.hand_over(folder)
    Reporter(attempt, folder, lambda: None, spool_megabytes=1).close(60)
    sent = {name: query for name, query, _ in double.uploads}
    checkpoint = checkpoint_name(7)
    assert sent == {
        CURVES: {"kind": "curves", "step": "7"},
        SAMPLES: {"kind": "samples", "step": "7"},
        checkpoint: {"kind": "checkpoint", "step": "7"},
    }
    assert list(sent)[-1] == checkpoint
    assert list(folder.inherited.iterdir()) == []


@pytest.mark.parametrize("delivered", [True, False])
def test_an_attempt_that_failed_since_its_files_were_refused_is_gone_on_from(
    tmp_path: Path,
    double: Double,
    http: httpx.Client,
    attempt: AttemptClient,
    monkeypatch: pytest.MonkeyPatch,
    delivered: bool,
) -> None:
    """For longer than the worker waits; of one that failed otherwise a file may just have been on its way."""

    def fail(_: Supervisor, folder: WorkFolder) -> Outcome:
        folder.staging.mkdir()
        (folder.staging / f"000001-{checkpoint_name(7)}").touch()
        failure = Failure(failure_class="infrastructure", message="uploads were not taken")
        return Outcome(outcome="failed", delivered=delivered, failure=failure)

    monkeypatch.setattr(Supervisor, "_train", fail)
    settings = Settings(api_url=double.url, worker_token=TOKEN, home=tmp_path, devices="cpu", data_roots=[tmp_path])
    order = Claim.model_validate(claim("j", {}))
    Supervisor(order, WorkerClient(http), attempt, settings, Control(), FormerAttempts(settings.work, "j")).run()
    assert (settings.work / order.attempt / UNDELIVERED).exists() == (not delivered)
