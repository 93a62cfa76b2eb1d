"""What former attempts of a job have left in this worker's home that the API has not taken.

A worker may be stopped while its files wait for an outage or for room in the storage. The job then comes back to this
worker, or goes to another. Here the next attempt goes on from the newest checkpoint that is on the disk, and delivers
what the former one could not of the files that each evaluation leaves.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from crosskd.spec.files import CHECKPOINTS, MANIFEST, of_evaluation
from wire.artifacts import ArtifactRef
from worker.deliver.digest import sha256_of
from worker.deliver.spool import holds_undelivered
from worker.folder import REPORTS, UNDELIVERED, WorkFolder, open_kept

logger = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"checkpoint-(\d{8,})\.pt")
_STAGED = re.compile(r"\d+-(.+)")


class LocalCheckpoint(NamedTuple):
    path: Path
    reference: ArtifactRef  # as the API would name it; `url` is empty


class FormerAttempts:
    """The folders of a job's former attempts, the latest last, and `newest`: their newest sound checkpoint.

    They are this supervisor's until `release`, or the end of the block that it is used for.
    """

    def __init__(self, work: Path, job: str) -> None:
        found: list[tuple[int, WorkFolder]] = []
        for folder in open_kept(work):
            if (number := _number(folder, job)) is None:
                folder.leave()
            else:
                found.append((number, folder))
        self._folders = [folder for _, folder in sorted(found, key=lambda entry: entry[0])]
        self.newest = self._newest_checkpoint()

    def _newest_checkpoint(self) -> LocalCheckpoint | None:
        found = [
            (int(match[1]), path)
            for folder in self._folders
            if _is_complete(folder)
            for path in (folder.run / CHECKPOINTS).glob("checkpoint-*.pt")
            if (match := _CHECKPOINT.fullmatch(path.name))
        ]
        for step, path in sorted(found, reverse=True):
            if (sha256 := _sound_digest(path)) is not None:
                size = path.stat().st_size
                return LocalCheckpoint(path, ArtifactRef(name=path.name, url="", sha256=sha256, size=size, step=step))
            logger.warning("%s is damaged, an earlier one is looked for", path)
        return None

    def hand_over(self, folder: WorkFolder) -> None:
        """Move undelivered files of evaluations into `folder`: it goes on from `newest` and makes none anew."""
        for former in self._folders:
            for staged in (*sorted(former.staging.glob("*")), *sorted(former.inherited.glob("*.json*"))):
                match = _STAGED.fullmatch(staged.name)
                name = match[1] if match else staged.name
                if of_evaluation(name) is not None:
                    folder.inherited.mkdir(exist_ok=True)
                    staged.replace(folder.inherited / name)

    def __enter__(self) -> FormerAttempts:
        return self

    def __exit__(self, *_error: object) -> None:
        for folder in self._folders:
            folder.leave()

    def release(self, *, keep: bool) -> None:
        """Give the folders up: remove them, or `keep` them for yet another attempt."""
        for folder in self._folders:
            folder.release(keep=keep)


def has_undelivered(folder: WorkFolder) -> bool:
    """Whether the training has left files or reports there that the API has not taken."""
    waiting = any(part.is_dir() and any(part.iterdir()) for part in (folder.staging, folder.inherited))
    return waiting or holds_undelivered(folder.spool / REPORTS)


def _is_complete(folder: WorkFolder) -> bool:
    """Whether a training has come to its end there, and all reports that led to it are delivered.

    Else a resume from its disk would leave a hole in the series: reports are the attempt's own.
    """
    ended = (folder.path / UNDELIVERED).exists() and (folder.run / MANIFEST).exists()
    return ended and not holds_undelivered(folder.spool / REPORTS)


def _number(folder: WorkFolder, job: str) -> int | None:
    """Which attempt of `job` has worked there; None if it was another's."""
    with suppress(OSError, ValueError):
        claim = folder.read_order().claim
        return claim.fencing_token if claim.job == job else None
    return None


def _sound_digest(path: Path) -> str | None:
    """The sha256 of a checkpoint, if it is the one that was written with it."""
    with suppress(OSError):
        found = sha256_of(path).hex()
        return found if path.with_name(f"{path.name}.sha256").read_text().split()[:1] == [found] else None
    return None
