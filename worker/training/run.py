"""The training process: `python -m worker.training.run FOLDER`, a fresh interpreter for every attempt.

It survives what a pool process would not (CUDA, loader processes) and can be killed at any moment. Where several
processes train together, each of them is one of these, started by `worker.training.launch`; rank 0 speaks to the API.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from crosskd.engine.imports import quick_imports
from crosskd.engine.launch import divert_output, exit_without_cleanup, launcher
from crosskd.errors import CrossKDError, Interrupted, RankLost
from crosskd.spec.config import EvaluateConfig, ExportConfig, Section, TrainConfig
from crosskd.spec.data.import_config import ImportConfig
from wire import process_log, tracing
from wire.jobs import SPECS, Failure
from wire.reports import Claim
from worker.deliver.client import AttemptClient, connect, set_correlation_headers
from worker.deliver.delivery import Undelivered
from worker.deliver.retry import ApiError
from worker.folder import Order, Outcome, WorkFolder
from worker.orphan_guard import end_at_once, tie_to
from worker.settings import Settings, read_settings
from worker.tracking.files import TrackingFolder
from worker.training.failures import describe, invalid_spec
from worker.training.paths import opened_paths

if TYPE_CHECKING:  # it imports torch
    from crosskd.engine.callbacks import Callback

logger = logging.getLogger("worker.training.run")

EXIT_FAILED = 1
EXIT_STALE = 4
EXIT_LOST = 5  # most likely another rank has ended, and knows why


class Lost(Outcome):
    """The end of a rank that a collective failed; it counts where no rank knows better."""


def train(
    order: Order, folder: WorkFolder, settings: Settings, stop: threading.Event, rank: int | None = None
) -> Outcome:
    """Run the training that `order` asks for and report it; whatever goes wrong becomes the outcome.

    `rank` is which process of several this is; None says there is one. The outcome is `Lost` where a collective failed.
    """
    with contextlib.ExitStack() as inputs:
        try:
            config = SPECS[order.claim.kind].model_validate(order.claim.spec)
            roots = inputs.enter_context(opened_paths(config, settings.data_roots, order.annotations))
            settings = settings.model_copy(update={"data_roots": roots})  # links followed: not to be again
        except ValidationError as exc:
            return Outcome(outcome="failed", failure=invalid_spec(exc))
        except CrossKDError as exc:
            return Outcome(outcome="failed", failure=describe(exc, order.claim.spec))
        if stop.is_set() and rank is None:  # ranks may have heard of it at different times: they stop together
            return Outcome(outcome="released")
        if rank:
            return _run(order, config, folder, settings, stop, [])
        with connect(str(settings.api_url), settings.worker_token.get_secret_value()) as http:
            set_correlation_headers(http, order.claim.request_id)
            api = AttemptClient(http, order.claim.attempt, order.claim.fencing_token, refusals=settings.outage_seconds)
            return _train(order, config, folder, settings, stop, api, rank)


def _train(
    order: Order,
    config: Section,
    folder: WorkFolder,
    settings: Settings,
    stop: threading.Event,
    api: AttemptClient,
    rank: int | None,
) -> Outcome:
    # Torch takes seconds to import: only now, when the signals are already heeded and the spec is known to be good.
    with quick_imports():
        from worker.training.audit_callback import AuditCallback
        from worker.training.control_files import ControlFiles
        from worker.training.reporter import MEGABYTE, Reporter
        from worker.training.tracking_callback import TrackingCallback

    def stale() -> None:
        folder.write_outcome(Outcome(outcome="stale"), rank)
        end_at_once(EXIT_STALE)

    audits = [AuditCallback(settings.audit_log, order.claim, settings.worker_name)] if settings.audit_log else []
    reporter = Reporter(api, folder, stale, spool_megabytes=settings.spool_megabytes)
    for note in order.notes:
        logger.warning("%s", note)
    requests = ControlFiles(folder)
    records = TrackingFolder(folder.tracking).records
    tracking = [TrackingCallback(records, settings.spool_megabytes * MEGABYTE)] if order.tracked else []
    outcome = _run(order, config, folder, settings, stop, [*audits, reporter, *tracking, requests])
    requests.close()
    for each in tracking:
        each.close()
    delivered = True
    try:
        reporter.close(settings.outage_seconds)
    except (ApiError, Undelivered, OSError) as exc:
        logger.exception("not everything reached the API")
        delivered = outcome.delivered = False
        if outcome.outcome == "succeeded":
            outcome = Outcome(outcome="failed", delivered=False, failure=describe(exc, order.claim.spec))
    for audit in audits:
        audit.ended("" if isinstance(outcome, Lost) else outcome.outcome, delivered=delivered)
    return outcome


def _run(
    order: Order,
    config: Section,
    folder: WorkFolder,
    settings: Settings,
    stop: threading.Event,
    callbacks: list[Callback],
) -> Outcome:
    try:
        manifest = _work(order, config, folder, settings, stop, callbacks)
    except Interrupted:
        return Outcome(outcome="released")
    except RankLost as exc:
        logger.error("%s", exc)  # its cause stands in the log already
        return Lost(outcome="failed", failure=describe(exc, order.claim.spec))
    except Exception as exc:
        failure = describe(exc, order.claim.spec)
        if failure.failure_class == "infrastructure":
            logger.exception("the training ended with an error")
        else:
            _log_without_traceback(exc, failure)
        return Outcome(outcome="failed", failure=failure)
    return Outcome(outcome="succeeded", result=manifest)


def _log_without_traceback(error: Exception, failure: Failure) -> None:
    """A traceback helps with faults of ours alone. Above a user's own it hides what the message says."""
    text = str(error) if isinstance(error, CrossKDError) else failure.message
    logger.error("the training ended with an error (%s): %s", failure.failure_class, text)
    logger.debug("it was raised here:", exc_info=error)


