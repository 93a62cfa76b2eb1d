"""Against the rules of what clients are told."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.checker.case import Case
from tests.faults.checker.planted_faults.registry import INSTANT, OTHER, against
from tests.faults.checker.rows import Accepted, Download, Observation, OutboxRow, TransitionRow
from tests.faults.checker.violations import Rule

MUCH_LATER = 1e12  # seconds, behind every observation


@against(Rule.JOB_LOST)
def a_job_vanishes(case: Case) -> None:
    case.erase("short")


@against(Rule.JOB_CHANGED)
def labels_change(case: Case) -> None:
    case.change(case.job("short"), labels={"team": "other"})


@against(Rule.JOB_UNFINISHED)
def a_job_waits_for_ever(case: Case) -> None:
    case.drop(case.path("unwanted")[-1])
    case.tell("unwanted", case.events("unwanted")[:-1])
    case.change(case.job("unwanted"), status="queued")
    case.history.outbox.append(OutboxRow("message", case.ids["unwanted"]))
    seen = case.history.seen
    seen.observations[:] = [told for told in seen.observations if told.job_id != case.ids["unwanted"]]


@against(Rule.JOB_DOUBLED)
def a_key_is_answered_with_two_jobs(case: Case) -> None:
    known = next(told for told in case.history.seen.accepted if told.job_id == case.ids["short"])
    other = next(told for told in case.history.seen.accepted if told.job_id == case.ids["unwanted"])
    case.history.seen.accepted.append(Accepted(other.job_id, other.body, known.key))


@against(Rule.JOB_DOUBLED)
def a_request_makes_a_second_job_that_nobody_hears_of(case: Case) -> None:
    told = next(told for told in case.history.seen.accepted if told.job_id == case.ids["unwanted"])
    case.drop(told)
    case.change(case.job("unwanted"), name="short")


@against(Rule.FINAL_CHANGED)
def a_final_state_is_left(case: Case) -> None:
    last = case.path("unwanted")[-1]
    case.history.transitions.append(
        TransitionRow(last.job_id, last.seq + 1, last.at + INSTANT, "cancelled", "failed", "")
    )
    events = case.events("unwanted")
    case.tell("unwanted", [*events, replace(events[-1], ref={"seq": last.seq + 1})])
    case.change(case.job("unwanted"), status="failed")


@against(Rule.FINAL_CHANGED)
def a_final_state_is_overwritten(case: Case) -> None:
    case.change(case.job("unwanted"), status="failed")


@against(Rule.FINAL_CHANGED)
def a_client_sees_a_job_run_after_its_end(case: Case) -> None:
    case.history.seen.observations.append(Observation(case.ids["resumed"], "running", MUCH_LATER, MUCH_LATER + 1))


@against(Rule.FINAL_CHANGED)
def an_artifact_changes_after_the_end(case: Case) -> None:
    told = next(told for told in case.history.seen.downloads if told.job_id == case.ids["resumed"])
    case.change(told, promised=OTHER, sha256=OTHER)


@against(Rule.STATUS_IMPOSSIBLE)
def a_client_sees_a_status_that_never_was(case: Case) -> None:
    case.history.seen.observations.insert(0, Observation(case.ids["failed"], "paused", 0.0, 0.1))


@against(Rule.STATUS_IMPOSSIBLE)
def a_replica_answers_from_the_past(case: Case) -> None:
    running = case.path("failed")[1].at.timestamp()
    case.history.seen.observations.append(Observation(case.ids["failed"], "queued", running + 0.005, running + 0.006))


@against(Rule.DOWNLOAD_CORRUPT)
def a_download_has_other_bytes(case: Case) -> None:
    case.history.seen.downloads.append(Download(case.ids["resumed"], "last.safetensors", "1" * 64, OTHER, 5))
