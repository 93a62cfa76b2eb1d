"""Against the rules of the life of a job and its attempts, and of its events."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.checker.case import Case
from tests.faults.checker.planted_faults.registry import INSTANT, against
from tests.faults.checker.rows import AuditLog, OutboxRow
from tests.faults.checker.violations import Rule
from worker.training.audit_log import Began


@against(Rule.TRANSITION_ILLEGAL)
def a_job_is_taken_for_running_that_was_queued(case: Case) -> None:
    case.change(case.path("unwanted")[-1], from_status="running")


@against(Rule.TRANSITION_ILLEGAL)
def a_paused_job_fails(case: Case) -> None:
    case.change(case.path("failed")[-1], to_status="paused")
    last = case.path("failed")[-1]
    case.history.transitions.append(replace(last, seq=last.seq + 1, from_status="paused", to_status="failed"))
    events = case.events("failed")
    case.tell("failed", [*events, replace(events[-1], ref={"seq": last.seq + 1})])
    attempt = case.attempt("failed", 1)
    case.change(attempt, status="released", failure=None)


@against(Rule.TIME_REVERSED)
def a_transition_is_older_than_the_one_before(case: Case) -> None:
    first, last = case.path("unwanted")
    case.change(last, at=first.at - INSTANT)


@against(Rule.TIME_REVERSED)
def an_attempt_ends_before_it_begins(case: Case) -> None:
    attempt = case.attempt("short", 1)
    case.change(attempt, ended_at=attempt.started_at - INSTANT)


@against(Rule.ATTEMPTS_OVERLAP)
def two_attempts_live_at_once(case: Case) -> None:
    one, two = case.attempt("resumed", 1), case.attempt("resumed", 2)
    assert one.ended_at
    case.change(two, started_at=one.ended_at - INSTANT)


@against(Rule.ATTEMPTS_OVERLAP)
def an_attempt_begins_while_the_lease_of_one_that_never_ended_holds(case: Case) -> None:
    one, two = case.attempt("resumed", 1), case.attempt("resumed", 2)
    case.change(one, ended_at=None, lease_expires_at=two.started_at + INSTANT)


@against(Rule.FENCING_BROKEN)
def a_number_is_left_out(case: Case) -> None:
    job = case.job("short")
    case.change(job, attempt=job.attempt + 1)


@against(Rule.FENCING_BROKEN)
def a_training_has_no_attempt(case: Case) -> None:
    began = Began(monotonic=1.0, job=case.ids["short"], attempt="a" * 32, number=2, worker="w", pid=1)
    case.history.audit_logs.append(AuditLog("a" * 32, (began,)))


@against(Rule.LATE_WRITE)
def a_batch_is_accepted_after_the_next_claim(case: Case) -> None:
    events = case.events("resumed")
    late = max(event.seq for event in events if event.kind == "metrics" and event.ref["attempt"] == 1)
    claim = [event.seq for event in events if event.kind == "transition"][3]
    moved = events.pop(late - 1)
    events.insert(claim - 1, moved)
    case.tell("resumed", events)


@against(Rule.LATE_WRITE)
def a_file_is_published_after_the_end(case: Case) -> None:
    first = case.attempt("failed", 1)
    assert first.ended_at
    case.change(case.artifact("failed", "checkpoint-00000005.pt"), created_at=first.ended_at + INSTANT)


@against(Rule.LATE_WRITE)
def an_evaluation_is_accepted_after_the_end(case: Case) -> None:
    lost = case.attempt("resumed", 1)
    assert lost.ended_at
    row = next(row for row in case.history.evaluations if row.attempt_id == lost.id)
    case.change(row, at=lost.ended_at + INSTANT)


@against(Rule.LEASE_IGNORED)
def an_attempt_is_reaped_while_its_lease_holds(case: Case) -> None:
    attempt = case.attempt("resumed", 1)
    assert attempt.ended_at
    case.change(attempt, lease_expires_at=attempt.ended_at + INSTANT)


@against(Rule.VERDICT_WRONG)
def a_job_fails_that_could_be_resumed(case: Case) -> None:
    case.change(case.attempt("short", 1), failure={"failure_class": "infrastructure"})


@against(Rule.VERDICT_WRONG)
def a_job_is_cancelled_that_nobody_cancelled(case: Case) -> None:
    case.change(case.job("given back"), cancel_requested_at=None)


@against(Rule.ATTEMPT_LEFT_RUNNING)
def an_attempt_runs_on(case: Case) -> None:
    case.change(case.attempt("short", 1), status="running", ended_at=None)


@against(Rule.TOO_MANY_RESUMES)
def a_resume_is_not_counted(case: Case) -> None:
    case.change(case.job("resumed"), resumes=0)


@against(Rule.RAN_TWICE)
def two_processes_train_one_attempt(case: Case) -> None:
    first = case.audit_log("short", 1).records
    assert isinstance(first[0], Began)
    case.history.audit_logs.append(AuditLog(case.attempt("short", 1).id, (first[0].model_copy(update={"pid": 2}),)))


@against(Rule.RAN_TWICE)
def a_training_goes_on_beside_its_successor(case: Case) -> None:
    *before, last = case.audit_log("given back", 1).records
    later = case.audit_log("given back", 2).records[1].monotonic
    case.note("given back", 1, [*before, last.model_copy(update={"monotonic": later})])


@against(Rule.DEPENDENCY_IGNORED)
def a_job_begins_before_what_it_needs_has_succeeded(case: Case) -> None:
    needed, begun = case.path("resumed")[-1], case.path("waited")[1]
    case.change(case.path("waited")[0], at=needed.at - 2 * INSTANT)
    case.change(begun, at=needed.at - INSTANT)


@against(Rule.DEPENDENCY_IGNORED)
def a_job_fails_although_what_it_needs_has_succeeded(case: Case) -> None:
    case.change(case.job("in vain"), spec={**case.job("in vain").spec, **case.job("waited").spec})
    accepted = next(one for one in case.history.seen.accepted if one.job_id == case.ids["in vain"])
    case.change(accepted, body={**accepted.body, "spec": case.job("in vain").spec})
    row = next(row for row in case.history.dependencies if row.job_id == case.ids["in vain"])
    case.change(row, depends_on=case.ids["resumed"])


@against(Rule.DEPENDENCY_IGNORED)
def a_job_that_was_never_begun_fails_as_if_it_had_been(case: Case) -> None:
    case.change(case.job("in vain"), failure={"failure_class": "diverged"})


@against(Rule.DEPENDENCY_IGNORED)
def what_a_job_needs_is_not_kept(case: Case) -> None:
    case.drop(next(row for row in case.history.dependencies if row.job_id == case.ids["waited"]))


@against(Rule.EVENTS_GAP)
def a_number_is_skipped(case: Case) -> None:
    for event in case.events("short")[4:]:
        case.change(event, seq=event.seq + 1)
    job = case.job("short")
    case.change(job, last_event=job.last_event + 1)


@against(Rule.EVENTS_WRONG)
def a_batch_has_no_event(case: Case) -> None:
    events = case.events("short")
    events.remove(next(event for event in events if event.kind == "metrics"))
    case.tell("short", events)


@against(Rule.EVENTS_WRONG)
def an_event_has_no_batch(case: Case) -> None:
    case.drop(next(row for row in case.history.batches if row.attempt_id == case.attempt("short", 1).id))


@against(Rule.EVENTS_WRONG)
def log_lines_are_lost(case: Case) -> None:
    events = case.events("short")
    events.remove(next(event for event in events if event.kind == "log"))
    case.tell("short", events)


@against(Rule.MESSAGE_STRAY)
def a_bell_waits_for_an_ended_job(case: Case) -> None:
    case.history.outbox.append(OutboxRow("message", case.ids["resumed"]))
