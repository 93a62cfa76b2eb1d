"""torchvision's RetinaNet and FCOS here: the same tensors, the same anchors, the same detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet18
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from crosskd.boxes.anchors import cell_points, octave_anchors
from crosskd.convert.convert import Conversion, prepare
from crosskd.convert.load import load_weights
from crosskd.convert.recognise import EPS_FREE, recognise
from crosskd.convert.source import read_source
from crosskd.convert.torchvision import from_torchvision, incompatibilities, to_torchvision
from crosskd.detectors.detector import build_detector
from crosskd.errors import WeightsError
from crosskd.spec.config import ModelConfig

CLASSES = ["a", "b", "c", "d", "e"]
SIZE = (160, 224)  # no multiple of P7's stride, so that torchvision's cells do not lie a stride apart
BUILDERS = ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"]


@pytest.fixture(scope="module", params=BUILDERS)
def built(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """torchvision's builder and detector, with random weights that say different things in different places."""
    torch.manual_seed(3)
    options = {"num_classes": len(CLASSES), "min_size": SIZE[0], "max_size": SIZE[1]}
    model = getattr(detection, request.param)(weights=None, weights_backbone=None, **options).eval()
    spread(model, torch.rand(3, *SIZE))
    return request.param, model


@torch.no_grad()
def spread(model: Any, image: Tensor) -> None:
    """Random weights for the head, and its last layers scaled until their outputs differ by about 1 (boxes less)."""
    classes, boxes = model.head.classification_head, model.head.regression_head
    for name, parameter in model.head.named_parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.1)
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 1.5)
    features = next(iter(model.backbone(model.transform([image])[0].tensors).values()))
    fcos = hasattr(boxes, "bbox_ctrness")
    layers = [(classes, "cls_logits", 1.0, -2.5), (boxes, "bbox_reg", 1.0 if fcos else 0.2, 2.0 if fcos else 0.0)]
    for branch, name, wanted, bias in [*layers, *([(boxes, "bbox_ctrness", 1.0, 0.0)] if fcos else [])]:
        layer = getattr(branch, name)
        nn.init.zeros_(layer.bias)
        layer.weight.mul_(wanted / layer(branch.conv(features)).std())
        nn.init.constant_(layer.bias, bias)


def small(kind: str, norm: type[nn.Module] = nn.BatchNorm2d) -> Any:
    """One that no builder makes: ResNet-18, 32 channels."""
    torch.manual_seed(4)
    layers = {f"layer{i}": str(i) for i in (2, 3, 4)}
    backbone = BackboneWithFPN(
        resnet18(norm_layer=norm), layers, [128, 256, 512], 32, extra_blocks=LastLevelP6P7(32, 32)
    )
    return detection.FCOS(backbone, 3) if kind == "fcos" else detection.RetinaNet(backbone, 3)


def saved(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "theirs.pth")
    return folder / "theirs.pth"


@pytest.fixture(scope="module")
def converted(built: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Conversion, Path]:
    """What becomes of its weights, and the file: a ResNet-50's is large."""
    folder = tmp_path_factory.mktemp("converted")
    conversion = prepare(saved(built[1].state_dict(), folder), "native", classes=CLASSES)
    (folder / "theirs.pth").unlink()
    conversion.write(folder / "ours.safetensors")
    return conversion, folder / "ours.safetensors"


def test_it_gives_torchvisions_own_detections(built: tuple[str, Any], converted: tuple[Conversion, Path]) -> None:
    _, model = built
    conversion, path = converted
    assert (conversion.report.missing, conversion.report.unexpected) == ([], [])
    ours = build_detector(conversion.model, len(CLASSES), pretrained=False).eval()
    load_weights(ours, path)
    torch.manual_seed(5)
    images = [torch.rand(3, *SIZE), torch.rand(3, *SIZE)]
    with torch.no_grad():
        theirs = model(images)
        batch = model.transform(images)[0].tensors
    assert batch.shape == (2, 3, *SIZE)  # not resized
    for found, expected in zip(ours.detect(batch, [SIZE, SIZE]), theirs, strict=True):
        assert len(expected["scores"]) >= 50
        assert expected["scores"].unique().numel() > 40
        assert expected["labels"].unique().numel() == len(CLASSES)
        assert torch.equal(found.labels, expected["labels"])
        assert torch.allclose(found.scores, expected["scores"], rtol=0, atol=1e-5)
        assert torch.allclose(found.boxes, expected["boxes"], rtol=0, atol=1e-3)


