"""Functions in processes that begin with torch imported: one alone, or all ranks of one gloo group."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from crosskd.data import loader

IMPORTED = [loader.__name__, "torch.distributed", "torchvision", "torch._dynamo"]


def on_ranks(
    work: Callable[..., Any], folder: Path, *args: Any, world_size: int = 2, timeout: float = 120
) -> list[Any]:
    """What `work(rank, *args)` returns on each rank. Whoever is not done in time (a hang) is killed.

    Raises:
        TimeoutError: a rank hangs.
        RuntimeError: a rank has died of an error.
    """
    context = _context()
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        context.Process(target=_rank, args=(work, folder, rank, world_size, args)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        for rank, process in enumerate(processes):
            process.join(timeout)
            if process.exitcode is None:
                raise TimeoutError(f"rank {rank} hangs")
            if process.exitcode:
                raise RuntimeError(f"rank {rank} ended with {process.exitcode}")
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [torch.load(_result(folder, rank), weights_only=False) for rank in range(world_size)]


def end_of(work: Callable[..., Any], *args: Any, timeout: float = 240) -> int:
    """The exit status of a process that does `work`, minus the signal's number if one killed it."""
    process = _context().Process(target=work, args=args)
    process.start()
    try:
        process.join(timeout)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode
    finally:
        process.kill()
        process.join()


def _context() -> ForkServerContext:
    """Processes that begin with torch, which is imported once for all of all tests, and for the loaders' processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _rank(work: Callable[..., Any], folder: Path, rank: int, world_size: int, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world_size)
    try:
        torch.save(work(rank, *args), _result(folder, rank))
    finally:
        dist.destroy_process_group()


def _result(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.pt"
