"""The backbone is torchvision's MobileNetV3, without what serves the classifier alone."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.mobilenetv3 import mobilenet_v3_large

from crosskd.backbones.mobilenet_v3 import MobileNetV3
from crosskd.detectors.detector import build_detector
from crosskd.spec.config import BackboneConfig, ModelConfig
from tests.support import small

ENDS = (3, 6, 12, 16)  # the last modules of C2..C5


def backbone(**more: object) -> MobileNetV3:
    return MobileNetV3(BackboneConfig.model_validate({"name": "mobilenet_v3_large", "init": "random", **more}))


def test_it_computes_what_torchvision_computes_with_the_same_state() -> None:
    torch.manual_seed(0)
    theirs, ours = mobilenet_v3_large(weights=None).eval(), backbone().eval()
    state = theirs.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    images = torch.randn(1, 3, 100, 132)
    nodes = {f"features.{end}": str(end) for end in (*ENDS, 13)}
    with torch.no_grad():
        expected = create_feature_extractor(theirs, nodes)(images)
        maps = ours(images)
        assert [tuple(m.shape[2:]) for m in maps] == [(25, 33), (13, 17), (7, 9), (4, 5)]
        assert [m.shape[1] for m in maps] == list(ours.channels)
        ours.give_coarsest()
        for end, found in zip((*ENDS, 13, 16), (*maps, *ours(images)), strict=True):
            torch.testing.assert_close(found, expected[str(end)])
    assert ours.channels == (160, 960)


def test_its_norms_have_their_own_eps_unless_another_is_chosen() -> None:
    for eps, chosen in ((1e-3, None), (1e-5, 1e-5)):
        norms = [module for module in backbone(norm_eps=chosen).modules() if isinstance(module, nn.BatchNorm2d)]
        assert {norm.eps for norm in norms} == {eps}


def test_stages_that_it_or_another_lacks_are_refused() -> None:
    assert len(backbone(frozen_stages=5).stages()) == 6
    for name, most in (("mobilenet_v3_large", 5), ("resnet18", 4)):
        with pytest.raises(ValidationError, match=rf"less than or equal to 5|{name} has {most} stages"):
            BackboneConfig.model_validate({"name": name, "init": "random", "frozen_stages": most + 1})


@pytest.mark.parametrize("detector", ["gfl", "faster_rcnn"])
def test_detectors_learn_on_it(detector: str) -> None:
    values = {"detector": detector, "backbone": {"name": "mobilenet_v3_large", "init": "random"}}
    neck = {"neck": {"channels": 16}}
    more = {"head": {"channels": 16, "depth": 1}} if detector == "gfl" else {"regions": {"channels": 32}}
    model = build_detector(ModelConfig.model_validate({**values, **neck, **more}), small.CLASSES)
    small.total(model(*small.batch())).backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
