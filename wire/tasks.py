"""The Celery message: a dispatch message that carries a job's id and nothing else."""

from __future__ import annotations

RUN_JOB = "crosskd.run_job"  # task name; its one argument is the job's id


def queue(device: str = "cpu", count: int = 1) -> str:
    """The queue of a device class: `cpu`, `gpu`, `gpu-4`."""
    return device if count == 1 else f"{device}-{count}"


LOWEST_PRIORITY, NORMAL_PRIORITY, HIGHEST_PRIORITY = 1, 5, 9
# Each priority has a list of its own at the broker; both sides must name the same ones.
BROKER_STEPS = list(range(HIGHEST_PRIORITY))


def broker_priority(priority: int) -> int:
    """A job's priority as Celery's transport for Redis has it: there 0 comes first and 9 last."""
    return HIGHEST_PRIORITY - priority


# A job that names no device goes where any worker listens.
ANY = "any"


def queues(devices: str) -> list[str]:
    """Where a worker's jobs come from: the queues of its device set and of smaller ones, and the one of all.

    `devices` is `cpu`, or GPUs separated by commas.
    """
    # Several GPUs can do what fewer can; else a job that wants two would wait beside a worker that has four.
    counts = range(len(devices.split(",")), 0, -1)
    return [*(queue("cpu" if devices == "cpu" else "gpu", count) for count in counts), ANY]
