"""The head that can be cut anywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crosskd.detectors.dense.head import Tower, flatten
from crosskd.spec import registry
from crosskd.spec.config import HeadConfig, PostprocessConfig
from crosskd.structures import Predictions
from tests.support import small

DEPTH = 4


@pytest.fixture(params=["group", "none"])
def tower(request: pytest.FixtureRequest) -> Tower:
    return made(request.param)


def made(norm: str, **options: Any) -> Tower:
    torch.manual_seed(0)
    tower = Tower(8, HeadConfig(channels=16, depth=DEPTH, norm=norm, norm_groups=4), **options)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.normal_(std=0.5)
    return tower


@pytest.mark.parametrize("after_relu", [True, False])
@pytest.mark.parametrize("cut", range(DEPTH + 1))
def test_front_and_back_are_the_whole_tower_at_every_cut(tower: Tower, cut: int, after_relu: bool) -> None:
    x = torch.randn(2, 8, 5, 7)
    whole = tower.back(x, 0)
    held = tower.front(x, cut, after_relu=after_relu)
    kept = held.clone()
    assert torch.equal(tower.back(held, cut, activated=after_relu or cut == 0), whole)
    assert torch.equal(held, kept)  # what is held is not overwritten by the rest of the tower
    assert whole.min() == 0


@pytest.mark.parametrize("cut", range(1, DEPTH + 1))
def test_the_cut_lies_on_the_named_side_of_the_relu(tower: Tower, cut: int) -> None:
    x = torch.randn(2, 8, 5, 7)
    before, after = tower.front(x, cut, after_relu=False), tower.front(x, cut, after_relu=True)
    assert before.min() < 0
    assert torch.equal(before.relu(), after)


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("cut", range(DEPTH + 1))
def test_levels_share_convolutions_and_have_norms_of_their_own(cut: int, after: bool) -> None:
    """RTMDet's: the law holds on each level, with SiLU, which leaves negative values."""
    tower = made("batch", levels=2, activation="silu").eval()
    x = torch.randn(2, 8, 5, 7)
    wholes = [tower.back(x, 0, level) for level in (0, 1)]
    assert not torch.allclose(*wholes)
    for level, whole in enumerate(wholes):
        held = tower.front(x, cut, level, after_relu=after)
        assert torch.equal(tower.back(held, cut, level, activated=after or cut == 0), whole)
        assert whole.min() < 0
    assert len([name for name in tower.state_dict() if name.endswith("conv.weight")]) == DEPTH


def test_a_cut_at_zero_is_the_features_themselves(tower: Tower) -> None:
    x = torch.randn(2, 8, 5, 7)
    assert tower.front(x, 0) is x


@pytest.mark.parametrize("detector", sorted(registry.DENSE))
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_head_obeys_the_law_over_all_levels(depth: int, detector: str) -> None:
    model = small.detector(depth=depth, detector=detector)
    features = model.features(small.batch()[0])
    whole = model.head(features)
    for cut in range(depth + 1):
        for after_relu in (True, False):
            parts = model.head.back(model.head.front(features, cut, after_relu=after_relu), cut)
            for ours, expected in zip(_maps(parts), _maps(whole), strict=True):
                assert torch.equal(ours, expected)


def _maps(predictions: Predictions) -> list[torch.Tensor]:
    return predictions.cls + predictions.box + (predictions.centerness or [])


def test_gradients_survive_the_activations_in_place(tower: Tower) -> None:
    tower = tower.double()
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tower.back(tower.front(x, 2), 2), (x,))
    assert torch.autograd.gradcheck(lambda x: tower.back(tower.front(x, 2, after_relu=False), 2, activated=False), (x,))


def test_flatten_keeps_cells_in_rows_and_levels_in_order() -> None:
    first, second = torch.arange(12.0).view(1, 2, 2, 3), torch.tensor([100.0, 200.0]).view(1, 2, 1, 1)
    assert flatten([first, second], 2)[0].tolist() == [[i, i + 6] for i in range(6)] + [[100, 200]]


