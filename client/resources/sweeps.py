"""`client.sweeps`: post arms to compare, find sweeps, and do to each what can be done to it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from client import charts, frames, references, specs
from client import sweeps as orders
from client.frames import SweepTable
from client.resources.jobs import presets_of
from client.resources.resource import Resource, Returned, until_ended
from client.transport.answers import COMPUTED, PAGE, body, given, idempotency_header, parse
from client.transport.connection import Connection
from client.transport.flow import Connected, Flow, Item, Items, M, called, iteration, operation
from wire import sweeps as of_wire
from wire.sweeps import ENDED, SweepCreate, SweepDryRun, SweepPage

if TYPE_CHECKING:
    from report.charts.parts import AnyChart

Source = SweepCreate | Mapping[str, Any] | Path | str


class SweepOperations(Connected[M]):
    """What can be done to one sweep."""

    @abstractmethod
    def _identify(self) -> Flow[str]:
        """The sweep's id."""

    @operation
    def refresh(self) -> Flow[Sweep[M]]:
        """The sweep as it is now."""
        return (yield from self._read((yield from self._identify())))

    @operation
    def wait(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Sweep[M]], object] | None = None,
        interval: float = 2.0,
    ) -> Flow[Sweep[M]]:
        """Follow it until all of its jobs have ended, as `wait` of a job does.

        >>> sweep.wait(timeout=3600).status
        'finished'
        """
        sweep = yield from self._identify()
        return (
            yield from until_ended(lambda: self._read(sweep), f"sweep {sweep}", ENDED, timeout, on_progress, interval)
        )

    @operation
    def cancel(self) -> Flow[Sweep[M]]:
        """Discard every job that has not ended."""
        return (yield from self._act("cancel"))

    @operation
    def pause(self) -> Flow[Sweep[M]]:
        """Free the devices; running trainings publish a checkpoint first."""
        return (yield from self._act("pause"))

    @operation
    def resume(self) -> Flow[Sweep[M]]:
        """Queue the paused jobs again."""
        return (yield from self._act("resume"))

    @operation
    def retry(self) -> Flow[Sweep[M]]:
        """A new job in the place of each that failed or was cancelled, from its last checkpoint."""
        return (yield from self._act("retry"))

    @operation
    def delete(self) -> Flow[None]:
        """Delete it, once all of its jobs have ended, with the jobs and all that they have made."""
        yield from self._connection.send("DELETE", f"/sweeps/{yield from self._identify()}")

    @operation
    def report(self, media_type: str = "text/html") -> Flow[str]:
        """What its arms reached, as a page that needs nothing else."""
        path, headers = f"/sweeps/{yield from self._identify()}/report", {"accept": media_type}
        answer = yield from self._connection.send("GET", path, headers=headers, timeout=COMPUTED)
        return answer.text

    @operation
    def chart(self, name: str = "differences") -> Flow[AnyChart]:
        """As `chart` of a job, of a sweep: differences, sweep_ap, sweep_classes."""
        return charts.of_sweep((yield from self._read((yield from self._identify()))), name)

    def _read(self, sweep: str) -> Flow[Sweep[M]]:
        answer = yield from self._connection.send("GET", f"/sweeps/{sweep}")
        return Sweep.returned(self._connection, parse(of_wire.Sweep, answer))

    def _act(self, action: str) -> Flow[Sweep[M]]:
        answer = yield from self._connection.send("POST", f"/sweeps/{yield from self._identify()}/{action}")
        return Sweep.returned(self._connection, parse(of_wire.Sweep, answer))


class SweepRef(SweepOperations[M]):
    """A sweep that is called somehow, as `JobRef` is. It is looked up when it is used."""

    def __init__(self, connection: M, called: str) -> None:
        self._own = connection
        self.called = called

    @property
    def _connection(self) -> M:
        return self._own

    @operation
    def resolve(self) -> Flow[str]:
        """Its id, as `resolve` of a job."""
        return (yield from self._identify())

    def _identify(self) -> Flow[str]:
        def newest(**filters: Any) -> Flow[Sequence[of_wire.SweepSummary]]:
            return parse(SweepPage, (yield from self._own.send("GET", "/sweeps", params=filters))).items

        return (yield from references.resolve(self.called, newest, "sweep"))


