from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from crosskd.evaluation.curves import IOUS, as_json, write_curves
from crosskd.structures import Curves, Evaluation
from crosskd.weights.files import file_digest


def curves(*levels: float, classes: tuple[str, ...]) -> Curves:
    """Flat ones: of class k all three have precision `levels[k]`."""
    table = np.repeat(np.array(levels)[:, None], 101, axis=1)  # [K, 101]
    return Curves(classes, np.stack([table] * 3))


def test_the_file_says_what_a_plot_needs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = Curves(("cat", "a/b"), np.sort(rng.random((3, 2, 101)))[..., ::-1])
    metrics = {"AP": 0.5}
    file = write_curves(tmp_path / "curves", Evaluation("teacher", 12, 0.5, metrics, curves=drawn))
    assert file.path == tmp_path / "curves" / "curves-teacher-00000012.json"
    assert (file.kind, file.step, file.sha256) == ("curves", 12, file_digest(file.path))
    found = json.loads(file.path.read_text())
    assert (found["model"], found["step"], found["epoch"]) == ("teacher", 12, 0.5)
    assert found["recall"] == [round(i / 100, 2) for i in range(101)]
    assert list(found["classes"]) == ["cat", "a/b"]
    for level, iou in enumerate(IOUS):
        for label, name in enumerate(drawn.classes):
            np.testing.assert_allclose(found["classes"][name][iou], drawn.precision[level, label], atol=0.5e-4)
        np.testing.assert_allclose(found["mean"][iou], drawn.precision[level].mean(axis=0), atol=0.5e-4)


def test_a_class_without_ground_truth_has_no_curve_and_no_part_in_the_mean() -> None:
    found = as_json(curves(0.25, -1, 0.75, classes=("a", "b", "c")))
    assert found["classes"]["b"] is None
    assert found["classes"]["c"]["0.75"] == [0.75] * 101
    assert found["mean"] == dict.fromkeys(IOUS, [0.5] * 101)
    assert as_json(curves(-1, classes=("a",)))["mean"] is None


def test_the_file_of_80_classes_is_small(tmp_path: Path) -> None:
    noise = np.sort(np.random.default_rng(0).random((3, 80, 101)))[..., ::-1]
    drawn = Curves(tuple(f"class {i}" for i in range(80)), noise)
    file = write_curves(tmp_path, Evaluation("student", 1, 1.0, {}, curves=drawn))
    assert file.path.stat().st_size < 200_000
