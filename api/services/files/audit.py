"""Whether rows and files agree: every row has its file, every file its row, and both say the same of it.

It goes through the rows page by page, then through the files, and keeps nothing of either; no transaction is open
while a file is looked at. Meanwhile the service goes on: whatever looks wrong is looked at again before it is told.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from api.database import Database
from api.models import Artifact
from api.services.files.artifacts import ORPHAN_SECONDS, age, is_artifact_key, of_keys
from api.storage import Storage, StorageUnavailable, StoredFile
from wire.audit import Aborted, Finding, Line, Progress, Summary

PAGE = 500  # rows or files at once
READ_SIZE = 1 << 20  # bytes
PROGRESS_SECONDS = 5.0  # between two signs of life
RECHECK_SECONDS = 0.5  # between a commit and what follows it: a file that was replaced goes a moment after its row


class _Row(NamedTuple):
    id: str
    job: str
    name: str
    size: int
    sha256: str
    key: str


_COLUMNS = (Artifact.id, Artifact.job_id, Artifact.name, Artifact.size, Artifact.sha256, Artifact.path)


class Audit:
    """One look at everything. `verify` reads every byte; `stopped` says that nobody waits for it any more."""

    def __init__(
        self, database: Database, storage: Storage, *, verify: bool = False, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._database = database
        self._storage = storage
        self._verify = verify
        self._stopped = stopped
        self._progress = Progress()
        self._findings = 0
        self._in_flight = 0
        self._progress_at = time.monotonic()

    def lines(self) -> Iterator[Line]:
        """Findings as they turn up, signs of life between them, and `Summary` or `Aborted` at the end."""
        try:
            for line in self._scan():
                if self._stopped():
                    yield Aborted(detail="the server is told to stop; start the audit again")
                    return
                yield line
        except SQLAlchemyError:
            yield Aborted(detail="the database does not answer; start the audit again when it does")
        except OSError as error:
            yield Aborted(detail=f"the storage fails: {error.strerror or error}")
        else:
            yield Summary(
                **self._progress.model_dump(exclude={"event"}), findings=self._findings, in_flight=self._in_flight
            )

    def _scan(self) -> Iterator[Line]:
        for rows in self._rows():
            for row in rows:
                yield from self._check_row(row)
                self._progress.rows += 1
                yield from self._report_progress()
        listed = iter(self._storage.files())
        while files := list(islice(listed, PAGE)):
            yield from self._check_files(files)
            self._progress.files += len(files)
            yield from self._report_progress()

    def _report_progress(self) -> Iterator[Progress]:
        # Also a chance for the reader to have gone, and for the server to stop: so it is asked for often.
        if time.monotonic() - self._progress_at >= PROGRESS_SECONDS or self._stopped():
            self._progress_at = time.monotonic()
            yield self._progress.model_copy()

    # --- from rows to files ------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[Sequence[_Row]]:
        after = ""
        while True:
            with self._database.reading() as session:
                query = select(*_COLUMNS).where(Artifact.id > after).order_by(Artifact.id).limit(PAGE)
                rows = [_Row(*row) for row in session.execute(query)]
            yield rows
            if len(rows) < PAGE:
                return
            after = rows[-1].id

    def _check_row(self, row: _Row) -> Iterator[Line]:
        identity = {"key": row.key, "job": row.job, "artifact": row.name}
        finding = None
        try:
            with self._storage.open(row.key) as file:
                size = file.seek(0, os.SEEK_END)
                if size != row.size:
                    finding = Finding(problem="size", **identity, expected=str(row.size), found=str(size))
                elif self._verify:
                    file.seek(0)
                    hashed = hashlib.sha256()
                    while chunk := file.read(READ_SIZE):
                        hashed.update(chunk)
                        self._progress.bytes_read += len(chunk)
                        yield from self._report_progress()
                    if hashed.hexdigest() != row.sha256:
                        finding = Finding(problem="bytes", **identity, expected=row.sha256, found=hashed.hexdigest())
        except StorageUnavailable:  # then nothing can be said of any file
            raise
        except FileNotFoundError:
            finding = Finding(problem="missing", **identity)
        except (OSError, ValueError) as error:  # the latter: the row holds what can be no key
            finding = Finding(problem="unreadable", **identity, found=str(getattr(error, "strerror", None) or error))
        if finding is not None and self._is_current(row):
            self._findings += 1
            yield finding

    def _is_current(self, row: _Row) -> bool:
        """Whether the row still names that file: a newer upload may have replaced it, a deletion removed it."""
        with self._database.reading() as session:
            return session.scalar(select(Artifact.path).where(Artifact.id == row.id)) == row.key

    # --- from files to rows ------------------------------------------------------------------------------------------

    def _check_files(self, files: Sequence[StoredFile]) -> Iterator[Finding]:
        suspects = self._without_row(files)
        if not suspects:
            return
        time.sleep(RECHECK_SECONDS)
        for stored in self._without_row(suspects):
            if self._is_deleted(stored.key):
                continue
            young = age(stored) <= ORPHAN_SECONDS
            self._in_flight += young
            self._findings += not young
            yield Finding(
                problem="in_flight" if young else "unnamed",
                key=stored.key.encode("ascii", "backslashreplace").decode(),  # a stranger may call it anything
                found=str(stored.size),
                age_seconds=round(age(stored), 1),
            )

    def _is_deleted(self, key: str) -> bool:
        try:
            self._storage.open(key).close()
        except FileNotFoundError:
            return True
        except StorageUnavailable:
            raise
        except (OSError, ValueError):  # it cannot be read, or nobody but a stranger would call it so
            return False
        return False

    def _without_row(self, files: Sequence[StoredFile]) -> list[StoredFile]:
        keys = [stored.key for stored in files if is_artifact_key(stored.key)]  # a database may choke on any other
        with self._database.reading() as session:
            named = set(session.scalars(select(Artifact.path).where(of_keys(keys))))
        return [stored for stored in files if stored.key not in named]
