"""The paper's table on data of COCO's layout, with narrow models: every row judged, and one trained to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from benchmarks import reproduce
from benchmarks.reproduce import ARMS, ROWS, Row
from crosskd.data.demo import write_demo
from crosskd.spec.presets import load_recipe, parse_yaml
from tests.support.narrow import CHANNELS, narrow, tame
from tests.support.published import ROWS as PUBLISHED
from tests.support.service import Service

CLASSES = 3
SMALL = [
    *("batch_size=2", "accumulate=1", "loader.workers=0", "augment.long_edge=96", "threads=1", "export=null"),
    *("student.backbone.init=random", "student.backbone.width=8", f"student.neck.channels={CHANNELS}"),
    *(f"student.head.channels={CHANNELS}", f"teacher.model.neck.channels={CHANNELS}", "schedule.max_steps=2"),
    *(f"teacher.model.head.channels={CHANNELS}", "log_every=1"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.pair)
def test_a_sweep_is_the_recipes_of_its_pair(row: Row) -> None:
    """Its arm with PKD has the weight of the recipe with PKD, and what it is held against is what was published."""
    sweep = parse_yaml(row.path.read_text())
    assert (sweep["name"], sweep["base"]) == (f"coco {row.pair}", row.pair)
    assert tuple(sweep["arms"]) == ARMS[: len(row.published)]
    recipes = [PUBLISHED[row.pair]]
    if len(sweep["arms"]) == 3:
        recipes.append(PUBLISHED[f"{row.pair}_pkd"])
        assert sweep["arms"]["crosskd+pkd"] == {"distill": {"pkd": {"weight": recipes[1].pkd}}}
        assert load_recipe(f"{row.pair}_pkd")["distill"]["pkd"]["weight"] == recipes[1].pkd
    for recipe, after in zip(recipes, row.published[1:], strict=True):
        told = [value for value in (row.published[0], after, row.teacher_ap) if value is not None]
        assert [f"{value}" for value in told] == [*recipe.ap]
    assert f"`{row.teacher}`" in (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.running(tmp_path_factory.mktemp("home")) as service:
        yield service


@pytest.fixture(scope="module")
def files(service: Service) -> list[str]:
    """The options that name a data set as COCO lays it out, and a folder with all teachers."""
    coco, teachers = service.home / "data" / "coco", service.home / "data" / "teachers"
    write_demo(coco, train=4, val=2, size=64, classes=CLASSES, seed=3)
    (coco / "annotations").mkdir()
    for split in ("train", "val"):
        (coco / f"{split}.json").rename(coco / "annotations" / f"instances_{split}2017.json")
        (coco / f"{split}2017").symlink_to("images")
    teachers.mkdir()
    for row in ROWS:
        model = load_recipe(row.pair)["teacher"]["model"]
        narrow(model)
        save_file(tame(model, CLASSES, 2), teachers / f"{row.teacher}_20200130-0123abcd.safetensors")
    return ["--data", str(coco), "--teachers", str(teachers), "--url", service.stack.url, "--interval", "0.5"]


def small(row: Row) -> list[str]:
    model, edges = load_recipe(row.pair)["teacher"]["model"], load_recipe(row.pair)["augment"]["short_edges"]
    narrow(model)
    own = [f"teacher.model.backbone.width={model['backbone']['width']}"]
    own.append(f"augment.short_edges={[edge * 64 // edges[0] for edge in edges]}")
    return ["--rows", row.pair, *(text for value in (*SMALL, *own) for text in ("--set", value))]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_row_is_accepted_and_one_trained(
    service: Service, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for row in ROWS:
        caffe = ["--caffe", str(service.home / "data" / "coco" / "images" / "1.png")] if row.caffe else []
        assert reproduce.main([*files, *caffe, *small(row), "--dry-run"]) == 0, capsys.readouterr().err
        assert f"{row.pair}: {len(row.published)} jobs" in capsys.readouterr().out
    row = next(row for row in ROWS if row.pair == "gfl_r50_r101")
    assert reproduce.main([*files, *small(row)]) == 0, capsys.readouterr().err
    first = capsys.readouterr().out
    *_, line = first.splitlines()
    assert line.startswith(f"| {row.pair} | 44.9 -> ")
    assert "none" not in line
    assert line.count("->") == 1 + len(row.published)
    assert reproduce.main([*files, *small(row)]) == 0  # it follows the sweep that is there
    assert capsys.readouterr().out == first
    assert len([*service.client.sweeps.list()]) == 1


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gfl_r50_fpn_1x_coco_20200629.pth").touch()
    assert reproduce.main(["--data", str(tmp_path), "--teachers", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "retinanet_swin-t-p4-w7_fpn_1x_coco*.pth" in told
    assert "--caffe FILE" in told
    assert "gfl_r50_fpn_1x_coco" not in told
