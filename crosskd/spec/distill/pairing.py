"""Whether a student can learn from a teacher by the terms of a `distill` section. Imports no torch.

The service asks before a worker is taken, the core before it builds: both get the same answer from here.
"""

from __future__ import annotations

from crosskd.errors import ConfigError
from crosskd.spec.distill.needs import Incompatibility
from crosskd.spec.distill.section import DistillConfig
from crosskd.spec.distill.term import TermConfig
from crosskd.spec.model import ModelConfig


def resolve_pair(
    distill: DistillConfig, student: ModelConfig, teacher: ModelConfig
) -> tuple[DistillConfig, list[Incompatibility]]:
    """`distill` with every knob that depends on the pair filled in, and all that keeps the pair apart."""
    resolved: dict[str, TermConfig] = {}
    incompatibilities: list[Incompatibility] = []
    terms = distill.terms()
    for name, section in terms.items():
        resolved[name] = section.resolved(student, teacher, terms.keys() - {name})
        for need in section.needs(student, teacher):
            incompatibilities += need.incompatibilities(name, student, teacher)
    # What keeps the pair from several needs is told once.
    return distill.model_copy(update=resolved), list(dict.fromkeys(incompatibilities))


def require_pair(distill: DistillConfig, student: ModelConfig, teacher: ModelConfig) -> DistillConfig:
    """The resolved section; raises `ConfigError` for the first incompatibility."""
    resolved, incompatibilities = resolve_pair(distill, student, teacher)
    if incompatibilities:
        raise ConfigError(
            incompatibilities[0].what, where=incompatibilities[0].where, remedy=incompatibilities[0].remedy
        )
    return resolved
