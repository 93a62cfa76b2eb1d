"""Jobs that were there before the table of what they need get their rows by the migration, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import insert, select

from api.database import Database
from api.models import Job, JobDependency
from api.services.jobs import dependencies

ROOT = Path(__file__).parents[2]
SPECS: dict[str, dict[str, Any]] = {
    "1": {"student": {"backbone": {}}, "teacher": None},
    "2": {"student": {"init": {"file": "x"}}, "teacher": {"weights": {"job": "a" * 32, "checkpoint": "best"}}},
    "3": {"student": {"init": {"job": "a" * 32, "checkpoint": "last"}}, "teacher": {"weights": {"job": "b" * 32}}},
    "4": {"weights": {"job": "c" * 32, "checkpoint": "best"}, "data": {"val": {}}},
    "5": {"weights": {"file": "y"}},
}


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'before.db'}"
    create: Callable[[str], str] = request.getfixturevalue("postgres")
    return create("dependencies")


def test_what_older_jobs_need_is_kept(url: str) -> None:
    config = Config(ROOT / "alembic.ini")
    config.attributes["url"] = url
    command.upgrade(config, "0007")
    database = Database(url)
    with database.transaction() as session:
        now = session.now()
        common = {"kind": "train", "name": "n", "labels": {}, "status": "queued", "spec_version": 1, "queue": "cpu"}
        times = {"created_at": now, "updated_at": now}
        rows = [{"id": number * 32, "spec": spec, **common, **times} for number, spec in SPECS.items()]
        session.execute(insert(Job.__table__), rows)  # not as objects: those know the columns of later migrations
    command.upgrade(config, "0008")
    with database.reading() as session:
        found = {(row.job_id[0], row.role, row.depends_on) for row in session.scalars(select(JobDependency))}
    database.close()
    named = {number: dependencies.named(spec) for number, spec in SPECS.items()}
    assert found == {(number, role, it["job"]) for number, roles in named.items() for role, it in roles.items()}
    assert len(found) == 4
