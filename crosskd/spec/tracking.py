"""The trackers that a job may name: a closed list. Where they are and how one signs in is the worker's to know."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator

from crosskd.spec.bounds import AtMost

TrackerName = Literal["mlflow", "tensorboard", "trackio", "wandb"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)


def each_once(names: list[TrackerName]) -> list[TrackerName]:
    """Raises `ValueError`: one is named twice."""
    if len(set(names)) != len(names):
        raise ValueError("a tracker is named twice; name each once")
    return names


TrackerNames = Annotated[list[TrackerName], AtMost(len(TRACKERS)), AfterValidator(each_once)]
