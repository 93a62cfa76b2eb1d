"""Names that are near one that is not known: what every message proposes. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

LONGEST = 100  # characters of an unknown name that are compared: comparing costs the square of them
SURE = 0.6  # how alike two names are, 0..1, before one is proposed for the other: difflib's own


def nearest(name: object, known: Iterable[str], number: int = 1) -> list[str]:
    """The known names that are most like `name`, the most alike first; whether letters are capitals does not count."""
    wanted = str(name)[:LONGEST].strip().casefold()
    spelt: dict[str, str] = {}
    for each in known:
        spelt.setdefault(each.casefold(), each)
    return [spelt[found] for found in get_close_matches(wanted, spelt, n=number, cutoff=SURE)]


def did_you_mean(name: object, known: Collection[str]) -> str:
    """``Did you mean `student`?``, or nothing where no known name is near."""
    found = nearest(name, known)
    return f"Did you mean `{found[0]}`?" if found else ""


def propose(name: object, known: Collection[str], otherwise: str = "Remove it.") -> str:
    """What to do about an unknown name: the nearest, or `otherwise`; then all that are known."""
    if not known:
        return f"{otherwise} None is known here."
    return f"{did_you_mean(name, known) or otherwise} Known here: {', '.join(sorted(known))}."


def model_at(annotation: Any, path: Sequence[int | str]) -> type[BaseModel] | None:
    """The model of the section at `path` below `annotation`; None where a union leaves it open."""
    models = list(_models(annotation))
    for part in path:
        inner = [m.model_fields[part].annotation for m in models if isinstance(part, str) and part in m.model_fields]
        # An index, or a free key of a mapping: `_models` has looked through the container already.
        models = [found for hint in inner for found in _models(hint)] if inner else models
    return models[0] if len(models) == 1 else None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
