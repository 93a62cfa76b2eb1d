"""The partitions that docs/scaling.md proposes: made by its own lines, on a real Postgres, and then worked on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, select, text, update

from api.auth import Fence
from api.database import Database
from api.models import Attempt, Base, Job, MetricPoint
from api.services.history import reports, series
from benchmarks.service import row_sizes
from tests.support.dockerfile import ROOT
from wire.reports import MetricBatch
from wire.reports import MetricPoint as Point

DOCUMENT = (ROOT / "docs" / "scaling.md").read_text()
NOW = datetime.now(UTC)
NEXT_MONTH = (NOW.replace(day=1) + timedelta(days=32)).replace(day=2)


@pytest.fixture
def database(postgres: Callable[[str], str]) -> Iterator[Database]:
    database = Database(postgres("scaling"))
    Base.metadata.create_all(database.engine)
    yield database
    database.close()


def train(database: Database, began: datetime) -> str:
    """Report two batches of a job that began then; its id."""
    made = f"{int(began.timestamp() * 1000):012x}" + "7" + "0" * 19
    with database.transaction() as session:
        job = Job(
            id=made, kind="train", name="x", labels={}, status="running", spec={}, spec_version=1, queue="cpu",
            created_at=began, updated_at=began,
        )  # fmt: skip
        session.add(job)
        session.flush()
        session.add(
            Attempt(
                id=made,
                job_id=made,
                number=1,
                status="running",
                worker="w",
                device="cpu",
                versions={},
                started_at=began,
                lease_expires_at=began,
                resumed_from_step=0,
            )
        )
    report(database, made)
    return made


def report(database: Database, job: str) -> None:
    """The same two batches, which are stored once."""
    for sequence in (0, 1):
        points = [Point(key="loss", step=sequence * 10 + step, value=1.0, at=NOW) for step in range(10)]
        with database.transaction() as session:
            reports.add_batch(session, Fence(job, 1, None), MetricBatch(sequence=sequence, points=points))


def places(database: Database) -> dict[str, int]:
    """Points by the partition that they lie in."""
    place = text("tableoid::regclass::text")
    with database.reading() as session:
        rows = session.execute(select(place, func.count()).select_from(MetricPoint).group_by(place)).all()
    return {row[0]: row[1] for row in rows}


def test_the_arithmetic_is_that_of_todays_tables(postgres: Callable[[str], str]) -> None:
    """A column or an index more, and the figures in the document are to be taken anew."""
    measured = row_sizes.measure(postgres("row_sizes"), jobs=1, batches=100)
    points = next(rate for rate in row_sizes.RATES if rate.what == "metric points")
    (told,) = re.findall(r"\| metric points \| [\d,]+ \| (\d+) \|", DOCUMENT)
    each = sum(measured.tables[name].bytes for name in points.tables) / measured.units[points.what]
    assert 0.6 * each < int(told) < 1.4 * each


def test_metric_points_in_partitions(database: Database) -> None:
    before = train(database, NOW)
    (script,) = re.findall(r"```sql\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(script)

    report(database, before)  # a worker that was running meanwhile sends again what was not answered
    after = train(database, NEXT_MONTH)
    late = train(database, NOW + timedelta(days=400))
    assert places(database) == {"metric_points_before": 20, "metric_points_next": 20, "metric_points_rest": 20}
    with database.reading() as session:
        for job in (before, after, late):
            page = series.page(session, job, keys=[], since_step=0, limit=100, attempt=None)
            assert [row.step for row in page.items] == list(range(20))
        plan = session.execute(text("EXPLAIN SELECT * FROM metric_points WHERE attempt_id = :id"), {"id": after}).all()
    assert "metric_points_next" in str(plan)
    assert "metric_points_before" not in str(plan)

    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == before).values(status="succeeded"))
        session.execute(delete(Job).where(Job.id == before))
    assert places(database) == {"metric_points_next": 20, "metric_points_rest": 20}
    with database.transaction() as session:
        session.execute(text("DROP TABLE metric_points_next"))
    assert places(database) == {"metric_points_rest": 20}
    with database.reading() as session:
        assert session.get(Job, after) is not None
