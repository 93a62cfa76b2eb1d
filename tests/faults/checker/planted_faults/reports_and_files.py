"""Against the rules of metrics, evaluations, resumes and files."""

from __future__ import annotations

import math
from dataclasses import replace

from tests.faults.checker.case import Case
from tests.faults.checker.planted_faults.registry import OTHER, against
from tests.faults.checker.rows import FileRead
from tests.faults.checker.summaries import summaries
from tests.faults.checker.violations import Rule
from worker.training.audit_log import Points, Wrote


@against(Rule.AUDIT_LOG_MISSING)
def an_audit_log_is_gone(case: Case) -> None:
    case.drop(case.audit_log("short", 1))


@against(Rule.POINT_LOST)
def a_point_is_not_stored(case: Case) -> None:
    case.drop(case.point("resumed", 2, 7, "lr"))


@against(Rule.POINT_LOST)
def a_point_from_before_a_checkpoint_is_not_stored(case: Case) -> None:
    case.drop(case.point("resumed", 1, 5, "lr"))


@against(Rule.POINT_LOST)
def the_last_reports_of_a_success_are_not_stored(case: Case) -> None:
    case.drop(case.point("resumed", 2, 12, "grad_norm"))


@against(Rule.POINT_DOUBLED)
def a_point_is_stored_twice(case: Case) -> None:
    case.history.points.append(case.point("resumed", 2, 7, "lr"))


@against(Rule.POINT_INVENTED)
def a_point_is_stored_that_nobody_reported(case: Case) -> None:
    case.history.points.append(replace(case.point("resumed", 2, 7, "lr"), key="speed"))


@against(Rule.POINT_CHANGED)
def the_last_bit_of_a_point_is_another(case: Case) -> None:
    point = case.point("resumed", 2, 7, "lr")
    assert point.value
    case.change(point, value=math.nextafter(point.value, 1))


@against(Rule.POINT_CHANGED)
def an_infinite_point_has_another_sign(case: Case) -> None:
    case.change(case.point("resumed", 1, 3, "grad_norm"), kind=3)


@against(Rule.SUMMARY_WRONG)
def a_batch_counts_twice_in_a_summary(case: Case) -> None:
    point = case.point("resumed", 2, 7, "lr")
    row = next(row for row in case.history.summaries if (row.attempt_id, row.key) == (point.attempt_id, "lr"))
    case.change(row, points=row.points + 1)


@against(Rule.SUMMARY_WRONG)
def a_summary_is_not_kept(case: Case) -> None:
    point = case.point("resumed", 2, 7, "lr")
    case.drop(next(row for row in case.history.summaries if (row.attempt_id, row.key) == (point.attempt_id, "lr")))


@against(Rule.SERIES_HOLE)
def a_step_was_never_reported(case: Case) -> None:
    records = case.audit_log("resumed", 2).records
    case.note("resumed", 2, [note for note in records if not (isinstance(note, Points) and note.step == 11)])
    for key in ("loss", "lr", "grad_norm"):
        case.drop(case.point("resumed", 2, 11, key))
    case.history.summaries[:] = summaries(case.history.points)


@against(Rule.EVALUATION_WRONG)
def an_evaluation_is_lost(case: Case) -> None:
    attempt = case.attempt("failed", 1)
    case.drop(next(row for row in case.history.evaluations if row.attempt_id == attempt.id))
    case.tell("failed", [event for event in case.events("failed") if event.kind != "evaluation"])


@against(Rule.EVALUATION_WRONG)
def an_evaluation_has_other_numbers(case: Case) -> None:
    row = next(row for row in case.history.evaluations if row.attempt_id == case.attempt("resumed", 2).id)
    metrics = {**row.report["metrics"], "AP50": 0.25}
    case.change(row, report={**row.report, "metrics": metrics})


