"""`client.datasets`: import data sets, find them, compare their versions, forget them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.resources.job import SubmittedJob
from client.resources.resource import Resource
from client.transport.answers import PAGE, body, given, idempotency_header, parse, segment
from client.transport.flow import Flow, Item, Items, M, iteration, operation
from crosskd.spec.results.dataset_comparison import DatasetComparison
from wire import jobs as of_wire
from wire.datasets import Dataset, DatasetCreate, DatasetPage, DatasetSummary, DatasetVersionDetail


class Datasets(Resource[M]):
    """All data sets of a service. A version is named by its digest, or at least six digits of its beginning."""

    @operation
    def create(self, order: DatasetCreate | Mapping[str, Any], *, key: str | None = None) -> Flow[SubmittedJob[M]]:
        """Post the import of a data set: a job, which makes a version when it succeeds. `key` as of a job."""
        options = {"json": body(order), "headers": idempotency_header(key)}
        answer = yield from self._connection.send("POST", "/datasets", **options)
        return SubmittedJob.returned(self._connection, parse(of_wire.SubmittedJob, answer))

    @operation
    def get(self, name: str) -> Flow[Dataset]:
        """One data set with its versions, the last imported first."""
        return parse(Dataset, (yield from self._connection.send("GET", _path(name))))

    @operation
    def version(self, name: str, digest: str) -> Flow[DatasetVersionDetail]:
        """A version, with the report of its import."""
        return parse(DatasetVersionDetail, (yield from self._connection.send("GET", _path(name, digest))))

    @operation
    def compare(self, name: str, before: str, after: str) -> Flow[DatasetComparison]:
        """What changed from one version to another."""
        path = f"{_path(name, before)}/compare"
        return parse(DatasetComparison, (yield from self._connection.send("GET", path, params={"with": after})))

    @operation
    def delete(self, name: str) -> Flow[None]:
        """Forget a data set with all versions; its images stay where they are."""
        yield from self._connection.send("DELETE", _path(name))

    @iteration
    def list(self, *, owner: str | None = None) -> Items[DatasetSummary]:
        """All data sets by name, page by page."""
        params = given(limit=PAGE, owner=owner)
        while True:
            page = parse(DatasetPage, (yield from self._connection.send("GET", "/datasets", params=params)))
            for known in page.items:
                yield Item(known)
            if not page.has_more or not page.items:
                return
            params["after"] = page.items[-1].name


def _path(name: str, digest: str | None = None) -> str:
    version = "" if digest is None else f"/versions/{segment(digest)}"
    return f"/datasets/{segment(name)}{version}"
