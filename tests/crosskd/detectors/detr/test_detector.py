"""DETRs of transformers: their losses, detections, tensors, classes, and their whole way through a training.

One file for all types: the library takes seconds to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from crosskd import load
from crosskd.convert.load import load_weights
from crosskd.data.demo import write_demo
from crosskd.detectors.detector import Detector, build_detector
from crosskd.detectors.detr import tensor_table
from crosskd.detectors.detr.detector import best
from crosskd.detectors.detr.view import shares
from crosskd.distill.distiller import build_distiller
from crosskd.engine.parallel import data_parallel
from crosskd.errors import ConfigError, Diverged
from crosskd.evaluation.cost import flops
from crosskd.runs.start import begin
from crosskd.runs.train import train
from crosskd.spec.config import DistillConfig, FileRef, ModelConfig, PostprocessConfig, TrainConfig
from crosskd.spec.detr.tensors import table
from crosskd.spec.detr.types import TYPES
from crosskd.spec.weights.shapes import expected_shapes, parameter_count
from crosskd.structures import Targets
from crosskd.weights.native import write_weights
from tests.support import detrs, small
from tests.support.ranks import on_ranks
from tests.support.trainings import CLASSES, Story, broken_and_resumed, digest
from tests.support.trainings import config as training

ALL = sorted(TYPES)


@pytest.mark.parametrize("kind", ALL)
def test_the_losses_are_the_librarys_by_layer_and_reach_every_parameter(kind: str) -> None:
    model = detrs.detector(kind).train()
    images, targets = small.batch()
    made = model.view("student", model.features(images), targets, ())
    losses = made.losses()
    total = torch.stack([loss.sum() for loss in losses.values()]).sum()
    assert total.item() == pytest.approx(made.output.loss.item(), rel=1e-5)  # type: ignore[attr-defined]
    assert losses["loss_bbox"].shape == losses["loss_giou"].shape == (2,)
    assert ("loss_vfl_dn" in losses) == ("denoising" in detrs.KNOBS[kind])
    total.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    model.zero_grad()
    nothing = Targets([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2, targets.sizes, targets.padded)
    none = model(images, nothing)
    # Batches and ranks are added up term by term, so a term is never missing.
    assert {name: loss.shape for name, loss in none.items()} == {name: loss.shape for name, loss in losses.items()}
    assert list(none) == list(losses)
    torch.stack([loss.sum() for loss in none.values()]).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == model.sometimes_idle()

    with torch.no_grad():
        next(model.neck.parameters()).fill_(torch.nan)
    with pytest.raises(Diverged, match="no longer numbers"):  # and not the library's ValueError
        model(images, targets)


@pytest.mark.parametrize("kind", ALL)
def test_an_image_is_found_alike_however_its_batch_is_padded_where_the_model_knows_of_padding(kind: str) -> None:
    """And boxes are in pixels of the batch, inside their image, best first."""
    model = detrs.detector(kind, width=64).eval()
    images, _ = small.batch()
    alone = model.detect(images[:1, :, :64, :64], [(64, 64)])[0]
    padded = torch.zeros(1, 3, 96, 128)
    padded[:, :, :64, :64] = images[:1, :, :64, :64]
    wide = model.detect(padded, [(64, 64)])[0]
    if kind == "deformable_detr":  # a vision transformer's positions depend on the size, and it attends to padding
        # The backbone itself sees the padding, by its convolutions at the edge: hence not closer.
        torch.testing.assert_close(wide.boxes[:3], alone.boxes[:3], atol=2.0, rtol=0)
    for found in (alone, wide):
        assert len(found.scores) > 3
        assert (found.boxes >= 0).all()
        assert (found.boxes <= 64).all()
        assert (found.scores.diff() <= 0).all()
    assert flops(model, (64, 96)) > 0
    assert detrs.detector(kind, queries=30).eval().detect(images[:1, :, :32, :32], [(32, 32)])[0].scores.shape[0] > 3


def test_the_best_pairs_of_queries_and_classes_are_kept_without_suppression() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 5.0, 9.0]])
    scores = torch.tensor([[0.9, 0.3], [0.8, 0.05], [0.7, 0.6]])
    found = best(scores, boxes, PostprocessConfig(score_threshold=0.1, max_detections=5))
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])  # the third has no area
    assert found.labels.tolist() == [0, 0, 1]
    told = shares(torch.tensor([[10.0, 20.0, 30.0, 60.0]]), (80, 40))
    assert told.tolist() == [[0.5, 0.5, 0.5, 0.5]]


CASES: list[dict[str, Any]] = [
    {"kind": "deformable_detr", "box_refine": False, "levels": 3},
    {"kind": "deformable_detr", "box_refine": False, "levels": 5, "decoder_layers": 1},
    {"kind": "deformable_detr", "width": 64, "heads": 2, "encoder_layers": 3},
    {"kind": "rt_detr", "denoising": 0, "queries": 1},
    {"kind": "rt_detr", "expansion": 1.0, "decoder_layers": 1},
    {"kind": "rt_detr_v2", "encoder_layers": 2, "points": 3},
    {"kind": "d_fine", "depth": 1.0, "bins": 32, "decoder_layers": 1},
    {"kind": "d_fine", "width": 96, "expansion": 0.34, "level_points": [3, 6, 2], "reg_scale": 8.0},
    {"kind": "d_fine", "width": 64, "encoder_width": 96, "encoder_feedforward": 40, "expansion": 0.5},
    {"kind": "rt_detr", "width": 64, "encoder_width": 96, "encoder_feedforward": 40},
    {"kind": "lw_detr", "expansion": 1.0, "groups": 1, "scales": [1]},
    {"kind": "lw_detr", "width": 64, "cross_heads": 16, "scales": [2, 1, 0.5]},
    {"kind": "rf_detr", "width": 64, "expansion": 0.34, "decoder_layers": 1},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_table_of_tensors_is_the_state_dict(case: dict[str, Any]) -> None:
    model = detrs.config(**{"detector" if key == "kind" else key: value for key, value in case.items()})
    with torch.device("meta"):
        detector = build_detector(model, 7, pretrained=False)
    assert dict(expected_shapes(model, 7)) == {name: tuple(x.shape) for name, x in detector.state_dict().items()}
    assert parameter_count(model, 7) == sum(p.numel() for p in detector.parameters())


def test_the_table_is_the_installed_librarys() -> None:
    assert tensor_table.rows("d_fine", refined=False) == table()["d_fine"]


def test_without_the_library_it_is_told_what_to_install() -> None:
    missing = ModuleNotFoundError("No module named 'transformers'", name="transformers")
    with (
        mock.patch("crosskd.detectors.detr.library.import_module", side_effect=missing),
        pytest.raises(ConfigError, match="needs the transformers package") as caught,
    ):
        build_detector(detrs.config("rt_detr"), 3)
    assert "crosskd[detr]" in caught.value.remedy


@pytest.mark.parametrize("kind", ALL)
def test_classes_are_narrowed_and_begun_by_name(kind: str, tmp_path: Path) -> None:
    source = detrs.detector(kind, 1, classes=4).eval()
    path = tmp_path / "start.safetensors"
    write_weights(path, source.state_dict(), model=source.config, classes=["a", "b", "c", "d"])
    student = detrs.detector(kind, 2, classes=3).eval()
    layer = class_layer(kind, student)
    new = layer.weight[1].clone()
    told = begin(student, FileRef(file=str(path)), ["c", "new", "a"], None)
    assert told["classes"] == {"kept": ["c", "a"], "new": ["new"], "left": ["b", "d"]}
    assert torch.equal(layer.weight[1], new)

    # What knows the first and the third class alone, in the other order, says the same of these.
    narrow = build_detector(source.config, 4, pretrained=False).eval()
    load_weights(narrow, path)
    narrow.select_classes([2, 0])
    images, targets = small.batch()
    if kind == "deformable_detr":  # the others begin with the queries whose best class is likeliest
        whole, part = source.predict(images, targets.sizes), narrow.predict(images, targets.sizes)  # type: ignore[operator]
        torch.testing.assert_close(part[0][0], whole[0][0][:, [2, 0]])
    assert narrow.detect(images, targets.sizes)[0].labels.max() < 2
    narrow.train()(images, Targets(targets.boxes, [labels * 0 for labels in targets.labels], *_sizes(targets)))


def class_layer(kind: str, model: Detector) -> Any:
    """Of the first layer of the decoder."""
    if kind in detrs.VITS:
        return model.head.class_embed
    return (model.head.model.decoder if kind != "deformable_detr" else model.head).class_embed[0]


def _sizes(targets: Targets) -> tuple[Any, Any]:
    return targets.sizes, targets.padded


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_demo(tmp_path_factory.mktemp("data"), train=8, val=2, size=64, classes=len(CLASSES)).model_dump()


def test_d_fine_goes_the_whole_way(data: dict[str, Any], tmp_path: Path) -> None:
    whole_way("d_fine", data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_a_student_is_trained_in_bf16_with_an_average_and_resumed_bit_by_bit(
    kind: str, data: dict[str, Any], tmp_path: Path
) -> None:
    whole_way(kind, data, tmp_path)


def whole_way(kind: str, data: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    values = training(
        data,
        precision="bf16",
        ema={"decay": 0.9},
        checkpoint={"every_steps": 1},
        clip_norm=0.1,
    ).model_dump(exclude_unset=True)
    student = detrs.config(kind).model_dump(exclude_unset=True)
    optimizer = {**values["optimizer"], "backbone_lr_factor": 0.1, "sampling_lr_factor": 0.1}
    spec = TrainConfig.model_validate({**values, "student": student, "optimizer": optimizer})
    story = Story()
    whole = train(spec, tmp_path / "whole", callbacks=[story])
    assert {"loss_bbox", "loss_giou"} <= story.logs[1].keys()
    assert max(values["lr"] for values in story.logs.values()) == pytest.approx(0.001)  # not the backbone's
    assert whole.manifest["student"]["gflops"] > 0
    resumed = broken_and_resumed(spec, tmp_path / "broken")
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    assert resumed.manifest["evaluations"] == whole.manifest["evaluations"]
    detrs.replays(whole.best_weights, ModelConfig.model_validate(student), len(CLASSES))
    used = load(whole.best_weights)
    assert used.classes == list(CLASSES)
    assert used.detector.config == ModelConfig.model_validate(student)


def of_rank(rank: int, kind: str) -> dict[str, torch.Tensor | None]:
    """The gradients of a step on two ranks, the second of which has no object at all."""
    model = detrs.detector(kind).train()
    shared = data_parallel(model, idle=model.sometimes_idle())
    assert shared is not None
    images, targets = small.batch(seed=rank)
    if rank:
        nothing = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
        targets = Targets(*nothing, targets.sizes, targets.padded)
    small.total(shared(images, targets)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_two_ranks_have_one_gradient_also_where_one_has_no_object(kind: str, tmp_path: Path) -> None:
    """Of every parameter, also of those that the second rank does not use."""
    first, second = on_ranks(of_rank, tmp_path, kind)
    assert [name for name, gradient in first.items() if gradient is None] == []
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("student", [small.config(strides=[8, 16, 32]), detrs.config("rt_detr")])
def test_small_images_are_padded_for_both_as_far_as_the_one_that_pads_further(student: ModelConfig) -> None:
    torch.manual_seed(0)
    ours, theirs = build_detector(student, small.CLASSES), detrs.detector("d_fine", 2, queries=100)
    channels = DistillConfig.model_validate({"fitnet": {}})
    distiller = build_distiller(ours, theirs, channels).eval()
    images, targets = small.batch(size=(64, 64))
    padded = torch.nn.functional.pad(images, (0, 32, 0, 32))
    found, expected = distiller(images, targets), distiller(padded, targets)
    assert (ours.least_side, theirs.least_side) < (96, 97)
    assert found.keys() == expected.keys()
    assert all(torch.equal(loss, expected[name]) for name, loss in found.items())
    assert found["fitnet"].isfinite().all()


def test_maps_of_two_detrs_are_compared_by_the_methods_of_maps() -> None:
    student, teacher = detrs.detector("rt_detr", 1), detrs.detector("d_fine", 2, width=64)
    distiller = build_distiller(student, teacher, DistillConfig.model_validate({"fitnet": {}, "fgd": {}})).train()
    losses = distiller(*small.batch())
    assert losses["fitnet"].shape == (3,)
    assert all(loss.isfinite().all() for loss in losses.values())
