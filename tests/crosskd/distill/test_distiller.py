"""Who learns, who does not, and what fits together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.detector import Detector
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.errors import ConfigError
from crosskd.spec.config import CrossKDConfig, DistillConfig, PixelConfig, PKDConfig
from crosskd.spec.distill.needs import HeadCut
from crosskd.structures import Predictions, Targets
from tests.support import small
from tests.support.coco_files import config, loader_of, many, write

DEPTH = 3


def distiller(config: DistillConfig | None = None, **student: Any) -> Distiller:
    config = config or DistillConfig(crosskd=CrossKDConfig())
    return build_distiller(small.detector(0, **student), small.detector(1), config).train()


def crosskd(**knobs: Any) -> DistillConfig:
    return DistillConfig(crosskd=CrossKDConfig(**knobs))


def distillation(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return small.total({name: values for name, values in losses.items() if not name.startswith("loss")})


@pytest.mark.parametrize("after_relu", [True, False])
@pytest.mark.parametrize("cut", range(DEPTH + 1))
def test_distillation_teaches_the_student_up_to_the_cut_and_nothing_behind_it(cut: int, after_relu: bool) -> None:
    pair = distiller(crosskd(cut=cut, after_relu=after_relu))
    distillation(pair(*small.batch())).backward()
    for name, parameter in pair.student.named_parameters():
        part, _, rest = name.partition(".")
        if part != "head":
            learns = True
        elif "tower" in rest:
            learns = int(rest.split(".")[1]) < cut
        else:
            learns = False  # prediction layers and scales
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name
    assert all(parameter.grad is None for parameter in pair.teacher.parameters())


def test_the_students_own_losses_are_those_of_the_student_alone() -> None:
    pair = distiller()
    together, alone = pair(*small.batch()), pair.student(*small.batch())
    assert set(together) == {*alone, "crosskd_cls", "crosskd_box"}
    for name, values in alone.items():
        torch.testing.assert_close(together[name], values)
    assert together["crosskd_cls"].shape == together["crosskd_box"].shape == (5,)


def test_the_teacher_is_no_part_of_what_is_saved_trained_or_counted() -> None:
    pair = distiller()
    assert set(pair.state_dict()) == {f"student.{name}" for name in pair.student.state_dict()}
    assert len(list(pair.parameters())) == len(list(pair.student.parameters()))
    assert [name for name, _ in pair.named_children()] == ["student", "terms", "renormalise"]


def test_both_see_the_very_same_mixed_images(tmp_path: Path) -> None:
    write(tmp_path, many([(80, 60), (60, 80), (64, 64), (90, 50)]))
    augment = {"short_edges": [128], "long_edge": 128, "letterbox": [128], "mosaic": {}, "affine": {}, "mixup": {}}
    settings = config(tmp_path, augment=augment, schedule={"epochs": 20, "milestones": []})
    batch = next(loader_of(settings, "train").epoch(0))
    mosaics = batch.targets.sizes == [(128, 128)] * 4
    pixels = {"student": PixelConfig(), "teacher": PixelConfig(order="bgr", mean=(0, 0, 0), std=(1, 1, 1))}
    pair = build_distiller(
        small.detector(0, classes=2), small.detector(1, classes=2, pixels=pixels["teacher"]), crosskd()
    )
    seen: dict[str, torch.Tensor] = {}
    for name, model in (("student", pair.student), ("teacher", pair.teacher)):
        model.backbone.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    pair.train()(batch.images, batch.targets)
    back = {
        name: seen[name] * torch.tensor(of.std)[:, None, None] + torch.tensor(of.mean)[:, None, None]
        for name, of in pixels.items()
    }
    assert mosaics
    torch.testing.assert_close(back["teacher"].flip(1), back["student"], atol=1e-2, rtol=0)


def test_the_teacher_stays_still() -> None:
    pair = distiller()
    before = {name: value.clone() for name, value in pair.teacher.state_dict().items()}
    small.total(pair.train()(*small.batch())).backward()
    assert pair.training
    assert pair.student.training
    assert not any(module.training for module in pair.teacher.modules())
    assert not any(parameter.requires_grad for parameter in pair.teacher.parameters())
    for name, value in before.items():
        assert torch.equal(value, pair.teacher.state_dict()[name])


def test_the_teacher_follows_device_and_precision() -> None:
    pair = distiller()
    assert pair.to(torch.float64) is pair
    assert {parameter.dtype for parameter in pair.teacher.parameters()} == {torch.float64}
    assert pair.to("meta").teacher.head.get_parameter("scales.0").device.type == "meta"


def test_no_gradient_is_built_through_the_teachers_own_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    features = Detector.features

    def watch(self: Detector, images: torch.Tensor) -> list[torch.Tensor]:
        seen.append((self, torch.is_grad_enabled()))
        return features(self, images)

    monkeypatch.setattr(Detector, "features", watch)
    pair = distiller()
    pair(*small.batch())
    assert [(model is pair.teacher, enabled) for model, enabled in seen] == [(True, False), (False, True)]


def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_it() -> None:
    teacher = small.detector(1)
    student = small.detector(1)
    for cut in range(1, DEPTH + 1):
        pair = build_distiller(student, teacher, crosskd(cut=cut)).eval()
        # match_statistics changes deviations by one part in a million, hence not exactly 0
        assert distillation(pair(*small.batch())) < 1e-4
    other = build_distiller(small.detector(0), teacher, crosskd()).eval()
    assert distillation(other(*small.batch())) > 1e-2


def test_the_default_is_the_published_behaviour() -> None:
    pair = build_distiller(small.detector(0, depth=4), small.detector(1, depth=4), DistillConfig())
    assert HeadCut(3, 3, after_relu=True) in pair.terms["crosskd"].needs
    shallow = build_distiller(small.detector(0, depth=2), small.detector(1, depth=4), DistillConfig())
    assert HeadCut(2, 2, after_relu=True) in shallow.terms["crosskd"].needs


def test_weights_scale_terms_and_zero_silences_them() -> None:
    batch = small.batch()
    once = distiller(crosskd(cls_weight=1, box_weight=1))(*batch)
    changed = distiller(crosskd(cls_weight=0, box_weight=3))(*batch)
    assert "crosskd_cls" not in changed  # nor is it computed
    torch.testing.assert_close(changed["crosskd_box"], 3 * once["crosskd_box"])


def test_a_combination_has_the_losses_of_its_terms() -> None:
    batch = small.batch()
    both = distiller(DistillConfig(crosskd=CrossKDConfig(), pkd=PKDConfig()))(*batch)
    pkd = distiller(DistillConfig(pkd=PKDConfig(weight=6, levels=5)))(*batch)  # as beside CrossKD
    alone = distiller(DistillConfig(pkd=PKDConfig()))(*batch)["pkd"]
    torch.testing.assert_close(alone[:4], pkd["pkd"][:4] * 10 / 6)
    assert alone[4] == 0
    assert set(both) == {"loss_cls", "loss_bbox", "loss_dfl", "crosskd_cls", "crosskd_box", "pkd"}
    assert set(pkd) == {"loss_cls", "loss_bbox", "loss_dfl", "pkd"}
    torch.testing.assert_close(both["pkd"], pkd["pkd"])
    torch.testing.assert_close(both["crosskd_cls"], distiller()(*batch)["crosskd_cls"])


def test_one_image_whose_last_level_is_a_single_cell_gives_numbers() -> None:
    config = DistillConfig(crosskd=CrossKDConfig(), pkd=PKDConfig())
    pair = distiller(config)
    images, targets = small.batch(images=1, size=(128, 128))
    assert pair.student.features(images)[-1].shape[-2:] == (1, 1)
    losses = pair(images, targets)
    assert all(values.isfinite().all() for values in losses.values())
    small.total(losses).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in pair.parameters())


def test_images_without_boxes_are_distilled_all_the_same() -> None:
    images, targets = small.batch()
    nothing = Targets([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2, targets.sizes, targets.padded)
    losses = distiller()(images, nothing)
    assert distillation(losses).isfinite()
    assert losses["crosskd_cls"].sum() > 0
    assert losses["crosskd_box"].sum() > 0


def test_a_teacher_that_sees_nothing_at_all_teaches_no_boxes_and_makes_no_nan() -> None:
    pair = distiller()
    with torch.no_grad():
        pair.teacher.head.get_parameter("cls.weight").zero_()
        pair.teacher.head.get_parameter("cls.bias").fill_(-500)
    losses = pair(*small.batch())
    assert not losses["crosskd_box"].any()
    assert losses["crosskd_cls"].isfinite().all()


def test_no_class_maps_are_laid_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand classes each such copy is a gigabyte an image; see `anchor_windows`."""

    def refuse(head: DenseHead, predictions: Predictions) -> torch.Tensor:
        raise AssertionError("a copy of all logits")

    monkeypatch.setattr(DenseHead, "logits", refuse)
    assert all(values.isfinite().all() for values in distiller()(*small.batch()).values())


def test_half_precision_stays_close_to_full() -> None:
    pair = distiller(DistillConfig(crosskd=CrossKDConfig(), pkd=PKDConfig()))
    images, targets = small.batch()
    full = pair(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        half = pair(images, targets)
    for name, values in full.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name].sum(), values.sum(), rtol=0.1, atol=1e-3)


@pytest.mark.parametrize(
    ("student", "config", "where"),
    [
        ({"classes": 4}, crosskd(), "/data/classes"),
        ({"strides": [8, 16, 32]}, crosskd(), "/student/strides"),  # all else that can keep them apart: test_pairing
    ],
)
def test_a_pair_that_does_not_fit_is_refused_and_told_where(
    student: dict[str, Any], config: DistillConfig, where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        distiller(config, **student)
    assert caught.value.where == where
    assert caught.value.remedy
