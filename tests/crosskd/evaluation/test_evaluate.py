from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from crosskd.data.annotations import read_annotations
from crosskd.errors import ConfigError, DataError
from crosskd.evaluation.average_precision import METRICS, ImageDetections, average_precision
from crosskd.evaluation.evaluate import evaluate
from crosskd.structures import Detections
from tests.support.coco_files import config, content, loader_of, many, write

SIZES = [(64, 48), (48, 64), (96, 64), (33, 57), (64, 48)]


class Oracle(nn.Module):
    """A detector that answers with the ground truth, changed by a function: the boxes of the batch, in order."""

    def __init__(self, batches, change=lambda boxes: boxes, score=1.0, num_classes=2, max_detections=100):
        super().__init__()
        self.max_detections = max_detections
        self.answers = [
            target for batch in batches for target in zip(batch.targets.boxes, batch.targets.labels, strict=True)
        ]
        self.change, self.score, self.num_classes = change, score, num_classes

    def detect(self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        assert not self.training
        answers = [self.answers.pop(0) for _ in sizes]
        return [
            Detections(self.change(boxes), torch.full((len(boxes),), self.score), labels) for boxes, labels in answers
        ]


def evaluated(folder, change=lambda boxes: boxes, max_detections=100, **settings):
    loader = loader_of(config(folder, **settings), "val")
    detector = Oracle(list(loader), change, max_detections=max_detections).train()
    result = evaluate(detector, loader, annotations=loader.dataset.annotations, step=7, epoch=1.5)
    assert detector.training
    return result


def nothing(boxes: torch.Tensor) -> torch.Tensor:
    return boxes[:0]


def test_perfect_detections_have_ap_1_at_any_scale(tmp_path):
    write(tmp_path, many(SIZES))
    for edge in (48, 64, 77):
        result = evaluated(tmp_path, augment={"short_edges": [edge], "long_edge": 128})
        assert result.metrics["AP"] == result.metrics["AR100"] == result.metrics["APs"] == pytest.approx(1)
        assert result.metrics["APl"] == -1
        assert result.per_class == {"one": pytest.approx(1), "two": pytest.approx(1)}
        assert tuple(result.metrics) == METRICS
        assert (result.images, result.step, result.epoch, result.model) == (5, 7, 1.5, "student")
        assert result.seconds > 0
        assert result.milliseconds_per_image >= 0


def test_shifted_boxes_count_up_to_the_iou_they_have(tmp_path):
    """A box of 10 x 10, one pixel off: IoU 90 / 110 = 0.818, right at 0.50, 0.55 ... 0.80 and wrong at 3 of 10."""
    data = content()
    for entry in data["annotations"]:
        entry["bbox"] = [20, 20, 10, 10]
    write(tmp_path, content(annotations=data["annotations"][:2]))
    scale = 64 / 48
    result = evaluated(tmp_path, lambda boxes: boxes + torch.tensor([scale, 0, scale, 0]))
    assert result.metrics["AP"] == pytest.approx(0.7)
    assert result.metrics["AP50"] == result.metrics["AP75"] == pytest.approx(1)


def test_detections_outside_the_image_are_clipped_to_it(tmp_path):
    box = {"id": 1, "image_id": 70, "category_id": 2, "bbox": [44, 28, 20, 20], "area": 400, "iscrowd": 0}
    write(tmp_path, content(annotations=[box]))
    result = evaluated(tmp_path, lambda boxes: boxes * torch.tensor([1, 1, 2, 2]))
    assert result.metrics["AP"] == pytest.approx(1)


def test_ids_that_are_not_1_to_n_and_id_0_are_no_matter(tmp_path):
    data = content()
    data["images"][0]["id"], data["annotations"][1]["image_id"] = 0, 0
    data["annotations"][0]["id"] = 0
    data["categories"][0]["id"], data["annotations"][0]["category_id"] = 0, 0
    write(tmp_path, data)
    result = evaluated(tmp_path)
    assert result.metrics["AP"] == pytest.approx(1)
    assert result.per_class == {"cat": pytest.approx(1), "dog": pytest.approx(1)}


def test_no_detection_is_ap_0_and_no_ground_truth_minus_1(tmp_path):
    write(tmp_path / "some", many(SIZES))
    result = evaluate_empty(tmp_path / "some")
    assert result.metrics["AP"] == 0
    assert result.per_class == {"one": 0, "two": 0}
    write(tmp_path / "none", many(SIZES, boxes=0))
    result = evaluated(tmp_path / "none")
    assert set(result.metrics.values()) == {-1}
    assert result.per_class == {"one": -1, "two": -1}
    assert result.class_metrics == {name: {"AP50": -1, "AP75": -1, "AR100": -1} for name in ("one", "two")}
    assert set(result.curves.precision.ravel()) == {-1}


def evaluate_empty(folder):
    loader = loader_of(config(folder), "val")
    detector = Oracle(list(loader))
    detector.answers = [(boxes[:0], labels[:0]) for boxes, labels in detector.answers]
    return evaluate(detector, loader, annotations=loader.dataset.annotations)


def test_no_image_at_all_is_minus_1(tmp_path):
    write(tmp_path, many(SIZES))
    result = evaluate(Oracle([]), [], annotations=tmp_path / "train.json")
    assert set(result.metrics.values()) == {-1}
    assert result.images == 0
    assert result.milliseconds_per_image is None
    assert result.class_metrics["one"] == {"AP50": -1, "AP75": -1, "AR100": -1}
    assert result.curves.precision.shape == (3, 2, 101)


def test_an_image_that_was_left_out_is_not_missed(tmp_path):
    write(tmp_path, many(SIZES))
    (tmp_path / "images" / "2.png").write_bytes(b"broken")
    result = evaluated(tmp_path, data={"max_corrupt_images": 1})
    assert result.images == 4
    assert result.metrics["AP"] == pytest.approx(1)


def test_nothing_is_printed(tmp_path, capfd):
    write(tmp_path, many(SIZES))
    evaluated(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_detector_of_other_classes_is_refused(tmp_path):
    write(tmp_path, many(SIZES))
    with pytest.raises(ConfigError, match="the teacher knows 3 classes, the data has 2"):
        evaluate(Oracle([], num_classes=3), [], annotations=tmp_path / "train.json", model="teacher")


def test_the_training_mode_comes_back_after_an_error(tmp_path):
    write(tmp_path, many(SIZES))
    (tmp_path / "images" / "2.png").write_bytes(b"broken")
    loader = loader_of(config(tmp_path, batch_size=1), "val")
    detector = Oracle([]).train()
    detector.detect = lambda images, sizes: [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())]
    with pytest.raises(DataError):
        evaluate(detector, loader, annotations=loader.dataset.annotations)
    assert detector.training


# --- against pycocotools by hand -------------------------------------------------------------------------------------


def crowded() -> dict:
    """One image: a box, a crowd over its right half, an ignored box."""
    boxes = [
        {"id": 1, "image_id": 70, "category_id": 2, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 70, "category_id": 2, "bbox": [32, 0, 32, 48], "area": 1500, "iscrowd": 1},
        {"id": 3, "image_id": 70, "category_id": 2, "bbox": [2, 26, 20, 20], "area": 400, "iscrowd": 0, "ignore": 1},
    ]
    return content(images=content()["images"][:1], annotations=boxes, categories=[{"id": 2, "name": "dog"}])


def found(*boxes: tuple[float, float, float, float], scores: list[float] | None = None) -> ImageDetections:
    return ImageDetections(
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        scores=np.array(scores or np.linspace(0.9, 0.1, len(boxes))),
        labels=np.zeros(len(boxes), dtype=np.int64),
    )


def awkward() -> dict:
    """What the cleaned ground truth and the file differ in: no size, outside, beyond the image, `ignore`, id 0; images
    whose ids do not ascend."""
    data = many([(64, 48)] * 10, boxes=4, seed=4)
    for image, key in zip(data["images"], [9, 3, 7, 1, 5, 0, 8, 2, 6, 4], strict=True):
        for entry in data["annotations"]:
            if entry["image_id"] == image["id"]:
                entry["image_id"] = -key
        image["id"] = -key
    for n, entry in enumerate(data["annotations"]):
        x, y, _, _ = entry["bbox"]
        entry["id"] = n
        entry["bbox"] = {2: [x, y, 0, 9], 5: [70, 60, 5, 5], 7: [x, y, 60, 40]}.get(n % 11, entry["bbox"])
        entry["ignore"] = int(n % 9 == 4)
        entry["iscrowd"] = int(n % 13 == 6)
    return data


def test_as_it_stands_the_numbers_are_those_of_plain_pycocotools_on_any_file(tmp_path):
    data = awkward()
    write(tmp_path, data)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "train.json")
    answers: dict[int, ImageDetections] = {}
    entries = []
    for n, image in enumerate(data["images"]):
        own = truth.imgToAnns[image["id"]]
        xywh = np.array([entry["bbox"] for entry in own]) + np.array([1, n % 3, 0, 0])
        scores = np.round(np.random.default_rng(n).random(len(own)), 1)  # many are equal
        labels = np.array([entry["category_id"] - 1 for entry in own])
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        answers[image["id"]] = ImageDetections(xyxy, scores, labels)
        entries += [
            {"image_id": image["id"], "category_id": label + 1, "bbox": box, "score": score}
            for box, label, score in zip(xywh.tolist(), labels.tolist(), scores.tolist(), strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(truth, truth.loadRes(entries), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    cleaned = average_precision(read_annotations(tmp_path / "train.json"), answers)
    as_is = average_precision(read_annotations(tmp_path / "train.json", as_is=True), answers)
    assert list(as_is.metrics.values()) == theirs.stats.tolist()
    assert as_is.metrics["AP"] != pytest.approx(cleaned.metrics["AP"], abs=0.01)


@pytest.mark.parametrize(("as_is", "boxes", "left_out"), [(False, 32, 8), (True, 40, 0)])
def test_boxes_that_are_not_counted_are_counted(tmp_path, as_is, boxes, left_out):
    write(tmp_path, awkward())
    result = evaluated(tmp_path, max_detections=300, evaluation={"as_is": as_is})
    assert result.ground_truth() == {"boxes": boxes, "left_out": left_out, "as_is": as_is}
    assert result.max_detections == (100 if as_is else 300)


def crowd_of_boxes(count: int) -> dict:
    """One image full of boxes of 10 x 10 that touch nothing."""
    boxes = [
        {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": [n % 40 * 12, n // 40 * 12, 10, 10]}
        | {"area": 100, "iscrowd": 0}
        for n in range(count)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 480, "height": 480}]
    return content(images=images, annotations=boxes, categories=[{"id": 1, "name": "cell"}])


@pytest.mark.parametrize(("limit", "ap", "ar"), [(100, 1 / 3, 1 / 3), (150, 0.5, 0.5), (300, 1, 1)])
def test_ap_counts_as_many_detections_as_the_detector_may_make(tmp_path, limit, ap, ar):
    """300 boxes, perfect detections of as many as the limit allows."""
    write(tmp_path, crowd_of_boxes(300))
    loader = loader_of(config(tmp_path, augment={"short_edges": [480], "long_edge": 480}), "val")
    detector = Oracle(list(loader), num_classes=1, max_detections=limit)
    detector.answers = [(boxes[:limit], labels[:limit]) for boxes, labels in detector.answers]
    result = evaluate(detector, loader, annotations=loader.dataset.annotations)
    assert result.max_detections == limit
    assert (result.metrics["AP"], result.metrics["APs"]) == (pytest.approx(ap, abs=0.006),) * 2
    assert result.metrics["ARs"] == pytest.approx(ar)
    assert (result.metrics["AR100"], result.metrics["AR10"]) == pytest.approx((100 / 300, 10 / 300))
    assert result.per_class["cell"] == pytest.approx(result.metrics["AP"])
    assert result.class_metrics["cell"]["AR100"] == pytest.approx(100 / 300)
    assert result.curves.precision[2].mean() == pytest.approx(result.metrics["AP"])


def test_more_detections_count_as_in_pycocotools_with_that_limit(tmp_path):
    """Where `summarize` reads the limits: AP50 and AP75 at the third of them."""
    data = crowd_of_boxes(200)
    write(tmp_path, data, images=False)
    rng = np.random.default_rng(3)
    xywh = np.array([entry["bbox"] for entry in data["annotations"]]) + rng.normal(0, 1, (200, 4))
    scores = rng.random(200)
    entries = [
        {"image_id": 1, "category_id": 1, "bbox": box.tolist(), "score": score}
        for box, score in zip(xywh, scores.tolist(), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "train.json")
        theirs = COCOeval(truth, truth.loadRes(entries), "bbox")
        theirs.params.maxDets = [1, 10, 150]
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    answers = found(*np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), scores=scores.tolist())
    ours = average_precision(read_annotations(tmp_path / "train.json"), {1: answers}, max_detections=150).metrics
    known = {name: value for name, value in zip(METRICS, theirs.stats, strict=True) if name not in ("AP", "AR100")}
    assert {name: ours[name] for name in known} == pytest.approx(known)
    assert ours["AP"] == pytest.approx(theirs.eval["precision"][..., 0, -1].mean())
    assert 0.05 < ours["AP"] < ours["AP50"]


def precision(folder, answers: ImageDetections) -> float:
    return average_precision(read_annotations(folder / "train.json"), {70: answers}).metrics["AP"]


def test_detections_in_a_crowd_or_on_an_ignored_box_are_neither_right_nor_wrong(tmp_path):
    write(tmp_path, crowded(), images=False)
    right, in_crowd, ignored, wrong = (2, 2, 22, 22), (40, 5, 50, 15), (2, 26, 22, 46), (22, 30, 31, 45)
    assert precision(tmp_path, found(right)) == pytest.approx(1)
    assert precision(tmp_path, found(in_crowd, (45, 20, 60, 40), right)) == pytest.approx(1)
    assert precision(tmp_path, found(ignored, right)) == pytest.approx(1)
    assert precision(tmp_path, found(wrong, right)) == pytest.approx(0.5)
    assert precision(tmp_path, found(in_crowd, ignored)) == 0


def test_numbers_are_those_of_pycocotools_on_the_file_itself(tmp_path):
    rng = np.random.default_rng(5)
    data = many([(640, 480)] * 12, boxes=6, seed=2)
    for entry in data["annotations"]:
        width, height = rng.uniform(5, 200, 2)
        entry["bbox"][2:] = [min(width, 639 - entry["bbox"][0]), min(height, 479 - entry["bbox"][1])]
        entry["area"] = entry["bbox"][2] * entry["bbox"][3] * 0.8
        entry["iscrowd"] = int(rng.random() < 0.15)
    write(tmp_path, data, images=False)
    answers, theirs = {}, []
    for image in data["images"]:
        own = [entry for entry in data["annotations"] if entry["image_id"] == image["id"]]
        xywh = np.array([entry["bbox"] for entry in own] + [[rng.uniform(0, 300), 50, 60, 70]])
        xywh[:, :2] = np.maximum(0, xywh[:, :2] + rng.normal(0, 4, (7, 2)))
        xywh[:, 2:] *= rng.uniform(0.85, 1.1, (7, 2))
        labels = np.array([entry["category_id"] - 1 for entry in own] + [0])
        scores = rng.random(7)
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        answers[image["id"]] = ImageDetections(xyxy, scores, labels)
        theirs += [
            {"image_id": image["id"], "category_id": int(label) + 1, "bbox": box.tolist(), "score": float(score)}
            for box, label, score in zip(xywh, labels, scores, strict=True)
        ]
    result = average_precision(read_annotations(tmp_path / "train.json"), answers)
    metrics, per_class = result.metrics, result.per_class
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "train.json")
        by_hand = COCOeval(truth, truth.loadRes(theirs), "bbox")
        by_hand.evaluate()
        by_hand.accumulate()
        by_hand.summarize()
        one = COCOeval(truth, truth.loadRes(theirs), "bbox")
        one.params.catIds = [1]
        one.evaluate()
        one.accumulate()
        one.summarize()
    assert list(metrics.values()) == pytest.approx(by_hand.stats.tolist(), abs=1e-9)
    assert 0.1 < metrics["AP"] < 0.9
    assert per_class["one"] == pytest.approx(one.stats[0], abs=1e-9)
    theirs_of_one = dict(zip(METRICS, one.stats.tolist(), strict=True))
    assert result.class_metrics["one"] == {
        name: pytest.approx(theirs_of_one[name], abs=1e-9) for name in ("AP50", "AP75", "AR100")
    }
    iou_50, iou_75, mean = result.curves.precision[:, result.curves.classes.index("one")]
    assert np.array_equal(iou_50, one.eval["precision"][0, :, 0, 0, -1])
    assert np.array_equal(iou_75, one.eval["precision"][5, :, 0, 0, -1])
    assert mean.mean() == pytest.approx(per_class["one"], abs=1e-12)
