"""Names that a configuration may use: those of the closed registry, and no others. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

from crosskd.spec import registry


def _known(table: dict[str, Any], kind: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in table:
            raise ValueError(f"unknown {kind} {name!r}; {registry.use_one_of(table, name)}")
        return name

    return AfterValidator(check)


BackboneName = Annotated[str, _known(registry.BACKBONES, "backbone")]
DetectorName = Annotated[str, _known(registry.DETECTORS, "detector")]
