"""Jobs and sweeps as a `Client` returns them: the wire's models, which can also be asked for their charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, cast

from pydantic import BaseModel, PrivateAttr

from client.errors import ClientError
from wire import jobs, sweeps

if TYPE_CHECKING:
    from report.charts.parts import AnyChart


class Charts(Protocol):
    """What draws charts of jobs and sweeps: a `Client`."""

    def chart(self, job: str, name: str = "loss", *, alone: str | None = None) -> AnyChart: ...

    def sweep_chart(self, sweep: str, name: str = "differences") -> AnyChart: ...


class _Origin:
    """Who returned an answer. Its copies share it; a pickle leaves it behind, as it leaves all connections."""

    def __init__(self, client: Charts | None = None) -> None:
        self.client = client

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[_Origin], tuple[()]]:
        return _Origin, ()


class _Returned(BaseModel):
    """A model of the wire that knows which client has returned it. It is serialised and compared as the wire's own."""

    _origin: _Origin = PrivateAttr(default_factory=_Origin)

    @classmethod
    def returned(cls, client: Charts, answer: BaseModel) -> Self:
        """`answer`, which is of the model of the wire that this one stands for, as `client` returns it."""
        made = cast("Self", cls.model_construct(answer.model_fields_set, **answer.__dict__))
        made._origin = _Origin(client)
        return made

    def _client(self, what: str, method: str) -> Charts:
        if (client := self._origin.client) is None:
            raise ClientError(f"This {what} came from no client.", remedy=f"Use the one that `{method}` returns.")
        return client

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BaseModel) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # as of all models that can be changed


class JobSummary(_Returned, jobs.JobSummary):
    """A job in a list."""

    def chart(self, name: str = "loss", *, alone: str | None = None) -> AnyChart:
        """A chart of this job, as Altair's: a notebook shows it. It needs `pip install 'crosskd[charts]'`.

        `name`: loss, ap, lr, throughput, steps_per_second, gradient_norm, memory, classes, curves, cost. The service is
        asked anew, so the chart of a running job shows what it has reported by now.
        Raises: as `Client.chart`, and `ClientError` for a job that no `Client` has returned.
        """
        return self._client("job", "Client.job").chart(self.id, name, alone=alone)


class Job(JobSummary, jobs.Job):
    """A job with its specification, its history and its attempts."""


class SubmittedJob(Job, jobs.SubmittedJob):
    """A job that was posted just now, with what is good to know of it."""


class SweepSummary(_Returned, sweeps.SweepSummary):
    """A sweep in a list."""

    def chart(self, name: str = "differences") -> AnyChart:
        """As `Job.chart`, of this sweep: differences, sweep_ap, sweep_classes."""
        return self._client("sweep", "Client.sweep").sweep_chart(self.id, name)


class Sweep(SweepSummary, sweeps.Sweep):
    """A sweep with its jobs, and what each of its arms has reached."""


class SubmittedSweep(Sweep, sweeps.SubmittedSweep):
    """A sweep that was posted just now, with what is good to know of it."""
