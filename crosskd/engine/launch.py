"""Start the ranks of a training by torchrun, and tell which of them ended first and how."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

GRACE_SECONDS = 30.0  # between a signal that is passed on to the ranks and SIGKILL
ORPHAN_SECONDS = 0.5  # between two looks of a rank whether its launcher lives
EXIT_ORPHANED = 3
KEEP_ALIVE_SECONDS = 3600  # between two entries in torchrun's file, which grows by each
_LAUNCHER = "CROSSKD_LAUNCHER"  # in a rank's environment: the launcher's process id
_RENDEZVOUS = "CROSSKD_RENDEZVOUS"  # and the file by which the ranks find each other


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended that should not have. `status` is its exit status, or minus the signal that killed it."""

    rank: int
    status: int
    at: float

    def __str__(self) -> str:
        if self.status >= 0:
            return f"rank {self.rank} exited with status {self.status}"
        return f"rank {self.rank} was killed by signal {-self.status} ({signal.Signals(-self.status).name})"


class RanksFailed(Exception):
    """A rank ended with an error, and the others were ended for it. `ends` begins with the first of them."""

    def __init__(self, ends: list[RankEnd]) -> None:
        super().__init__("; ".join(map(str, ends)))
        self.ends = ends


class RanksStopped(Exception):
    """A signal came here and was passed on to every rank; all have ended."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


def launch(
    module: str,
    arguments: Sequence[str],
    count: int,
    *,
    grace: float = GRACE_SECONDS,
    scratch: Path | None = None,
) -> None:
    """Run `python -m module arguments` in `count` processes of one training and wait for all of them.

    SIGTERM and SIGINT are passed on; whoever is left `grace` seconds later is killed. The same happens to the others
    when one fails. Some small files lie meanwhile in `scratch`, by default the system's folder for such. Call it
    from the main thread.

    Raises:
        RanksFailed: one ended with an error.
        RanksStopped: by a signal to this process.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    _prepare_environment(count, grace)
    with tempfile.TemporaryDirectory(prefix="crosskd-ranks-", dir=scratch) as folder:
        # The rendezvous is in files of this user alone. By --standalone torchrun would listen on every interface of the
        # machine and unpickle what it is sent there.
        os.environ[_RENDEZVOUS] = str(Path(folder) / "ranks")
        rendezvous = [
            "--rdzv-backend",
            "c10d",
            "--rdzv-conf",
            f"store_type=file,keep_alive_interval={KEEP_ALIVE_SECONDS}",
        ]
        rendezvous += ["--rdzv-endpoint", str(Path(folder) / "torchrun"), "--rdzv-id", "crosskd"]
        options = [*rendezvous, "--local-addr", "127.0.0.1", "--nproc-per-node", str(count), "--log-dir", folder]
        try:
            parsed = torchrun.parse_args([*options, "-m", module, *arguments])  # type: ignore[no-untyped-call]
            torchrun.run(parsed)  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            ends = [RankEnd(rank, end.exitcode, end.timestamp) for rank, end in error.failures.items()]
            raise RanksFailed(sorted(ends, key=_order)) from error
        except SignalException as error:
            raise RanksStopped(int(error.sigval)) from error


def _order(end: RankEnd) -> tuple[bool, float, bool, int]:
    """The first first: torchrun counts in seconds, and ends by SIGTERM whoever outlives the first."""
    return end.status == -signal.SIGTERM, end.at, end.status >= 0, end.rank


def launcher() -> int | None:
    """The process id of the launcher, in a rank that `launch` has started; elsewhere None."""
    pid = os.environ.get(_LAUNCHER)
    return int(pid) if pid is not None else None


def rendezvous_file() -> str | None:
    """The file by which the ranks that `launch` has started find each other; elsewhere None."""
    return os.environ.get(_RENDEZVOUS)


def exit_with_launcher(launcher: int) -> None:
    """End this rank when its launcher is gone, however it ended: torchrun gives each rank a session of its own."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(ORPHAN_SECONDS)
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


@contextlib.contextmanager
def exit_without_cleanup() -> Iterator[None]:
    """Around all that a process does: where an error leaves a process group behind, end without clean-up.

    NCCL's clean-up would wait for ranks that wait for this one. Once it is gone, torchrun ends them. The exit status
    is that of `SystemExit`; another exception prints its traceback and is 1.
    """
    try:
        yield
    except BaseException as error:
        if not _in_group():
            raise
        if isinstance(error, SystemExit):
            _exit_now(error.code if isinstance(error.code, int) else int(error.code is not None))
        traceback.print_exception(error)
        _exit_now(1)


def _in_group() -> bool:
    distributed = sys.modules.get("torch.distributed")  # whoever has not imported it is in no group
    return distributed is not None and bool(distributed.is_available() and distributed.is_initialized())


def _exit_now(status: int) -> NoReturn:
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # nobody may read what is printed
        os._exit(status)


def divert_output(path: Path) -> None:
    """Append to `path` what this process, and what it starts, prints from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _prepare_environment(count: int, grace: float) -> None:
    """What torchrun and the ranks read. The user's own values stay."""
    os.environ[_LAUNCHER] = str(os.getpid())
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(max(1, round(grace)))
    # torchrun would set one thread for each rank, and warn of it.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    # All ranks are on this machine: nobody else needs to reach them, nor does its name have to resolve.
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopback:
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", loopback[0])