def test_flatten_keeps_the_anchors_of_a_cell_together() -> None:
    level = torch.arange(12.0).view(1, 4, 1, 3)  # two anchors of two numbers, three cells
    assert flatten([level], 2)[0].tolist() == [[0, 3], [6, 9], [1, 4], [7, 10], [2, 5], [8, 11]]


def one_hot_predictions() -> tuple[Predictions, list[tuple[int, int]]]:
    """Levels of 4 x 4, 2 x 2 and 1 x 1 cells, three classes; every box ends 2 strides from its cell."""
    torch.manual_seed(0)
    code = torch.full((1, 4, 9, 4, 4), -50.0)
    code[:, :, 2] = 50.0
    boxes = [code[..., :size, :size].reshape(1, 36, size, size) for size in (4, 2, 1)]
    logits = [torch.full((1, 3, size, size), -9.0) for size in (4, 2, 1)]
    return Predictions(logits, boxes), [(64, 64)]


def test_detections_are_decoded_clipped_and_sorted() -> None:
    head = small.detector(strides=[8, 16, 32]).head
    predictions, sizes = one_hot_predictions()
    predictions.cls[0][0, 1, 3, 2] = 1.0
    predictions.cls[1][0, 2, 0, 0] = 2.0
    (found,) = head.detect(predictions, sizes, PostprocessConfig(score_threshold=0.3))
    assert found.labels.tolist() == [2, 1]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.0]).sigmoid())
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.0, 32.0, 32.0], [0.0, 8.0, 32.0, 40.0]]))


def test_only_the_best_of_a_level_reach_suppression_and_only_so_many_leave_it() -> None:
    head = small.detector(strides=[8, 16, 32]).head
    predictions, sizes = one_hot_predictions()
    predictions.cls[0][0, 0] = torch.arange(16.0).view(4, 4)
    everything = PostprocessConfig(score_threshold=0.3, nms_iou=1.0)
    assert len(head.detect(predictions, sizes, everything)[0].scores) == 16
    few = everything.model_copy(update={"pre_nms": 5})
    assert len(head.detect(predictions, sizes, few)[0].scores) == 5
    fewer = everything.model_copy(update={"max_detections": 3})
    (found,) = head.detect(predictions, sizes, fewer)
    torch.testing.assert_close(found.scores, torch.tensor([15.0, 14.0, 13.0]).sigmoid())


@pytest.mark.parametrize("score", ["product", "root"])
def test_centerness_lowers_scores_before_or_after_the_threshold(score: str) -> None:
    head = small.detector(detector="fcos", strides=[8, 16, 32]).head
    logits = [torch.full((1, 3, size, size), -9.0) for size in (4, 2, 1)]
    logits[0][0, 1, 3, 2], logits[0][0, 1, 0, 0] = 1.0, 1.0
    near = [torch.full_like(level[:, :1], 2.0) for level in logits]
    near[0][0, 0, 0, 0] = -2.0
    predictions = Predictions(logits, [torch.full_like(level[:, :1], 6.0).repeat(1, 4, 1, 1) for level in logits], near)
    (found,) = head.detect(predictions, [(64, 64)], PostprocessConfig(score_threshold=0.5, score=score))
    one, high, low = (torch.tensor(x).sigmoid() for x in (1.0, 2.0, -2.0))
    expected = [one * high, one * low] if score == "product" else [(one * high).sqrt()]
    torch.testing.assert_close(found.scores, torch.stack(expected))
    torch.testing.assert_close(found.boxes[0], torch.tensor([14.0, 22.0, 26.0, 34.0]))


@pytest.mark.parametrize("detector", sorted(registry.DENSE))
def test_the_classes_that_are_kept_say_what_they_said(detector: str) -> None:
    model = small.detector(detector=detector)
    images, _ = small.batch()
    features = model.features(images)
    before = model.head.logits(model.head(features))
    model.select_classes([2, 0])
    after = model.head.logits(model.head(features))
    assert model.num_classes == model.head.num_classes == 2
    torch.testing.assert_close(after, before[..., [2, 0]])
