"""A random schedule of all faults: what comes when follows from a seed alone.

Two lanes inject side by side, each one fault after the other. A lane deals all faults like a pack of cards, shuffled
anew each time it is through, so that none comes seldom. What a fault hits depends on what runs at that moment; a fault
that finds nothing to hit, or something that the other lane has its hands on, counts as passed over.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.faults.faults import FAULTS
from tests.faults.injection_context import InjectionContext, NothingToHit
from tests.faults.load import Load
from tests.faults.stack import Busy, Stack

LANES = 2
PAUSE_SECONDS = (0.2, 2.0)  # between two faults of a lane


class Turn(NamedTuple):
    """One place of a lane: a pause in seconds, a fault by name, and the seed of all that it draws."""

    pause: float
    fault: str
    seed: int


def lane(seed: int, number: int) -> Iterator[Turn]:
    """The endless lane of a schedule."""
    drawn = random.Random(f"{seed}:{number}")
    while True:
        pack = list(FAULTS)
        drawn.shuffle(pack)
        for fault in pack:
            yield Turn(drawn.uniform(*PAUSE_SECONDS), fault, drawn.randrange(2**32))


@dataclass
class Schedule:
    """Runs the lanes for `seconds`; what was injected, passed over, or broke is told afterwards."""

    stack: Stack
    load: Load
    seed: int
    seconds: float
    say: Callable[[str], None]
    injected: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # faults that could not be carried out: the harness is at fault
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        with InjectionContext(self.stack, self.load, random.Random(self.seed), alone=True).victim():
            pass  # the time counts from where there is work to disturb
        end = time.monotonic() + self.seconds
        lanes = [threading.Thread(target=self._drive, args=(number, end), name=f"lane {number}", daemon=True)
                 for number in range(LANES)]  # fmt: skip
        for thread in lanes:
            thread.start()
        for thread in lanes:
            thread.join()

    def _drive(self, number: int, end: float) -> None:
        for turn in lane(self.seed, number):
            time.sleep(min(turn.pause, max(0.0, end - time.monotonic())))
            if time.monotonic() >= end:
                return
            self._play(number, turn)

    def _play(self, number: int, turn: Turn) -> None:
        context = InjectionContext(self.stack, self.load, random.Random(turn.seed), alone=False)
        began = time.monotonic()
        try:
            what = FAULTS[turn.fault](context).what
        except (NothingToHit, Busy) as reason:
            self._count(self.passed_over, turn.fault)
            what = f"passed over: {reason}"
        except Exception as error:  # noqa: BLE001 - the rest of the schedule shall still be seen
            self.broken.append(f"{turn}: {type(error).__name__}: {error}")
            what = f"could not be carried out: {error}"
        else:
            self._count(self.injected, turn.fault)
        self.say(f"lane {number} {turn.fault} ({time.monotonic() - began:.1f} s): {what}")

    def _count(self, counter: Counter[str], fault: str) -> None:
        with self._lock:
            counter[fault] += 1
