"""The training's reporter: a callback of the core that tells the API what happens, without ever waiting for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from typing_extensions import override

from crosskd.engine.callbacks import Callback, Phase, Run
from crosskd.spec.results.files import EVALUATION_KINDS, checkpoint_step, of_evaluation
from crosskd.structures import Evaluation
from crosskd.weights.files import File
from wire.artifacts import LOG
from wire.jobs import Progress
from wire.logs import LINE_CHARACTERS, Level, LogLine
from wire.reports import CocoMetrics, EvaluationReport, MetricPoint
from wire.scalars import encode_non_finite
from worker.deliver.client import AttemptClient
from worker.deliver.delivery import Delivery
from worker.deliver.digest import digest_file, recorded_digest
from worker.deliver.spool import Spool
from worker.deliver.uploads import Uploads
from worker.folder import REPORTS, WorkFolder

MEGABYTE = 1_000_000
HEARD = (
    "crosskd",
    "worker.training.run",
)  # loggers; never the delivery's own, whose complaints would be delivered by itself


def progress_of(run: Run) -> Progress:
    """How far the run is."""
    return Progress(
        phase=run.phase,
        step=run.step,
        total_steps=run.total_steps,
        epoch=run.epoch,
        loss=run.loss,
        steps_per_second=run.steps_per_second,
        eta_seconds=run.eta_seconds,
    )


def evaluation_report(evaluation: Evaluation) -> EvaluationReport:
    """The core's evaluation on the wire."""
    # The curves go as a file of their own: a report has a bound, the number of classes has none.
    return EvaluationReport(**evaluation.numbers() | {"metrics": CocoMetrics(**evaluation.metrics)})


class LogForwarder(logging.Handler):
    """Hands on what is logged, line by line."""

    def __init__(self, take: Callable[[list[LogLine]], None]) -> None:
        super().__init__(logging.INFO)
        self._take = take

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            at, level = datetime.fromtimestamp(record.created, UTC), _level(record.levelno)
            texts = self.format(record).replace("\0", "").splitlines() or [""]
            self._take([LogLine(at=at, level=level, text=_encodable(text)) for text in texts])
        except Exception:  # noqa: BLE001 - as every handler: logging must not end a training
            self.handleError(record)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear the loggers of the training meanwhile."""
        loggers = [logging.getLogger(name) for name in HEARD]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)


def _level(number: int) -> Level:
    named: tuple[tuple[int, Level], ...] = (
        (logging.CRITICAL, "critical"),
        (logging.ERROR, "error"),
        (logging.WARNING, "warning"),
        (logging.INFO, "info"),
    )
    return next((name for least, name in named if number >= least), "debug")


def _encodable(text: str) -> str:
    """A line that JSON can carry: file names may hold bytes that are no UTF-8."""
    return text[:LINE_CHARACTERS].encode(errors="replace").decode()


class Reporter(Callback):
    """Reports and uploads in the background; `close` waits for them.

    `on_stale` is called, from a background thread, when the API has given the job to another attempt. Any other
    trouble that cannot pass (a refused upload, a full disk) is raised at the next log, so that no run goes on for
    hours whose result nobody will get.
    """

    def __init__(
        self, api: AttemptClient, folder: WorkFolder, on_stale: Callable[[], None], *, spool_megabytes: int
    ) -> None:
        self._folder = folder
        spool = Spool(folder.spool / REPORTS, spool_megabytes * MEGABYTE)
        self._delivery = Delivery(api, spool, on_stale)
        self._progress = Progress()
        self._waiting_for = ""
        self._uploads = Uploads(api, folder.staging, on_stale, self._on_waiting)
        self._submit_inherited()
        self._log = ExitStack()
        self._log.enter_context(LogForwarder(self._delivery.log).listening())

    def _submit_inherited(self) -> None:
        """As this attempt's own: the one that made them is over. Files of evaluations go before the checkpoint."""
        paths = sorted(self._folder.inherited.iterdir()) if self._folder.inherited.is_dir() else []
        for path in paths:
            if (found := of_evaluation(path.name)) is not None:
                kind, step = found
                self._uploads.submit(path, path.name, kind, step=step)
                path.unlink()
        for path in paths:
            if (step_of := checkpoint_step(path.name)) is not None:
                sha256 = recorded_digest(path)
                digest = bytes.fromhex(sha256) if sha256 else None
                self._uploads.submit(path, path.name, "checkpoint", step=step_of, slot="checkpoint", sha256=digest)
                path.unlink()
                digest_file(path).unlink(missing_ok=True)

    def _on_waiting(self, what: str) -> None:
        """From the thread of the uploads. The job says it, so that nobody takes a full storage for a hung training."""
        self._waiting_for = what
        if what:
            text = f"files wait for {what}; they are kept and sent again until they are taken"
            self._delivery.log([LogLine(at=datetime.now(UTC), level="warning", text=text)])
        self._delivery.progress(self._progress.model_copy(update={"waiting_for": what}))

    def _progress_of(self, run: Run) -> Progress:
        self._progress = progress_of(run)
        return self._progress.model_copy(update={"waiting_for": self._waiting_for})

    @override
    def on_phase(self, run: Run, phase: Phase) -> None:
        self._delivery.progress(self._progress_of(run))

    @override
    def on_log(self, run: Run, values: dict[str, float]) -> None:
        for error in (self._delivery.error, self._uploads.error):
            if error is not None:
                raise error
        now = datetime.now(UTC)
        points = [MetricPoint(key=key, step=run.step, value=encode_non_finite(v), at=now) for key, v in values.items()]
        self._delivery.metrics(points, self._progress_of(run))

    @override
    def on_progress(self, run: Run) -> None:
        self.on_log(run, {})

    @override
    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        self._delivery.evaluation(evaluation_report(evaluation))

    @override
    def on_file(self, run: Run, file: File) -> None:
        sha256 = bytes.fromhex(file.sha256)
        if file.kind != "checkpoint":
            # Curves and samples go first, so that no checkpoint of a later step arrives without them: a resume from it
            # would not make them again.
            first = file.kind in EVALUATION_KINDS
            self._uploads.submit(file.path, file.name, file.kind, step=file.step, first=first, sha256=sha256)
            return
        # Behind the reports that led to it: if this machine dies now, whoever resumes from the checkpoint repeats
        # nothing from before it, and reports that the API lacks then would be lacking for ever.
        after = self._delivery.mark(file.step)
        self._uploads.submit(
            file.path, file.name, file.kind, step=file.step, slot="checkpoint", after=after, sha256=sha256
        )
        self._upload_log()

    def close(self, timeout: float) -> None:
        """Deliver everything, the log last of all.

        Raises:
            StaleAttempt, Refused, Undelivered: as `Delivery.close` and `Uploads.close` do.
        """
        began = time.monotonic()
        self._log.close()
        self._upload_log()
        self._delivery.close(timeout)
        self._uploads.close(max(0.0, timeout - (time.monotonic() - began)))

    def _upload_log(self) -> None:
        log = self._folder.run / LOG
        if log.exists():
            self._uploads.submit(log, LOG, "log")
