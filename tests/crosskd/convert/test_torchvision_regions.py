"""torchvision's Faster R-CNN here: the same tensors, the background moved, the same detections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
from torchvision.models.mobilenetv3 import mobilenet_v3_large
from torchvision.models.resnet import resnet18
from torchvision.ops.misc import FrozenBatchNorm2d

from crosskd.backbones.mobilenet_v3 import MobileNetV3
from crosskd.convert.classes import published_classes
from crosskd.convert.convert import prepare
from crosskd.convert.formats import from_native
from crosskd.convert.load import load_weights
from crosskd.convert.recognise import EPS_FREE_REGIONS, recognise
from crosskd.convert.source import Source, read_source
from crosskd.convert.torchvision_regions import SMALL_DIGEST
from crosskd.detectors.detector import build_detector
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec.config import BackboneConfig, ModelConfig
from crosskd.spec.weights.shapes import expected_shapes
from crosskd.structures import Targets

CLASSES = ["a", "b", "c", "d"]
MOBILENET = {"name": "mobilenet_v3_large", "init": "random"}
SIZE = (64, 96)  # P6 has 1 x 2 cells, which lie 48 pixels apart in torchvision, and not its stride of 64
FEW = 50  # proposals
OPTIONS: dict[str, Any] = {"num_classes": len(CLASSES) + 1, "min_size": SIZE[0], "max_size": SIZE[1]} | {
    f"rpn_post_nms_top_n_{when}": FEW for when in ("train", "test")
}


MOBILE, SMALL = "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"
RESNETS = {"fasterrcnn_resnet50_fpn": "v1", "fasterrcnn_resnet50_fpn_v2": "v2"}
BUILDERS = {**RESNETS, MOBILE: "v1", SMALL: "v1"}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in (*RESNETS, SMALL)]


@torch.no_grad()
def spread(model: Any) -> Any:
    """Random weights until it says different things in different places."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    rpn, predictor = model.rpn.head, model.roi_heads.box_predictor
    model.eval()
    for layer, wanted in (
        (rpn.cls_logits, 2.0),
        (rpn.bbox_pred, 0.3),
        (predictor.cls_score, 1.0),
        (predictor.bbox_pred, 0.5),
    ):
        said: list[Tensor] = []
        hook = layer.register_forward_hook(
            lambda _module, _given, out, said=said: said.append(out.transpose(0, 1).flatten(1))
        )
        model([torch.rand(3, *SIZE)])
        hook.remove()
        found = torch.cat(said, dim=1)  # [channels, whatever it was asked about]
        mean = found.mean(dim=1)
        factor = wanted / (found - mean[:, None]).std()
        layer.weight.mul_(factor)
        layer.bias.copy_((layer.bias - mean) * factor)
    return model


def theirs(version: str, norm: type[nn.Module] = nn.BatchNorm2d) -> Any:
    """torchvision's own builders' detector, or one of the same parts on the smaller ResNet-18."""
    torch.manual_seed(3)
    if version in BUILDERS:
        return spread(getattr(detection, version)(weights=None, weights_backbone=None, **OPTIONS))
    return spread(detection.FasterRCNN(_resnet_fpn_extractor(resnet18(norm_layer=norm), 5), **OPTIONS))


def saved(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "theirs.pth")
    return folder / "theirs.pth"


