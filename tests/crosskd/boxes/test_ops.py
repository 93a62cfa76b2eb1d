"""Overlaps, coding and anchors."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from crosskd.boxes.anchors import octave_anchors, square_anchors, valid_sizes
from crosskd.boxes.coding import decode_distances, encode_distances, expected_bin
from crosskd.boxes.ops import clip, giou, iou

side = st.floats(0.5, 50)
place = st.floats(-50, 50)


@st.composite
def boxes(draw: st.DrawFn) -> Tensor:
    x, y, w, h = draw(place), draw(place), draw(side), draw(side)
    return torch.tensor([x, y, x + w, y + h], dtype=torch.float64)


@given(boxes(), boxes())
def test_giou_is_symmetric_bounded_and_at_most_iou(a: Tensor, b: Tensor) -> None:
    value = giou(a, b)
    torch.testing.assert_close(value, giou(b, a))
    assert -1 <= value <= iou(a, b) + 1e-12
    torch.testing.assert_close(giou(a, a), torch.ones((), dtype=torch.float64))


@given(boxes(), boxes(), st.floats(0.5, 4))
def test_overlaps_do_not_depend_on_place_or_scale(a: Tensor, b: Tensor, scale: float) -> None:
    for measure in (iou, giou):
        torch.testing.assert_close(measure(a * scale + 7, b * scale + 7), measure(a, b), atol=1e-6, rtol=1e-6)


def test_overlaps_of_known_boxes() -> None:
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    b = torch.tensor([1.0, 0.0, 3.0, 2.0])
    far = torch.tensor([4.0, 0.0, 6.0, 2.0])
    torch.testing.assert_close(iou(a, b), torch.tensor(1 / 3))
    torch.testing.assert_close(giou(a, b), torch.tensor(1 / 3))  # their hull is their union
    torch.testing.assert_close(giou(a, far), torch.tensor(-1 / 3))  # 4 of 12 square pixels lie between
    assert iou(torch.zeros(4), torch.zeros(4)) == 0


def test_giou_pulls_boxes_together_that_do_not_touch() -> None:
    box = torch.tensor([4.0, 0.0, 6.0, 2.0], requires_grad=True)
    giou(box, torch.tensor([0.0, 0.0, 2.0, 2.0])).backward()
    assert box.grad is not None
    assert box.grad[0] < 0  # its left side is drawn to the left, where the other box is


@given(boxes(), place, place)
def test_distances_decode_to_the_box_they_encode(box: Tensor, x: float, y: float) -> None:
    point = torch.tensor([x, y], dtype=torch.float64)
    torch.testing.assert_close(decode_distances(point, encode_distances(point, box)), box)


def test_the_expected_bin_of_a_sharp_distribution_is_its_bin() -> None:
    logits = torch.full((3, 9), -50.0)
    logits[range(3), [0, 4, 8]] = 50.0
    torch.testing.assert_close(expected_bin(logits, torch.arange(9.0)), torch.tensor([0.0, 4.0, 8.0]))


def test_anchors_stand_on_the_upper_left_corner_of_their_cells() -> None:
    anchors = square_anchors([(2, 3), (1, 2)], [8, 16], 8.0, torch.zeros(()))
    assert anchors.level_sizes == [6, 2]
    assert anchors.centres.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8], [0, 0], [16, 0]]
    assert anchors.boxes()[4].tolist() == [-24, -24, 40, 40]
    assert anchors.boxes()[7].tolist() == [-48, -64, 80, 64]


def test_octave_anchors_go_through_ratios_and_then_sizes() -> None:
    anchors = octave_anchors([(1, 2)], [8], 4.0, 2, [0.5, 2.0], torch.zeros((), dtype=torch.float64))
    assert anchors.level_sizes == [8]
    assert anchors.centres.tolist() == [[0, 0]] * 4 + [[8, 0]] * 4
    root, areas = 2**0.5, anchors.extents.prod(dim=1)
    torch.testing.assert_close(areas[:4], torch.tensor([1024.0, 2048.0, 1024.0, 2048.0], dtype=torch.float64))
    expected = torch.tensor([[32 * root, 32 / root], [32 / root, 32 * root]], dtype=torch.float64)
    torch.testing.assert_close(anchors.extents[[0, 2]], expected)


def test_octave_anchors_of_whole_pixels_are_torchvisions() -> None:
    strides, maps = [8, 16], [torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 2, 2)]
    sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in (32, 64))
    theirs = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 2)
    images = ImageList(torch.zeros(1, 3, 24, 32), [(24, 32)])
    ours = octave_anchors([(3, 4), (2, 2)], strides, 4.0, 3, [0.5, 1.0, 2.0], torch.zeros(()), whole_pixels=True)
    # torchvision's stride is the image's side over the map's, here 12 and 16 on the second level.
    torch.testing.assert_close(ours.boxes()[:108], theirs(images, maps)[0][:108])


def test_cells_that_reach_into_the_image_are_valid() -> None:
    assert valid_sizes([(8, 8), (4, 4), (2, 2)], [8, 16, 32], (40, 33)) == [(5, 5), (3, 3), (2, 2)]


def test_clip_keeps_corners_inside() -> None:
    assert clip(torch.tensor([[-3.0, 5.0, 70.0, 90.0]]), (60, 64)).tolist() == [[0, 5, 64, 60]]
