"""A rank of the launcher's tests, without torch: `python -m tests.crosskd.engine.rank_program DEED FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from crosskd.engine.launch import divert_output, exit_with_launcher, launcher


def main(deed: str, folder: Path) -> int:
    rank = int(os.environ["RANK"])
    parent = launcher()
    assert parent is not None
    exit_with_launcher(parent)
    divert_output(folder / f"said-{rank}")
    if deed == "heed":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    print(f"{os.environ['WORLD_SIZE']} ranks, {os.environ['OMP_NUM_THREADS']} threads", flush=True)  # noqa: T201
    if deed == "finish":
        return 0
    while not _running(folder, 0):  # torchrun ends the other at once: it shall have begun
        time.sleep(0.02)
    if rank == 1 and deed == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and deed == "fail":
        return 7
    time.sleep(300)
    return 0


def _running(folder: Path, rank: int) -> bool:
    pid = folder / f"pid-{rank}"
    return pid.exists() and bool(pid.read_text())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
