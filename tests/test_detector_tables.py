"""docs/training.md says which detectors, methods and files go together, as the code has it."""

from __future__ import annotations

from tests.support.detector_tables import PAGE, filled


def test_the_page_is_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run `python -m tests.support.detector_tables`"
