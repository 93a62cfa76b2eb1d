"""From what a person types to the values of a configuration: recipes, and the options that change them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crosskd.errors import ConfigError
from crosskd.spec.config import TrainConfig
from crosskd.spec.data.layouts import data_section
from crosskd.spec.nearest import did_you_mean
from crosskd.spec.presets import load_recipe, parse_yaml, recipe_names


def read_recipe(recipe: str) -> dict[str, Any]:
    """The values of a YAML file, or of the packaged recipe of that name."""
    path = Path(recipe)
    if not path.exists() and recipe in recipe_names():
        return load_recipe(recipe)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = f"Name a YAML file, or one of the packaged recipes: {', '.join(recipe_names())}."
        remedy = f"{did_you_mean(recipe, recipe_names())} {remedy}".lstrip()
        raise ConfigError(f"there is no recipe {recipe!r}", remedy=remedy) from error
    except OSError as error:
        remedy = "Name a YAML file that you may read."
        message = f"the recipe cannot be read: {error.strerror or error}"
        raise ConfigError(message, where=recipe, remedy=remedy) from error
    except ValueError as error:
        remedy = "Correct the text at that place: indentation, brackets, quotes. A packaged recipe shows the form."
        raise ConfigError(f"the recipe cannot be read: {error}", where=recipe, remedy=remedy) from error
    if not isinstance(values, dict):
        raise ConfigError("the recipe is no mapping of settings", where=recipe, remedy="Start from a packaged one.")
    return values


def with_options(values: dict[str, Any], data: Path | None, teacher: Path | None, changes: list[str]) -> dict[str, Any]:
    """The recipe's values under the options of the command line; `--set` has the last word."""
    values = dict(values)
    if data is not None:
        known = values.get("data") if isinstance(values.get("data"), dict) else {}
        values["data"] = {**(known or {}), **data_section(data)}
    if teacher is not None:
        known = values.get("teacher") if isinstance(values.get("teacher"), dict) else {}
        values["teacher"] = {**(known or {}), "weights": {"file": str(teacher)}}
    return with_changes(values, changes)


def with_changes(values: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """`values` under what `--set` was given, in that order. Raises `ConfigError`."""
    for path, value in map(_read_change, changes):
        values = _changed(values, path, value)
    return values


def require_files(config: TrainConfig) -> None:
    """Raises `ConfigError` where `data.dataset` names a data set, which the service alone has."""
    if config.data.dataset is not None:
        raise ConfigError(
            f"{config.data.dataset!r} is a data set of the service, which is not asked here",
            where="/data/dataset",
            remedy="Leave `data.dataset` out, and name files (data.train, data.val) or give --data FOLDER; or let the "
            "service train: crosskd submit.",
        )


def _read_change(change: str) -> tuple[list[str], Any]:
    key, equals, text = change.partition("=")
    path = key.split(".")
    if not equals or not all(path):
        raise ConfigError(
            f"--set {_short(change)} is not KEY.PATH=VALUE", remedy="Write e.g. --set schedule.epochs=24."
        )
    try:
        return path, parse_yaml(text)
    except ValueError as error:
        message = f"the value of --set {_short(change)} is not YAML: {error}"
        raise ConfigError(message, remedy="Quote it.") from error


def require_heeded(changes: list[str], heeded: list[str], whose: str) -> None:
    """Raises `ConfigError` for a change to a knob that is none of `heeded`, nor in a section that is."""
    for path, value in map(_read_change, changes):
        for knob in _knobs(".".join(path), value):
            if not any(knob == known or knob.startswith(f"{known}.") for known in heeded):
                raise ConfigError(
                    f"--set {_short(knob)} has no effect on {whose}",
                    remedy=f"Leave it out. Heeded are: {', '.join(sorted(heeded))}.",
                )


def _knobs(path: str, value: Any) -> Iterator[str]:
    """The knobs that `value` sets, by their paths; a whole section sets several."""
    if not isinstance(value, dict) or not value:
        yield path
        return
    for name, inner in value.items():
        yield from _knobs(f"{path}.{name}", inner)


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}…")


def _changed(values: Any, path: list[str], value: Any) -> dict[str, Any]:
    """A copy of `values` with the entry at `path` replaced; sections on the way that are missing are made."""
    inner = dict(values) if isinstance(values, dict) else {}
    inner[path[0]] = _changed(inner.get(path[0]), path[1:], value) if path[1:] else value
    return inner
