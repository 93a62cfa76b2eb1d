"""The process of one tracker: `python -m worker.tracking FOLDER NAME`.

It may hang, fail or be killed at any moment: neither the training nor the delivery to the API has to do with it.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from pydantic import SecretStr

from crosskd.spec.tracking import TRACKERS, TrackerName
from worker.orphan_guard import tie_to
from worker.tracker_settings import TrackerSettings
from worker.tracking.files import TrackingFolder
from worker.tracking.follow import Follower
from worker.tracking.tracker import Tracker

NICENESS = 10  # the training goes first


def tracker(name: TrackerName, settings: TrackerSettings) -> Tracker:
    """The tracker of that name. Only now is its package imported."""
    if name == "mlflow":
        from worker.tracking.adapters.mlflow import Mlflow

        return Mlflow(settings)
    if name == "trackio":
        from worker.tracking.adapters.trackio import Trackio

        return Trackio(settings)
    if name == "wandb":
        from worker.tracking.adapters.wandb import WeightsAndBiases

        return WeightsAndBiases(settings)
    from worker.tracking.adapters.tensorboard import TensorBoard

    return TensorBoard(settings)


def secrets(settings: TrackerSettings) -> list[str]:
    """What no message may say."""
    values = [getattr(settings, name) for name in TrackerSettings.model_fields]
    return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]


def main(argv: list[str]) -> int:
    """Follow the records below the attempt's folder until all is told. Returns the exit status."""
    (name,) = (known for known in TRACKERS if known == argv[2])
    os.nice(NICENESS)
    tie_to(os.getppid())
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = TrackerSettings()
    Follower(TrackingFolder(Path(argv[1])), name, tracker(name, settings), secrets(settings)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
