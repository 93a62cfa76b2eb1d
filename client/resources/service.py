"""What a client asks of the service itself: its presets, its workers, its state; comparisons of jobs; its audit."""

from __future__ import annotations

from collections.abc import Sequence

from client import audit, references
from client.resources.datasets import Datasets
from client.resources.job_results import id_of
from client.resources.jobs import Jobs, presets_of
from client.resources.resource import Resource
from client.resources.sweeps import Sweeps
from client.transport.answers import COMPUTED, given, parse
from client.transport.flow import Connected, Flow, Items, M, iteration, operation
from wire.audit import Finding, Progress, Summary
from wire.compare import Comparison
from wire.jobs import Preset
from wire.system import Health, Ready
from wire.workers import WorkerList


class Workers(Resource[M]):
    """The workers of a service."""

    @operation
    def list(self) -> Flow[WorkerList]:
        """The workers that were heard of within a week, and the API's data roots.

        >>> [(worker.name, worker.device) for worker in client.workers.list().items]
        [('w1', 'cpu')]
        """
        return parse(WorkerList, (yield from self._connection.send("GET", "/workers")))


class Presets(Resource[M]):
    """The ready-made configurations."""

    @operation
    def list(self) -> Flow[Sequence[Preset]]:
        """All of them, by name.

        >>> [preset.name for preset in client.presets.list() if preset.name.startswith("demo_c")]
        ['demo_crosskd']
        """
        return [*(yield from presets_of(self._connection)).values()]


class ServiceOperations(Connected[M]):
    """What can be asked of the service itself."""

    @operation
    def health(self) -> Flow[Health]:
        """Whether the service answers, and its version.

        >>> client.health().status
        'ok'
        """
        return parse(Health, (yield from self._connection.send("GET", "/health")))

    @operation
    def health_and_date(self) -> Flow[tuple[Health, str | None]]:
        """As `health`, and the date by the service's clock, as HTTP has it."""
        answer = yield from self._connection.send("GET", "/health")
        return parse(Health, answer), answer.headers.get("date")

    @operation
    def ready(self) -> Flow[Ready]:
        """What works of database, broker and storage. Raises: `ServiceFault` (503) that names what does not."""
        return parse(Ready, (yield from self._connection.send("GET", "/ready")))

    @operation
    def compare(self, jobs: Sequence[str], *, baseline: str | None = None) -> Flow[Comparison]:
        """How 2 to 8 jobs differ that were measured on the same images, with 95 % intervals.

        A job is called as in `Jobs`; with `:teacher` behind, it is its teacher. `baseline` is by default the first.
        The service needs seconds for an answer that nobody has asked for before.
        """

        def resolve(called: str) -> Flow[str]:
            return (yield from id_of(self._connection, called))

        ids = []
        for job in jobs:
            ids.append((yield from references.job_or_teacher(job, resolve)))
        params = given(job=ids)
        if baseline:
            params["baseline"] = yield from references.job_or_teacher(baseline, resolve)
        answer = yield from self._connection.send("GET", "/compare", params=params, timeout=COMPUTED)
        return parse(Comparison, answer)

    @iteration
    def audit(self, *, verify: bool = False) -> Items[Finding | Progress | Summary]:
        """What the service's rows and files say differently, each as it is found, then a summary; for administrators.

        `verify` reads every file. Raises: `ClientError` when it breaks off before the summary.
        """
        yield from self._connection.send("GET", "/health")  # a service that was never reached is told at once
        yield from audit.lines(verify)


class Service(ServiceOperations[M]):
    """A service, with a group of operations for each kind of thing that it has."""

    def __init__(self, connection: M) -> None:
        self._own = connection
        self.jobs = Jobs(connection)
        self.sweeps = Sweeps(connection)
        self.datasets = Datasets(connection)
        self.presets = Presets(connection)
        self.workers = Workers(connection)

    @property
    def _connection(self) -> M:
        return self._own

    @property
    def base_url(self) -> str:
        return self._own.base_url

    @property
    def patience(self) -> float:
        """Seconds for which a service that has answered before is waited for while it is away."""
        return self._own.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._own.patience = seconds
