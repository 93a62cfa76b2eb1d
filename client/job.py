"""Jobs as a `Client` returns them: the wire's models, which can also be asked for their charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, cast

from pydantic import PrivateAttr

from client.errors import ClientError
from wire import jobs as wire

if TYPE_CHECKING:
    from report.charts.parts import AnyChart


class Charts(Protocol):
    """What draws charts of jobs: a `Client`."""

    def chart(self, job: str, name: str = "loss", *, alone: str | None = None) -> AnyChart: ...


class _Origin:
    """Who returned a job. Copies of the job share it; a pickle leaves it behind, as it leaves all connections."""

    def __init__(self, client: Charts | None = None) -> None:
        self.client = client

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[_Origin], tuple[()]]:
        return _Origin, ()


class JobSummary(wire.JobSummary):
    """A job in a list. It is serialised and compared as the wire's own model."""

    _origin: _Origin = PrivateAttr(default_factory=_Origin)

    @classmethod
    def returned(cls, client: Charts, job: wire.JobSummary) -> Self:
        """`job`, which is of the model of the wire that this one stands for, as `client` returns it."""
        made = cast("Self", cls.model_construct(job.model_fields_set, **job.__dict__))
        made._origin = _Origin(client)
        return made

    def chart(self, name: str = "loss", *, alone: str | None = None) -> AnyChart:
        """A chart of this job, as Altair's: a notebook shows it. It needs `pip install 'crosskd[charts]'`.

        `name`: loss, ap, lr, throughput, steps_per_second, gradient_norm, memory, classes, curves, cost. The service is
        asked anew, so the chart of a running job shows what it has reported by now.
        Raises: as `Client.chart`, and `ClientError` for a job that no `Client` has returned.
        """
        if (client := self._origin.client) is None:
            raise ClientError("This job came from no client.", remedy="Use the one that `Client.job` returns.")
        return client.chart(self.id, name, alone=alone)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, wire.JobSummary) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # as of all models that can be changed


class Job(JobSummary, wire.Job):
    """A job with its specification, its history and its attempts."""


class SubmittedJob(Job, wire.SubmittedJob):
    """A job that was posted just now, with what is good to know of it."""
