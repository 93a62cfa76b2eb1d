"""The kinds of a job, and which of them a specification is of: told by its sections, in one place for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal, get_args

from crosskd.spec.config import EvaluateConfig, ExportConfig, Section, TrainConfig
from crosskd.spec.data.import_config import ImportConfig
from crosskd.spec.nearest import nearest

Kind = Literal["train", "distill", "evaluate", "export", "import"]

_TRAIN, _EVALUATE, _EXPORT = (frozenset(model.model_fields) for model in (TrainConfig, EvaluateConfig, ExportConfig))
_OF_TEACHER = ("teacher", "distill")
_TELLING = ("data", "student", *_OF_TEACHER, "weights", "source")
_COMPARED = 20  # names that are compared with these
# Sections that one kind has and no other: each tells it.
_OF_TRAININGS = _TRAIN - _EVALUATE - _EXPORT
_OF_EVALUATIONS = _EVALUATE - _EXPORT - _TRAIN | {"data", "batch_size"}  # beside weights: a training has these too
_OF_EXPORTS = _EXPORT - _EVALUATE - _TRAIN
_OF_WEIGHTS = (_EVALUATE & _EXPORT) - _TRAIN
_OF_IMPORTS = frozenset(ImportConfig.model_fields) - _TRAIN - _EVALUATE - _EXPORT


class AmbiguousKind(ValueError):
    """The sections do not tell the kind. The message is `what is wrong; what to do`."""


def kind_of(spec: Any) -> Kind:
    """`distill` where there is a teacher, `evaluate` where weights meet data, `export` where they do not, `import`
    where there is a source, else `train`.

    A section that is null is none; what has no sections at all counts as a training, and is refused for that.
    Raises `AmbiguousKind`: it has sections of two kinds, or none that tells.
    """
    if not isinstance(spec, Mapping | Section):
        return "train"
    if isinstance(spec, EvaluateConfig):
        return "evaluate"
    if isinstance(spec, ExportConfig):
        return "export"
    if isinstance(spec, ImportConfig):
        return "import"
    if isinstance(spec, TrainConfig):
        return "train" if spec.teacher is None and spec.distill is None else "distill"
    assert isinstance(spec, Mapping)
    given = {name for name, value in spec.items() if value is not None}
    trains, weights = given & _OF_TRAININGS, given & (_OF_WEIGHTS | _OF_EXPORTS | (_OF_EVALUATIONS - _TRAIN))
    if imports := given & _OF_IMPORTS:
        if others := trains | weights & (_OF_WEIGHTS | _OF_EVALUATIONS):
            raise _between("an import", imports, "another job", others)
        return "import"
    if trains and weights:
        raise _between("a training", trains, "a job on finished weights", weights)
    if weights:
        evaluates, exports = given & _OF_EVALUATIONS, given & _OF_EXPORTS
        if evaluates and exports:
            raise _between("an evaluation", evaluates, "an export", exports)
        return "evaluate" if evaluates else "export"
    if trains or "data" in given:
        return "distill" if given.intersection(_OF_TEACHER) else "train"
    raise AmbiguousKind(
        f"the spec does not tell the kind of the job: it has none of {', '.join(_TELLING)}; {_near(spec)}give `kind`: "
        "train, distill, evaluate, export or import"
    )


def known_or_inferred(kind: Any, spec: Any) -> Kind | None:
    """The kind that was sent; where it is none or not known, that of the specification, or None if it does not tell."""
    if kind in get_args(Kind):
        known: Kind = kind
        return known
    try:
        return kind_of(spec)
    except AmbiguousKind:
        return None


def _near(names: Iterable[object]) -> str:
    """What a name that nearly tells should be."""
    for name in islice(names, _COMPARED):
        if found := nearest(name, _TELLING):
            return f"write `{found[0]}` for `{str(name)[:100]}`, or "
    return ""


def _between(one: str, ones: set[str], other: str, others: set[str]) -> AmbiguousKind:
    return AmbiguousKind(
        f"the spec does not tell the kind of the job: it has sections of {one} ({', '.join(sorted(ones))}) and of "
        f"{other} ({', '.join(sorted(others))}); remove those of one of the two, or give `kind`"
    )
