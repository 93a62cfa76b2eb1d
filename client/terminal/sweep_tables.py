"""Sweeps as text: a list, one with its jobs, and the answer with its verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from client.terminal.tables import add_row, number, plain_table, when
from client.terminal.visible import visible
from client.terminal.watch import clock
from wire.sweeps import ENDED, ArmResult, Difference, PlannedJob, Point, Spread, Sweep, SweepDryRun, SweepSummary

RESULTS = ("arm", "n", "AP", "difference", "95 % interval", "gap", "AP50", "small", "time", "ms/image")
OF_THE_VERDICT = 6  # the first of them
WIDEST = 10_000  # columns


def sweeps_table(sweeps: Iterable[SweepSummary]) -> Table:
    table = plain_table("id", "name", "status", "jobs", "arms", "seeds", "created")
    for sweep in sweeps:
        done = f"{_ended(sweep)}/{sum(sweep.jobs.values())}"
        seeds = str(len(sweep.seeds))
        add_row(table, sweep.id, sweep.name, sweep.status, done, ", ".join(sweep.arms), seeds, when(sweep.created_at))
    return table


def children_table(sweep: Sweep) -> Table:
    table = plain_table("job", "arm", "seed", "point", "status", "AP", "failure")
    for child in sweep.children:
        failure = child.failure.message if child.failure is not None else ""
        cells = (child.arm or "(teacher)", str(child.seed), point_text(child.point), child.status)
        add_row(table, child.job, *cells, number(child.best_ap), failure)
    return table


def results_tables(sweep: Sweep, width: int | None = None) -> list[Table]:
    """A line for each arm, and one for each of its points where there are several.

    Where `width` columns are too few for all figures, those that the verdict needs come first, in a table of their own.
    """
    rows = list(_result_rows(sweep))
    whole = _columns(rows, range(len(RESULTS)))
    room = Console(width=WIDEST)
    if width is None or room.measure(whole).maximum <= width:
        return [whole]
    return [_columns(rows, range(OF_THE_VERDICT)), _columns(rows, (0, *range(OF_THE_VERDICT, len(RESULTS))))]


def _columns(rows: Iterable[Sequence[str]], chosen: Sequence[int]) -> Table:
    table = plain_table(*(RESULTS[column] for column in chosen))
    for row in rows:
        if any(row[column] for column in chosen[1:]):
            add_row(table, *(row[column] for column in chosen))
    return table


def _result_rows(sweep: Sweep) -> Iterator[Sequence[str]]:
    if sweep.teacher is not None and sweep.teacher.ap is not None:
        yield "(teacher)", "", number(sweep.teacher.ap), *[""] * 7
    for result in sweep.results:
        time = clock(result.training_seconds.mean) if result.training_seconds is not None else ""
        milliseconds = f"{result.milliseconds.mean:.1f}" if result.milliseconds is not None else ""
        name = f"{result.arm} (baseline)" if result.baseline else result.arm
        figures = (_spread(result.ap50), _spread(result.by_size.get("small")))
        cells = (_finished(result), _spread(result.ap), *_difference(result.difference), _share(result.gap_closed))
        yield name, *cells, *figures, time, milliseconds
        for point in result.points:
            rest = (_spread(point.ap), *_difference(point.difference))
            yield f"  {point_text(point.point)}", str(point.ap.n if point.ap else 0), *rest, *[""] * 5


def answer_lines(sweep: Sweep) -> list[str]:
    """The verdicts in words."""
    return [visible(line) for line in sweep.answer]


def progress_line(sweep: Sweep) -> str:
    """How far it is, and what is being trained."""
    parts = [f"{sweep.name}: {sweep.status}", f"{_ended(sweep)} of {sum(sweep.jobs.values())} jobs ended"]
    for child in sweep.children:
        if child.status == "running":
            step = f" step {child.progress.step}/{child.progress.total_steps}" if child.progress is not None else ""
            parts.append(f"{child.arm or 'teacher'} seed {child.seed}{step}")
    return visible(" · ".join(parts))


def plan_lines(plan: SweepDryRun) -> list[str]:
    """What a dry run says before its table."""
    seconds = plan.estimated_seconds
    time = "" if seconds is None else f", about {clock(seconds)} one after the other"
    counts = Counter(job.arm or "teacher" for job in plan.jobs)
    arms = ", ".join(f"{arm}: {count}" for arm, count in counts.items())
    return [visible(line) for line in (f"{plan.name}: {len(plan.jobs)} jobs ({arms}){time}", plan.estimate)]


def plan_table(jobs: Iterable[PlannedJob]) -> Table:
    table = plain_table("arm", "seed", "point", "kind", "time", "specification")
    for job in jobs:
        time = "" if job.estimated_seconds is None else clock(job.estimated_seconds)
        cells = (str(job.seed), point_text(job.point), job.kind, time, job.spec_sha256[:12])
        add_row(table, job.arm or "(teacher)", *cells)
    return table


def point_text(point: Point) -> str:
    return ", ".join(f"{knob}={value}" for knob, value in point.items())


def has_ended(sweep: Sweep) -> bool:
    return sweep.status in ENDED


def _ended(sweep: SweepSummary) -> int:
    return sum(
        count for status, count in sweep.jobs.items() if status in ("succeeded", "failed", "cancelled", "deleted")
    )


def _finished(result: ArmResult) -> str:
    return str(result.finished) if result.finished == result.jobs else f"{result.finished}/{result.jobs}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.mean:.3f}" + (f" ± {spread.standard_error:.3f}" if spread.standard_error is not None else "")


def _difference(difference: Difference | None) -> tuple[str, str]:
    if difference is None:
        return "", ""
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f"{difference.low:+.3f} to {difference.high:+.3f}"
    return f"{difference.mean:+.3f}", interval


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
