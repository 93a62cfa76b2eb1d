"""The page of a sweep's report."""

from __future__ import annotations

import pytest

from report import page
from report.charts import sweep_rows
from report.verdict import compare, judge
from tests.support.job_records import NOW, SCRIPT, specs
from tests.support.vega_lite import assert_valid
from wire.jobs import Failure
from wire.sweeps import ArmResult, Spread, Sweep, SweepChild, TeacherResult

AP = {"alone": [0.2, 0.22, 0.21], "crosskd": [0.25, 0.26, 0.27]}


def spread(values: list[float]) -> Spread:
    return Spread(mean=sum(values) / len(values), standard_error=0.01, n=len(values))


def arm(name: str, values: list[float]) -> ArmResult:
    """`thorn` is what crosskd loses."""
    differences = [ours - theirs for ours, theirs in zip(values, AP["alone"], strict=True)]
    classes = {"ring": spread(values), "thorn": spread([0.3 - value for value in values]), SCRIPT: spread(values)}
    known = {"arm": name, "jobs": 3, "finished": 3, "ap": spread(values), "by_class": classes}
    if name == "alone":
        return ArmResult(baseline=True, **known)
    return ArmResult(difference=compare(differences), verdict=judge(name, "alone", differences), **known)


def sweep(**changes: object) -> Sweep:
    failure = Failure(failure_class="data", message="<b>7.png</b> is broken")
    children = [
        SweepChild(job=f"{name}{seed}", role="arm", arm=name, seed=seed, name=name, status="succeeded", best_ap=value)
        for name, values in AP.items()
        for seed, value in enumerate(values)
    ]
    lost = SweepChild(job="x", role="arm", arm="crosskd", seed=9, name="x", status="failed", failure=failure)
    told = {
        "id": "a" * 32, "name": SCRIPT, "owner": "local", "labels": {}, "status": "failed", "created_at": NOW,
        "baseline": "alone", "arms": list(AP), "seeds": [0, 1, 2], "jobs": {"succeeded": 6, "failed": 1}, "priority": 5,
        "spec": {"name": SCRIPT}, "partial": False, "teacher": TeacherResult(ap=0.4),
        "results": [arm(name, values) for name, values in AP.items()],
        "answer": ["crosskd helps"], "children": [*children, lost],
    }  # fmt: skip
    return Sweep.model_validate(told | changes)


def test_a_sweeps_page_has_its_charts_verdicts_and_failures_and_obeys_no_text() -> None:
    html = page.sweep_page(sweep())
    drawn = specs(html)
    assert set(drawn) == {"differences", "sweep_ap", "sweep_classes"}
    for name, spec in drawn.items():
        assert f'id="chart-{name}"' in html
        assert_valid(spec)
    assert '<p class="verdict">crosskd helps</p>' in html
    assert "&lt;b&gt;7.png&lt;/b&gt; is broken" in html
    assert "<script>alert" not in html
    rows = drawn["differences"]["datasets"]["differences"]
    assert {(row["arm"], row["verdict"]) for row in rows} == {("crosskd", "helps")}
    assert rows[0]["difference"] == pytest.approx(5.0)  # AP points


def test_long_trainings_are_told_in_hours() -> None:
    slow = arm("alone", AP["alone"]).model_copy(update={"training_seconds": spread([36123.0])})
    assert "<td>10:02:03</td>" in page.sweep_page(sweep(results=[slow]))


def test_the_class_that_loses_most_comes_first() -> None:
    names = [name for name, _ in sweep_rows.by_class(sweep())]
    assert names[0] == "thorn"


def test_a_sweep_without_results_has_a_page_without_charts() -> None:
    empty = [ArmResult(arm="alone", baseline=True, jobs=3, finished=0), ArmResult(arm="crosskd", jobs=3, finished=0)]
    html = page.sweep_page(sweep(results=empty, children=[], teacher=None, answer=["Nothing has ended yet."]))
    assert "Nothing has ended yet." in html
    assert "<script" not in html
