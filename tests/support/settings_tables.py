"""The tables of docs/settings.md, made from the fields of the settings classes.

`python -m tests.support.settings_tables` writes them into the page; a test fails while page and code differ.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable
from inspect import signature
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AnyHttpUrl, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

import api.settings
import client.settings
import worker.settings
from wire.secret_files import SUFFIX, is_secret

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
PREFIX = "CROSSKD_"
CLASSES: dict[str, type[BaseSettings]] = {  # by the name in the page's markers
    "api": api.settings.Settings,
    "worker": worker.settings.Settings,
    "client": type("Client", (client.settings.StackSettings, client.settings.TokenSettings), {}),
}
KINDS = {
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    IPv4Network: "network",
    SecretStr: "secret text",
    AnyHttpUrl: "HTTP address",
}
HOME = Path(f"${PREFIX}HOME")  # stands for the home in a default that lies below it
SAID = " Default: "  # before the end of a description: the default, where it comes from outside the class


def table(settings: type[BaseSettings]) -> str:
    """The Markdown table of a settings class: one row for each field, in the order of the class.

    Raises:
        ValueError: a field has no description, or neither code nor description tells its default.
    """
    rows = [["variable", "default", "value", "meaning"], ["---"] * 4]
    # Its own first: what it has from another class is about one subject, whatever its place.
    own = settings.__annotations__
    for name, field in sorted(settings.model_fields.items(), key=lambda entry: entry[0] not in own):
        meaning = (field.description or "").partition(SAID)[0]
        if not meaning.endswith("."):
            raise ValueError(f"{name} has no description that ends with a full stop")
        variable = f"{PREFIX}{name.upper()}"
        kind = f"{value(field)}, or a file of it in `{variable}{SUFFIX}`" if is_secret(field) else value(field)
        rows.append([f"`{variable}`", default(name, field), kind, meaning])
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def default(name: str, field: FieldInfo) -> str:
    """What the field is without its variable.

    Raises:
        ValueError: a function finds it outside the class, and the description does not say where.
    """
    if said := (field.description or "").partition(SAID)[2]:
        return said
    if field.is_required():
        return "none; required"
    if field.default_factory is None:
        return code(field.default)
    if not signature(field.default_factory).parameters:
        raise ValueError(f"the description of {name} must end with `Default: ...`")
    below_home = typing.cast(Callable[[dict[str, Any]], Any], field.default_factory)
    return code(below_home({"home": HOME}))


def code(plain: Any) -> str:
    """A default as it would stand in the environment."""
    if plain is None or plain == []:
        return "none"
    if isinstance(plain, list):
        return code(":".join(map(str, plain)))
    return f"`{plain:g}`" if isinstance(plain, float) else f"`{plain}`"


def value(field: FieldInfo) -> str:
    """The kind of value that the field takes, and its bounds."""
    annotation, metadata = field.annotation, list(field.metadata)
    while typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        # What else is in a union is None, or a second kind of network.
        first, *rest = typing.get_args(annotation)
        metadata += rest if typing.get_origin(annotation) is typing.Annotated else []
        annotation = first
    if typing.get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return f"{value(FieldInfo.from_annotation(typing.get_args(annotation)[0]))}s"
    return ", ".join([KINDS[typing.cast(type, annotation)], *filter(None, map(bound, metadata))])


def bound(constraint: Any) -> str:
    """A constraint of a field in words; empty for other metadata, such as a validator."""
    match constraint:
        case Ge():
            return f"at least {constraint.ge:,}"
        case Gt():
            return f"more than {constraint.gt:,}"
        case Le():
            return f"at most {constraint.le:,}"
        case Lt():
            return f"less than {constraint.lt:,}"
        case MinLen():
            return f"length at least {constraint.min_length:,}"
        case MaxLen():
            return f"length at most {constraint.max_length:,}"
    pattern = getattr(constraint, "pattern", None)
    return f"matches `{pattern}`" if pattern else ""


def filled(page: str) -> str:
    """`page` with every table made anew between its markers.

    Raises:
        ValueError: as `table`, or the markers of a class do not stand there once.
    """
    for name, settings in CLASSES.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        found = re.findall(f"{begin}.*?{end}", page, flags=re.DOTALL)
        if len(found) != 1:
            raise ValueError(f"the page must have {begin.strip()} and {end.strip()} once")
        page = page.replace(found[0], begin + table(settings) + end)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