@pytest.mark.parametrize("version", ["v1", MOBILE, *SLOW])
def test_it_gives_torchvisions_own_detections_and_comes_back(version: str, tmp_path: Path) -> None:
    model = theirs(version)
    path = saved(model.state_dict(), tmp_path)
    conversion = prepare(path, "native", classes=CLASSES)
    assert (conversion.report.missing, conversion.report.unexpected, conversion.report.classes) == ([], [], 4)
    assert conversion.model.regions is not None
    assert conversion.model.regions.version == BUILDERS.get(version, version)
    regions = conversion.model.regions.model_copy(update={"proposals": FEW})
    postprocess = conversion.model.postprocess.model_copy(update={"pre_nms": 150} if version == SMALL else {})
    config = conversion.model.model_copy(update={"regions": regions, "postprocess": postprocess})
    ours = build_detector(config, len(CLASSES), pretrained=False)
    load_weights(ours, path)
    # In double precision: what rounding does to proposals grows with these weights.
    model, ours = model.double(), ours.double().eval()
    torch.manual_seed(5)
    images = [torch.rand(3, *SIZE).double(), torch.rand(3, *SIZE).double()]
    with torch.no_grad():
        wanted = model(images)
        batch = model.transform(images)[0].tensors
    assert batch.shape == (2, 3, *SIZE)  # not resized
    for found, expected in zip(ours.detect(batch, [SIZE, SIZE]), wanted, strict=True):
        assert len(expected["scores"]) >= 30
        assert expected["labels"].unique().numel() == len(CLASSES)
        assert torch.equal(found.labels, expected["labels"] - 1)
        assert torch.allclose(found.scores, expected["scores"], rtol=0, atol=1e-8)
        assert torch.allclose(found.boxes, expected["boxes"], rtol=0, atol=1e-6)
    conversion.write(tmp_path / "ours.safetensors")
    back = prepare(tmp_path / "ours.safetensors", "torchvision")
    back.write(tmp_path / "back.pth")
    assert "num_classes=5" in back.report.notes[0]
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    deltas = "roi_heads.box_predictor.bbox_pred"
    for key, tensor in torch.load(path, weights_only=True).items():
        assert torch.equal(again[key][4:], tensor[4:]) if key.startswith(deltas) else torch.equal(again[key], tensor)
    model.load_state_dict(again)


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_published_ones_are_recognised_by_their_builders_tensors(builder: str) -> None:
    with torch.device("meta"):
        state = getattr(detection, builder)(weights=None, weights_backbone=None).state_dict()
    model, _ = recognise(Source("x.pth", "torchvision", state))
    backbone = "resnet50" if builder in RESNETS else "mobilenet_v3_large"
    assert (model.detector, model.backbone.name, model.neck.channels) == ("faster_rcnn", backbone, 256)
    assert model.regions is not None
    assert (model.regions.version, model.regions.channels) == (BUILDERS[builder], 1024)
    with torch.device("meta"):
        ours = build_detector(model, 90, pretrained=False).state_dict()
    assert len(ours) == len(state)
    assert published_classes("torchvision", 90)[:2] == ["person", "bicycle"]  # type: ignore[index]
    assert list(expected_shapes(model, 90)) == list(ours)


def test_the_published_first_version_has_old_names_frozen_norms_and_no_eps(tmp_path: Path) -> None:
    model = theirs("v1", FrozenBatchNorm2d)
    old = re.compile(r"(_blocks\.\d)\.0\.|(rpn\.head\.conv)\.0\.0\.")
    state = {old.sub(lambda hit: f"{hit[1] or hit[2]}.", key): x for key, x in model.state_dict().items()}
    path = saved(state, tmp_path)
    source = read_source(path)
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.3.bias"} <= source.tensors.keys()
    found, notes = recognise(source)
    assert found.backbone.norm_frozen
    assert any("Faster R-CNN" in note for note in notes)
    published, _ = recognise(source, f"{EPS_FREE_REGIONS}00")
    assert published.backbone.norm_eps == 0
    ours = build_detector(found, len(CLASSES), pretrained=False)
    load_weights(ours, path)
    assert torch.equal(ours.head.cls.bias[-1], state["roi_heads.box_predictor.cls_score.bias"][0])


