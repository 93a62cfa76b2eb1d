"""docs/training.md says which detectors, methods and files go together, as the code has it."""

from __future__ import annotations

from importlib import import_module

import pytest

from crosskd.spec import registry
from tests.support.detector_tables import PAGE, PROOFS, filled


def test_the_page_is_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run `python -m tests.support.detector_tables`"


@pytest.mark.parametrize("ability", PROOFS)
@pytest.mark.parametrize("detector", registry.DETECTORS)
def test_what_it_says_of_trainings_is_shown_by_a_test(detector: str, ability: str) -> None:
    """One that goes through all detectors of the family, or that is about the only one."""
    family = registry.DETECTORS[detector].family
    path, _, name = PROOFS[ability][family].partition("::")
    test = getattr(import_module("tests." + path.removesuffix(".py").replace("/", ".")), name)
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    alone = [other for other, entry in registry.DETECTORS.items() if entry.family == family] == [detector]
    assert alone or any(detector in mark.args[1] for mark in marks)
