"""GFL's loss where the oracle does not look: edges, devices' precision, learning."""

from __future__ import annotations

import torch

from crosskd.detectors.detector import build_detector
from crosskd.structures import Targets
from tests.crosskd import small


def test_it_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    model = small.detector(depth=1).train()
    images, targets = small.batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        loss = small.total(model(images, targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 4
    found = model.eval().detect(images, targets.sizes)[0]
    torch.testing.assert_close(found.boxes[0], targets.boxes[0][found.labels[0]], atol=4, rtol=0)


def test_images_without_boxes_still_teach_the_background_and_reach_every_parameter() -> None:
    model = small.detector().train()
    images, _ = small.batch()
    nothing = Targets([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2, [(64, 96)] * 2, [(64, 96)] * 2)
    losses = model(images, nothing)
    assert losses["loss_cls"].sum() > 0
    assert not losses["loss_bbox"].any()
    assert not losses["loss_dfl"].any()
    small.total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_each_term_has_one_value_a_level_and_a_shorter_pyramid_fewer() -> None:
    for strides in ([8, 16, 32], [8, 16, 32, 64, 128]):
        losses = small.detector(strides=strides)(*small.batch())
        assert set(losses) == {"loss_cls", "loss_bbox", "loss_dfl"}
        assert all(values.shape == (len(strides),) for values in losses.values())


def test_weights_scale_their_terms() -> None:
    images, targets = small.batch()
    once = small.detector()(images, targets)
    twice = small.detector(losses={"quality_focal": 2.0, "giou": 4.0, "distribution_focal": 0.0})(images, targets)
    torch.testing.assert_close(twice["loss_cls"], once["loss_cls"] * 2)
    torch.testing.assert_close(twice["loss_bbox"], once["loss_bbox"] * 2)
    assert not twice["loss_dfl"].any()


def test_half_precision_stays_close_to_full() -> None:
    model = small.detector().train()
    images, targets = small.batch()
    full = model(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images, targets)
    for name, values in full.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name].sum(), values.sum(), rtol=0.05, atol=1e-3)


def test_it_starts_out_sure_of_nothing() -> None:
    torch.manual_seed(0)
    model = build_detector(small.config(), small.CLASSES)
    predictions = model.head(model.features(small.batch()[0]))
    for level in predictions.cls:
        torch.testing.assert_close(level.sigmoid().mean(), torch.tensor(0.01), atol=2e-3, rtol=0)


def test_a_loss_that_is_no_number_is_shown_and_not_hidden() -> None:
    model = small.detector().train()
    images, targets = small.batch()
    images[0, 0, 0, 0] = float("nan")
    assert not small.total(model(images, targets)).isfinite()
