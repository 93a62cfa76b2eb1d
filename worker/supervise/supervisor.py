"""One attempt from claim to finish, seen from outside the training. Runs in Celery's pool process; imports no torch."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from threading import Event
from typing import NamedTuple

from structlog.contextvars import bound_contextvars

from wire import tracing
from wire.jobs import Failure
from wire.reports import Claim, ClaimRequest, FinishReport
from worker.deliver.client import AttemptClient, WorkerClient, connect, set_correlation_headers
from worker.deliver.retry import Abandoned, ApiError, BadDownload, Refused, Retry, StaleAttempt, Unreachable
from worker.folder import Order, Outcome, WorkFolder, sweep
from worker.settings import Settings
from worker.supervise.backoff import Backoff
from worker.supervise.former_attempts import FormerAttempts, has_undelivered
from worker.supervise.lease import Control, Lease
from worker.supervise.machine import devices, versions
from worker.supervise.process import TrainingProcess
from worker.supervise.shutdown import ShutdownNotice
from worker.supervise.trackers import Trackers, tell

logger = logging.getLogger(__name__)

CLAIM_PATIENCE = 10.0  # seconds; the API dispatches again a job that nobody claimed
STEP_PATIENCE = 10.0  # seconds between two looks at whether a finish report still matters


class Origin(NamedTuple):
    """The request that made a job, as the dispatch message tells of it; the claim tells it for certain."""

    request_id: str = ""
    traceparent: str = ""


UNKNOWN = Origin()
_backoff = Backoff()  # of this pool process, which works on one job after the other


def run_job(job: str, settings: Settings, notice: ShutdownNotice, origin: Origin = UNKNOWN) -> None:
    """Claim the job and see it through. A job that is not to be had is somebody else's: that is no error."""
    sweep(settings.work, settings.keep_failed_hours, settings.keep_undelivered_hours)
    _wait_for_backoff(notice)
    if notice.announced:
        return  # the API dispatches it again, and another worker answers
    with ExitStack() as stack:
        http = stack.enter_context(connect(str(settings.api_url), settings.worker_token.get_secret_value()))
        client = WorkerClient(http)
        former = stack.enter_context(FormerAttempts(settings.work, job))
        if (claim := _claim(job, client, settings, origin, former)) is None:
            return
        request_id = claim.request_id or origin.request_id
        parent = claim.traceparent or origin.traceparent
        with (
            bound_contextvars(request_id=request_id, attempt=claim.attempt),
            tracing.span("attempt", parent=parent, job=job, attempt=claim.attempt),
        ):
            set_correlation_headers(http, request_id)
            _run_attempt(claim, client, settings, notice, former)


def _claim(job: str, client: WorkerClient, settings: Settings, origin: Origin, former: FormerAttempts) -> Claim | None:
    """None where the job is not to be had."""
    request = ClaimRequest(
        worker=settings.worker_name,
        device=settings.devices,
        versions=versions(),
        devices=devices(settings),
        checkpoint_step=former.newest.step if former.newest is not None else None,
        checkpoint_attempt=former.newest.attempt if former.newest is not None else None,
    )
    try:
        with tracing.span("claim", "CONSUMER", origin.traceparent, job=job):
            set_correlation_headers(client.http, origin.request_id)
            claim = client.claim(job, request, Retry(patience=CLAIM_PATIENCE))
    except ApiError as exc:
        logger.warning("job %s could not be claimed: %s", job, exc)
        return None
    if claim is None:
        logger.info("job %s is not to be had", job)
    return claim


def _wait_for_backoff(notice: ShutdownNotice) -> None:
    stopping = Event()
    notice.subscribe(stopping.set)
    try:
        _backoff.wait(stopping)
    finally:
        notice.unsubscribe(stopping.set)