@pytest.mark.parametrize(
    ("change", "classes", "match"),
    [
        ({"regions": {"version": "v2"}}, 4, r"does not fit the model|shape"),
        ({"backbone": {"name": "resnet34", "init": "random"}}, 4, "missing"),
        ({"regions": {"channels": 512}}, 4, r"1024"),
        ({}, 3, r"\[5\]|5"),
        ({"regions": {"aligned": True}}, 4, "regions.aligned"),
        ({"regions": {"spread_cells": False}}, 4, "regions.spread_cells"),
        ({"detector": "gfl"}, 4, "torchvision"),
    ],
)
def test_another_architecture_size_or_number_of_classes_is_refused(
    change: dict[str, Any], classes: int, match: str, first: Path
) -> None:
    values = {"detector": "faster_rcnn", "backbone": {"name": "resnet18", "init": "random"}, **change}
    with torch.device("meta"):
        ours = build_detector(ModelConfig.model_validate(values), classes, pretrained=False)
    with pytest.raises(WeightsError, match=match):
        load_weights(ours, first)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(theirs("v1").state_dict(), tmp_path_factory.mktemp("first"))


def test_one_with_masks_is_refused_and_mmdetection_has_other_anchors(first: Path, tmp_path: Path) -> None:
    state = torch.load(first, weights_only=True) | {"roi_heads.mask_head.mask_fcn1.weight": torch.zeros(1)}
    conversion = prepare(saved(state, tmp_path), "native", classes=CLASSES)
    assert conversion.report.unexpected == ["roi_heads.mask_head.mask_fcn1.weight"]
    with pytest.raises(WeightsError, match="1 unexpected"):
        conversion.write(tmp_path / "ours.safetensors")
    with pytest.raises(WeightsError, match="its anchors are not rounded"):
        prepare(first, "mmdet", classes=CLASSES)


@pytest.mark.parametrize("layer", ["cls_score", "bbox_pred"])
def test_a_layer_without_rows_is_of_another_shape(first: Path, tmp_path: Path, layer: str) -> None:
    state = torch.load(first, weights_only=True) | {f"roi_heads.box_predictor.{layer}.weight": torch.zeros(())}
    with pytest.raises(WeightsError, match=r"head\.(cls|box)\.weight is \[\]"):
        prepare(saved(state, tmp_path), "native", classes=CLASSES)


def test_a_dense_detector_taken_for_one_is_told_by_its_shapes_and_not_by_classes_it_lacks(tmp_path: Path) -> None:
    state = {"neck.inner_blocks.0.0.weight": torch.zeros(256, 512, 1, 1), "head.box.bias": torch.zeros(36)}
    model = ModelConfig.model_validate({"detector": "faster_rcnn", "backbone": {"name": "resnet50", "init": "random"}})
    with pytest.raises(WeightsError, match=r"inner_blocks\.0\.0\.weight is \[256, 512, 1, 1\], the model has"):
        prepare(saved(state, tmp_path), "native", model=model, classes=CLASSES)


def test_it_learns_by_torchvisions_own_losses(first: Path) -> None:
    """Where both take all anchors and regions, since chance chooses which otherwise."""
    every = {"rpn_batch_size_per_image": 65_536, "box_batch_size_per_image": 65_536, "box_positive_fraction": 0.5}
    backbone = _resnet_fpn_extractor(resnet18(), 5)
    model = detection.FasterRCNN(backbone, **OPTIONS, **every)
    model.load_state_dict(torch.load(first, weights_only=True))
    recognised, _ = recognise(read_source(first))
    assert recognised.regions is not None
    taken = {"rpn_samples": 65_536, "samples": 65_536, "positives": 0.5, "train_proposals": FEW}
    regions = recognised.regions.model_copy(update=taken)
    ours = build_detector(recognised.model_copy(update={"regions": regions}), len(CLASSES), pretrained=False)
    load_weights(ours, first)
    boxes = [torch.tensor([[4.0, 6, 60, 50], [20, 10, 90, 80]]), torch.zeros(0, 4)]
    labels = [torch.tensor([0, 3]), torch.zeros(0, dtype=torch.long)]
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        truth = [{"boxes": b, "labels": named + 1} for b, named in zip(boxes, labels, strict=True)]
        wanted = model.train()(list(images), truth)
        pixels = (images - torch.tensor(model.transform.image_mean)[:, None, None]) / torch.tensor(
            model.transform.image_std
        )[:, None, None]
        found = ours.train()(pixels, Targets(boxes, labels, [SIZE] * 2, [SIZE] * 2))
    names = {"loss_classifier": "loss_cls", "loss_box_reg": "loss_bbox"}
    names |= {"loss_objectness": "loss_rpn_cls", "loss_rpn_box_reg": "loss_rpn_bbox"}
    for theirs_name, name in names.items():
        torch.testing.assert_close(found[name], wanted[theirs_name], rtol=1e-4, atol=1e-6)


