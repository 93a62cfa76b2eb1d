"""Padding that depends on the size: the same pixels as timm's, in terms that the tracer masters."""

from __future__ import annotations

import itertools

import torch
from timm.layers import padding
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn

from crosskd.onnx.same_padding import same_padding, traceable_padding

FREE = torch.export.Dim.DYNAMIC


def test_it_adds_as_many_pixels_as_timm() -> None:
    for size, kernel, stride, dilation in itertools.product(range(1, 40), (1, 2, 3, 5, 7), (1, 2, 3, 4), (1, 2)):
        found = same_padding(size, kernel, stride, dilation)
        assert found == get_same_padding(size, kernel, stride, dilation), (size, kernel, stride, dilation)


def test_a_traced_stack_keeps_its_sides_short() -> None:
    """The sides of a map five strides down are one division of the image's, not a tower of roundings."""
    layers = [Conv2dSame(3, 3, 3, stride=2), MaxPool2dSame(3, 2), *(Conv2dSame(3, 3, 5, stride=2) for _ in range(3))]
    net = nn.Sequential(*layers).eval()
    with traceable_padding():
        program = torch.export.export(
            net, (torch.zeros(2, 3, 96, 128),), dynamic_shapes=({0: FREE, 2: FREE, 3: FREE},), strict=False
        )
    value = next(node for node in program.graph.nodes if node.op == "output").args[0][0].meta["val"]
    assert len(str(value.shape[2])) < 30
    for size in ((1, 3, 96, 128), (2, 3, 101, 77)):
        images = torch.rand(size)
        torch.testing.assert_close(program.module()(images), net(images))


def test_timm_keeps_its_own_behind_the_block() -> None:
    with traceable_padding():
        assert padding.get_same_padding is same_padding
    assert padding.get_same_padding is get_same_padding
