"""What to do about a failure of each class, where nobody knows better."""

from __future__ import annotations

from wire.jobs import Failure, FailureClass

REMEDIES: dict[FailureClass, str] = {
    "user": "Change the field of the specification that the message names as it says, and post the job again.",
    "data": "Correct in that file what the message names, or replace the file by a sound one, and post the job again.",
    "diverged": "Lower optimizer.lr, raise schedule.warmup_steps or set clip_norm, and post the job again.",
    "out_of_memory": "Use a smaller batch_size (with accumulate, if you like), smaller images or bf16.",
    "infrastructure": "Look at the worker's own log, its disk and its network; the job is tried again by itself a few "
    "times, and once more, from its last checkpoint if it has one, with POST /jobs/{id}/retry.",
    "dependency": "Retry the job whose weights this one needs, then this one: POST /jobs/{id}/retry.",
    "lost": "Look whether that machine runs and reaches the API; its own log tells how it ended.",
}


def with_remedy(failure: Failure) -> Failure:
    """The failure with the remedy of its class, unless it has one of its own."""
    return failure if failure.remedy else failure.model_copy(update={"remedy": REMEDIES[failure.failure_class]})
