"""From what a person names (a file or preset, a data folder, a teacher, single values) to the body of `POST /jobs`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from client.errors import ClientError
from client.references import is_id
from crosskd.errors import ConfigError
from crosskd.spec.data import layouts
from crosskd.spec.nearest import did_you_mean
from crosskd.spec.presets import parse_yaml
from wire.jobs import Job, Preset
from wire.kinds import known_or_inferred
from wire.sweeps import OWN_LABELS

OF_WEIGHTS = ("evaluate", "export")  # kinds whose spec can begin empty: all they need is weights
OF_THE_WEIGHTS = ("model", "classes")  # what a spec says of the weights it names
NAMES_OF_FILES = (".yaml", ".yml", ".json")


def is_file(source: str) -> bool:
    """Whether `source` names a file rather than a preset."""
    try:
        return source.endswith(NAMES_OF_FILES) or Path(source).is_file()
    except OSError:  # longer than a file's name can be
        return False


def read_job(path: Path) -> dict[str, Any]:
    """A YAML file with a whole job (`kind`, `name`, `labels`, `spec`) or only its `spec`. Raises: `ClientError`."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClientError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        remedy = "Correct the text at that place: its indentation, brackets and quotes."
        raise ClientError(f"{path} is no YAML: {error}", remedy=remedy) from error
    if not isinstance(values, dict):
        raise ClientError(f"{path} holds no mapping.", remedy="Write the keys of a job or of a TrainConfig.")
    return values if isinstance(values.get("spec"), dict) else {"spec": values}


def of_preset(presets: Mapping[str, Preset], name: str) -> dict[str, Any]:
    """The job of a preset: its `kind` and `spec`. Raises: `ClientError`."""
    if name not in presets:
        remedy = f"{did_you_mean(name, presets.keys())} Presets: {', '.join(sorted(presets))}.".lstrip()
        raise ClientError(f"There is no preset or file {name!r}.", remedy=remedy)
    return {"kind": presets[name].kind, "spec": presets[name].spec}


def with_data(job: Mapping[str, Any], kind: str | None, data: Path) -> dict[str, Any]:
    """The job with what its kind reads of a data folder put into its spec. Raises: `ClientError`."""
    spec = dict(job.get("spec") or {})
    _put_data(spec, kind or job.get("kind") or _kind(spec | {"data": {}}), data_section(data))
    return {**job, "spec": spec}


def like(former: Job, *, new_teacher: bool = False, new_weights: bool = False) -> dict[str, Any]:
    """A job from a former one, for `complete`: its specification as it is stored, its labels and its priority.

    Of a job of a sweep, the labels that the sweep has put on it stay with it: the new job is none of the sweep's.
    What is known of its teacher or of its weights is left out where others take their place. A training's kind is told
    by its specification, so that one without a teacher can come of a distillation.
    """
    spec = dict(former.spec)
    if new_teacher:
        spec["teacher"] = None
    if new_weights:
        spec = {name: value for name, value in spec.items() if name not in OF_THE_WEIGHTS}
    of_sweep = OWN_LABELS if is_id(former.labels.get("sweep", "")) else ()
    labels = {name: value for name, value in former.labels.items() if name not in of_sweep}
    job = {"labels": labels, "priority": former.priority, "spec": spec}
    return {"kind": former.kind, **job} if former.kind in OF_WEIGHTS else job


def complete(
    job: dict[str, Any],
    *,
    name: str,
    kind: str | None = None,
    labels: Iterable[str] = (),
    priority: int | None = None,
    data: Path | None = None,
    teacher: dict[str, str] | None = None,
    weights: dict[str, str] | None = None,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """The job with everything that was named on the command line put in. Raises: `ClientError`."""
    spec: dict[str, Any] = dict(job["spec"])
    if weights is not None:
        spec["weights"] = weights
    if teacher is not None:
        known = spec.get("teacher")
        spec["teacher"] = {**(known if isinstance(known, Mapping) else {}), "weights": teacher}
    if data is not None:
        _put_data(spec, kind or job.get("kind") or _kind(spec | {"data": {}}), data_section(data))
    for text in overrides:
        put(spec, text)
    body = {
        **job,
        "kind": kind or job.get("kind") or _kind(spec),
        "name": job.get("name") or name,
        "labels": _labels(job.get("labels"), labels),
        "spec": spec,
    }
    if body["kind"] is None:
        del body["kind"]  # the service says why it cannot be told
    if priority is not None:
        body["priority"] = priority
    require_json(body, "job")
    return body


def _labels(known: Any, given: Iterable[str]) -> Any:
    """The labels with those of the command line; what are none stays for the service to refuse."""
    added = dict(pair(text) for text in given)
    if known is None or isinstance(known, Mapping):
        return {**(known or {}), **added}
    return known


def require_json(body: dict[str, Any], what: str) -> None:
    """YAML can say what JSON cannot: dates, bytes, sets, numbers that are none, a section within itself."""
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        remedy = "Use text, finite numbers, lists and sections alone; quote a date."
        raise ClientError(f"The {what} cannot be sent as JSON: {error}.", remedy=remedy) from error


def _kind(spec: dict[str, Any]) -> str | None:
    """What a spec is of, by its sections; None where they do not tell."""
    return known_or_inferred(None, spec)


def _put_data(spec: dict[str, Any], kind: str | None, data: dict[str, dict[str, str]]) -> None:
    """Put in what a job of this kind reads of a data folder: both splits, one, or only its images."""
    if kind == "evaluate":
        spec["data"] = {"val": data["val"]}
    elif kind == "export":
        spec["images"] = data["val"]["images"]
    else:
        spec["data"] = data


def weights_file(path: Path) -> dict[str, str]:
    """Weights in a file, as a spec names them. Raises: `ClientError` for a relative path that leads to nothing here.

    An absolute one is the service's to judge, on whose machine it may be.
    """
    if not path.is_absolute() and not path.exists():
        remedy = "Name one that is there, in a data root of the service."
        raise ClientError(f"There is no file {str(path)!r} in {Path.cwd()}.", remedy=remedy)
    return {"file": str(path.absolute())}


def data_section(folder: Path) -> dict[str, dict[str, str]]:
    """The `data` of a spec from a folder in one of the known layouts. Raises: `ClientError` that lists them."""
    try:
        return layouts.data_section(folder.expanduser().absolute())
    except ConfigError as error:
        raise ClientError(error.message, remedy=error.remedy) from error
    except RuntimeError as error:  # `~` of nobody
        raise ClientError(
            f"There is no data folder {str(folder)!r}.", remedy="Name a folder with a data set."
        ) from error


def put(spec: dict[str, Any], text: str) -> None:
    """Set one value, `schedule.epochs=3`; the value is read as YAML. Raises: `ClientError`."""
    path, value = pair(text)
    *parents, last = path.split(".")
    section = spec
    for parent in parents:
        inner = section.get(parent)
        if inner is not None and not isinstance(inner, dict):
            raise ClientError(f"--set {text}: {parent} is a value, not a section.")
        # A copy: the sections may be shared with the preset they came from.
        section[parent] = dict(inner or {})
        section = section[parent]
    try:
        section[last] = parse_yaml(value)
    except ValueError as error:
        raise ClientError(f"--set {text}: the value is no YAML.", remedy="Quote it.") from error


def pair(text: str) -> tuple[str, str]:
    """`key=value`, split. Raises: `ClientError`."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ClientError(f"{text!r} is not of the form key=value.")
    return key, value
