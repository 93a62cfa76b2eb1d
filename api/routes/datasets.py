"""Data sets: import, list, read, delete. An import is a job like any other."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.openapi.models import Example

from api.auth import CallerDep
from api.database import DatabaseDep, ReadDep, SessionDep
from api.http.idempotent import IdempotencyDep, IdempotentRoute
from api.http.listed import OwnerFilter
from api.services.datasets import answers, versions
from api.services.submission.submit import submit_import
from api.storage import StorageDep
from crosskd.spec.results.dataset_comparison import DatasetComparison
from wire.datasets import NAME_PATTERN, Dataset, DatasetCreate, DatasetPage, DatasetVersionDetail
from wire.jobs import DryRun, SubmittedJob
from wire.tokens import ME

router = APIRouter(tags=["datasets"], route_class=IdempotentRoute)

_EXAMPLES: dict[str, Example] = {
    "folder": {
        "summary": "A folder in a data root, divided anew",
        "value": {"name": "cells", "source": "/data/cells", "split": {"validation": 0.2, "seed": 0}},
    },
}


@router.post(
    "/datasets",
    status_code=HTTPStatus.CREATED,
    dependencies=[IdempotencyDep],
    responses={
        200: {"model": DryRun, "description": "With `dry_run=true`: the import's job as it would be stored."},
        201: {"headers": {"Location": {"schema": {"type": "string"}}}},
    },
)
def create_dataset(
    order: Annotated[DatasetCreate, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    response: Response,
    session: SessionDep,
    storage: StorageDep,
    caller: CallerDep,
    dry_run: Annotated[bool, Query(description="Validate, fill in every default, store nothing.")] = False,
) -> SubmittedJob | DryRun:
    """Import a data set: a job of kind `import`, which makes a version when it succeeds."""
    answer = submit_import(session, request.app.state.settings, storage, order, caller.owner, dry_run=dry_run)
    if isinstance(answer, DryRun):
        response.status_code = HTTPStatus.OK
    else:
        response.headers["Location"] = f"/jobs/{answer.id}"
    return answer


@router.get("/datasets")
def list_datasets(
    session: ReadDep,
    caller: CallerDep,
    owner: OwnerFilter = None,
    after: Annotated[
        str | None,
        Query(
            description="The name of the last data set of the page before.",
            json_schema_extra={"pattern": NAME_PATTERN},
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Data sets in a page.")] = 50,
) -> DatasetPage:
    """Data sets, by name."""
    return answers.page(session, after=after, limit=limit, owner=caller.owner if owner == ME else owner)


@router.get("/datasets/{dataset}")
def get_dataset(dataset: str, session: ReadDep) -> Dataset:
    """A data set with its versions, the last imported first."""
    return answers.detail(session, dataset)


@router.get("/datasets/{dataset}/versions/{digest}")
def get_dataset_version(dataset: str, digest: str, database: DatabaseDep, storage: StorageDep) -> DatasetVersionDetail:
    """A version, by its digest or at least six digits of its beginning, with the report of its import."""
    return answers.version(database, storage, dataset, digest)


@router.get("/datasets/{dataset}/versions/{digest}/compare")
def compare_dataset_versions(
    dataset: str,
    digest: str,
    database: DatabaseDep,
    storage: StorageDep,
    other: Annotated[
        str, Query(alias="with", description="The digest of another version, or at least six digits of its beginning.")
    ],
) -> DatasetComparison:
    """What changed from a version to the one that `with` names: classes, images, boxes, faults, duplicates.

    Reports are compared, so numbers alone differ; `images` is null.
    """
    return answers.comparison(database, storage, dataset, digest, other)


@router.delete("/datasets/{dataset}", status_code=HTTPStatus.NO_CONTENT)
def delete_dataset(dataset: str, session: SessionDep) -> None:
    """Forget a data set with all versions, when no unfinished job reads or imports it. Its images stay."""
    versions.remove(session, dataset)