def test_there_and_back_is_the_identity(
    built: tuple[str, Any], converted: tuple[Conversion, Path], tmp_path: Path
) -> None:
    name, model = built
    state = model.state_dict()
    back = prepare(converted[1], "torchvision")
    assert any(name in note for note in back.report.notes)  # how to build it
    back.write(tmp_path / "back.pth")
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], tensor) and again[key].dtype == tensor.dtype for key, tensor in state.items())
    model.load_state_dict(again)


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_one_that_no_builder_makes_comes_back_too(kind: str, norm: type[nn.Module], tmp_path: Path) -> None:
    theirs = small(kind, norm)
    state = theirs.state_dict()
    conversion = prepare(saved(state, tmp_path), "native", classes=["a", "b", "c"])
    assert conversion.model.backbone.name == "resnet18"
    assert conversion.model.backbone.norm_frozen == (norm is FrozenBatchNorm2d)
    assert (conversion.model.neck.channels, conversion.model.neck.p6_from) == (32, "p5")
    conversion.write(tmp_path / "ours.safetensors")
    prepare(tmp_path / "ours.safetensors", "torchvision").write(tmp_path / "back.pth")
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())
    theirs.load_state_dict(again)


def test_what_an_image_leaves_of_the_strides() -> None:
    """At 800 x 1344, 13 x 21 and 7 x 11 cells do not fill P6 and P7: torchvision squeezes them."""
    sizes, strides = [(-(-800 // s), -(-1344 // s)) for s in (8, 16, 32, 64, 128)], [8, 16, 32, 64, 128]
    like = torch.zeros(())
    images = ImageList(torch.zeros(1, 3, 800, 1344), [(800, 1344)])
    maps = [torch.zeros(1, 1, *size) for size in sizes]
    octaves = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in (32, 64, 128, 256, 512))
    (boxes,) = AnchorGenerator(octaves, ((0.5, 1.0, 2.0),) * 5)(images, maps)
    ours = octave_anchors(sizes, strides, 4.0, 3, [0.5, 1.0, 2.0], like, whole_pixels=True, spread=True)
    assert torch.equal(ours.boxes(), boxes)
    (squares,) = AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * 5)(images, maps)
    points = cell_points(sizes, strides, 0.0, like, spread=True)
    assert torch.equal(points.centres, (squares[:, :2] + squares[:, 2:]) / 2)
    assert points.centres[-1].tolist() == [1220.0, 684.0]  # 10 * 122, 6 * 114
    assert cell_points(sizes, strides, 0.0, like).centres[-1].tolist() == [1280.0, 768.0]


def test_the_published_retinanets_names_of_former_versions_are_read(tmp_path: Path) -> None:
    state = small("retinanet").state_dict()
    former = {}
    for name, tensor in state.items():
        if ".conv." in name:  # convolution, ReLU, convolution, ...: counted by two, and not nested
            head, _, rest = name.partition(".conv.")
            place, _, kind = rest.split(".")
            name = f"{head}.conv.{2 * int(place)}.{kind}"
        elif "_blocks." in name and "extra" not in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        former[name] = tensor
    assert "head.classification_head.conv.6.bias" in former
    assert "backbone.fpn.inner_blocks.1.weight" in former
    new = prepare(saved(state, tmp_path), "native", classes=["a", "b", "c"])
    old = prepare(saved(former, tmp_path), "native", classes=["a", "b", "c"])
    assert old.report.unexpected == []
    assert all(torch.equal(old.state[key], tensor) for key, tensor in new.state.items())


def test_the_published_retinanet_is_read_with_torchvisions_eps(tmp_path: Path) -> None:
    """Of that one file torchvision sets a norm's `eps` to 0, which matters where a variance is as small."""
    theirs = small("retinanet", FrozenBatchNorm2d).eval()
    for name, buffer in theirs.backbone.named_buffers():
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 1e-5, 1.0)
    source = read_source(saved(theirs.state_dict(), tmp_path))
    model, notes = recognise(source, digest=f"{EPS_FREE}00ff")
    assert any("norm_eps is 0" in note for note in notes)
    assert recognise(source, digest="00ff")[0].backbone.norm_eps is None
    ours = build_detector(model, 3, pretrained=False).eval()
    load_weights(ours, tmp_path / "theirs.pth")
    overwrite_eps(theirs, 0.0)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for found, expected in zip(ours.features(images), theirs.backbone(images).values(), strict=True):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    conversion = prepare(tmp_path / "theirs.pth", "torchvision", model=model)
    assert any("eps of its backbone's norms to 0" in note for note in conversion.report.notes)


