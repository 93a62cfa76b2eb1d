"""The service in Python: one method per endpoint, answers as the wire's own models.

client = Client("http://127.0.0.1:8470")
job = client.create_job(JobCreate(kind="train", name="teacher", spec=...))
job = client.wait(job.id)
client.weights(job.id, Path("student.safetensors"))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from client import audit
from client.events import StreamLost, stream
from client.result_calls import ResultCalls
from client.sweep_calls import SweepCalls
from client.transport import checked, parse, unreachable
from wire.audit import Finding, Progress, Summary
from wire.events import Event, EventKind, LogEvent
from wire.jobs import Preset
from wire.logs import LogPage, StoredLine
from wire.system import Health, PresetList, Ready
from wire.workers import WorkerList


class Client(ResultCalls, SweepCalls):
    """A service at `base_url`. Every method raises `ApiProblem` for a refusal and `Unreachable` for silence.

    Wherever a method takes a job or a sweep, it may be called by its id, by the beginning of its id (4 characters or
    more), by its name, or as `@last`: see `resolve`.

    Once the service has answered, a request is repeated for up to `patience` seconds while the service is away: a
    restart of the API interrupts nobody. All are safe to repeat; those that create carry an idempotency key. `token`
    is an API token, for a service that asks for one. `http` is used as it is and stays open.
    """

    # --- what happens to a job ---------------------------------------------------------------------------------------

    def events(self, job: str, *, kinds: Sequence[EventKind] = (), after: int = 0) -> Iterator[Event]:
        """All that has happened to a job behind the event `after`, then each event as it comes, until the job ends.

        Over broken connections and restarts of the service nothing is left out and nothing comes twice.
        """
        job = self.job(job).id  # a service that was never reached, or a job that there is not, is told at once
        path = f"/jobs/{job}/events"
        try:
            yield from stream(self._http, path, list(kinds), after, patience=self.patience, check=checked)
        except StreamLost as lost:
            raise unreachable(self.base_url, lost.error) from lost

    def logs(self, job: str, *, tail: int = 200, follow: bool = False) -> Iterator[StoredLine]:
        """The last lines of a job's log; with `follow` also those that come, until the job ends."""
        job = self.resolve(job)
        path, headers = f"/jobs/{job}/logs", {"accept": "application/json"}
        page = parse(LogPage, self._send("GET", path, params={"tail": tail}, headers=headers))
        yield from page.items
        if not follow:
            return
        for event in self.events(job, kinds=["log"], after=page.last_event):
            if isinstance(event.data, LogEvent):
                yield from (line for line in event.data.lines if line.number > page.total)

    # --- the service -------------------------------------------------------------------------------------------------

    def presets(self) -> list[Preset]:
        return parse(PresetList, self._send("GET", "/presets")).items

    def health(self) -> Health:
        """Whether the service answers, and its version."""
        return parse(Health, self._send("GET", "/health"))

    def health_and_date(self) -> tuple[Health, str | None]:
        """As `health`, and the date by the service's clock, as HTTP has it."""
        answer = self._send("GET", "/health")
        return parse(Health, answer), answer.headers.get("date")

    def ready(self) -> Ready:
        """What works of database, broker and storage. Raises `ApiProblem` (503) that names what does not."""
        return parse(Ready, self._send("GET", "/ready"))

    def workers(self) -> WorkerList:
        """The workers that were heard of within a week, and the API's data roots."""
        return parse(WorkerList, self._send("GET", "/workers"))

    def audit(self, *, verify: bool = False) -> Iterator[Finding | Progress | Summary]:
        """What the service's rows and files say differently, each as it is found, then a summary; for administrators.

        `verify` reads every file. Raises: `ClientError` when it breaks off before the summary.
        """
        self.health()  # a service that was never reached is told at once
        return audit.stream(self._http, verify, checked)
