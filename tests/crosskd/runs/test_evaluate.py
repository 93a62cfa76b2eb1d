"""An evaluation from its configuration to its files, and what it tells on the way."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from crosskd.data.folder import read_samples
from crosskd.data.transforms import collate
from crosskd.detectors.detector import build_detector
from crosskd.engine.callbacks import Callback, Run
from crosskd.errors import ConfigError, CrossKDError, Interrupted, WeightsError
from crosskd.runs.evaluate import as_evaluation, evaluate, evaluate_weights
from crosskd.runs.teacher import load_teacher
from crosskd.spec.config import (
    AugmentConfig,
    DataConfig,
    EvaluateConfig,
    FileRef,
    PostprocessConfig,
    TeacherConfig,
    TrainConfig,
)
from crosskd.structures import Evaluation
from crosskd.weights.files import File, file_digest
from crosskd.weights.native import write_weights
from report.matches import read_matches
from report.weighted_ap import average_precision
from tests.support import small
from tests.support.finished import CLASSES, SCALE, detector, write_finished, write_images

SCALED = {"short_edge": 64, "long_edge": 96, "pad_to": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished(tmp_path_factory.mktemp("weights") / "best.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """The ground truth are some of the model's own detections: an untrained one finds nothing else."""
    data = write_images(tmp_path_factory.mktemp("data"))
    model = detector()
    path = Path(data.val.annotations)
    content = json.loads(path.read_text())
    augment = AugmentConfig(short_edges=[SCALE["val_short_edge"]], long_edge=SCALE["long_edge"])
    content["annotations"] = []
    for image in content["images"]:
        (Path(data.val.images) / "one").mkdir(exist_ok=True)
        shutil.copy(Path(data.val.images) / image["file_name"], Path(data.val.images) / "one" / "image.jpg")
        (sample,) = read_samples(Path(data.val.images) / "one", 1, augment, max_pixels=10**6)
        batch = collate([sample], model.config.pixels, 32)
        (found,) = model.detect(batch.images, batch.targets.sizes, PostprocessConfig(score_threshold=0.01))
        for box, label in zip(found.boxes[::2].tolist(), found.labels[::2].tolist(), strict=True):
            x1, y1, x2, y2 = (side / sample.scale[0] for side in box)
            entry = {"id": len(content["annotations"]) + 1, "image_id": image["id"], "category_id": label + 1}
            bbox = [x1, y1, x2 - x1, y2 - y1]
            content["annotations"].append({**entry, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0})
    path.write_text(json.dumps(content))
    return data


def make(data: DataConfig, weights: Path, /, **more: Any) -> EvaluateConfig:
    split = {"val": data.val.model_dump(), **more.pop("data", {})}
    values = {"weights": {"file": str(weights)}, "data": split, "workers": 0, "batch_size": 2, "device": "cpu"}
    return EvaluateConfig.model_validate(values | more)


class Told(Callback):
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.evaluations: list[Evaluation] = []
        self.files: list[File] = []

    def on_phase(self, run: Run, phase: Any) -> None:
        self.phases.append(phase)

    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)
        assert (run.step, run.total_steps) == (2, 2)

    def on_file(self, run: Run, file: File) -> None:
        assert file_digest(file.path) == file.sha256
        self.files.append(file)


def test_it_gives_what_evaluate_weights_gives(data: DataConfig, weights: Path, tmp_path: Path) -> None:
    told = Told()
    manifest = evaluate(make(data, weights), tmp_path, callbacks=[told])
    augment = {"short_edges": [SCALE["val_short_edge"]], "long_edge": SCALE["long_edge"]}
    training = TrainConfig.model_validate(
        {
            "data": data.model_dump(),
            "student": small.config().model_dump(),
            "augment": augment,
            "loader": {"workers": 0},
        }
    )
    # The file says the model; `student.postprocess` as a whole was given here, so it counts.
    known = evaluate(make(data, weights, postprocess=training.student.postprocess.model_dump()), tmp_path / "other")
    assert known["model"]["metrics"] == evaluate_weights(as_evaluation(training, weights)).evaluation.metrics

    (evaluation,) = told.evaluations
    assert evaluation.best
    assert (evaluation.model, evaluation.step, evaluation.images) == ("student", 0, 4)
    assert evaluation.metrics["AP"] > 0.1  # else nothing would be compared
    assert manifest["model"]["metrics"] == evaluation.metrics
    assert told.phases == ["preparing", "evaluating", "uploading"]
    files = [(file.name, file.kind, file.step) for file in told.files]
    assert files == [
        ("curves-student-00000000.json", "curves", 0),
        ("samples-student-00000000.json.gz", "samples", 0),
        ("matches.safetensors", "matches", 0),
        ("detections.json.gz", "detections", 0),
        ("manifest.json", "manifest", 2),
    ]
    assert average_precision(read_matches((tmp_path / "matches.safetensors").read_bytes())).metrics == (
        evaluation.metrics
    )

    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert manifest["kind"] == "evaluate"
    assert manifest["annotations_sha256"] == {"val": file_digest(Path(data.val.annotations))}
    assert manifest["classes"] == CLASSES
    assert manifest["data"]["val"]["images_used"] == manifest["model"]["images"]
    assert manifest["model"]["image"] == [64, 96]  # the scale that the file records
    assert manifest["model"]["parameters"] > 0
    assert "the student after step 0 on 4 images" in (tmp_path / "log.txt").read_text()


