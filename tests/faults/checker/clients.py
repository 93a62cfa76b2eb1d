"""What clients were told must have been true, and must have stayed so."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

from tests.faults.checker.index import FINAL, Index
from tests.faults.checker.rows import Accepted, Observation
from tests.faults.checker.violations import Rule, Violation

KEPT = ("kind", "name", "labels", "spec", "retried_from")  # of a job, from its 201 to its end

SHOWN = 300  # characters of a value


def check_clients(index: Index) -> Iterator[Violation]:
    yield from _accepted(index)
    yield from _once(index)
    yield from _observed(index)
    yield from _downloads(index)


def _accepted(index: Index) -> Iterator[Violation]:
    for accepted in {accepted.job_id: accepted for accepted in index.seen.accepted}.values():
        job = index.jobs.get(accepted.job_id)
        if job is None:
            if accepted.job_id not in index.history.deleted:
                evidence = f"201 was answered ({accepted.body.get('name')!r}), there is no row, nor was it deleted"
                yield Violation(Rule.JOB_LOST, accepted.job_id, evidence)
            continue
        for name in KEPT:
            if name in accepted.body and accepted.body[name] != getattr(job, name):
                was, now = (repr(value)[:SHOWN] for value in (accepted.body[name], getattr(job, name)))
                evidence = f"{name} was accepted as {was} and is {now}"
                yield Violation(Rule.JOB_CHANGED, job.id, evidence)
    for job in index.jobs.values():
        if job.status not in FINAL:
            yield Violation(Rule.JOB_UNFINISHED, job.id, f"it is {job.status} after {job.attempt} attempts")


def _once(index: Index) -> Iterator[Violation]:
    """One job for each key, whatever the client saw of its answers; and one for each name, if names are told apart."""
    by_key: dict[str, set[str]] = defaultdict(set)
    by_name: dict[str, list[Accepted]] = defaultdict(list)
    for accepted in index.seen.accepted:
        by_name[accepted.body.get("name", "")].append(accepted)
        if accepted.key is not None:
            by_key[accepted.key].add(accepted.job_id)
    for key, ids in by_key.items():
        if len(ids) > 1:
            evidence = f"the Idempotency-Key {key!r} was answered with the jobs {', '.join(sorted(ids))}"
            yield Violation(Rule.JOB_DOUBLED, min(ids), evidence)
    for job in index.jobs.values():
        told = by_name.get(job.name, [])
        if job.retried_from is None and told and job.id not in {accepted.job_id for accepted in told}:
            evidence = f"nobody was told of it; the request {job.name!r} was answered with {told[0].job_id}"
            yield Violation(Rule.JOB_DOUBLED, job.id, evidence)


def _observed(index: Index) -> Iterator[Violation]:
    groups: dict[str, list[Observation]] = defaultdict(list)
    for observation in index.seen.observations:
        groups[observation.job_id].append(observation)
    for job_id, observations in groups.items():
        if job_id in index.jobs:
            yield from _timeline(index, job_id, observations)


def _timeline(index: Index, job_id: str, observations: list[Observation]) -> Iterator[Violation]:
    """Each observation is a place on the path of transitions; what was asked later is never at an earlier place.

    Two requests that overlap in time may have been answered in either order, so only such as ended before another
    began bind it. Each observation is given the earliest place it can have, so one that has none is impossible.
    """
    path = [transition.to_status for transition in index.transitions[job_id]]
    answered: list[tuple[float, int, str]] = []  # of those before, a heap: when, at which place, with which status
    floor, before = 0, ""
    for seen in sorted(observations, key=lambda observation: observation.asked):
        while answered and answered[0][0] < seen.asked:
            _, place, status = heapq.heappop(answered)
            if place >= floor:
                floor, before = place, status
        place = next((at for at in range(floor, len(path)) if path[at] == seen.status), -1)
        if place < 0:
            rule = Rule.FINAL_CHANGED if before in FINAL else Rule.STATUS_IMPOSSIBLE
            evidence = f"{seen.status} was told at {seen.answered:.3f} s, {before or 'nothing'} before; it went {path}"
            yield Violation(rule, job_id, evidence)
            continue
        heapq.heappush(answered, (seen.answered, place, seen.status))


def _downloads(index: Index) -> Iterator[Violation]:
    for download in index.seen.downloads:
        if download.sha256 != download.promised:
            evidence = f"{download.name}: {download.size} bytes of sha256 {download.sha256}, not {download.promised}"
            yield Violation(Rule.DOWNLOAD_CORRUPT, download.job_id, evidence)
        if not download.final or download.job_id not in index.jobs:
            continue
        stored = {artifact.name: artifact.sha256 for artifact in index.artifacts[download.job_id]}
        if stored.get(download.name, download.promised) != download.promised:
            evidence = (
                f"{download.name} was served as {download.promised} after its end, and is {stored[download.name]} now"
            )
            yield Violation(Rule.FINAL_CHANGED, download.job_id, evidence)