class SweepSummary(Returned[M], of_wire.SweepSummary, SweepOperations[M], Generic[M]):
    """A sweep in a list."""

    def _identify(self) -> Flow[str]:
        yield from ()
        return self.id


class Sweep(SweepSummary[M], of_wire.Sweep, Generic[M]):
    """A sweep with its jobs, and what each of its arms has reached."""

    def table(self) -> SweepTable:
        """A row for each arm: what its jobs have reached by now, and whether it helps.

        >>> [(row.arm, row.verdict) for row in sweep.table()]
        [('alone', None), ('faster', 'helps')]
        >>> sweep.table().to_pandas().set_index("arm").round(3).loc["faster", ["ap", "difference"]].to_list()
        [0.325, 0.1]
        """
        return frames.of_sweep(self)


class SubmittedSweep(Sweep[M], of_wire.SubmittedSweep, Generic[M]):
    """A sweep that was posted just now, with what is good to know of it."""


class Sweeps(Resource[M]):
    """All sweeps of a service. Where a method takes a sweep as a text, that is as of a job: see `Jobs`."""

    @operation
    def create(
        self, sweep: Source, *, data: Path | str | None = None, key: str | None = None
    ) -> Flow[SubmittedSweep[M]]:
        """Post arms to compare: all of their jobs, or none.

        `sweep` is a mapping, a `SweepCreate`, or the path of a YAML file. `data` is the folder of a data set, for the
        base; `key` as of a job.

        >>> arms = {"alone": {}, "faster": {"optimizer": {"lr": 0.02}}}
        >>> posted = client.sweeps.create({"name": "once more", "base": spec, "arms": arms, "seeds": [0, 1]})
        >>> posted.jobs
        {'queued': 4}
        """
        order = yield from _order(self._connection, sweep, data)
        options = {"json": order, "headers": idempotency_header(key)}
        answer = yield from self._connection.send("POST", "/sweeps", **options)
        return SubmittedSweep.returned(self._connection, parse(of_wire.SubmittedSweep, answer))

    @operation
    def dry_run(self, sweep: Source, *, data: Path | str | None = None) -> Flow[SweepDryRun]:
        """The jobs as they would be made, and how long they would take; nothing is stored."""
        order = yield from _order(self._connection, sweep, data)
        answer = yield from self._connection.send("POST", "/sweeps", params={"dry_run": "true"}, json=order)
        return parse(SweepDryRun, answer)

    @operation
    def get(self, sweep: str) -> Flow[Sweep[M]]:
        """One sweep, with its jobs, what each arm has reached, and the verdicts.

        >>> client.sweeps.get("does it help?").baseline
        'alone'
        """
        return (yield from self.ref(sweep)._read((yield from self.ref(sweep)._identify())))

    def ref(self, sweep: str) -> SweepRef[M]:
        """A sweep to work with that is not asked for now."""
        return SweepRef(self._connection, sweep)

    @iteration
    def list(self, *, owner: str | None = None) -> Items[SweepSummary[M]]:
        """All sweeps, newest first, page by page.

        >>> [sweep.name for sweep in client.sweeps.list()][-1]
        'does it help?'
        """
        params = given(limit=PAGE, owner=owner)
        while True:
            page = parse(SweepPage, (yield from self._connection.send("GET", "/sweeps", params=params)))
            for sweep in page.items:
                yield Item(SweepSummary.returned(self._connection, sweep))
            if not page.has_more or not page.items:
                return
            params["after"] = page.items[-1].id

    resolve = called(SweepRef[M].resolve)
    wait = called(SweepOperations[M].wait)
    cancel = called(SweepOperations[M].cancel)
    pause = called(SweepOperations[M].pause)
    resume = called(SweepOperations[M].resume)
    retry = called(SweepOperations[M].retry)
    delete = called(SweepOperations[M].delete)
    report = called(SweepOperations[M].report)
    chart = called(SweepOperations[M].chart)


def _order(connection: Connection, sweep: Source, data: Path | str | None) -> Flow[Any]:
    """The body of `POST /sweeps`."""
    if isinstance(sweep, Path | str):
        presets = yield from presets_of(connection)
        folder = None if data is None else Path(data)
        return orders.read_order(Path(sweep), partial(specs.of_preset, presets), data=folder)
    order = body(sweep)
    if data is not None:
        order["base"] = {**(order.get("base") or {}), "data": specs.data_section(Path(data))}
    return order
