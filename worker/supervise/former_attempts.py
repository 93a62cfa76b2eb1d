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

from crosskd.spec.results.files import CHECKPOINTS, checkpoint_step, of_evaluation
from wire.artifacts import ArtifactRef
from worker.deliver.digest import digest_file, recorded_digest, sha256_of
from worker.deliver.spool import holds_undelivered, reported_step
from worker.folder import REPORTS, UNDELIVERED, WorkFolder, link_or_copy, open_kept

logger = logging.getLogger(__name__)

_STAGED = re.compile(r"\d+-(.+)")


class LocalCheckpoint(NamedTuple):
    attempt: int  # the number of the one that wrote it
    step: int
    path: Path
    reference: ArtifactRef  # as the API would name it; `url` is empty


class FormerAttempts:
    """The folders of a job's former attempts, the latest last, and `newest`: the newest sound checkpoint of the latest
    that has one. Reports that led to it are all delivered: they are the attempt's own, and nobody else makes them.

    They are this supervisor's until `release`, or the end of the block that it is used for.
    """

    def __init__(self, work: Path, job: str) -> None:
        found: list[tuple[int, WorkFolder]] = []
        for folder in open_kept(work):
            if (number := _number(folder, job)) is None:
                folder.leave()
            else:
                found.append((number, folder))
        self._found = sorted(found, key=lambda entry: entry[0])
        self._folders = [folder for _, folder in self._found]
        self.newest = self._newest_checkpoint()

    def _newest_checkpoint(self) -> LocalCheckpoint | None:
        for number, folder in reversed(self._found):
            for step, path in _reported_checkpoints(folder):
                if (sha256 := _sound_digest(path)) is not None:
                    size = path.stat().st_size
                    reference = ArtifactRef(name=path.name, url="", sha256=sha256, size=size, step=step)
                    return LocalCheckpoint(number, step, path, reference)
                logger.warning("%s is damaged, an earlier one is looked for", path)
        return None

    def hand_over(self, folder: WorkFolder) -> None:
        """Give `folder`, whose attempt goes on from `newest`, what it makes no more: that checkpoint, and undelivered
        files of evaluations up to it."""
        assert self.newest is not None
        folder.inherited.mkdir(exist_ok=True)
        for former in self._folders:
            for staged in (*sorted(former.staging.glob("*")), *sorted(former.inherited.glob("*.json*"))):
                match = _STAGED.fullmatch(staged.name)
                name = match[1] if match else staged.name
                if (found := of_evaluation(name)) is not None and found[1] <= self.newest.step:
                    staged.replace(folder.inherited / name)
        for path in (digest_file(self.newest.path), self.newest.path):
            link_or_copy(path, folder.inherited / path.name)

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


def _reported_checkpoints(folder: WorkFolder) -> list[tuple[int, Path]]:
    """Steps and paths, the newest first, of an attempt that has ended with undelivered files.

    Only those whose reports are delivered: from a later one a resume would leave a hole in the series.
    """
    if not (folder.path / UNDELIVERED).exists():
        return []
    last = reported_step(folder.spool / REPORTS)
    paths = (folder.run / CHECKPOINTS).glob("checkpoint-*.pt")
    steps = [(step, path) for path in paths if (step := checkpoint_step(path.name)) is not None]
    return sorted((found for found in steps if found[0] <= last), reverse=True)


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
        return found if recorded_digest(path) == found else None
    return None
