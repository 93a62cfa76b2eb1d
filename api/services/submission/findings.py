"""What judging a specification brings up: faults, which refuse it, and warnings, which do not."""

from __future__ import annotations

from dataclasses import dataclass, field

from wire.errors import Fault
from wire.jobs import DataWarning


@dataclass
class Findings:
    """In the order in which they were found."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[DataWarning] = field(default_factory=list)

    def add(self, pointer: str, detail: str, remedy: str) -> None:
        """A fault."""
        self.faults.append(Fault(pointer=pointer, detail=detail, remedy=remedy))
