from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.api_double import Double, Fault
from worker.deliver.client import AttemptClient
from worker.supervise.lease import Control, Lease

Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def control(attempt: AttemptClient) -> Iterator[Control]:
    """Of a lease that is being held, with the shortest interval between heartbeats."""
    held = Control()
    lease = Lease(attempt, held, lease_seconds=30, heartbeat_seconds=0.05)
    lease.start()
    yield held
    lease.stop()


def test_heartbeats_survive_whatever_the_api_answers(double: Double, control: Control, until: Until) -> None:
    faults = [Fault(status=500), Fault(drop="before"), Fault(status=401), Fault(status=200, body={"x": 1})]
    double.faults["heartbeat"] = [*faults]
    until(lambda: not double.faults["heartbeat"])
    before = double.heartbeats
    until(lambda: double.heartbeats > before + 3)
    assert not control.halt.is_set()


def test_the_interval_fits_the_lease(double: Double, attempt: AttemptClient, until: Until) -> None:
    """However long the setting: a lease must not lapse between two heartbeats."""
    lease = Lease(attempt, Control(), lease_seconds=0.3, heartbeat_seconds=60)
    lease.start()
    until(lambda: double.heartbeats > 3)
    lease.stop()


def test_two_heartbeats_that_hang_cost_no_lease(double: Double, attempt: AttemptClient, until: Until) -> None:
    """A machine on the way swallows them: only their own timeout ends them."""
    never = threading.Event()
    double.faults["heartbeat"] = [Fault(hold=never), Fault(hold=never)]
    lease = Lease(attempt, Control(), lease_seconds=1.2, heartbeat_seconds=60)
    assert lease._timeout <= lease._interval <= 1.2 / 4  # so that the third has its time
    lease.start()
    until(lambda: double.heartbeats)
    lease.stop()
    never.set()


def test_a_command_is_heard_at_once_and_after_an_outage(double: Double, attempt: AttemptClient, until: Until) -> None:
    double.faults["commands"] = [Fault(status=503), Fault(drop="before")]
    double.give_command("cancel")
    control = Control()
    lease = Lease(attempt, control, lease_seconds=30, heartbeat_seconds=60)
    lease.start()  # with the faults in place: its first request for commands comes at once
    until(lambda: control.cancel)
    lease.stop()
    assert double.faults["commands"] == []
    assert control.halt.is_set()
    assert not control.stale


def test_a_stop_halts_nothing_and_other_commands_may_follow(double: Double, control: Control, until: Until) -> None:
    double.give_command("stop")
    until(lambda: control.stop)
    assert not control.halt.is_set()
    double.give_command("pause")
    until(lambda: control.pause)
    assert control.halt.is_set()
    assert not control.hurry
    double.give_command("cancel")
    until(lambda: control.hurry)
    known = [request.query.get("known") for request in double.seen("commands")]
    assert list(dict.fromkeys(known)) == [None, "stop", "pause"]
    seen = len(known)
    time.sleep(0.3)
    assert len(double.seen("commands")) == seen  # nothing follows a cancel


def test_a_heartbeat_may_bring_the_command(double: Double, control: Control, until: Until) -> None:
    answer = {"lease_expires_at": "2030-01-01T00:00:00Z", "command": "cancel"}
    # Always: with so short an interval a heartbeat gives up soon, and the one that brought it may not be waited for.
    double.always["heartbeat"] = Fault(status=200, body=answer)
    until(lambda: control.cancel)


@pytest.mark.parametrize("word", ["heartbeat", "commands"])
def test_either_call_tells_that_the_attempt_is_stale(double: Double, control: Control, until: Until, word: str) -> None:
    double.always[word] = Fault(status=409)
    double.commanded.set()  # let the held request go and be repeated
    until(lambda: control.stale)
    assert control.halt.is_set()
