"""What a `Client` does with sweeps: post, find, follow, steer, show and delete them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from client import charts, references
from client.returned import Charts, SubmittedSweep, Sweep, SweepSummary
from client.transport import PAGE, Transport, body, given, idempotency_header, parse
from wire import sweeps as of_wire
from wire.sweeps import ENDED, SweepCreate, SweepDryRun, SweepPage

if TYPE_CHECKING:
    from report.charts.parts import AnyChart


class SweepCalls(Transport, Charts):
    """Methods of a `Client`."""

    def create_sweep(self, sweep: SweepCreate | Mapping[str, Any], *, key: str | None = None) -> SubmittedSweep:
        """Post arms to compare: all of their jobs, or none. `key` as in `create_job`."""
        headers = idempotency_header(key)
        answer = self._send("POST", "/sweeps", json=body(sweep), headers=headers)
        return SubmittedSweep.returned(self, parse(of_wire.SubmittedSweep, answer))

    def dry_run_sweep(self, sweep: SweepCreate | Mapping[str, Any]) -> SweepDryRun:
        """The jobs as they would be made, and how long they would take; nothing is stored."""
        return parse(SweepDryRun, self._send("POST", "/sweeps", params={"dry_run": "true"}, json=body(sweep)))

    def resolve_sweep(self, sweep: str) -> str:
        """The id of the sweep that is called `sweep`, as `resolve` does it for jobs."""
        return references.resolve(sweep, self._newest_sweeps, "sweep")

    def _newest_sweeps(self, **filters: Any) -> list[of_wire.SweepSummary]:
        """As `_newest`, under filters of `GET /sweeps`."""
        return parse(SweepPage, self._send("GET", "/sweeps", params=filters)).items

    def sweep(self, sweep: str) -> Sweep:
        """With its jobs, what each arm has reached, and the verdicts."""
        return Sweep.returned(self, parse(of_wire.Sweep, self._send("GET", f"/sweeps/{self.resolve_sweep(sweep)}")))

    def sweeps(self, *, owner: str | None = None) -> Iterator[SweepSummary]:
        """All sweeps, newest first, page by page."""
        params = given(limit=PAGE, owner=owner)
        while True:
            page = parse(SweepPage, self._send("GET", "/sweeps", params=params))
            yield from (SweepSummary.returned(self, sweep) for sweep in page.items)
            if not page.has_more or not page.items:
                return
            params["after"] = page.items[-1].id

    def wait_sweep(
        self,
        sweep: str,
        on_update: Callable[[Sweep], None] | None = None,
        *,
        interval: float = 2.0,
        timeout: float | None = None,
    ) -> Sweep:
        """Follow a sweep until all of its jobs have ended, as `wait` does with a job."""
        deadline = None if timeout is None else time.monotonic() + timeout
        sweep = self.resolve_sweep(sweep)
        while True:
            current = self.sweep(sweep)
            if on_update is not None:
                on_update(current)
            if current.status in ENDED:
                return current
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"sweep {sweep} is still {current.status} after {timeout:g} s")
            time.sleep(interval)

    def cancel_sweep(self, sweep: str) -> Sweep:
        """Discard every job that has not ended."""
        return self._act_on_sweep(sweep, "cancel")

    def pause_sweep(self, sweep: str) -> Sweep:
        """Free the devices; running trainings publish a checkpoint first."""
        return self._act_on_sweep(sweep, "pause")

    def resume_sweep(self, sweep: str) -> Sweep:
        """Queue the paused jobs again."""
        return self._act_on_sweep(sweep, "resume")

    def retry_sweep(self, sweep: str) -> Sweep:
        """A new job in the place of each that failed or was cancelled, from its last checkpoint."""
        return self._act_on_sweep(sweep, "retry")

    def delete_sweep(self, sweep: str) -> None:
        """Delete a sweep whose jobs have all ended, with the jobs and all that they have made."""
        self._send("DELETE", f"/sweeps/{self.resolve_sweep(sweep)}")

    def _act_on_sweep(self, sweep: str, action: str) -> Sweep:
        answer = self._send("POST", f"/sweeps/{self.resolve_sweep(sweep)}/{action}")
        return Sweep.returned(self, parse(of_wire.Sweep, answer))

    def sweep_report(self, sweep: str, media_type: str = "text/html") -> str:
        """What the arms of a sweep reached, as a page that needs nothing else."""
        return self._text(f"/sweeps/{self.resolve_sweep(sweep)}/report", media_type)

    def sweep_chart(self, sweep: str, name: str = "differences") -> AnyChart:
        """As `chart`, of a sweep: differences, sweep_ap, sweep_classes. A sweep that this client has returned has the
        same as `sweep.chart("differences")`."""
        return charts.of_sweep(self.sweep(sweep), name)
