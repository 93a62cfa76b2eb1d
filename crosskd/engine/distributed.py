"""The processes of one training: which of them this is, and what they tell each other.

Without a process group there is one process, and everything here is free. Every collective has to be called by all
ranks, in the same order. `engine.launch` starts the processes, `engine.parallel` ties their models together.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from crosskd import ranks
from crosskd.engine.device import choose_device
from crosskd.engine.launch import rendezvous_file
from crosskd.errors import ConfigError, RankLost
from crosskd.spec.config import TrainConfig

log = logging.getLogger(__name__)

T = TypeVar("T")

# How long a rank waits for another that lives and does not come, e.g. while it writes to a slow disk. One that dies
# is noticed at once: under gloo by its connections, and under either backend by torchrun, which looks ten times a
# second and ends the others. NCCL's ranks on one machine share memory and would wait this long; torch then ends them
# (TORCH_NCCL_ASYNC_ERROR_HANDLING, as it is by default). A shorter time would end sound ones that write slowly.
COLLECTIVE_TIMEOUT = timedelta(hours=2)
_QUOTED = 500  # characters of what a failed collective says


def launched_world_size() -> int:
    """How many processes the launcher (torchrun, or what speaks like it) has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


@contextlib.contextmanager
def process_group(config: TrainConfig) -> Iterator[None]:
    """Be one of `config.gpus` processes meanwhile; with one, nothing happens.

    An error on GPUs leaves the process group behind: the process then has to end by `launch.exit_without_cleanup`.

    Raises:
        ConfigError: other than `config.gpus` processes were started, or there are not as many GPUs.
    """
    _require_processes(config)
    if config.gpus == 1:
        yield
        return
    device = choose_device(config.device)
    if device.type == "cuda":
        _require_gpus(config.gpus)
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # What is said on the CPU (flags, detections) must not wait in a GPU's queue.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    path = rendezvous_file()  # none where someone has started torchrun by hand: it has a store of its own
    store = None if path is None else torch.distributed.FileStore(path, config.gpus)  # type: ignore[attr-defined]
    rank = int(os.environ["RANK"])
    dist.init_process_group(backend, store=store, rank=rank, world_size=config.gpus, timeout=COLLECTIVE_TIMEOUT)
    try:
        with ranks.synchronised_statistics(config.sync_statistics):
            yield
    except BaseException:
        # By gloo the others learn at once from a closed connection. NCCL waits here until what is queued is done, and
        # the others may sit in a collective that this rank will never enter: the error would be told after PATIENCE.
        if device.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _require_processes(config: TrainConfig) -> None:
    if launched_world_size() != config.gpus:
        raise ConfigError(
            f"{config.gpus} processes are to train together, and {launched_world_size()} started",
            where="/gpus",
            remedy="Start it by `python -m crosskd train`, or by torchrun with --nproc-per-node.",
        )


def _require_gpus(wanted: int) -> None:
    if (there := torch.cuda.device_count()) < wanted:
        raise ConfigError(
            f"{wanted} processes want a GPU each, and torch sees {there}",
            where="/gpus",
            remedy="Lower gpus, use a machine with more, or set device to cpu.",
        )


# What a collective says when a peer is gone: gloo's texts, and the classes of NCCL's errors. The latter have many other
# causes (a full /dev/shm, one GPU for two ranks): what they say is passed on.
_LOST_PEER_MESSAGES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport")


@contextlib.contextmanager
def detecting_lost_ranks() -> Iterator[None]:
    """Turn what a collective says when a peer is gone into `RankLost`."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST_PEER_MESSAGES)):
            raise
        log.exception("a collective failed")
        raise RankLost(
            "a collective failed, most likely because another process of this training has ended: "
            f"{_first_and_last_line(error)}",
            where="/gpus",
            remedy="Read what the other processes said; this one could only stop.",
        ) from error


def _first_and_last_line(error: BaseException) -> str:
    """What it says, without the stack of C++. NCCL's first line names a place, and its last line the cause."""
    text = str(error).partition("Exception raised from")[0]
    line = "; ".join(stripped for part in text.splitlines() if (stripped := part.strip())).replace(":; ", ": ")
    return line if len(line) <= _QUOTED else f"{line[:_QUOTED]}…"


def active() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return ranks.rank()


def world_size() -> int:
    return ranks.world_size()


def is_main() -> bool:
    """Of all ranks, one writes the files and speaks to the outside."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank is here."""
    if active():
        dist.barrier()


def any_of(*flags: bool) -> list[bool]:
    """For each flag, whether it is set on any rank. Collective."""
    if not active():
        return list(flags)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    counts = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(counts)
    return [count > 0 for count in counts.tolist()]


def mean(x: Tensor) -> Tensor:
    """The mean of `x` over ranks, without gradient; NaN on one is NaN on all. Collective."""
    return ranks.all_reduce_sum(x.detach()) / world_size() if active() else x


def gather(value: T) -> list[T] | None:
    """Every rank's value in the order of ranks, on the main rank; None on the others. Collective.

    Values travel pickled: only between the processes of one training, never from outside.
    """
    if not active():
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values


def broadcast(value: T) -> T:
    """The main rank's value, on every rank. Collective; pickled as in `gather`."""
    if not active():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
