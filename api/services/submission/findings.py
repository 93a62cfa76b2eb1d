"""What judging a specification brings up: faults, which refuse it, and warnings, which do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wire.errors import Fault
from wire.jobs import DataWarning


def at_their_origin(faults: Sequence[Fault], origins: Mapping[str, str]) -> list[Fault]:
    """Faults of values that came out of a file or of weights, told there and not at a field that nobody sent.

    `origins` leads from the field that was filled in to the one that named the file.
    """
    moved = []
    for fault in faults:
        filled = next((name for name in origins if f"{fault.pointer}/".startswith(f"{name}/")), None)
        if filled is not None:
            detail = f"{filled.rpartition('/')[2]} out of it: {fault.detail}"
            fault = fault.model_copy(update={"pointer": origins[filled], "detail": detail})
        moved.append(fault)
    return moved


@dataclass
class Findings:
    """In the order in which they were found."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[DataWarning] = field(default_factory=list)

    def add(self, pointer: str, detail: str, remedy: str) -> None:
        """A fault."""
        self.faults.append(Fault(pointer=pointer, detail=detail, remedy=remedy))
