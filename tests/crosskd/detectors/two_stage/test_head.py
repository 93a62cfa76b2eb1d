"""Faster R-CNN's head: regions from the right level, detections, losses, classes."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from crosskd.detectors.two_stage.regions import Sampler, sample_regions
from crosskd.errors import ConfigError
from crosskd.structures import Targets
from tests.support import small

NOBODY = Targets([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2, [(64, 96)] * 2, [(64, 96)] * 2)
VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])


def test_regions_are_pooled_as_torchvision_pools_them() -> None:
    head = small.two_stage().head
    torch.manual_seed(1)
    features = [torch.randn(2, 16, 512 // stride, 640 // stride) for stride in (4, 8, 16, 32, 64)]
    sides = torch.tensor([3.0, 20, 111, 113, 224, 300, 447, 449, 500])  # of every level, on both sides of each border
    boxes = [torch.stack((torch.zeros(9), torch.zeros(9), sides, sides), dim=1) + shift for shift in (0.0, 7.0)]
    align = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    maps = OrderedDict((str(level), x) for level, x in enumerate(features))
    torch.testing.assert_close(head.pool(features, boxes), align(maps, boxes, [(512, 640)] * 2))


@VERSIONS
def test_every_detection_lies_in_its_own_image_best_first(version: str) -> None:
    model = small.two_stage(regions={"version": version}).eval()
    images, targets = small.batch()
    everything = model.config.postprocess.model_copy(update={"score_threshold": 0.0, "nms_iou": 1.0})
    for found, (height, width) in zip(model.detect(images, targets.sizes, everything), targets.sizes, strict=True):
        assert len(found.scores) == 100
        assert found.boxes[:, 0::2].max() <= width
        assert found.boxes[:, 1::2].max() <= height
        assert found.boxes.min() >= 0
        assert (found.scores.diff() <= 0).all()
        assert set(found.labels.tolist()) <= set(range(small.CLASSES))  # none is the background
        assert not found.boxes.requires_grad
    certain = model.config.postprocess.model_copy(update={"score_threshold": 1.0})
    assert [len(found.boxes) for found in model.detect(images, targets.sizes, certain)] == [0, 0]


@VERSIONS
@pytest.mark.parametrize("boxes", [True, False])
def test_every_parameter_has_a_gradient_with_boxes_and_without(version: str, boxes: bool) -> None:
    model = small.two_stage(regions={"version": version}).train()
    images, targets = small.batch()
    losses = model(images, targets if boxes else NOBODY)
    assert losses.keys() == {"loss_cls", "loss_bbox", "loss_rpn_cls", "loss_rpn_bbox"}
    assert all(bool(value > 0) == (boxes or name.endswith("_cls")) for name, value in losses.items())
    small.total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_regions_are_the_true_boxes_first_and_then_as_many_of_both_kinds_as_asked() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    targets = Targets([truth], [torch.tensor([2, 1])], [(64, 64)], [(64, 64)])
    near = truth[1] + torch.arange(8.0)[:, None] / 8
    far = torch.tensor([[50.0, 50, 60, 60]]).repeat(20, 1)
    torch.manual_seed(0)
    found = sample_regions([torch.cat((near, far))], targets, 3, Sampler(0.5, 0.5, 12, 0.25, best_of_each=False))
    assert (found.positives, found.negatives) == ([3], [9])
    assert found.labels[3:].tolist() == [3] * 9
    assert torch.equal(found.aims[:3], truth[[0 if label == 2 else 1 for label in found.labels[:3].tolist()]])
    assert not found.aims[3:].any()
    whole = sample_regions([far[:2]], targets, 3, Sampler(0.5, 0.5, 100, 1.0, best_of_each=False))
    assert torch.equal(whole.all_boxes, torch.cat((truth, far[:2])))


def test_the_classes_that_are_kept_say_what_they_said() -> None:
    model = small.two_stage()
    features = model.features(small.batch()[0])
    boxes = [torch.tensor([[0.0, 0, 30, 30], [5, 5, 60, 60]]), torch.tensor([[1.0, 2, 9, 9]])]
    before = model.head.predict(features, boxes)
    model.select_classes([2, 0])
    after = model.head.predict(features, boxes)
    assert model.num_classes == model.head.num_classes == 2
    torch.testing.assert_close(after.cls, before.cls[:, [2, 0, 3]])
    torch.testing.assert_close(after.box, before.box[:, [2, 0]])


def test_batch_norm_of_a_single_value_is_refused_with_what_to_do() -> None:
    model = small.two_stage(regions={"version": "v2"}, backbone={"norm_eval": True}).train()
    with pytest.raises(ConfigError, match="C5 has a single cell") as caught:
        model.features(torch.randn(1, 3, 32, 32))
    assert caught.value.where == "/batch_size"


def test_a_region_too_small_for_a_level_and_no_proposal_at_all_are_no_faults() -> None:
    head = small.two_stage().head
    features = [torch.randn(1, 16, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32, 64)]
    assert head.predict(features, [torch.zeros(0, 4)]).cls.shape == (0, small.CLASSES + 1)
    assert head.predict(features, [torch.tensor([[3.0, 3, 3.001, 3.001]])]).cls.isfinite().all()
