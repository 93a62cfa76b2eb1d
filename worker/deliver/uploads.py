"""Files to the API, from a thread of their own: in order, each as it was when it was handed over.

The training goes on writing meanwhile: it prunes checkpoints and replaces weights. So a file is first linked into
the staging folder, where its bytes stay until they are delivered.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from wire.artifacts import ArtifactKind
from worker.deliver.client import AttemptClient
from worker.deliver.delivery import Undelivered
from worker.deliver.retry import Abandoned, Retry, StaleAttempt
from worker.folder import link_or_copy

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # between two looks whether a waiting upload was given up


@dataclass(frozen=True)
class Upload:
    staged: Path
    name: str
    kind: ArtifactKind
    step: int | None
    after: threading.Event | None  # sent only once this is set
    sha256: bytes | None  # of what was written; None: of whatever is there


class Uploads:
    """A queue of files with one place per slot: a newer file takes the place of one that still waits.

    Only the newest checkpoint matters to whoever resumes, so when the API is slower than the training the ones
    between are skipped, and the queue cannot grow. `on_waiting` hears what the files wait for, and "" once they do
    not any more.
    """

    def __init__(
        self,
        api: AttemptClient,
        staging: Path,
        on_stale: Callable[[], None],
        on_waiting: Callable[[str], None] | None = None,
    ) -> None:
        staging.mkdir(parents=True, exist_ok=True)
        self._api = api
        self._on_stale = on_stale
        self._on_waiting = on_waiting or (lambda _what: None)
        self._staging = staging
        self._waiting: dict[str, Upload] = {}  # by slot; a replaced one keeps its place in the order
        self._count = 0
        self._changed = threading.Condition()
        self._closing = False
        self._abandon = threading.Event()
        self.error: Exception | None = None  # why the thread has ended early
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)
        self._thread.start()

    def submit(
        self,
        path: Path,
        name: str,
        kind: ArtifactKind,
        *,
        step: int | None = None,
        slot: str = "",
        after: threading.Event | None = None,
        first: bool = False,
        sha256: bytes | None = None,
    ) -> None:
        """Queue the file for upload as `name`, to be sent not before `after`. `slot` defaults to the name.

        `first`: ahead of all that waits, also of a checkpoint that takes the place of one that waits already.
        `sha256`: of what was written; the API then refuses bytes that the disk has changed since.
        """
        with self._changed:
            if self.error is not None:
                return  # told by close(); nothing is sent any more
            self._count += 1
            staged = self._staging / f"{self._count:06d}-{name}"
            _stage(path, staged, growing=kind == "log")
            superseded = self._waiting.get(slot or name)
            upload = {slot or name: Upload(staged, name, kind, step, after, sha256)}
            self._waiting = {**upload, **self._waiting} | upload if first else self._waiting | upload
            self._changed.notify()
        if superseded is not None:
            superseded.staged.unlink()
            logger.info("upload of %s is skipped for %s", superseded.name, name)

    def close(self, timeout: float) -> None:
        """Upload what still waits and end the thread.

        Raises:
            StaleAttempt: the attempt is another's.
            Refused: the API does not take one of the files.
            Undelivered: not everything was taken within `timeout` seconds.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._abandon.set()
            raise Undelivered(f"uploads were not taken within {timeout:.0f} s")
        if self.error is not None:
            raise self.error

    def _next(self) -> Upload | None:
        """The upload whose turn it is; None at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if not self._waiting:
                return None
            return self._waiting.pop(next(iter(self._waiting)))

    def _await(self, upload: Upload) -> None:
        """Wait until the upload's time has come. Raises `Abandoned`."""
        while upload.after is not None and not upload.after.wait(POLL_SECONDS):
            if self._abandon.is_set():
                raise Abandoned(f"upload of {upload.name}")

    def _run(self) -> None:
        retry = Retry(
            stop=self._abandon,
            on_trouble=lambda status: self._on_waiting(_waited_for(status)),
            on_recovery=lambda: self._on_waiting(""),
        )
        upload = None
        try:
            while (upload := self._next()) is not None:
                self._await(upload)
                self._api.upload(upload.staged, upload.name, upload.kind, upload.step, retry, upload.sha256)
                upload.staged.unlink()
                logger.info("uploaded %s", upload.name)
        except Abandoned:
            logger.warning("the upload of %s was given up", upload.name if upload else "nothing")
        except StaleAttempt as exc:
            self.error = exc
            self._on_stale()
        except Exception as exc:  # noqa: BLE001 - carried to the training thread
            self.error = exc


def _waited_for(status: int | None) -> str:
    if status == httpx.codes.INSUFFICIENT_STORAGE:
        return "room in the storage"
    return "the storage" if status is not None else "an answer of the API or the storage"


def _stage(path: Path, staged: Path, *, growing: bool) -> None:
    """Hold on to the file's present bytes. A file that is replaced when it changes can be linked, a log cannot."""
    if growing:
        shutil.copyfile(path, staged)
    else:
        link_or_copy(path, staged)
