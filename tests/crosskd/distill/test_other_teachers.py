"""Teachers of other widths, depths, norms, detectors, classes and pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crosskd.detectors.detector import Detector
from crosskd.distill.crosskd import CrossKD
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.distill.renormalise import Renormalise, RenormalisedDetector
from crosskd.distill.term import Step
from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.config import CrossKDConfig, DistillConfig, PixelConfig
from crosskd.spec.distill.needs import AnchorPredictions, Pyramid
from tests.support import small, steps


def pair(student: Detector, teacher: Detector, **knobs: Any) -> Distiller:
    return build_distiller(student, teacher, DistillConfig(crosskd=CrossKDConfig(**knobs))).train()


def steps_of(model: Distiller) -> list[Step]:
    """The steps from now on: what its CrossKD term sees, and both pyramids and predictions."""
    crosskd = model.terms["crosskd"]
    assert isinstance(crosskd, CrossKD)
    witness = steps.Witness(*crosskd.needs, Pyramid(), AnchorPredictions(both=True))
    model.terms["witness"] = witness
    return witness.steps


def distilled(model: Distiller) -> dict[str, torch.Tensor]:
    losses = {name: values for name, values in model(*small.batch()).items() if name.startswith("crosskd")}
    assert all(values.shape == (5,) and values.isfinite().all() for values in losses.values())
    small.total(losses).backward()
    return losses


# --- other heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 2])
def test_another_width_is_bridged_by_an_adapter_that_learns(cut: int) -> None:
    model = pair(small.detector(0, channels=16), small.detector(1, channels=32), cut=cut)
    distilled(model)
    crosskd = model.terms["crosskd"]
    assert {name: tuple(p.shape) for name, p in crosskd.named_parameters()} == {
        "adapt_cls.weight": (32, 16, 1, 1),
        "adapt_box.weight": (32, 16, 1, 1),
    }
    assert all(p.grad is not None and p.grad.any() for p in crosskd.parameters())
    assert set(model.adapters()) == {"crosskd.adapt_cls", "crosskd.adapt_box"}
    assert all(not name.startswith("terms") for name in model.student.state_dict())


def test_equal_widths_need_no_adapter() -> None:
    model = pair(small.detector(0), small.detector(1))
    assert list(model.terms.parameters()) == []
    assert model.adapters() == {}


@pytest.mark.parametrize("student", [{"depth": 1}, {"depth": 5}, {"head": {"norm": "none"}}, {"reg_max": 4}])
def test_heads_of_another_depth_norm_and_code_are_taught(student: dict[str, Any]) -> None:
    model = pair(small.detector(0, **student), small.detector(1))
    assert distilled(model).keys() == {"crosskd_cls", "crosskd_box"}
    assert model.student.backbone.get_parameter("conv1.weight").grad.any()


def test_the_heads_can_be_cut_at_different_depths() -> None:
    model = pair(small.detector(0, depth=2), small.detector(1, depth=4), cut=1, teacher_cut=3)
    step = steps_of(model)
    distilled(model)
    for view, detector, cut in ((step[0].student, model.student, 1), (step[0].teacher, model.teacher, 3)):
        expected = detector.head.front(detector.features(small.batch()[0]), cut).cls
        torch.testing.assert_close(view.held.cls, expected)


# --- other detectors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", sorted(registry.DENSE))
@pytest.mark.parametrize("student", sorted(registry.DENSE))
def test_every_detector_can_teach_every_other(student: str, teacher: str) -> None:
    model = pair(small.detector(0, detector=student), small.detector(1, detector=teacher))
    names = {
        "crosskd_cls",
        "crosskd_box",
        *{"atss": ["crosskd_centerness"], "yolox": ["crosskd_objectness"]}.get(teacher, []),
    }
    assert distilled(model).keys() == names
    towers = [p for name, p in model.student.head.named_parameters() if "tower.0.conv.weight" in name]
    assert all(p.grad is not None and p.grad.any() for p in towers)
    assert all(p.grad is None for name, p in model.student.head.named_parameters() if name.startswith(("cls.", "box.")))


def test_another_detector_is_imitated_in_its_own_anchors() -> None:
    model = pair(small.detector(0), small.detector(1, detector="retinanet"))
    seen = steps_of(model)
    model(*small.batch())
    (step,) = seen
    assert step.teacher.assignment.labels.shape[1] == 9 * step.student.assignment.labels.shape[1]
    _, targets = small.batch()
    expected = model.teacher.head.assign(step.teacher.predictions, targets)
    assert torch.equal(step.teacher.assignment.labels, expected.labels)


def test_the_same_anchors_are_assigned_once() -> None:
    model = pair(small.detector(0), small.detector(1))
    seen = steps_of(model)
    model(*small.batch())
    assert seen[0].teacher.assignment is seen[0].student.assignment


def test_fcos_without_a_positive_divides_by_one_and_as_the_reference_when_asked() -> None:
    student, teacher = small.detector(0, detector="fcos"), small.detector(1, detector="fcos")
    images, targets = small.batch()
    nothing = type(targets)(
        [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2, targets.sizes, [(64, 96)] * 2
    )
    ours = pair(student, teacher)(images, nothing)["crosskd_cls"]
    reference = pair(student, teacher, reference_normaliser=True)(images, nothing)["crosskd_cls"]
    torch.testing.assert_close(reference * (1e-6 + torch.finfo(torch.float32).eps), ours, rtol=1e-4, atol=0)


# --- other pixels ----------------------------------------------------------------------------------------------------

CAFFE = PixelConfig(mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0), order="bgr")


def normalised(pixels: torch.Tensor, config: PixelConfig) -> torch.Tensor:
    """RGB values 0..255 [N, 3, H, W], as a loader normalises them."""
    ordered = pixels if config.order == "rgb" else pixels.flip(1)
    return (ordered - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)


LETTERBOX = PixelConfig(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), order="bgr", padding=114.0)


@pytest.mark.parametrize("other", [CAFFE, PixelConfig(padding=114.0)])
def test_what_is_around_an_image_is_what_the_teacher_was_trained_on(other: PixelConfig) -> None:
    sizes = [(8, 10), (5, 6)]
    raw = torch.full((2, 3, 8, 10), 114.0)
    ours = normalised(raw, LETTERBOX)
    theirs = normalised(raw, other)
    if other.padding is None:
        theirs[1, :, 5:], theirs[1, :, :, 6:] = 0, 0
    torch.testing.assert_close(Renormalise(LETTERBOX, other)(ours, torch.tensor(sizes)), theirs, atol=1e-4, rtol=1e-4)


def test_images_are_renormalised_as_if_loaded_for_the_teacher() -> None:
    torch.manual_seed(0)
    pixels, sizes = torch.rand(2, 3, 8, 10) * 255, [(8, 10), (5, 6)]
    inside = torch.zeros(2, 1, 8, 10)
    inside[0], inside[1, :, :5, :6] = 1, 1
    ours, theirs = (normalised(pixels, config) * inside for config in (PixelConfig(), CAFFE))
    kept = ours.clone()
    torch.testing.assert_close(
        Renormalise(PixelConfig(), CAFFE)(ours, torch.tensor(sizes)), theirs, atol=1e-3, rtol=1e-5
    )
    torch.testing.assert_close(
        Renormalise(CAFFE, PixelConfig())(theirs, torch.tensor(sizes)), ours, atol=1e-4, rtol=1e-4
    )
    assert torch.equal(ours, kept)
    assert Renormalise(CAFFE, CAFFE)(ours, torch.tensor(sizes)) is ours


def test_a_teacher_of_other_pixels_sees_what_it_was_trained_on() -> None:
    student, teacher = small.detector(0), small.detector(1, pixels=CAFFE)
    images, targets = small.batch()
    for image, (height, width) in zip(images, targets.sizes, strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    model = pair(student, teacher)
    seen = steps_of(model)
    model(images, targets)
    wanted = Renormalise(PixelConfig(), CAFFE)(images, targets.table.sizes)
    torch.testing.assert_close(seen[0].teacher.features, teacher.features(wanted))
    torch.testing.assert_close(seen[0].student.features, student.features(images))


def test_a_teacher_of_other_pixels_is_evaluated_on_its_own() -> None:
    teacher = small.detector(1, pixels=CAFFE).eval()
    images, targets = small.batch()
    found = RenormalisedDetector(teacher, PixelConfig()).detect(images, targets.sizes)
    expected = teacher.detect(Renormalise(PixelConfig(), CAFFE)(images, targets.table.sizes), targets.sizes)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(found, expected, strict=True))


def test_a_teacher_is_renormalised_for_on_the_device_where_it_is() -> None:
    teacher = small.detector().to("meta")
    reader = RenormalisedDetector(teacher, PixelConfig(mean=(0, 0, 0), std=(1, 1, 1)))
    image, size = torch.zeros(1, 3, 32, 32, device="meta"), torch.zeros(1, 2, device="meta")
    assert reader.renormalise(image, size).device.type == "meta"


def test_a_teacher_stays_in_the_mode_in_which_it_was() -> None:
    teacher = small.detector().eval()
    assert not RenormalisedDetector(teacher, PixelConfig()).training
    assert not teacher.training


def test_maps_that_a_backbone_rounds_otherwise_are_refused_with_what_to_pad_to() -> None:
    student, teacher = small.detector(), small.detector(seed=1)
    distiller = build_distiller(student, teacher, DistillConfig())
    images, targets = small.batch()
    teacher.backbone.register_forward_hook(lambda _module, _given, maps: [m[..., :-1, :] for m in maps])
    with pytest.raises(ConfigError, match="64 x 96 pixels") as caught:
        distiller(images, targets)
    assert caught.value.where == "/augment/pad_to"


def test_the_term_keeps_neither_model() -> None:
    model = pair(small.detector(0, channels=16), small.detector(1, channels=32))
    assert isinstance(model.terms["crosskd"], CrossKD)
    assert not any(isinstance(module, Detector) for module in model.terms.modules())
