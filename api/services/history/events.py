"""What has happened to a job, in order, as the stream tells it. All of it is read from the database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import Row, select

from api.database import Database, Session
from api.errors import NotFound
from api.models import ID, Artifact, Event, Job, LogChunk, MetricPoint, Transition
from api.models import Evaluation as EvaluationRow
from api.services.history.logs import lines_of
from api.services.history.values import as_wire
from api.services.jobs import store
from wire import events as wire
from wire.artifacts import curves_artifact
from wire.jobs import FINAL
from wire.jobs import Transition as WireTransition
from wire.reports import Evaluation, MetricRow

PAGE_EVENTS = 100
_POINT = (
    MetricPoint.sequence,
    MetricPoint.key,
    MetricPoint.step,
    MetricPoint.value,
    MetricPoint.kind,
    MetricPoint.at,
)
PAGE_CHARACTERS = 200_000  # about: what one stream has in memory


class Page(NamedTuple):
    events: list[wire.Event]
    more: bool  # others stand behind these already
    over: bool  # the job has ended, and nothing comes behind these
    last_event: int  # of the job, when the page was read


def read(database: Database, job_id: str, after: int, kinds: Collection[str]) -> Page:
    """Events behind the number `after`, of these kinds (none given: of all). Raises `NotFound`."""
    with database.reading() as session:
        job = _state(session, job_id)  # its status first: an end that is seen here has all its events below
        query = select(Event.seq, Event.kind, Event.size, Event.ref).where(Event.job_id == job_id, Event.seq > after)
        if kinds:
            query = query.where(Event.kind.in_(kinds))
        rows = session.execute(query.order_by(Event.seq).limit(PAGE_EVENTS + 1)).all()
        page = _bounded(rows)
        events = _Reader(session, job_id).events(page)
        more = len(page) < len(rows)
        return Page(events, more, job.status in FINAL and not more, job.last_event)


def _state(session: Session, job_id: str) -> Row[str, int] | Job:
    """The job, or its two columns that are asked for: every stream does so for every event, and a spec is long."""
    query = select(Job.status, Job.last_event).where(Job.id == job_id)
    found = session.execute(query).first() if ID.fullmatch(job_id) else None
    return store.find(session, job_id) if found is None else found


def _bounded(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """As many of the first rows as make a page; at least one, if there is any."""
    characters = 0
    for place, row in enumerate(rows[:PAGE_EVENTS]):
        characters += row.size
        if place and characters > PAGE_CHARACTERS:
            return rows[:place]
    return rows[:PAGE_EVENTS]


class _Reader:
    """Turns rows of the journal into events, with a query per kind (and attempt) rather than per event."""

    def __init__(self, session: Session, job_id: str) -> None:
        self._session = session
        self._job = job_id

    def events(self, rows: Sequence[Row[Any]]) -> list[wire.Event]:
        data: dict[int, Any] = {}
        tellers: dict[wire.EventKind, Callable[[dict[int, Any]], Mapping[int, Any]]] = {
            "transition": self._transitions,
            "metrics": self._metrics,
            "evaluation": self._evaluations,
            "log": self._logs,
        }
        for kind, tell in tellers.items():
            if of_kind := {row.seq: row.ref for row in rows if row.kind == kind}:
                data |= tell(of_kind)
        return [wire.Event(id=row.seq, kind=cast(wire.EventKind, row.kind), data=data[row.seq]) for row in rows]

    def _transitions(self, refs: dict[int, Any]) -> dict[int, WireTransition]:
        numbers = [ref["seq"] for ref in refs.values()]
        query = select(Transition).where(Transition.job_id == self._job, Transition.seq.in_(numbers))
        found = {row.seq: row for row in self._session.scalars(query)}
        if not found.keys() >= set(numbers):
            raise _gone()
        return {
            seq: WireTransition.model_validate(found[ref["seq"]], from_attributes=True) for seq, ref in refs.items()
        }

    def _metrics(self, refs: dict[int, Any]) -> dict[int, wire.MetricsEvent]:
        points: dict[tuple[str, int], list[MetricRow]] = {}
        for attempt in {ref["attempt_id"] for ref in refs.values()}:
            batches = [ref for ref in refs.values() if ref["attempt_id"] == attempt]
            for row, point in self._points(attempt, batches):
                points.setdefault((attempt, row), []).append(point)
        return {
            seq: wire.MetricsEvent(
                attempt=ref["attempt"],
                points=points.get((ref["attempt_id"], ref["sequence"]), []),
                progress=ref["progress"],
            )
            for seq, ref in refs.items()
        }

    def _points(self, attempt_id: str, batches: Sequence[dict[str, Any]]) -> Iterable[tuple[int, MetricRow]]:
        """The points that these batches brought: a range scan over their steps."""
        told = [ref for ref in batches if "first" in ref]
        if not told:
            return
        first, last = min(ref["first"] for ref in told), max(ref["last"] for ref in told)
        query = (
            select(*_POINT)
            .where(MetricPoint.attempt_id == attempt_id, MetricPoint.step >= first, MetricPoint.step <= last)
            .where(MetricPoint.sequence.in_([ref["sequence"] for ref in told]))
            .order_by(MetricPoint.step, MetricPoint.key)
        )
        number = told[0]["attempt"]
        for row in self._session.execute(query):
            value = as_wire(row.value, row.kind)
            assert row.sequence is not None  # it was asked for
            yield row.sequence, MetricRow(key=row.key, step=row.step, value=value, at=row.at, attempt=number)

    def _evaluations(self, refs: dict[int, Any]) -> dict[int, Evaluation]:
        drawn = select(Artifact.name).where(Artifact.job_id == self._job, Artifact.kind == "curves")
        curves = frozenset(self._session.scalars(drawn))
        found = {}
        for seq, ref in refs.items():
            row = self._session.get(EvaluationRow, (ref["attempt_id"], ref["model"], ref["step"]))
            if row is None:
                raise _gone()
            name = curves_artifact(row.model, row.step)
            link = f"/jobs/{self._job}/evaluations/{row.step}/curves?model={row.model}" if name in curves else None
            rest = {"attempt": ref["attempt"], "at": row.at, "curves": link}
            found[seq] = Evaluation.model_validate({**row.report, **rest})
        return found

    def _logs(self, refs: dict[int, Any]) -> dict[int, wire.LogEvent]:
        firsts = [ref["first"] for ref in refs.values()]
        query = select(LogChunk).where(LogChunk.job_id == self._job, LogChunk.first.in_(firsts))
        kept = {chunk.first: lines_of(chunk) for chunk in self._session.scalars(query)}
        return {
            seq: wire.LogEvent(
                attempt=ref["attempt"],
                lines=kept.get(ref["first"], []),
                dropped=0 if ref["first"] in kept else ref["count"],
            )
            for seq, ref in refs.items()
        }


def _gone() -> NotFound:
    """The journal told of a row that is not there any more: the job was deleted between two statements."""
    return NotFound("the job was deleted meanwhile", remedy="GET /jobs lists the jobs.")
