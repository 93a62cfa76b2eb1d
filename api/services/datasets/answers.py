"""Data sets as clients read them: lists, one with its versions, a version with its report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from sqlalchemy import func, select

from api.database import Database, Session
from api.errors import Conflict, Gone, NotFound, invalid_query
from api.models import DatasetVersion, NamedDataset
from api.services.datasets import versions
from api.services.files import artifacts
from api.storage import Storage
from crosskd.spec.results.dataset_comparison import DatasetComparison, compare_reports
from crosskd.spec.results.dataset_report import DatasetReport
from wire import datasets as wire

LISTED_JOBS = 100
LARGEST_REPORT = 64 << 20  # bytes


def page(session: Session, *, after: str | None, limit: int, owner: str | None) -> wire.DatasetPage:
    """By name, from behind the name `after`."""
    query = select(NamedDataset).order_by(NamedDataset.name).limit(limit + 1)
    if after is not None:
        if not re.fullmatch(wire.NAME_PATTERN, after):
            raise invalid_query("after", "is no data set's name", "Give the name of the last one of the page before.")
        query = query.where(NamedDataset.name > after)
    if owner is not None:
        query = query.where(NamedDataset.owner == owner)
    found = session.scalars(query).all()
    listed = found[:limit]
    counts, newest = _counts(session, listed), _newest(session, listed)
    items = [_summary(row, counts.get(row.name, 0), newest.get(row.name)) for row in listed]
    return wire.DatasetPage(items=items, has_more=len(found) > limit)


def detail(session: Session, name: str) -> wire.Dataset:
    """A data set with its versions. Raises `NotFound`."""
    row = versions.find(session, name)
    found = versions.newest_first(session, row.name, wire.MAX_VERSIONS)
    count = _counts(session, [row]).get(row.name, 0)
    return wire.Dataset(
        **dict(_summary(row, count, found[0] if found else None)),
        versions=[as_wire(version) for version in found],
        importing=list(versions.importing(session, row.name, LISTED_JOBS)),
    )


def version(database: Database, storage: Storage, name: str, digest: str) -> wire.DatasetVersionDetail:
    """A version with its report. Raises `NotFound`, `Conflict` as `versions.find_version`, and `Gone`."""
    with database.reading() as session:
        found = versions.find_version(session, name, digest)
    return wire.DatasetVersionDetail(**dict(as_wire(found)), name=found.name, report=_report(database, storage, found))


def comparison(database: Database, storage: Storage, name: str, before: str, after: str) -> DatasetComparison:
    """What the reports of two versions of a data set tell apart, each named by the beginning of its digest.

    Raises `NotFound`, `Conflict` and `Gone` as `version`, and `InvalidSpec` where `after` is at fault.
    """
    with database.reading() as session:
        first = versions.find_version(session, name, before)
        try:
            second = versions.find_version(session, name, after)
        except (NotFound, Conflict) as error:
            raise invalid_query("with", error.detail, error.remedy) from None
    return compare_reports(_report(database, storage, first), _report(database, storage, second))


def as_wire(version: DatasetVersion) -> wire.DatasetVersion:
    times = {"created_at": version.created_at, "imported_at": version.imported_at}
    return wire.DatasetVersion(**version.result, **times, job=version.job_id)


def _report(database: Database, storage: Storage, version: DatasetVersion) -> DatasetReport:
    found = artifacts.open_dataset_report(database, storage, version.job_id)
    with found.file as file:
        content = file.read(LARGEST_REPORT + 1)
    try:
        return DatasetReport.model_validate_json(content)
    except ValidationError:
        raise Gone(
            "the report of this version is not in the form that this API reads",
            remedy="Import the data set again: the same content is the same version, with a new report.",
        ) from None


def _summary(row: NamedDataset, count: int, newest: DatasetVersion | None) -> wire.DatasetSummary:
    return wire.DatasetSummary(
        name=row.name,
        owner=row.owner,
        created_at=row.created_at,
        version_count=count,
        newest=None if newest is None else as_wire(newest),
    )


def _counts(session: Session, rows: Sequence[NamedDataset]) -> Mapping[str, int]:
    names = [row.name for row in rows]
    query = select(DatasetVersion.name, func.count().label("number")).where(DatasetVersion.name.in_(names))
    return {row.name: row.number for row in session.execute(query.group_by(DatasetVersion.name))}


def _newest(session: Session, rows: Sequence[NamedDataset]) -> Mapping[str, DatasetVersion]:
    names = [row.name for row in rows]
    order = (DatasetVersion.imported_at.desc(), DatasetVersion.digest)
    place = func.row_number().over(partition_by=DatasetVersion.name, order_by=order).label("place")
    ranked = select(DatasetVersion.name, DatasetVersion.digest, place).where(DatasetVersion.name.in_(names)).subquery()
    query = (
        select(DatasetVersion)
        .join(ranked, (ranked.c.name == DatasetVersion.name) & (ranked.c.digest == DatasetVersion.digest))
        .where(ranked.c.place == 1)
    )
    return {version.name: version for version in session.scalars(query)}
