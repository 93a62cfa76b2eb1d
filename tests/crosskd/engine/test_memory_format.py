"""Channels last: the same results, gradients too, from another layout in memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from crosskd.distill.distiller import build_distiller
from crosskd.engine.memory_format import to_channels_last
from crosskd.spec.config import CrossKDConfig, DistillConfig
from tests.support import small

CPU = torch.device("cpu")


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_distillation_step_is_the_same_within_1e_4() -> None:
    """In fp32; relative to the largest value. Width 8: the strided 1 x 1 convolutions that oneDNN gets wrong."""
    student, teacher = small.detector(0).train(), small.detector(1)
    trainee = build_distiller(student, teacher, DistillConfig(crosskd=CrossKDConfig(cut=1)))
    images, targets = small.batch(images=4)
    other = copy.deepcopy(trainee)
    object.__setattr__(other, "teacher", copy.deepcopy(teacher))
    to_channels_last(other, CPU)
    assert other.student.head.cls.weight.is_contiguous(memory_format=torch.channels_last)
    assert other.teacher.head.cls.weight.is_contiguous(memory_format=torch.channels_last)
    losses, expected = other(images, targets), trainee(images, targets)
    for name, values in expected.items():
        torch.testing.assert_close(losses[name], values, rtol=1e-4, atol=1e-6)
    small.total(losses).backward()
    small.total(expected).backward()
    ours, theirs = gradients(other), gradients(trainee)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def test_maps_follow_the_weights() -> None:
    student = small.detector().train()
    to_channels_last(student, CPU)
    for level in student.features(small.batch()[0]):
        assert level.is_contiguous(memory_format=torch.channels_last)


def test_names_shapes_and_values_stay() -> None:
    student = small.detector()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    to_channels_last(student, CPU)
    torch.testing.assert_close(dict(student.state_dict()), before, rtol=0, atol=0, check_stride=False)
    again = small.detector(1)
    again.load_state_dict(student.state_dict())
    torch.testing.assert_close(dict(again.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("channels", [3, 8, 15, 16, 40])
@pytest.mark.parametrize("size", [(16, 16), (15, 17)])
def test_a_strided_1x1_convolution_has_its_plain_gradients(channels: int, size: tuple[int, int]) -> None:
    """The narrow ones go around oneDNN's fault; the wider ones are left to it."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 8, kernel_size=1, stride=2, bias=False)
    model = nn.Sequential(copy.deepcopy(plain))
    to_channels_last(model, CPU)
    assert (model[0].stride == (1, 1)) == (channels < 16)
    x = torch.randn(8, channels, *size)
    results = []
    for conv, layout in ((plain, torch.contiguous_format), (model, torch.channels_last)):
        inputs = x.clone(memory_format=layout).requires_grad_()
        out = conv(inputs)
        (out * out.detach().cos()).sum().backward()
        assert inputs.grad is not None
        results.append((out.detach(), inputs.grad, gradients(conv)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4, check_stride=False)


def test_asked_twice_or_copied_it_strides_once() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, kernel_size=1, stride=2))
    to_channels_last(model, CPU)
    to_channels_last(model, CPU)
    x = torch.randn(1, 8, 16, 16)
    assert model(x).shape == copy.deepcopy(model)(x).shape == (1, 8, 8, 8)
