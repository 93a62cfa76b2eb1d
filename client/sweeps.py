"""From what a person names (a file, presets, a data folder, a teacher) to the body of `POST /sweeps`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from client import specs
from client.errors import ClientError
from crosskd.spec.presets import parse_yaml
from crosskd.spec.registry import TERMS

Preset = Callable[[str], dict[str, Any]]  # from a preset's name to its job: `kind` and `spec`
ALONE = "alone"
_JOB = re.compile(r"[0-9a-f]{32}")
_WEIGHTS = (".safetensors", ".pth", ".pt")


def read_order(path: Path, preset: Preset, *, data: Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """A YAML file with a sweep. `base` and `teacher` may be presets or files by name. Raises: `ClientError`.

    `data` is a folder for the base, and so for the teacher; `overrides` are values of the base.
    """
    try:
        order = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClientError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise ClientError(f"{path} is no YAML: {error}", remedy="Correct the text at that place.") from error
    if not isinstance(order, dict):
        raise ClientError(f"{path} holds no mapping.", remedy="Write `base`, `arms` and `seeds`: see docs/sweeps.md.")
    for part in ("base", "teacher"):
        if isinstance(order.get(part), str):
            order[part] = read_spec(order[part], preset, beside=path.parent)
    order.setdefault("name", path.stem)
    if isinstance(order.get("base"), dict):
        _complete_base(order["base"], data, overrides)
    specs.require_json(order, "sweep")
    return order


def read_spec(source: str, preset: Preset, *, beside: Path = Path()) -> dict[str, Any]:
    """The specification of a preset, or of a file. Raises: `ClientError`."""
    path = beside / source
    job = specs.read_job(path) if specs.is_file(str(path)) else preset(source)
    return dict(job["spec"])


def distillation(
    preset: Preset,
    *,
    name: str,
    student: str,
    teacher: str,
    data: Path | None,
    arms: Sequence[str],
    seeds: int,
    epochs: int | None = None,
    teacher_epochs: int | None = None,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """The sweep that answers whether distilling helps: the student alone and each of `arms`. Raises: `ClientError`.

    An arm is the name of a term, or several with `+`. `teacher` is a preset or a file to train first, or the weights
    of a job or of a file.
    """
    if not set(arms) - {ALONE}:
        remedy = f"It is trained in any case: name a method as well, such as --arm {next(iter(TERMS))}."
        raise ClientError(f"The arm {ALONE!r} has nothing to be compared with.", remedy=remedy)
    base = read_spec(student, preset)
    base.pop("teacher", None)  # of a preset: it says which model others' weights are of
    if epochs is not None:
        specs.put(base, f"schedule.epochs={epochs}")
    _complete_base(base, data, overrides)
    order: dict[str, Any] = {
        "name": name,
        "arms": {ALONE: {"distill": None}} | {arm: _arm(arm, base) for arm in arms if arm != ALONE},
        "seeds": list(range(seeds)),
        "baseline": ALONE,
    }
    if (weights := _weights(teacher)) is not None:
        base["teacher"] = {"weights": weights}
    else:
        order["teacher"] = read_spec(teacher, preset)
        if (longer := teacher_epochs or epochs) is not None:
            specs.put(order["teacher"], f"schedule.epochs={longer}")
    order["base"] = base
    specs.require_json(order, "sweep")
    return order


def _complete_base(base: dict[str, Any], data: Path | None, overrides: Iterable[str]) -> None:
    if data is not None:
        base["data"] = specs.data_section(data)
    for text in overrides:
        specs.put(base, text)


def _arm(name: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """What turns the base into an arm with these terms; knobs that the base has of them stay."""
    terms = name.split("+")
    if unknown := [term for term in terms if term not in TERMS]:
        raise ClientError(f"There is no method {unknown[0]!r}.", remedy=f"Arms are: {', '.join(TERMS)}; joined by +.")
    known = base.get("distill")
    others = [term for term in TERMS if isinstance(known, dict) and term in known and term not in terms]
    return {"distill": {**dict.fromkeys(others), **{term: {} for term in terms}}}


def _weights(teacher: str) -> dict[str, str] | None:
    """Weights that are there; None: something to train."""
    if _JOB.fullmatch(teacher):
        return {"job": teacher}
    if teacher.endswith(_WEIGHTS):
        return specs.weights_file(Path(teacher))
    return None
