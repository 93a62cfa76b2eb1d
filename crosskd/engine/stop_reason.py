"""Why a training takes no further step."""

from __future__ import annotations

from enum import Enum


class StopReason(Enum):
    """The first one that holds is the reason: a stop that is asked for goes first, patience comes last."""

    STOP_ASKED = "stop asked"  # ends as `Interrupted`, to be resumed; all others end as a success
    FINISHED = "finished"  # the last step of the schedule is done
    FINISH_ASKED = "finish asked"
    OUT_OF_PATIENCE = "out of patience"  # the student will hardly get better