def test_classes_that_stand_for_nothing_are_left_out(
    data: DataConfig, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the 91 that are published for COCO's 80, among them ids that nobody uses."""
    model = detector()
    wide = build_detector(model.config, 5, pretrained=False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("head.cls.weight", "head.cls.bias"):  # anchors first, then classes; the others detect as much
        rows = state[name].unflatten(0, (-1, 3))
        state[name] = rows[:, [1, 0, 1, 2, 0]].flatten(0, 1)
    wide.load_state_dict(state)
    names = ["__background__", *CLASSES, "N/A 4"]
    write_weights(tmp_path / "wide.safetensors", wide.state_dict(), model=wide.config, classes=names)
    with caplog.at_level("INFO"):
        found = evaluate_weights(make(data, tmp_path / "wide.safetensors", scale=SCALED)).evaluation
    wanted = evaluate_weights(make(data, weights, scale=SCALED)).evaluation
    assert (found.class_metrics, found.matches) == (wanted.class_metrics, wanted.matches)
    assert wanted.metrics["AP"] > 0.1
    assert "2 of its 5 classes stand for nothing and are left out: __background__, N/A 4" in caplog.text
    # Where the data have a class of that name, it is one.
    with pytest.raises(WeightsError, match="knows the classes A, B, E, N/A 4; the data has A, B, N/A 4"):
        evaluate_weights(make(data, tmp_path / "wide.safetensors", data={"classes": ["A", "B", "N/A 4"]}))


@pytest.mark.parametrize("as_is", [False, True])
def test_boxes_that_do_not_count_are_told(data: DataConfig, weights: Path, tmp_path: Path, as_is: bool) -> None:
    content = json.loads(Path(data.val.annotations).read_text())
    content["annotations"][0]["bbox"][2] = 0
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    val = {"annotations": str(path), "images": data.val.images}
    manifest = evaluate(make(data, weights, data={"val": val}, as_is=as_is), tmp_path / "run")
    count = len(content["annotations"])
    left_out = 0 if as_is else 1
    assert manifest["model"]["ground_truth"] == {"boxes": count - left_out, "left_out": left_out, "as_is": as_is}
    said = f"AP does not count 1 of the {count} boxes" in (tmp_path / "run" / "log.txt").read_text()
    assert said == (not as_is)


def test_the_file_behind_a_job_is_given(data: DataConfig, weights: Path, tmp_path: Path) -> None:
    config = make(data, weights, weights={"job": "0" * 32})
    with pytest.raises(ConfigError, match="not at hand") as caught:
        evaluate(config, tmp_path / "without")
    assert caught.value.where == "/weights/job"
    assert evaluate(config, tmp_path / "with", weights=weights)["weights_sha256"]


def test_postprocessing_and_scale_can_be_chosen(data: DataConfig, weights: Path, tmp_path: Path) -> None:
    scale = {"short_edge": 32, "long_edge": 32}
    config = make(data, weights, postprocess={"max_detections": 1}, scale=scale)
    told = Told()
    manifest = evaluate(config, tmp_path, callbacks=[told])
    metrics = told.evaluations[0].metrics
    assert metrics["AR1"] == metrics["AR100"] > 0
    assert told.evaluations[0].max_detections == manifest["model"]["max_detections"] == 1
    assert "on 4 images, at most 1 detections each" in (tmp_path / "log.txt").read_text()
    assert manifest["model"]["image"] == [32, 32]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"data": {"classes": ["A", "B"]}}, "/data/classes"),
        ({"postprocess": {"score": "root"}}, "/postprocess"),
        ({"weights": {"file": "/nowhere.safetensors"}}, ""),
    ],
)
def test_what_cannot_be_evaluated(
    data: DataConfig, weights: Path, tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(CrossKDError) as caught:
        evaluate(make(data, weights, **changes), tmp_path)
    assert caught.value.where == where
    assert caught.value.remedy


@pytest.mark.parametrize("said", ['["A", "B", "A"]', '"ABE"', "[" * 100_000])
def test_class_names_that_are_none(data: DataConfig, tmp_path: Path, said: str) -> None:
    model = detector()
    path = tmp_path / "w.safetensors"
    metadata = {"format": "crosskd", "model": model.config.model_dump_json(), "classes": said}
    save_file(model.state_dict(), path, metadata)
    with pytest.raises(WeightsError, match=r"w\.safetensors describes its classes in a way that this version"):
        evaluate(make(data, path), tmp_path / "run")
    teacher = TeacherConfig(weights=FileRef(file=str(path)))
    config = TrainConfig(data=data, student=model.config, teacher=teacher)
    if said.startswith('["A"'):  # a teacher is narrowed by name: the first of that name is taken
        assert load_teacher(config, ["B", "A"]).num_classes == 2
        return
    with pytest.raises(WeightsError, match=r"w\.safetensors describes its classes in a way that this version"):
        load_teacher(config, ["B", "A"])


def test_weights_that_say_nothing_need_a_model(data: DataConfig, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    model = detector()
    save_file(model.state_dict(), bare)
    with pytest.raises(ConfigError, match="does not say which model"):
        evaluate(make(data, bare), tmp_path / "a")
    config = make(data, bare, model=model.config.model_dump(), scale=SCALE_OF_OURS)
    assert evaluate(config, tmp_path / "b")["classes"] == CLASSES  # the categories of the data, by id
    wrong = small.config(depth=2, strides=[8, 16, 32])
    with pytest.raises(WeightsError, match="does not fit"):
        evaluate(make(data, bare, model=wrong.model_dump()), tmp_path / "c")


SCALE_OF_OURS = {"short_edge": SCALE["val_short_edge"], "long_edge": SCALE["long_edge"]}


def test_a_stop_ends_it_with_nothing_kept(data: DataConfig, weights: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted) as caught:
        evaluate(make(data, weights), tmp_path, stop=stop)
    assert caught.value.step == 0
    assert not (tmp_path / "manifest.json").exists()
