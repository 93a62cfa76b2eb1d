"""Following a training's records for one tracker: in order, again and again until it takes them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import partial

from worker.tracking.files import Link, Points, Reader, State, Told, TrackingFolder
from worker.tracking.tracker import Refused, Tracker

logger = logging.getLogger(__name__)

MOST_RECORDS = 100  # of a batch
POLL_SECONDS = 0.3
LONGEST_PAUSE = 15.0  # seconds between two attempts at a tracker that fails
LONGEST_ERROR = 300  # characters
_USER = re.compile(r"//[^/@\s]+@")


def redacted(error: BaseException, secrets: Sequence[str]) -> str:
    """What went wrong as a line that may be shown: no secret, no user in an address."""
    first = error
    while (cause := first.__cause__ or first.__context__) is not None:
        first = cause
    told = first if isinstance(first, OSError) else error  # clients wrap "connection refused" in much else
    text = " ".join(str(told).split()) or type(told).__name__
    for secret in secrets:
        text = text.replace(secret, "...")
    return _USER.sub("//", text)[:LONGEST_ERROR]


class Follower:
    """Hands a training's records to a tracker until the training has ended and the tracker has everything."""

    def __init__(
        self,
        folder: TrackingFolder,
        name: str,
        tracker: Tracker,
        secrets: Sequence[str] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._name = name
        self._tracker = tracker
        self._secrets = secrets
        self._sleep = sleep
        self._job = folder.job()
        self._reader = Reader(folder.records)
        self._state = State()
        self._links: dict[str, str] = {}

    def run(self) -> None:
        """Return when all is told."""
        self._insist(self._start)
        while not self._state.finished:
            ended = self._folder.ended()  # before the records: then nothing comes behind what is read now
            told, size = self._reader.next(MOST_RECORDS)
            if told:
                self._push(told)
                self._reader.take(size)
            elif ended is not None:
                self._insist(partial(self._tracker.finish, ended))
                self._state.finished = True
                self._note()
            else:
                self._sleep(POLL_SECONDS)

    def _start(self) -> None:
        self._state.where = self._tracker.start(self._job)

    def _push(self, told: Sequence[Told]) -> None:
        points = [each.record for each in told if isinstance(each.record, Points)]
        links = [each.record.name for each in told if isinstance(each.record, Link)]
        if points:
            self._insist(lambda: self._push_points(points, sum(each.points for each in told)))
        if links:
            self._links |= {name: f"{self._job.url}/artifacts/{name}" for name in links}
            self._insist(lambda: self._tracker.link(self._links))

    def _push_points(self, points: Sequence[Points], count: int) -> None:
        try:
            self._tracker.push(points)
        except Refused:
            self._state.refused += count
            raise
        self._state.delivered += count

    def _insist(self, step: Callable[[], None]) -> None:
        """Do it until it works, or is refused."""
        pause = 1.0
        while True:
            try:
                step()
            except Refused as exc:
                self._fail(exc)
                return
            except Exception as exc:  # noqa: BLE001 - a tracker's client raises what it likes
                self._fail(exc)
                self._sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if not self._state.refused:
                self._state.error = ""
            self._note()
            return

    def _fail(self, error: Exception) -> None:
        text = redacted(error, self._secrets)
        if text != self._state.error:
            logger.warning("%s: %s", self._name, text)
        self._state.error = text
        self._note()

    def _note(self) -> None:
        try:
            self._folder.write_state(self._name, self._state)
        except OSError as exc:  # a full disk: the next note may find room
            logger.warning("%s: %s", self._name, exc)
