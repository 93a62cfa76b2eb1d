"""docs/settings.md says what the settings classes say, and no variable is read that it does not name."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from tests.support.settings_tables import CLASSES, PAGE, PREFIX, filled, table
from wire.secret_files import SUFFIX, is_secret

ROOT = Path(__file__).parents[1]


def test_the_page_is_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run `python -m tests.support.settings_tables`"


def of(kind: object, field: object) -> str:
    """The last row of the table of a class with one such field."""
    made = type("Made", (BaseSettings,), {"__annotations__": {"some_seconds": kind}, "some_seconds": field})
    return table(made).splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "field", "row"),
    [
        (int, Field(default=3, description="A."), "`3` | whole number | A."),
        (int, Field(default=4, description="A."), "`4` | whole number | A."),
        (int, Field(default=3, description="B | C."), "`3` | whole number | B \\| C."),
        (int, Field(default=3, ge=1, le=2000, description="A."), "`3` | whole number, at least 1, at most 2,000 | A."),
        (
            float | None,
            Field(default=None, gt=0, lt=9, description="A."),
            "none | number, more than 0, less than 9 | A.",
        ),
        (
            Annotated[str, AfterValidator(str.upper)] | None,
            Field(default="x", min_length=1, max_length=20, pattern="^a", description="A."),
            "`x` | text, length at least 1, length at most 20, matches `^a` | A.",
        ),
        (Literal["a", "b"], Field(description="A."), "none; required | `a` or `b` | A."),
        (list[Path], Field(default=[Path("a"), Path("b")], description="A."), "`a:b` | paths | A."),
        (
            Path,
            Field(default_factory=lambda data: data["home"] / "x", description="A."),
            "`$CROSSKD_HOME/x` | path | A.",
        ),
        (str, Field(default_factory=platform.node, description="A. Default: the host"), "the host | text | A."),
    ],
)
def test_a_row_tells_default_bounds_and_description(kind: object, field: object, row: str) -> None:
    assert of(kind, field) == f"| `CROSSKD_SOME_SECONDS` | {row} |"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (Field(default="x"), "some_seconds has no description"),
        (Field(default="x", description="seconds"), "full stop"),
        (Field(default="x", description=" Default: y"), "full stop"),
        (Field(default_factory=platform.node, description="A."), "must end with `Default: ...`"),
    ],
)
def test_a_field_that_does_not_say_enough_is_refused(field: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        of(str, field)


def test_a_page_without_the_table_of_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- worker: begin -->"):
        filled(PAGE.read_text(encoding="utf-8").replace("<!-- worker: end -->", ""))


def variables(settings: str) -> set[str]:
    fields = CLASSES[settings].model_fields
    names = {name: f"{PREFIX}{name.upper()}" for name in fields}
    return {*names.values(), *(variable + SUFFIX for name, variable in names.items() if is_secret(fields[name]))}


def test_no_variable_is_read_that_the_page_does_not_name() -> None:
    """The core has none of its own: what its launcher tells its ranks is no setting."""
    known = set().union(*map(variables, CLASSES))
    for package in ("api", "client", "migrations", "report", "wire", "worker"):
        for path in (ROOT / package).rglob("*.py"):
            named = set(re.findall(rf"{PREFIX}[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8")))
            assert named <= known, path


def test_the_options_of_the_command_read_the_clients_variables() -> None:
    read = [
        name
        for path in (ROOT / "client").rglob("*.py")
        for name in re.findall(r'envvar="(\w+)"', path.read_text(encoding="utf-8"))
    ]
    assert {"CROSSKD_URL", "CROSSKD_HOST"} <= set(read) <= variables("client")
