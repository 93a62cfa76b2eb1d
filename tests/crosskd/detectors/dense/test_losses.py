"""Every detector's loss where the oracle does not look: edges, devices' precision, learning."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from crosskd.detectors.detector import build_detector
from crosskd.spec import registry
from crosskd.structures import Assignment, Targets
from tests.support import small

EVERY = pytest.mark.parametrize("detector", sorted(registry.DENSE))
TERMS = {
    "gfl": {"loss_cls", "loss_bbox", "loss_dfl"},
    "retinanet": {"loss_cls", "loss_bbox"},
    "atss": {"loss_cls", "loss_bbox", "loss_centerness"},
    "fcos": {"loss_cls", "loss_bbox", "loss_centerness"},
    "rtmdet": {"loss_cls", "loss_bbox"},
    "yolox": {"loss_cls", "loss_bbox", "loss_obj"},
}


@EVERY
def test_it_learns_one_batch_by_heart(detector: str) -> None:
    torch.manual_seed(0)
    model = small.detector(depth=1, detector=detector).train()
    images, targets = small.batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3 if detector == "yolox" else 3e-3)
    history = []
    for _ in range(60):
        loss = small.total(model(images, targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert min(history[-5:]) < history[0] / 4  # rounding decides which of them is the least
    if detector == "yolox":  # whose running statistics follow slowly
        small.settled(model, images)
    found = model.eval().detect(images, targets.sizes)[0]
    assert box_iou(found.boxes[:1], targets.boxes[0]).max() > 0.7


@EVERY
def test_images_without_boxes_still_teach_the_background_and_reach_every_parameter(detector: str) -> None:
    model = small.detector(detector=detector).train()
    images, _ = small.batch()
    nothing = Targets([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2, [(64, 96)] * 2, [(64, 96)] * 2)
    losses = model(images, nothing)
    background = "loss_obj" if detector == "yolox" else "loss_cls"
    assert losses[background].sum() > 0
    assert not any(values.any() for name, values in losses.items() if name != background)
    small.total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def nearness(centerness: list[float]) -> Assignment:
    """Of one image: the summed centerness is all that FCOS divides imitation by."""
    cells = len(centerness)
    labels = torch.zeros(1, cells, dtype=torch.long)
    near = torch.tensor([centerness])
    return Assignment(labels, torch.ones(1, cells), torch.zeros(1, cells, 4), [cells], [cells], centerness=near)


@pytest.mark.parametrize(
    ("centerness", "divisor", "reference"),
    [([0.02], 1.0, 0.02), ([0.3, 0.3], 1.0, 0.6), ([0.0], 1.0, 1e-6), ([1.0], 1.0, 1.0), ([0.9, 0.7], 1.6, 1.6)],
)
def test_fcos_divides_imitation_by_one_at_least(centerness: list[float], divisor: float, reference: float) -> None:
    """A single positive at the rim of its box multiplied the whole loss by fifty."""
    head, assignment = small.detector(detector="fcos").head, nearness(centerness)
    assert head.mimic_normaliser(assignment).item() == pytest.approx(divisor)
    assert head.mimic_normaliser(assignment, reference=True).item() == pytest.approx(reference)


@EVERY
def test_each_term_has_one_value_a_level_and_a_shorter_pyramid_fewer(detector: str) -> None:
    for strides in ([8, 16, 32], [8, 16, 32, 64, 128]):
        losses = small.detector(strides=strides, detector=detector)(*small.batch())
        assert set(losses) == TERMS[detector]
        assert all(values.shape == (len(strides),) for values in losses.values())


def test_focal_and_box_weights_scale_their_terms() -> None:
    images, targets = small.batch()
    for detector, box in {"retinanet": {"l1": 2.0}, "atss": {"giou": 4.0}, "fcos": {"iou": 2.0}}.items():
        once = small.detector(detector=detector)(images, targets)
        twice = small.detector(detector=detector, losses={"focal": 2.0, **box})(images, targets)
        torch.testing.assert_close(twice["loss_cls"], once["loss_cls"] * 2)
        torch.testing.assert_close(twice["loss_bbox"], once["loss_bbox"] * 2)


def test_yolox_learns_codes_in_its_last_epochs_alone() -> None:
    images, targets = small.batch()
    model = small.detector(detector="yolox", losses={"l1": 2.0, "l1_last_epochs": 15})
    once = small.detector(detector="yolox")
    for index, on in ((0, False), (284, False), (285, True), (299, True)):
        for detector in (model, once):
            detector.head.begin_epoch(index, 300)
        assert ("loss_l1" in model(images, targets)) == on
    torch.testing.assert_close(model(images, targets)["loss_l1"], 2 * once(images, targets)["loss_l1"])
    model.head.begin_epoch(0, 3)  # a run shorter than that learns them throughout
    assert "loss_l1" in model(images, targets)
    never = small.detector(detector="yolox", losses={"l1": 0.0})
    never.head.begin_epoch(0, 3)
    assert never(images, targets).keys() == TERMS["yolox"]


def test_retinanet_can_learn_boxes_by_their_overlap() -> None:
    images, targets = small.batch()
    by_giou = small.detector(detector="retinanet", losses={"l1": 0.0, "giou": 1.0})(images, targets)
    assert 0 < by_giou["loss_bbox"].sum() < 2
    assert by_giou["loss_bbox"].requires_grad


def test_weights_scale_their_terms() -> None:
    images, targets = small.batch()
    once = small.detector()(images, targets)
    twice = small.detector(losses={"quality_focal": 2.0, "giou": 4.0, "distribution_focal": 0.0})(images, targets)
    torch.testing.assert_close(twice["loss_cls"], once["loss_cls"] * 2)
    torch.testing.assert_close(twice["loss_bbox"], once["loss_bbox"] * 2)
    assert not twice["loss_dfl"].any()


@EVERY
def test_half_precision_stays_close_to_full(detector: str) -> None:
    model = small.detector(detector=detector).train()
    images, targets = small.batch()
    predictions = model.head(model.features(images))
    assignment = model.head.assign(predictions, targets)  # one for both: what is predicted may decide it
    full = model.head.loss(predictions, assignment)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.head.assign(predictions, targets).boxes.dtype == torch.float32
        half = model.head.loss(model.head(model.features(images)), assignment)
    for name, values in full.items():
        assert half[name].dtype == torch.float32
        # Batch norm over the few cells of a small level widens what rounding does.
        rtol = 0.1 if detector in ("rtmdet", "yolox") else 0.05
        torch.testing.assert_close(half[name].sum(), values.sum(), rtol=rtol, atol=1e-3)


@EVERY
def test_it_starts_out_sure_of_nothing(detector: str) -> None:
    torch.manual_seed(0)
    model = build_detector(small.config(detector=detector), small.CLASSES)
    predictions = model.head(model.features(small.batch()[0]))
    for level in predictions.cls:
        torch.testing.assert_close(level.sigmoid().mean(), torch.tensor(0.01), atol=2e-3, rtol=0)


def test_a_loss_that_is_no_number_is_shown_and_not_hidden() -> None:
    model = small.detector().train()
    images, targets = small.batch()
    images[0, 0, 0, 0] = float("nan")
    assert not small.total(model(images, targets)).isfinite()