def test_the_one_for_small_images_is_told_by_its_digest() -> None:
    with torch.device("meta"):
        source = Source(
            "x.pth", "torchvision", getattr(detection, SMALL)(weights=None, weights_backbone=None).state_dict()
        )
    for digest, proposals in ((f"{SMALL_DIGEST}00", 150), ("", 1000)):
        model, notes = recognise(source, digest)
        assert model.regions is not None
        assert (model.regions.proposals, model.postprocess.pre_nms) == (proposals, proposals)
        assert ("320 pixels" in notes[0]) == (proposals == 150)


@pytest.mark.parametrize("trained", range(7))
def test_what_is_frozen_of_a_mobilenet_is_what_torchvision_freezes(trained: int) -> None:
    with torch.device("meta"):
        body = _mobilenet_extractor(mobilenet_v3_large(), True, trained).body
        config = BackboneConfig.model_validate({**MOBILENET, "frozen_stages": 5 - trained})
        ours = MobileNetV3(config, load=False).features
    learn = [name for name, parameter in ours.named_parameters() if parameter.requires_grad]
    assert learn == [name for name, parameter in body.named_parameters() if parameter.requires_grad]
    assert BackboneConfig.model_validate({**MOBILENET, "init": "imagenet"}).frozen_stages == 5 - 3  # by default


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"strides": [4, 8, 16, 32, 64]}, "its pyramid has strides"),
        ({"backbone": {**MOBILENET, "norm_eps": None}}, "an eps of 1e-05"),
        ({"regions": {"anchor_sizes": [64]}}, "anchors have the sides"),
        ({"backbone": {"name": "mobilenet_v2", "init": "random"}, "strides": [4, 8, 16, 32, 64]}, "its backbone for"),
    ],
)
def test_another_mobilenet_than_torchvisions_is_refused(change: dict[str, Any], why: str) -> None:
    values = {"detector": "faster_rcnn", "backbone": {**MOBILENET, "norm_eps": 1e-5}, "strides": [32, 32, 64]}
    model = ModelConfig.model_validate({**values, "regions": {"anchor_sizes": [32, 64, 128, 256, 512]}, **change})
    with pytest.raises(WeightsError, match=why):
        from_native({}, "torchvision", model)


@pytest.mark.parametrize("name", ["backbone.body.0.weight", "backbone.body.stem.weight"])
def test_one_on_another_backbone_is_refused_by_what_is_read(name: str) -> None:
    with pytest.raises(ConfigError, match="on a ResNet or a MobileNetV3") as refused:
        recognise(Source("x.pth", "torchvision", {name: torch.zeros(1), "roi_heads.x": torch.zeros(1)}))
    assert "fasterrcnn_resnet50_fpn" in refused.value.remedy


@pytest.mark.parametrize("builder", ["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"])
def test_another_architecture_of_torchvisions_is_called_by_its_name(builder: str) -> None:
    with torch.device("meta"):
        state = getattr(detection, builder)(weights=None, weights_backbone=None).state_dict()
    with pytest.raises(ConfigError, match="is an SSD of torchvision's"):
        recognise(Source("x.pth", "torchvision", state))