def fits(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "detector": "retinanet",
        "backbone": {"name": "resnet18", "init": "random"},
        "neck": {"relu_before_p7": True},
        "head": {"whole_pixel_anchors": True, "spread_cells": True},
    }
    if changes.get("detector") == "fcos":
        values["head"] = {
            "conv_bias": True,
            "norm_on_bbox": True,
            "centerness_on_reg": True,
            "point_offset": 0.0,
            "spread_cells": True,
        }
        values["postprocess"] = {"score": "root"}
    for key, change in changes.items():
        values[key] = {**values.get(key, {}), **change} if isinstance(change, dict) else change
    return ModelConfig.model_validate(values)


@pytest.mark.parametrize(
    "config",
    [
        fits(),
        fits(detector="fcos"),
        fits(detector="fcos", head={"depth": 2}),
        fits(neck={"p6_from": "c5"}, head={"norm": "group"}, pixels={"std": [1, 1, 1]}),
    ],
)
def test_what_torchvision_can_be(config: ModelConfig) -> None:
    assert incompatibilities(config) == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ModelConfig.model_validate({"detector": "gfl", "backbone": {"name": "resnet18"}}), "no gfl"),
        (ModelConfig.model_validate({"detector": "atss", "backbone": {"name": "resnet18"}}), "no atss"),
        (fits(backbone={"style": "caffe"}), "style is caffe"),
        (fits(backbone={"width": 32}), "resnet18 of width 32"),
        (fits(backbone={"name": "mobilenet_v2"}), "mobilenet_v2"),
        (fits(strides=[8, 16, 32, 64]), "not [8, 16, 32, 64]"),
        (fits(head={"channels": 128}), "neck and head have the same channels"),
        (fits(neck={"channels": 512, "p6_from": "c5"}, head={"channels": 512}), "P6 from P5"),
        (fits(pixels={"order": "bgr"}), "bgr"),
        (fits(neck={"relu_before_p7": False}), "neck.relu_before_p7 to be true, not false"),
        (fits(head={"whole_pixel_anchors": False}), "head.whole_pixel_anchors to be true, not false"),
        (fits(head={"spread_cells": False}), "head.spread_cells to be true"),
        (fits(head={"depth": 3}), "4 convolutions, not 3"),
        (fits(anchor_scale=8.0), "anchor_scale is 8"),
        (fits(head={"conv_bias": False}), "bias exactly where"),
        (fits(detector="fcos", head={"norm_on_bbox": False}), "head.norm_on_bbox to be true"),
        (fits(detector="fcos", head={"point_offset": 0.5}), "head.point_offset to be 0.0, not 0.5"),
        (fits(detector="fcos", postprocess={"score": "product"}), "postprocess.score to be root, not product"),
    ],
)
def test_what_it_cannot_be_has_its_reason(config: ModelConfig, reason: str) -> None:
    (why,) = incompatibilities(config)
    assert reason in why


def test_an_fcos_with_factors_per_level_is_refused() -> None:
    state = {f"head.scales.{level}": torch.ones(()) for level in range(5)}
    config = fits(detector="fcos")
    assert incompatibilities(config, state) == []
    state["head.scales.2"] = torch.tensor(1.0000001)
    (why,) = incompatibilities(config, state)
    assert "head.scales are not all 1" in why


def test_a_file_is_not_read_into_a_model_that_computes_something_else(tmp_path: Path) -> None:
    """Its tensors would fit."""
    path = saved(small("retinanet").state_dict(), tmp_path)
    channels = {"channels": 32}
    model = fits(neck=channels, head=channels)
    load_weights(build_detector(model, 3), path)
    other = fits(neck={**channels, "relu_before_p7": False}, head=channels)
    with pytest.raises(WeightsError, match=r"needs neck.relu_before_p7 to be true, not false"):
        load_weights(build_detector(other, 3), path)


@pytest.mark.parametrize("name", ["head.scales.0", "head.bins", "neck.lateral.x.weight", "backbone.fc.bias"])
def test_a_name_without_a_place_has_none(name: str) -> None:
    assert to_torchvision(name, "fcos") is None


@pytest.mark.parametrize("name", ["head.cls.weight", "backbone.fc.weight", "head.regression_head.conv.2.weight"])
def test_a_strange_name_is_none_of_ours(name: str) -> None:
    assert from_torchvision(name, "fcos") is None
