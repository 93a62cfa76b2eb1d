"""One job: what can be done to it, and what it looks like when the service returns it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic

from client.resources.job_results import JobResults, id_of
from client.resources.resource import Returned, until_ended
from client.transport.answers import parse
from client.transport.events import stream
from client.transport.flow import Flow, Item, Items, M, T, iteration, operation
from wire import jobs as of_wire
from wire.events import Event, EventKind, LogEvent
from wire.jobs import FINAL
from wire.logs import LogPage, StoredLine


class JobOperations(JobResults[M]):
    """What can be done to one job."""

    @operation
    def refresh(self) -> Flow[Job[M]]:
        """The job as it is now.

        >>> job.refresh().status
        'succeeded'
        """
        return (yield from self._read((yield from self._identify())))

    @operation
    def wait(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Job[M]], object] | None = None,
        interval: float = 1.0,
    ) -> Flow[Job[M]]:
        """Follow it to its end, and return it as it ended. `on_progress` sees it every `interval` seconds.

        A service that restarts meanwhile is waited for. With an async client `on_progress` may be a coroutine function.
        Raises: `TimeoutError` when it has not ended after `timeout` seconds; `Unreachable` when the service stays away.

        >>> job.wait(timeout=3600, on_progress=lambda now: print(now.status)).best_ap
        succeeded
        0.25
        """
        job = yield from self._identify()
        return (yield from until_ended(lambda: self._read(job), f"job {job}", FINAL, timeout, on_progress, interval))

    @operation
    def cancel(self) -> Flow[Job[M]]:
        """Discard it; a running one is cancelled as soon as its worker has stopped."""
        return (yield from self._act("cancel"))

    @operation
    def stop(self) -> Flow[Job[M]]:
        """End a training early as a success, with its best student."""
        return (yield from self._act("stop"))

    @operation
    def pause(self) -> Flow[Job[M]]:
        """Free the device; a running training publishes a checkpoint first."""
        return (yield from self._act("pause"))

    @operation
    def resume(self) -> Flow[Job[M]]:
        """Queue it again once it is paused, from its checkpoint."""
        return (yield from self._act("resume"))

    @operation
    def retry(self) -> Flow[Job[M]]:
        """Its retry, where it failed or was cancelled: a new job, from its last checkpoint, or the one there is."""
        return (yield from self._act("retry"))

    @operation
    def delete(self) -> Flow[None]:
        """Delete it, once it is at its end, with its reports and artifacts."""
        yield from self._connection.send("DELETE", f"/jobs/{yield from self._identify()}")

    @iteration
    def events(self, *, kinds: Sequence[EventKind] = (), after: int = 0) -> Items[Event]:
        """All that has happened to it behind the event `after`, then each event as it comes, until it ends.

        Over broken connections and restarts of the service nothing is left out and nothing comes twice.

        >>> [event.data.to_status for event in job.events(kinds=["transition"])]
        ['queued', 'running', 'succeeded']
        """
        yield from self._events(list(kinds), after, lambda event: [event])

    @iteration
    def logs(self, *, tail: int = 200, follow: bool = False) -> Items[StoredLine]:
        """The last lines of its log; with `follow` also those that come, until it ends.

        >>> [line.text for line in job.logs(tail=1)]
        ['epoch 1: AP 0.250']
        """
        job = yield from self._identify()
        path, headers = f"/jobs/{job}/logs", {"accept": "application/json"}
        answer = yield from self._connection.send("GET", path, params={"tail": tail}, headers=headers)
        page = parse(LogPage, answer)
        for line in page.items:
            yield Item(line)
        if not follow:
            return

        def lines(event: Event) -> list[StoredLine]:
            sent = event.data.lines if isinstance(event.data, LogEvent) else []
            return [line for line in sent if line.number > page.total]

        yield from self._events(["log"], page.last_event, lines)

    def _events(self, kinds: list[EventKind], after: int, items: Callable[[Event], Iterable[T]]) -> Items[T]:
        # A service that was never reached, or a job that there is not, is told at once.
        job = (yield from self._read((yield from self._identify()))).id
        yield from stream(self._connection, f"/jobs/{job}/events", kinds, after, items)

    def _read(self, job: str) -> Flow[Job[M]]:
        answer = yield from self._connection.send("GET", f"/jobs/{job}")
        return Job.returned(self._connection, parse(of_wire.Job, answer))

    def _act(self, action: str) -> Flow[Job[M]]:
        answer = yield from self._connection.send("POST", f"/jobs/{yield from self._identify()}/{action}")
        return Job.returned(self._connection, parse(of_wire.Job, answer))


class JobRef(JobOperations[M]):
    """A job that is called somehow: by its id, the beginning of it, its name, or `@last`. It is looked up when used."""

    def __init__(self, connection: M, called: str) -> None:
        self._own = connection
        self.called = called

    @property
    def _connection(self) -> M:
        return self._own

    @operation
    def resolve(self) -> Flow[str]:
        """Its id. One that is given whole is given back as it is, whether there is such a job or not."""
        return (yield from self._identify())

    def _identify(self) -> Flow[str]:
        return (yield from id_of(self._own, self.called))


class JobSummary(Returned[M], of_wire.JobSummary, JobOperations[M], Generic[M]):
    """A job in a list."""

    def _identify(self) -> Flow[str]:
        yield from ()
        return self.id


class Job(JobSummary[M], of_wire.Job, Generic[M]):
    """A job with its specification, its history and its attempts."""


class SubmittedJob(Job[M], of_wire.SubmittedJob, Generic[M]):
    """A job that was posted just now, with what is good to know of it."""