def _work(
    order: Order,
    config: Section,
    folder: WorkFolder,
    settings: Settings,
    stop: threading.Event,
    callbacks: list[Callback],
) -> dict[str, Any]:
    """Do what a job of this kind is about. Returns its manifest."""
    roots = settings.data_roots
    if isinstance(config, EvaluateConfig):
        with quick_imports():
            from crosskd.runs.evaluate import evaluate

        return evaluate(config, folder.run, callbacks=callbacks, weights=order.weights, roots=roots, stop=stop)
    if isinstance(config, ExportConfig):
        with quick_imports():
            from crosskd.runs.export import export

        return export(config, folder.run, callbacks=callbacks, weights=order.weights, roots=roots, stop=stop)
    if isinstance(config, ImportConfig):
        with quick_imports():
            from crosskd.runs.import_data import run_import

        return run_import(config, folder.run, callbacks=callbacks, roots=roots, stop=stop)
    with quick_imports():
        from crosskd.runs.shared_files import CacheDisk, SharedFiles
        from crosskd.runs.train import train as train_core

    assert isinstance(config, TrainConfig)
    result = train_core(
        config,
        folder.run,
        callbacks=callbacks,
        resume=order.resume,
        teacher_weights=order.teacher,
        init_weights=order.init,
        roots=roots,
        stop=stop,
        shared=SharedFiles(
            CacheDisk(settings.teacher_cache, settings.teacher_cache_gigabytes * 10**9), settings.layouts
        ),
    )
    return result.manifest


def write_log(settings: Settings, claim: Claim, rank: int | None = None) -> None:
    """Set up this process's log: it is about one attempt from its first line to its last."""
    about = {"request_id": claim.request_id or None, "job": claim.job, "attempt": claim.attempt, "rank": rank}
    process_log.configure(settings.log_format, settings.log_level, **about)


def main(argv: list[str]) -> int:
    """Train what the folder's claim says and leave the outcome there. Returns the exit status."""
    stop = threading.Event()

    def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_sigterm)
    folder = WorkFolder(Path(argv[1]))
    parent = launcher()
    rank = None if parent is None else int(os.environ["RANK"])
    if rank:
        divert_output(folder.rank_output(rank))
    order, settings = folder.read_order(), read_settings()
    write_log(settings, order.claim, rank)
    tie_to(order.supervisor if parent is None else parent)
    if not rank:
        tracing.start("crosskd-training", settings.otel_endpoint)
    claim = order.claim
    with tracing.span(claim.kind, parent=order.traceparent, job=claim.job, attempt=claim.attempt) as span:
        outcome = train(order, folder, settings, stop, rank)
        if outcome.outcome == "failed":
            tracing.failed(span, outcome.failure.failure_class if outcome.failure else "")
    folder.write_outcome(outcome, rank)
    tracing.flush()
    if isinstance(outcome, Lost):
        return EXIT_LOST
    return EXIT_FAILED if outcome.outcome == "failed" else 0


if __name__ == "__main__":
    with exit_without_cleanup():
        sys.exit(main(sys.argv))
