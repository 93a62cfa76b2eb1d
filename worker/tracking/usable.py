"""Whether this worker can use a tracker. Imports none of them."""

from __future__ import annotations

from importlib.util import find_spec

from crosskd.spec.tracking import TRACKERS, TrackerName
from worker.tracker_settings import PREFIX, TrackerSettings


def why_not(name: TrackerName, settings: TrackerSettings) -> str:
    """Why this worker cannot use the tracker, and what helps; empty: it can."""
    if find_spec(name) is None:
        return f"this worker has no package {name}; install `crosskd[{name}]` there"
    if name == "mlflow" and settings.mlflow_tracking_uri is None:
        return f"the worker knows no server; set its {PREFIX}MLFLOW_TRACKING_URI"
    if name == "wandb" and settings.wandb_mode == "online" and settings.wandb_api_key is None:
        return f"the worker has no key for the server; set its {PREFIX}WANDB_API_KEY, or {PREFIX}WANDB_MODE=offline"
    return ""


def usable(settings: TrackerSettings) -> list[TrackerName]:
    """The trackers that this worker can use."""
    return [name for name in TRACKERS if not why_not(name, settings)]
