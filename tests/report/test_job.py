"""What a report makes of a job's record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from report.job import Record, build, gap_closed
from tests.support import job_records as records


def test_the_best_student_stands_beside_its_teacher_and_itself_alone() -> None:
    measured = records.evaluation("student", 20, 0.2, classes={"cat": 0.2, "dog": 0.2})
    alone = Record(records.job("train"), [measured], curves={"student": records.curves("student")})
    report = build(records.distilled(records.job()), alone)
    assert [(one.role, one.step, one.metrics and one.metrics.AP) for one in report.detectors] == [
        ("teacher", 0, 0.4),
        ("alone", 20, 0.2),
        ("student", 20, 0.35),
    ]
    assert report.compared_with == "alone"
    assert report.gap_closed == pytest.approx(0.75)
    ap, *_, large = (next(row for row in report.numbers if row.name == name) for name in ("AP", "APl"))
    assert (ap.values, ap.difference) == ({"teacher": 0.4, "alone": 0.2, "student": 0.35}, pytest.approx(0.15))
    assert (set(large.values.values()), large.difference) == ({None}, None)  # -1: nothing to measure
    assert [(row.name, row.difference) for row in report.classes] == [
        ("cat", pytest.approx(-0.05)),
        ("dog", pytest.approx(0.15)),
        ("elk", None),
    ]
    student = report.detectors[-1]
    assert (student.parameters, student.megabytes, student.gflops, student.milliseconds) == (123456, 0.5, 3.2, 12.3)
    assert report.digests == {"val annotations": "d" * 64}
    assert (report.seed, report.versions, report.missing) == (3, {"torch": "2.9"}, [])


def test_without_the_student_alone_differences_are_to_the_teacher_and_it_is_named_as_missing() -> None:
    report = build(records.distilled(records.job()))
    assert report.compared_with == "teacher"
    assert report.numbers[0].difference == pytest.approx(-0.05)
    assert report.gap_closed is None
    assert [line.partition(":")[0] for line in report.missing] == ["the student alone"]


@pytest.mark.parametrize(
    ("student", "alone", "teacher", "share"),
    [
        (0.3, 0.2, 0.4, 0.5),
        (0.1, 0.2, 0.4, -0.5),
        (0.3, 0.4, 0.4, None),
        (0.3, 0.2, None, None),
        (-1.0, 0.2, 0.4, None),
    ],
)
def test_the_share_of_the_gap_needs_a_gap(
    student: float, alone: float | None, teacher: float | None, share: float | None
) -> None:
    assert gap_closed(student, alone, teacher) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (records.distilled(records.job()), "AP 0.350, its teacher 0.400. Whether distilling has helped cannot be told"),
        (
            replace(records.distilled(records.job()), sweep="b" * 32),
            f"AP 0.350, its teacher 0.400. Whether distilling has helped cannot be told from this job: its sweep "
            f"compares all of its seeds (GET /sweeps/{'b' * 32}/report, or crosskd report {'b' * 32}).",
        ),
        (records.distilled(records.job(status="running")), "The job is running; so far: AP 0.350"),
        (Record(records.job(status="queued")), "The job is queued; so far: nothing has been measured."),
        (Record(records.job("export")), "nothing has been measured by this job."),
        (Record(records.failed("no image")), "The job has failed: no image"),
        (Record(records.job(status="cancelled")), "The job was cancelled before its end."),
        (Record(records.job("train"), [records.evaluation("student", 3, 0.25)]), "AP 0.250."),
        (Record(records.job("train"), [records.evaluation("student", 3, -1.0)]), "there is no AP, for no box"),
        (
            Record(records.job(), [records.evaluation("student", 3, 0.25), records.evaluation("teacher", 0, -1.0)]),
            "AP 0.250. Whether",
        ),
    ],
)
def test_the_verdict_says_no_more_than_is_known(record: Record, verdict: str) -> None:
    assert build(record).verdict.startswith(verdict)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"student": 3, "versions": [], "seconds": "long"},
        {"student": {"latency": 1}},
        {"student": {"parameters": 10**400}, "seconds": 1e308},
        {"student": {"parameters": float("nan")}, "seconds": True},
    ],
)
def test_a_manifest_of_any_form_is_read(result: dict[str, object]) -> None:
    report = build(Record(records.job(), [records.evaluation("student", 3, 0.25)], result))
    assert (report.detectors[-1].parameters, report.seconds) == (None, None)
