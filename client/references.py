"""From what a person calls a job or a sweep (its id, the beginning of it, its name, `@last`) to its id."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from client.errors import ClientError, NotFound
from client.terminal.visible import visible
from client.transport.flow import Flow
from crosskd.spec.nearest import nearest
from wire.compare import TEACHER
from wire.errors import Problem
from wire.jobs import LONGEST_NAME, SHORTEST_PREFIX, JobSummary
from wire.sweeps import SweepSummary
from wire.tokens import ME

LAST = "@last"  # the newest of whoever asks
LISTED = 5  # candidates that a message lists
COMPARED = 100  # newest among which near names are looked for
NEAR = 3  # of those that a message proposes

What = Literal["job", "sweep"]
Summary = JobSummary | SweepSummary
Find = Callable[..., Flow[Sequence[Summary]]]

_ID = re.compile(r"[0-9a-f]{32}")
_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},31}}")


class UnknownReference(NotFound):
    """No job or sweep is called that. It looks as the service's own answer to an unknown id does."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(Problem(title="Not Found", status=404, detail=detail, remedy=remedy))


class AmbiguousReference(ClientError):
    """Several jobs or sweeps are called that; `candidates` are the newest of them."""

    def __init__(self, reference: str, candidates: Sequence[Summary], what: What, *, more: bool) -> None:
        number = f"more than {len(candidates)}" if more else str(len(candidates))
        super().__init__(f"{number} {what}s are called {reference!r}", remedy="Give more of an id, or all of it.")
        self.candidates = list(candidates)
        self.more = more

    def lines(self) -> list[str]:
        rows = [
            f"  {each.id}  {visible(each.name)}  {each.status}  {each.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
            for each in self.candidates
        ]
        return [*super().lines(), *rows, *(["  …"] if self.more else [])]


def is_id(text: str) -> bool:
    """Whether it is a whole id, of a job or of a sweep; capitals are taken for small letters."""
    return _ID.fullmatch(text.strip().lower()) is not None


def spelt(text: str) -> str:
    """A whole id as the service spells it; anything else as it is."""
    return text.strip().lower() if is_id(text) else text


def is_beginning(text: str) -> bool:
    """Whether it can be meant as the id of a job, the beginning of one or `@last`, where a name would be another's."""
    return text == LAST or is_id(text) or _PREFIX.fullmatch(text) is not None


def resolve(reference: str, find: Find, what: What = "job") -> Flow[str]:
    """The id of the one job or sweep that `reference` means; an id itself is not looked up.

    `find` gives the newest ones under filters of `GET /jobs` or `GET /sweeps`.
    Raises: `UnknownReference`, `AmbiguousReference`.
    """
    reference = reference.strip()
    if is_id(reference):
        return spelt(reference)
    if reference == LAST:
        if not (newest := (yield from find(owner=ME, limit=1))):
            detail = f"you have posted no {what} yet, so there is no last one"
            raise UnknownReference(detail, f"GET /{what}s (`crosskd {what}s`) lists the {what}s of all.")
        return newest[0].id
    found: dict[str, Summary] = {}
    if _PREFIX.fullmatch(reference.lower()):
        found |= {each.id: each for each in (yield from find(id=reference.lower(), limit=LISTED + 1))}
    if 0 < len(reference) <= LONGEST_NAME and "\0" not in reference:
        found |= {each.id: each for each in (yield from find(name=reference, limit=LISTED + 1))}
    if not found:
        raise _unknown(reference, (yield from find(limit=COMPARED)), what)
    if len(found) > 1:
        by_time = sorted(found.values(), key=lambda each: each.id, reverse=True)
        raise AmbiguousReference(reference[:LONGEST_NAME], by_time[:LISTED], what, more=len(by_time) > LISTED)
    return next(iter(found))


def _unknown(reference: str, recent: Sequence[Summary], what: What) -> UnknownReference:
    shown = repr(reference[:LONGEST_NAME])
    detail = f"there is no {what} whose id begins with {shown}, and none of that name"
    if len(reference) < SHORTEST_PREFIX:
        detail = (
            f"there is no {what} named {shown}, and the beginning of an id has {SHORTEST_PREFIX} characters at least"
        )
    names = nearest(reference, dict.fromkeys(each.name for each in recent), NEAR)
    remedy = f"Near are {', '.join(map(repr, names))}. " if names else ""
    return UnknownReference(detail, f"{remedy}GET /{what}s (`crosskd {what}s`) lists the {what}s.")


def job_or_teacher(called: str, resolve: Callable[[str], Flow[str]]) -> Flow[str]:
    """What `GET /compare` takes: an id, with `:teacher` behind it where it was there."""
    job = called.removesuffix(TEACHER)
    return (yield from resolve(job)) + called[len(job) :]


def resolved_in(body: Mapping[str, Any], resolve: Callable[[str], str]) -> dict[str, Any]:
    """The body of `POST /jobs` with ids in place of what its weights call their jobs."""
    spec = body.get("spec")
    for place in (("weights",), ("teacher", "weights"), ("student", "init")):
        spec = _with_id(spec, place, resolve)
    return {**body, "spec": spec}


def _with_id(section: Any, place: Sequence[str], resolve: Callable[[str], str]) -> Any:
    if not isinstance(section, Mapping):
        return section
    if place:
        return (
            {**section, place[0]: _with_id(section[place[0]], place[1:], resolve)} if place[0] in section else section
        )
    job = section.get("job")
    return {**section, "job": resolve(job)} if isinstance(job, str) and job.strip() else section
