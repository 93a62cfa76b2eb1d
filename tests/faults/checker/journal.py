"""What a job's events tell is what its rows hold, each once and in order; and a message waits only for a queued job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from itertools import pairwise

from tests.faults.checker.index import Index
from tests.faults.checker.rows import EventRow, JobRow
from tests.faults.checker.violations import Rule, Violation

SHOWN = 5  # of a list


def check_journal(index: Index) -> Iterator[Violation]:
    for job in index.jobs.values():
        events = index.events[job.id]
        numbers = [event.seq for event in events]
        if numbers != list(range(1, job.last_event + 1)):
            missing = sorted(set(range(1, job.last_event + 1)) - set(numbers))
            evidence = f"there are {len(numbers)}, the last should be {job.last_event}; missing are {missing[:SHOWN]}"
            yield Violation(Rule.EVENTS_GAP, job.id, evidence)
        yield from _told(index, job, events)
        yield from _lines(index, job, events)
    yield from _messages(index)


def _told(index: Index, job: JobRow, events: list[EventRow]) -> Iterator[Violation]:
    number = {attempt.id: attempt.number for attempt in index.attempts[job.id]}
    batches = [row for id_ in number for row in index.batches[id_]]

    def of(kind: str, *names: str) -> list[Hashable]:
        return [tuple(event.ref.get(name) for name in names) for event in events if event.kind == kind]

    path: list[Hashable] = [(row.seq,) for row in index.transitions[job.id]]
    yield from _same(job, "transitions", of("transition", "seq"), path)
    kept: list[Hashable] = [(row.attempt_id, number[row.attempt_id], row.sequence) for row in batches]
    yield from _same(job, "batches of metrics", of("metrics", "attempt_id", "attempt", "sequence"), kept)
    kept = [(row.attempt_id, row.model, row.step) for id_ in number for row in index.evaluations[id_]]
    yield from _same(job, "evaluations", of("evaluation", "attempt_id", "model", "step"), kept)
    order = [event.ref.get("seq", 0) for event in events if event.kind == "transition"]
    if not _ascending(order):
        yield Violation(Rule.EVENTS_WRONG, job.id, f"transitions are told in the order {order}")
    for attempt in index.attempts[job.id]:
        sequences = [row.sequence for row in index.batches[attempt.id]]
        metrics = (event.ref for event in events if event.kind == "metrics")
        order = [ref.get("sequence", 0) for ref in metrics if ref.get("attempt_id") == attempt.id]
        if sorted(sequences) != list(range(len(sequences))) or not _ascending(order):
            evidence = f"the batches of {index.name(attempt)} came in the order {order}"
            yield Violation(Rule.EVENTS_WRONG, job.id, evidence)


def _same(job: JobRow, what: str, told: Iterable[Hashable], kept: Iterable[Hashable]) -> Iterator[Violation]:
    events, rows = Counter(told), Counter(kept)
    if lacking := list((rows - events).elements()):
        yield Violation(Rule.EVENTS_WRONG, job.id, f"{what} without an event: {lacking[:SHOWN]}")
    if void := list((events - rows).elements()):
        yield Violation(Rule.EVENTS_WRONG, job.id, f"events of {what} without a row: {void[:SHOWN]}")


def _ascending(numbers: list[int]) -> bool:
    return all(one < two for one, two in pairwise(numbers))


def _lines(index: Index, job: JobRow, events: list[EventRow]) -> Iterator[Violation]:
    """Log lines are numbered without a hole over all attempts. Old ones may be dropped, so rows may lack."""
    told = [(event.ref.get("first"), event.ref.get("count")) for event in events if event.kind == "log"]
    line = 1
    for first, count in told:
        if first != line:
            yield Violation(Rule.EVENTS_WRONG, job.id, f"log line {line} should follow, an event begins at {first}")
            return
        line += count or 0
    rows = [(row.first, row.count) for row in index.history.logs if row.job_id == job.id]
    if void := sorted(set(rows) - set(told)):
        yield Violation(Rule.EVENTS_WRONG, job.id, f"log lines without an event: {void[:SHOWN]}")


def _messages(index: Index) -> Iterator[Violation]:
    sent = {row.job_id for row in index.history.outbox}
    for row in index.history.outbox:
        job = index.jobs.get(row.job_id)
        if job is None or job.status != "queued":
            evidence = f"message {row.id} waits, the job is {job.status if job else 'gone'}"
            yield Violation(Rule.MESSAGE_STRAY, row.job_id, evidence)
    for job in index.jobs.values():
        if job.status == "queued" and job.id not in sent:
            yield Violation(Rule.MESSAGE_STRAY, job.id, "it is queued, and no message will ever be sent for it")