@against(Rule.RESUMED_FROM_NOWHERE)
def a_checkpoint_was_never_written(case: Case) -> None:
    records = case.audit_log("resumed", 1).records
    case.note("resumed", 1, [note for note in records if not (isinstance(note, Wrote) and note.step == 5)])


@against(Rule.RESUMED_FROM_NOWHERE)
def a_training_got_other_bytes(case: Case) -> None:
    first, *rest = case.audit_log("retry", 1).records
    case.note("retry", 1, [first.model_copy(update={"resume_sha256": OTHER}), *rest])


@against(Rule.CHECKPOINT_IGNORED)
def a_newer_checkpoint_stood(case: Case) -> None:
    one = case.attempt("resumed", 1)
    row = case.artifact("resumed", "checkpoint-00000010.pt")
    case.change(row, attempt_id=one.id, created_at=one.ended_at)
    wrote = next(note for note in case.audit_log("resumed", 2).records
                 if isinstance(note, Wrote) and note.sha256 == row.sha256)  # fmt: skip
    case.note("resumed", 1, [*case.audit_log("resumed", 1).records, wrote.model_copy(update={"monotonic": 0.0})])


@against(Rule.RESUME_DIFFERS)
def a_resumed_training_computes_something_else(case: Case) -> None:
    records = [
        note.model_copy(update={"values": {**note.values, "loss": (0.5).hex()}})
        if isinstance(note, Points) and note.step == 7
        else note
        for note in case.audit_log("resumed", 1).records
    ]
    case.note("resumed", 1, records)
    case.change(case.point("resumed", 1, 7, "loss"), value=0.5)
    case.history.summaries[:] = summaries(case.history.points)


@against(Rule.WEIGHTS_DIFFER)
def a_tensor_differs_from_the_uninterrupted_runs(case: Case) -> None:
    case.history.seen.references["resumed"]["last.safetensors"]["weight"] = f"F32 [1] {OTHER}"


@against(Rule.FILE_MISSING)
def a_file_is_gone(case: Case) -> None:
    path = case.artifact("resumed", "curves-student-00000012.json").path
    case.drop(next(file for file in case.history.files if file.key == path))


@against(Rule.FILE_CORRUPT)
def a_byte_flips(case: Case) -> None:
    path = case.artifact("failed", "checkpoint-00000005.pt").path
    case.change(next(file for file in case.history.files if file.key == path), sha256=OTHER)


@against(Rule.FILE_CORRUPT)
def a_file_is_cut_short(case: Case) -> None:
    path = case.artifact("resumed", "log.txt").path
    case.change(next(file for file in case.history.files if file.key == path), size=0)


@against(Rule.FILE_UNNAMED)
def a_file_outlives_the_sweep(case: Case) -> None:
    case.history.files.append(FileRead("job/file", 1, OTHER, case.history.seen.sweep_seconds + 1))


@against(Rule.FILE_FOREIGN)
def a_published_file_is_not_what_was_written(case: Case) -> None:
    row = case.artifact("failed", "checkpoint-00000005.pt")
    case.change(row, sha256=OTHER)
    case.change(next(file for file in case.history.files if file.key == row.path), sha256=OTHER)


@against(Rule.FILE_FOREIGN)
def a_published_file_is_said_to_be_of_another_step(case: Case) -> None:
    case.change(case.artifact("failed", "curves-student-00000006.json"), step=5)


@against(Rule.RESULT_MISSING)
def a_success_has_no_last_weights(case: Case) -> None:
    row = case.artifact("resumed", "last.safetensors")
    case.drop(next(file for file in case.history.files if file.key == row.path))
    case.drop(row)


@against(Rule.RESULT_WRONG)
def the_manifest_tells_of_other_weights(case: Case) -> None:
    attempt = case.attempt("resumed", 2)
    weights = {**(attempt.result or {})["weights"], "best.safetensors": {"sha256": OTHER}}
    case.change(attempt, result={**(attempt.result or {}), "weights": weights})
