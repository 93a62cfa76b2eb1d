"""What every section of a distillation term is made of. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Self

from crosskd.spec.distill.needs import Need, Pyramid
from crosskd.spec.model import ModelConfig
from crosskd.spec.section import Section


class TermConfig(Section, ABC):
    """The knobs of a term, and what it needs by them."""

    def resolved(self, student: ModelConfig, teacher: ModelConfig, beside: Collection[str] = ()) -> Self:  # noqa: ARG002
        """With every knob filled in whose default depends on the pair, or on the terms `beside` this one."""
        return self

    def _filled(self, defaults: Mapping[str, Any]) -> Self:
        """With `defaults` for the knobs that nobody has set."""
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})

    @abstractmethod
    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:
        """All that the term reads of a step, and so what keeps a pair from it."""


class MapsConfig(TermConfig):
    """How the maps of both pyramids are compared, whose widths the term bridges itself."""

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (Pyramid(),)
