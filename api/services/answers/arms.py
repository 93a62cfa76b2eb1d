"""What the jobs of each arm have reached, and how that compares with the baseline: pairs of the same seed and point."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from api.services.answers.measured import SIZES, Child, Figures
from report import verdict
from report.statistics import standard_error
from wire.sweeps import ArmResult, Point, PointResult, Spread

ENDED_BADLY = ("failed", "cancelled", "deleted")
_DECIMALS = 12  # of a difference: the mean of equal APs may be another in the last bit, and would "help" by that


class Pairs(NamedTuple):
    """`differences` and the baseline's own values, pair by pair; jobs of the arm without a partner; and how many pairs
    one seed gives.
    """

    differences: list[float]
    references: list[float]
    unpaired: int
    per_seed: int


class Paired(Protocol):
    """A job of an arm, as far as pairs are made of it."""

    @property
    def seed(self) -> int: ...
    @property
    def point(self) -> Point: ...
    @property
    def ap(self) -> float | None: ...


def results(children: Sequence[Child], arms: Sequence[str], baseline: str, teacher_ap: float | None) -> list[ArmResult]:
    """The baseline first, the others in the order in which they were given."""
    by_arm: defaultdict[str, list[Child]] = defaultdict(list)
    for child in children:
        by_arm[child.arm].append(child)
    order = [baseline, *(arm for arm in arms if arm != baseline)]
    return [_result(arm, by_arm[arm], baseline, by_arm[baseline], teacher_ap) for arm in order]


def _result(
    arm: str, own: Sequence[Child], baseline: str, others: Sequence[Child], teacher_ap: float | None
) -> ArmResult:
    result = _summary(arm, own)
    if arm == baseline:
        return result.model_copy(update={"baseline": True, "points": _points(arm, own, baseline, [])})
    found = pairs(own, others)
    known = [ap for child in own if child.job is not None and (ap := child.job.teacher_ap) is not None and ap >= 0]
    more = {
        "difference": verdict.compare(found.differences, found.unpaired),
        "gap_closed": _gap_closed(found, fmean(known) if known else teacher_ap),
        "verdict": verdict.judge(arm, baseline, found.differences, found.per_seed),
        "points": _points(arm, own, baseline, others),
    }
    return result.model_copy(update=more)


def pairs(own: Sequence[Paired], others: Sequence[Paired]) -> Pairs:
    """The jobs of an arm beside those of the baseline.

    They meet by seed and by the knobs of the grid that both have. Where one side has several jobs there (a knob that
    the other has not), their mean is one value: the other's one job stands in one pair, not in several, which would
    depend on one another. A group of which a job is missing is left out.
    """
    shared = _knobs(own) & _knobs(others)
    mine, theirs = _grouped(own, shared), _grouped(others, shared)
    differences, references, unpaired = [], [], 0
    for key, group in mine.items():
        value, reference = _mean(group), _mean(theirs.get(key, []))
        if value is not None and reference is not None:
            differences.append(round(value - reference, _DECIMALS))
            references.append(reference)
        else:
            unpaired += sum(child.ap is not None for child in group)
    seeds = {seed for seed, _ in mine}
    return Pairs(differences, references, unpaired, max(len(mine) // max(len(seeds), 1), 1))


def _knobs(children: Iterable[Paired]) -> set[str]:
    return {knob for child in children for knob in child.point}


def _grouped(children: Iterable[Paired], knobs: set[str]) -> dict[tuple[int, str], list[Paired]]:
    groups: defaultdict[tuple[int, str], list[Paired]] = defaultdict(list)
    for child in children:
        groups[child.seed, _key({knob: child.point.get(knob) for knob in knobs})].append(child)
    return groups


def _mean(group: Sequence[Paired]) -> float | None:
    """Of all of them; None if one has not ended well."""
    values = [ap for child in group if (ap := child.ap) is not None]
    return fmean(values) if values and len(values) == len(group) else None


def _key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


def _gap_closed(found: Pairs, teacher_ap: float | None) -> float | None:
    """(arm - baseline) / (teacher - baseline) over the pairs; None without a teacher that is better."""
    if teacher_ap is None or not found.differences:
        return None
    gap = teacher_ap - fmean(found.references)
    return fmean(found.differences) / gap if gap > 0 else None


def _points(arm: str, own: Sequence[Child], baseline: str, others: Sequence[Child]) -> list[PointResult]:
    """Of an arm with several: each by itself. Without `others` it is the baseline itself."""
    groups: dict[str, list[Child]] = {}
    for child in own:
        groups.setdefault(_key(child.point), []).append(child)
    if len(groups) < 2:
        return []
    found = []
    for group in groups.values():
        result = PointResult(point=group[0].point, ap=_spread(_values(group, lambda figures: figures.ap)))
        if others:
            one = pairs(group, others)
            result.difference = verdict.compare(one.differences, one.unpaired)
            result.verdict = verdict.judge(arm, baseline, one.differences)
        found.append(result)
    return found


def _summary(arm: str, own: Sequence[Child]) -> ArmResult:
    ended = [child for child in own if child.status == "succeeded"]
    figures = [child.figures for child in ended]
    classes = dict.fromkeys(name for one in figures for name in one.by_class)
    parameters = {one.parameters for one in figures}
    megabytes = {one.megabytes for one in figures}
    return ArmResult(
        arm=arm,
        jobs=len(own),
        finished=len(ended),
        failed=[failed(child) for child in own if child.status in ENDED_BADLY],
        ap=_spread(_values(ended, lambda one: one.ap)),
        ap50=_spread(_values(ended, lambda one: one.ap50)),
        ap75=_spread(_values(ended, lambda one: one.ap75)),
        by_size=_spreads(SIZES, figures, lambda one: one.by_size),
        by_class=_spreads(classes, figures, lambda one: one.by_class),
        training_seconds=_spread(_values(ended, lambda one: one.seconds)),
        milliseconds=_spread(_values(ended, lambda one: one.milliseconds)),
        parameters=parameters.pop() if len(parameters) == 1 else None,
        megabytes=megabytes.pop() if len(megabytes) == 1 else None,
    )


def failed(child: Child) -> str:
    """The job and what became of it, in words."""
    failure: dict[str, Any] = (child.job and child.job.failure) or {}
    told = f" ({failure['failure_class']}): {failure['message']}" if failure and child.status == "failed" else ""
    return f"{child.place.name} ({child.place.job_id}) {_BECAME[child.status]}{told}"


_BECAME = {"failed": "failed", "cancelled": "was cancelled", "deleted": "was deleted"}


def _values(children: Iterable[Child], of: Callable[[Figures], float | None]) -> list[float]:
    return [value for child in children if child.status == "succeeded" and (value := of(child.figures)) is not None]


def _spreads(
    names: Iterable[str], figures: Sequence[Figures], of: Callable[[Figures], dict[str, float]]
) -> dict[str, Spread]:
    found = {name: _spread([of(one)[name] for one in figures if name in of(one)]) for name in names}
    return {name: spread for name, spread in found.items() if spread is not None}


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(mean=fmean(values), standard_error=standard_error(values), n=len(values)) if values else None
