"""What a training leaves out of its data stands in its log and in its manifest."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from crosskd.data.demo import write_demo
from crosskd.runs.train import train
from tests.support.trainings import CLASSES
from tests.support.trainings import config as training


def test_what_is_left_out_stands_in_log_and_manifest(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = tmp_path / "data"
    data = write_demo(folder, train=12, val=6, size=64, classes=len(CLASSES), seed=1).model_dump()
    annotations = Path(data["train"]["annotations"])
    document = json.loads(annotations.read_text())
    first = document["images"][0]["id"]
    for box in document["annotations"]:
        if box["image_id"] == first:
            box["bbox"] = [900, 900, 5, 5]
    annotations.write_text(json.dumps(document))
    outside = [box["id"] for box in document["annotations"] if box["image_id"] == first]

    manifest = train(training(data, schedule={"epochs": 1}), tmp_path / "run").manifest

    found = manifest["data"]["train"]
    assert (found["images"], found["images_used"]) == (12, 11)
    assert found["boxes"] == found["boxes_that_train"] == len(document["annotations"]) - len(outside)
    told = {remark["kind"]: remark for remark in found["remarks"]}
    assert told.keys() == {"outside", "empty_image"}
    assert (told["outside"]["count"], told["outside"]["ids"]) == (len(outside), outside[:5])
    assert told["empty_image"]["ids"] == [first]
    assert manifest["data"]["val"]["remarks"] == []
    log = (tmp_path / "run" / "log.txt").read_text()
    for remark in told.values():
        assert log.count(remark["detail"]) == 1
