"""The packaged recipes: a `TrainConfig` without its `data`, one YAML file per published result. Imports no torch."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from crosskd.errors import ConfigError
from crosskd.spec.nearest import did_you_mean

_SUFFIX = ".yaml"


def recipe_names() -> list[str]:
    """In alphabetical order."""
    found = files("crosskd").joinpath("recipes").iterdir()
    return sorted(item.name.removesuffix(_SUFFIX) for item in found if item.name.endswith(_SUFFIX))


@cache
def recipe_text(name: str) -> str:
    """The YAML of the recipe `name`. Raises `ConfigError` that lists the names there are."""
    names = recipe_names()
    if name not in names:
        raise ConfigError(
            f"unknown recipe {name!r}", remedy=f"{did_you_mean(name, names)} Use one of: {', '.join(names)}.".lstrip()
        )
    return files("crosskd").joinpath("recipes", name + _SUFFIX).read_text(encoding="utf-8")


def parse_yaml(text: str) -> Any:
    """What a YAML text says. Raises `ValueError`, with a reason on one line, where it says nothing.

    PyYAML's own errors are about the syntax alone: a value that its tag or form promises and that is none (the date
    2001-99-99, `!!int abc`) ends in whatever Python makes of it, and deep nesting in a full stack.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def load_recipe(name: str) -> dict[str, Any]:
    """The values of the recipe `name`, for `TrainConfig` once `data` (and a teacher's weights) are added."""
    values: dict[str, Any] = yaml.safe_load(recipe_text(name))
    return values


def recipe_titles() -> dict[str, str]:
    """Each recipe's name and its title, which is the first comment line of its file."""
    return {name: recipe_text(name).partition("\n")[0].lstrip("# ").strip() for name in recipe_names()}
