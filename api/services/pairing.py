"""Whether a student can learn from a teacher: the core's own answer, before a worker is taken."""

from __future__ import annotations

from typing import Any

from crosskd.spec.config import DistillConfig, ModelConfig
from crosskd.spec.pairing import settle
from wire.errors import Fault


def join(student: ModelConfig, teacher: ModelConfig, distill: DistillConfig, faults: list[Fault]) -> dict[str, Any]:
    """The values of `distill` with what depends on the pair filled in; what keeps the two apart joins `faults`."""
    settled, misfits = settle(distill, student, teacher)
    faults.extend(Fault(pointer=f"/spec{misfit.where}", detail=misfit.what, remedy=misfit.remedy) for misfit in misfits)
    return settled.model_dump()
