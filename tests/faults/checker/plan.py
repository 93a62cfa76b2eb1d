"""What shall befall the trainings of a made-up history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ending = Literal["lost", "failed", "released", "paused", "cancelled", "user", "succeeded"]


@dataclass(frozen=True)
class Try:
    """A training: it took `steps` steps, as far as there were any left, and then ended so; a success takes them all.
    Where it was lost or failed of the machine, the API took the first `taken` of its records, else all of them."""

    steps: int
    ending: Ending
    taken: int = 0


@dataclass(frozen=True)
class Plan:
    """A job: what was asked for, and how its trainings went. It is cancelled in the end if the last leaves it open.

    One that needs a job waits for it first: it fails, and has no trainings, if that one has not succeeded.
    """

    name: str
    tries: tuple[Try, ...]
    steps: int = 12
    log_every: int = 1
    checkpoint_every: int = 5
    evaluate_every: int = 6
    retried_from: str | None = None
    start_step: int = 0
    needs: str | None = None  # a job whose weights it begins with
