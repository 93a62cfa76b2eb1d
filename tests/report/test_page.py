"""The page of a report, and its model card: whole, alone, and with text from outside shown as text."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
import yaml

from report import page, samples
from report.charts import vega
from report.job import Record, build
from report.model_card import model_card
from report.samples import Sample, Stage
from tests.support import job_records as records
from tests.support.job_records import SCRIPT, specs
from tests.support.vega_lite import assert_valid
from wire.images import ModelBox


@pytest.fixture(scope="module")
def html() -> str:
    """Of a job whose name and whose class are scripts."""
    record = records.distilled(records.job(name=SCRIPT))
    hostile = [records.evaluation("student", 40, 0.4, best=True, classes={SCRIPT: 0.4})]
    return page.job_page(
        build(Record(record.job, [*record.evaluations, *hostile], record.result, record.curves, record.losses))
    )


def test_every_chart_has_its_place_and_is_valid_vega_lite(html: str) -> None:
    drawn = specs(html)
    assert set(drawn) == {"classes", "cost", "curves", "ap", "losses"}
    for name, spec in drawn.items():
        assert f'id="chart-{name}"' in html
        assert_valid(spec)
    for channel in ("x", "y"):
        assert drawn["cost"]["encoding"][channel]["scale"]["domainMin"] == 0


def test_the_losses_are_drawn_without_the_learning_rate_and_with_what_is_not_finite(html: str) -> None:
    rows = specs(html)["losses"]["datasets"]
    assert {row["term"] for row in rows["losses"]} == {"loss", "crosskd_cls"}
    assert {row["value"] for row in rows["broken"]} == {"NaN"}


def test_it_needs_nothing_else_and_obeys_no_text(html: str) -> None:
    own = html.replace(vega.javascript(), "")
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import", own)
    assert "alert(1)" in own
    assert "<script>alert" not in own


def test_sample_images_are_inlined_and_their_texts_are_text() -> None:
    box = ModelBox(class_name=SCRIPT, box=(1.5, 2, 3, 4), score=None, kind="missed", truth=0)
    one = Sample(SCRIPT, 60, 40, b"jpeg", [Stage("Teacher", 0.25, [box]), Stage("Step 7", None, [])])
    html = page.job_page(build(records.distilled(records.job())), [one])
    own = html.replace(vega.javascript(), "")
    assert set(re.findall(r'href\s*=\s*"([^"]*)"', own)) == {"data:image/jpeg;base64,anBlZw==", "#sample-1"}
    assert '<rect class="missed" x="1.5" y="2.0" width="3.0" height="4.0">' in own
    assert "Step 7: nothing is right" in own
    assert "<script>alert" not in own
    large = Sample("a", 1, 1, b"x" * 200_000, [])
    assert [len(samples.fitting([large] * 2)), len(samples.fitting([one] * 9))] == [1, 4]


def test_a_failed_job_has_a_page_without_charts() -> None:
    html = page.job_page(build(Record(records.failed("<b>no image</b>"))))
    assert "&lt;b&gt;no image&lt;/b&gt;" in html
    assert "&lt;script&gt;last words" in html
    assert "<script" not in html


def test_the_model_card_has_the_hubs_front_matter_and_shows_text_as_text() -> None:
    record = records.distilled(records.job(name=f"{SCRIPT}\n# x"))
    _, matter, text = model_card(build(record)).split("---\n", 2)
    card = yaml.safe_load(matter)
    assert (card["library_name"], card["pipeline_tag"]) == ("crosskd", "object-detection")
    assert card["tags"] == ["object-detection", "gfl", "resnet18", "knowledge-distillation"]
    measured = {row["type"]: row["value"] for row in card["model-index"][0]["results"][0]["metrics"]}
    assert measured == {"mAP": 0.35, "mAP50": 0.3, "mAP75": 0.3}
    assert "<script>" not in text
    assert "| AP | 0.400 | 0.350 |" in text
    assert text.count("\n# ") == 1


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/home/ann/data/coco/train.json", "coco/train.json"),
        ("/home/ann/data/inner/train.json", "train.json"),
        ("/home/ann/weights/teacher.pth", "teacher.pth"),
        ("/home/ann/data", "data"),
        ("train.json", "train.json"),
    ],
)
def test_a_card_names_files_as_they_lie_below_their_roots(path: str, told: str) -> None:
    roots = [PurePosixPath(root) for root in ("/", "/home/ann/data", "/home/ann/data/inner")]
    job = records.failed(f"'{path}' is broken: see https://example.org/home/x")
    job = job.model_copy(update={"spec": {"data": {"train": [{"annotations": path}]}}})
    card = model_card(build(Record(job)), roots)
    assert "/home/ann" not in card
    assert f"annotations: {told}\n" in card
    assert f"'{told}' is broken: see https://example.org/home/x" in card
