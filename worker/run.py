"""The training process: `python -m worker.run FOLDER`, a fresh interpreter for every attempt.

It survives what a pool process would not (CUDA, loader processes) and can be killed at any moment.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from crosskd.config import TrainConfig
from crosskd.errors import CrossKDError, Interrupted
from worker.client import ApiError, AttemptClient, connect
from worker.delivery import Undelivered
from worker.failures import describe, invalid_spec
from worker.folder import Order, Outcome, WorkFolder
from worker.lifeline import end_at_once, tie_to
from worker.paths import check_paths
from worker.settings import Settings, read_settings

logger = logging.getLogger("worker.run")

EXIT_FAILED = 1
EXIT_STALE = 4


def train(order: Order, folder: WorkFolder, settings: Settings, stop: threading.Event) -> Outcome:
    """Run the training that `order` asks for and report it; whatever goes wrong becomes the outcome."""
    try:
        config = TrainConfig.model_validate(order.claim.spec)
        check_paths(config, settings.data_roots)
    except ValidationError as exc:
        return Outcome(outcome="failed", failure=invalid_spec(exc))
    except CrossKDError as exc:
        return Outcome(outcome="failed", failure=describe(exc, order.claim.spec))
    if stop.is_set():
        return Outcome(outcome="released")
    with connect(str(settings.api_url), settings.worker_token.get_secret_value()) as http:
        return _train(
            order, config, folder, settings, stop, AttemptClient(http, order.claim.attempt, order.claim.fencing_token)
        )


def _train(
    order: Order, config: TrainConfig, folder: WorkFolder, settings: Settings, stop: threading.Event, api: AttemptClient
) -> Outcome:
    # Torch takes seconds to import: only now, when the signals are already heeded and the spec is known to be good.
    from crosskd.train import train as train_core
    from worker.reporter import Reporter

    def stale() -> None:
        folder.write_outcome(Outcome(outcome="stale"))
        end_at_once(EXIT_STALE)

    reporter = Reporter(api, folder, stale, spool_megabytes=settings.spool_megabytes)
    try:
        result = train_core(
            config, folder.run, callbacks=[reporter], resume=order.resume, teacher_weights=order.teacher, stop=stop
        )
        outcome = Outcome(outcome="succeeded", result=result.manifest)
    except Interrupted:
        outcome = Outcome(outcome="released")
    except Exception as exc:
        logger.exception("the training ended with an error")
        outcome = Outcome(outcome="failed", failure=describe(exc, order.claim.spec))
    try:
        reporter.close(settings.outage_seconds)
    except (ApiError, Undelivered, OSError) as exc:
        logger.exception("not everything reached the API")
        if outcome.outcome == "succeeded":
            outcome = Outcome(outcome="failed", failure=describe(exc, order.claim.spec))
    return outcome


def main(argv: list[str]) -> int:
    """Train what the folder's claim says and leave the outcome there. Returns the exit status."""
    stop = threading.Event()

    def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_sigterm)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = WorkFolder(Path(argv[1]))
    order = folder.read_order()
    tie_to(order.supervisor)
    outcome = train(order, folder, read_settings(), stop)
    folder.write_outcome(outcome)
    return EXIT_FAILED if outcome.outcome == "failed" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
