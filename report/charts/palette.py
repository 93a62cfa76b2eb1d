"""Colours of the charts, which must be told apart from a white page and from a dark one (WCAG 2.2, 1.4.11: 3 to 1)."""

from __future__ import annotations

BACKGROUNDS = ("#ffffff", "#16181c")  # of the pages, light and dark

ORANGE, BLUE, GREEN, PURPLE, RED, BROWN, PINK, GREY, OLIVE, TEAL = PALETTE = (
    "#d95f02", "#3a80c4", "#2e8b57", "#9467bd", "#d6393c", "#a0694b", "#cf4f94", "#7f7f7f", "#85852a", "#1a8c9c",
)  # fmt: skip

DETECTORS = {"Teacher": GREY, "Student alone": BLUE, "Student": ORANGE, "Detector": ORANGE}
OUTCOMES = {"helps": GREEN, "hurts": RED, "not shown": GREY}  # of a sweep's verdict
