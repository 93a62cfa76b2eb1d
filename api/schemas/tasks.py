"""The Celery message: a doorbell that carries a job's id and nothing else."""

from __future__ import annotations

RUN_JOB = "crosskd.run_job"  # task name; its one argument is the job's id


def queue(device: str = "cpu", count: int = 1) -> str:
    """The queue of a device class: `cpu`, `gpu`, `gpu-4`."""
    return device if count == 1 else f"{device}-{count}"


# A job that names no device goes where any worker listens.
ANY = "any"