def _run_attempt(
    claim: Claim, client: WorkerClient, settings: Settings, notice: ShutdownNotice, former: FormerAttempts
) -> None:
    logger.info("job %s: attempt %s (%d)", claim.job, claim.attempt, claim.fencing_token)
    control = Control()

    def on_shutdown() -> None:
        control.request("shutdown")

    notice.subscribe(on_shutdown)
    began = time.monotonic()
    try:
        api = AttemptClient(client.http, claim.attempt, claim.fencing_token)
        report = Supervisor(claim, client, api, settings, control, former).run()
        machine_failed = report.failure is not None and report.failure.failure_class == "infrastructure"
        _backoff.record(machine_failed=machine_failed, seconds=time.monotonic() - began)
    finally:
        notice.unsubscribe(on_shutdown)


def _ranks(claim: Claim) -> int:
    """How many processes the job wants. A spec that says nonsense is refused by the training, in words."""
    wanted = claim.spec.get("gpus", 1) if claim.kind in ("train", "distill") else 1
    return wanted if isinstance(wanted, int) and wanted > 1 else 1


def _infrastructure(message: str) -> Failure:
    return Failure(failure_class="infrastructure", message=message)


def _failed(message: str) -> FinishReport:
    return FinishReport(outcome="failed", failure=_infrastructure(message))


