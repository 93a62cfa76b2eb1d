from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wire.logs import LogBatch, LogLine
from wire.reports import CocoMetrics, EvaluationReport, MetricBatch
from worker.deliver.spool import Record, Spool, SpoolFull

ZERO = dict.fromkeys(CocoMetrics.model_fields, 0.0)


def metrics(sequence: int) -> Record:
    return Record.of(MetricBatch(sequence=sequence))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    created = Spool(tmp_path / "spool" / "reports.jsonl", 1000)
    yield created
    created.close()


def test_records_come_out_as_they_went_in(spool: Spool) -> None:
    report = EvaluationReport(model="student", step=4, metrics=CocoMetrics(**ZERO), per_class={"a\nb\u2028é": 0.5})
    line = LogLine(at=datetime(2026, 1, 31, tzinfo=UTC), text="a b\tc")
    records = [metrics(0), Record.of(report), Record.of(LogBatch(sequence=0, lines=[line])), metrics(1)]
    assert [record.endpoint for record in records] == ["metrics", "evaluations", "logs", "metrics"]
    assert EvaluationReport.model_validate_json(records[1].body) == report
    for record in records:
        spool.append(record)
    taken = []
    for _ in records:
        with spool.head() as record:
            taken.append(record)
    assert taken == records
    with spool.head() as record:
        assert record is None


def test_a_record_stays_until_it_is_delivered(spool: Spool) -> None:
    spool.append(metrics(0))

    def deliver() -> None:
        with spool.head():
            raise OSError("no delivery")

    with pytest.raises(OSError, match="no delivery"):
        deliver()
    with spool.head() as record:
        assert record == metrics(0)
    assert len(spool) == 0


def test_records_may_come_while_one_is_delivered(spool: Spool) -> None:
    spool.append(metrics(0))
    with spool.head():
        spool.append(metrics(1))
    with spool.head() as record:
        assert record == metrics(1)


def test_space_is_bounded_and_comes_back(spool: Spool, tmp_path: Path) -> None:
    written = 0
    while True:
        try:
            spool.append(metrics(written))
        except SpoolFull:
            break
        written += 1
    file = tmp_path / "spool" / "reports.jsonl"
    assert written > 2
    assert file.stat().st_size <= 1000
    for sequence in range(written):
        with spool.head() as record:
            assert record == metrics(sequence)
    assert file.stat().st_size == 0
    spool.append(metrics(written))
