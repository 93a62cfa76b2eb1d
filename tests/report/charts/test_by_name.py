"""Drawings without data, as pages fetch them, and with their rows, as reports embed them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import vl_convert

from report.charts import by_name, job_rows, palette
from report.charts.job_rows import Rows
from tests.support import job_records as records
from tests.support.vega_lite import assert_valid

DETECTORS = [
    {"detector": title, "AP": 0.3, "milliseconds": 12.0, "parameters": 1000} for title in ("Student", "Teacher")
]
SERIES: Rows = {
    "series": [{"step": 9, "value": 0.1, "smooth": 0.1, "least": 0.1, "greatest": 0.2}],
    "broken": [{"step": 3, "value": "NaN"}],
}
OVERLAY: Rows = {
    "lines": [{"job": "a", "step": 1, "value": 0.2, "smooth": 0.2}],
    "broken": [{"job": "a", "step": 2, "value": "Infinity"}],
}

# Of each chart what its docstring promises: the only rows that a page can know of.
ROWS: dict[str, Rows] = {
    "losses": job_rows.losses(records.losses()),
    "ap": {"student": [{"step": 9, "AP": 0.3, "epoch": 1.0, "best": True}], "teacher": [{"AP": 0.4}]},
    "overlay": OVERLAY,
    "overlay_ap": OVERLAY,
    "overlay_loss": OVERLAY,
    "curves": {"curves": [{"detector": "Student", "IoU": "0.50", "recall": 0.1, "precision": 0.9}]},
    "classes": {"classes": [{"class": "cat", "detector": "Student", "AP": 0.3}]},
    "cost": {"cost": DETECTORS},
    "differences": {
        "differences": [{"arm": "kd", "difference": 1.0, "low": None, "high": 2.0, "pairs": 3, "verdict": "helps"}]
    },
    "sweep_ap": {
        "arms": [{"arm": "kd", "AP": 0.3, "low": 0.2, "high": 0.4, "jobs": 3}],
        "jobs": [{"arm": "kd", "AP": 0.3, "seed": 1}],
        "teacher": [{"AP": 0.5}],
    },
    "sweep_classes": {"classes": [{"class": "cat", "arm": "kd", "AP": 0.3}]},
    **dict.fromkeys(job_rows.SERIES, SERIES),
}


def parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every object within the JSON, itself among them."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts(inner)


def views(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts that have a mark, each with the data that it is drawn from."""
    return [{"data": spec.get("data")} | view for view in spec.get("layer", [spec])]


@pytest.mark.parametrize("name", by_name.NAMES)
def test_a_drawing_has_no_rows_and_uses_only_fields_that_its_rows_have(name: str) -> None:
    drawing, rows = by_name.drawing(name), ROWS[name]
    assert_valid(drawing)
    assert drawing == json.loads(json.dumps(by_name.drawing(name)))  # the same each time: a page may keep it
    assert not {"datasets", "values"} & {key for part in parts(drawing) for key in part}
    assert {view["data"]["name"] for view in views(drawing)} == set(rows)
    for view in views(drawing):
        made = {step["as"] for step in view.get("transform", drawing.get("transform", [])) if "as" in step}
        known = made | rows[view["data"]["name"]][0].keys()
        fields = {part["field"].partition(":")[0] for part in parts(view["encoding"]) if "field" in part}
        assert fields <= known, view["mark"]
    filled = by_name.chart(name, rows).to_dict()
    assert filled.pop("datasets") == rows
    assert filled == drawing


@pytest.mark.parametrize("name", by_name.NAMES)
def test_axes_have_names_marks_have_tooltips_and_steps_can_be_zoomed(name: str) -> None:
    spec = by_name.drawing(name)
    axes = [part[axis] for part in parts(spec) for axis in ("x", "y") if "field" in part.get(axis, {})]
    assert all(axis.get("title") for axis in axes)
    assert any("tooltip" in view["encoding"] or view["mark"].get("tooltip") for view in views(spec))
    if any(axis["field"] == "step" for axis in axes):
        (zoom,) = (one for one in spec["params"] if one.get("bind") == "scales")
        assert zoom["select"]["encodings"] == ["x"]
        assert [one for one in spec["params"] if one["name"] == "near"]


def test_each_drawing_compiles_and_keeps_the_names_that_rows_are_fed_under() -> None:
    for name in by_name.NAMES:
        compiled = vl_convert.vegalite_to_vega(by_name.drawing(name))
        assert {one["name"] for one in compiled["data"]} >= set(ROWS[name]), name


def test_only_detectors_with_rows_are_in_the_legend_each_in_its_own_colour() -> None:
    svg = vl_convert.vegalite_to_svg(by_name.chart("cost", ROWS["cost"]).properties(width=300).to_dict())
    assert palette.DETECTORS["Student"] in svg
    assert palette.DETECTORS["Teacher"] in svg
    assert palette.DETECTORS["Student alone"] not in svg
    assert "Student alone" not in svg


def test_one_series_is_taken_out_and_the_others_are_no_losses() -> None:
    rows = job_rows.series(records.losses(), "lr")
    assert rows["series"][0] == {"step": 9, "value": 1.0, "smooth": 1.0, "least": 0.1, "greatest": 2.0}
    assert rows["broken"] == [{"step": 10, "value": "NaN"}]
    assert {row["term"] for row in ROWS["losses"]["losses"]} == {"loss", "crosskd_cls"}


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", [*palette.PALETTE, *palette.DETECTORS.values(), *palette.OUTCOMES.values()])
def test_every_colour_stands_out_from_a_light_page_and_from_a_dark_one(colour: str) -> None:
    for background in palette.BACKGROUNDS:
        low, high = sorted((luminance(colour), luminance(background)))
        assert (high + 0.05) / (low + 0.05) >= 3