class Supervisor:
    """Prepares a folder, runs the training in it, and reports how it ended, all while holding the lease."""

    def __init__(
        self,
        claim: Claim,
        client: WorkerClient,
        api: AttemptClient,
        settings: Settings,
        control: Control,
        former: FormerAttempts,
    ) -> None:
        self._claim = claim
        self._client = client
        self._api = api
        self._settings = settings
        self._control = control
        self._former = former
        self._trackers = Trackers(claim, settings, control)

    def run(self) -> FinishReport:
        """See it through; how it ended, as the API was told, or would have been."""
        lease = Lease(
            self._api,
            self._control,
            lease_seconds=self._claim.lease_seconds,
            heartbeat_seconds=self._settings.heartbeat_seconds,
            devices=lambda: devices(self._settings),
        )
        lease.start()
        folder, keep, undelivered = None, True, False
        try:
            folder = WorkFolder.create(self._settings.work, self._claim.attempt)
            outcome = self._train(folder)
            report = self._report_of(outcome, folder)
            tell(self._api, self._trackers.end(report.outcome))
            reported = self._finish(report)
            # A heartbeat that finds the attempt ended makes it stale, too: what counts is how its end was taken.
            wanted = reported or not self._control.stale
            goes_on = report.outcome == "released" or (report.outcome == "failed" and not outcome.delivered)
            undelivered = goes_on and wanted and has_undelivered(folder)
            keep = not reported or report.outcome == "failed" or undelivered
            self._former.release(keep=not reported or report.outcome in ("failed", "released"))
        except (OSError, ValueError) as exc:
            logger.exception("job %s could not be worked on", self._claim.job)
            report = _failed(f"{type(exc).__name__}: {exc}")
            self._finish(report)
        finally:
            lease.stop()
            self._trackers.kill()
            if folder is not None:
                folder.release(keep=keep, undelivered=undelivered)
        return report

    def _train(self, folder: WorkFolder) -> Outcome:
        """Fetch, start, watch. Whatever happens is an outcome."""
        try:
            order = self._prepare(folder)
        except Abandoned:
            return Outcome(outcome="released")
        except (Refused, Unreachable, BadDownload) as exc:
            return Outcome(outcome="failed", failure=_infrastructure(f"the job's files could not be fetched: {exc}"))
        order.notes, order.tracked = self._trackers.notes, self._trackers.start(folder)
        folder.write_order(order)
        if self._former.newest is not None and order.resume == self._former.newest.path:
            self._former.hand_over(folder)  # only now: without its order nobody would find them there
        if self._control.halt.is_set():
            return Outcome(outcome="released")
        process = TrainingProcess(folder, self._settings, self._claim.attempt_token, _ranks(self._claim))
        try:
            status = process.watch(self._control, self._settings.grace_seconds)
        finally:
            process.kill()  # also where the watch broke off: nobody else would, and the next job wants the device
        outcome = folder.read_outcome()
        if outcome is None and self._control.halt.is_set():
            return Outcome(outcome="released")  # we killed it ourselves when its grace was over
        return outcome or Outcome(outcome="failed", failure=process.failure(status))

    def _prepare(self, folder: WorkFolder) -> Order:
        """Find or download what the training starts from, verified."""
        order = Order(claim=self._claim, supervisor=os.getpid(), traceparent=tracing.traceparent())
        retry = Retry(patience=self._settings.outage_seconds, stop=self._control.halt)
        taken = -1 if self._claim.resume is None else self._claim.resume.step or 0
        newest = self._former.newest
        if newest is not None and newest.step > taken and newest.step == self._claim.resume_step:
            logger.info("job %s goes on from %s, which the API has not", self._claim.job, newest.path.name)
            order.resume = newest.path
            order.claim = self._claim.model_copy(update={"resume": newest.reference})  # the audit log tells of it
        elif self._claim.resume is not None:
            self._client.download(self._claim.resume, folder.resume, retry)
            # In the core's form, which looks once more: the disk may change what was right when it came.
            digest = f"{self._claim.resume.sha256}  {folder.resume.name}\n"
            folder.resume.with_name(folder.resume.name + ".sha256").write_text(digest)
            order.resume = folder.resume
        if self._claim.teacher is not None:
            self._client.download(self._claim.teacher, folder.teacher, retry)
            order.teacher = folder.teacher
        if self._claim.weights is not None:
            self._client.download(self._claim.weights, folder.weights, retry)
            order.weights = folder.weights
        if self._claim.init is not None:
            self._client.download(self._claim.init, folder.init, retry)
            order.init = folder.init
        for split, file in self._claim.annotations.items():
            folder.dataset.mkdir(exist_ok=True)
            order.annotations[split] = folder.dataset / f"{len(order.annotations)}.json"  # no name from outside
            self._client.download(file, order.annotations[split], retry)
        return order

    def _report_of(self, outcome: Outcome, folder: WorkFolder) -> FinishReport:
        """The outcome in the light of what was asked for."""
        if outcome.outcome == "stale":
            self._control.request("stale")
        if outcome.outcome == "succeeded":
            return FinishReport(outcome="succeeded", result=outcome.result)
        tail = folder.log_tail()
        if self._control.cancel:  # also when it failed: it may have failed of being stopped
            return FinishReport(outcome="cancelled", log_tail=tail)
        if outcome.outcome == "failed" and outcome.failure is not None:
            failure = outcome.failure.model_copy(update={"log_tail": tail})
            return FinishReport(outcome="failed", failure=failure)
        return FinishReport(outcome="released", log_tail=tail)

    def _finish(self, report: FinishReport) -> bool:
        """Report the end; false when the API did not take it: then the files here are all that tells of it."""
        deadline, refused = time.monotonic() + self._settings.outage_seconds, False
        while not self._control.stale:
            try:
                answer = self._api.finish(report, Retry(patience=STEP_PATIENCE))
            except StaleAttempt:
                break
            except Unreachable as exc:
                if time.monotonic() < deadline and not self._control.shutdown:
                    continue
                logger.error("job %s: its end could not be reported: %s", self._claim.job, exc)
                return False
            except Refused as exc:
                logger.exception("job %s: the API refuses the report of its end", self._claim.job)
                if refused:
                    return False
                # Told nothing, the API would give it up for lost, and nobody would learn why.
                refused, report = True, _failed(f"the API refused the report of its end, {report.outcome}: {exc}")
                continue
            logger.info("job %s: %s, now %s", self._claim.job, report.outcome, answer.status)
            return not refused
        logger.warning(
            "job %s: the attempt is another's; its files stay in %s for %g hours (CROSSKD_KEEP_FAILED_HOURS)",
            self._claim.job,
            self._settings.work / self._claim.attempt,
            self._settings.keep_failed_hours,
        )
        return False
