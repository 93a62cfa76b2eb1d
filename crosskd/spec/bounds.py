"""Bounds on what comes from outside that hold before anything of it is validated.

Pydantic looks at every entry of a list before it says that the list is too long, and makes an error of each unknown
field: a megabyte of `{}` would become hundreds of thousands of errors, and seconds in which nothing else is served.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Final, LiteralString

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_UNKNOWN = 100  # unknown fields of an object that are told one by one
TOO_MANY: Final = "too_many"  # the type of such an error
_SHOWN = 3


class AtMost:
    """Of a list or a mapping: it has at most `entries` entries, and those that are objects at most `fields` fields.

    `kind` is the type of the error about `entries`, by which the API may tell it from others.
    """

    def __init__(self, entries: int, fields: int | None = None, kind: LiteralString = TOO_MANY) -> None:
        self.entries = entries
        self.fields = fields
        self.kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(schema)
        described["maxItems" if described.get("type") == "array" else "maxProperties"] = self.entries
        return described

    def _check(self, value: Any) -> Any:
        if isinstance(value, Sized) and len(value) > self.entries:
            raise PydanticCustomError(
                self.kind, "it has {count} entries, and at most {most} are taken; give fewer",
                {"count": len(value), "most": self.entries},
            )  # fmt: skip
        if self.fields is not None and isinstance(value, list | dict):
            entries = value.values() if isinstance(value, dict) else value
            longest = max((len(entry) for entry in entries if isinstance(entry, dict)), default=0)
            if longest > self.fields:
                raise PydanticCustomError(
                    TOO_MANY, "one entry has {count} fields, and at most {most} are taken; give fewer",
                    {"count": longest, "most": self.fields},
                )  # fmt: skip
        return value


def refuse_many_unknown(model: type[BaseModel], value: Any) -> Any:
    """For a `model_validator(mode="before")`: more unknown fields than are told one by one are one error that counts.

    Raises:
        PydanticCustomError: `value` has more than `MAX_UNKNOWN` fields that `model` does not know.
    """
    if isinstance(value, dict) and len(value) > MAX_UNKNOWN:
        unknown = [name for name in value if name not in model.model_fields]
        if len(unknown) > MAX_UNKNOWN:
            first = ", ".join(str(name)[:40] for name in unknown[:_SHOWN])
            raise PydanticCustomError(
                TOO_MANY, "{count} fields are not known here, the first of them {first}; remove them",
                {"count": len(unknown), "first": first},
            )  # fmt: skip
    return value
