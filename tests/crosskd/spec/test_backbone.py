"""A backbone's knobs: what is filled in, and what is refused because the backbone would not heed it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig, ModelConfig, PixelConfig

FILE = {"file": "weights.pth"}
CAFFE = {"name": "resnet50", "style": "caffe"}


@pytest.mark.parametrize(
    ("given", "init", "frozen_stages", "norm_eval", "drop_path"),
    [
        ({"name": "resnet50"}, "imagenet", 1, True, 0.0),
        ({"name": "resnet50", "init": "random"}, "random", -1, False, 0.0),
        ({"name": "resnet50", "init": "random", "norm_frozen": True}, "random", -1, True, 0.0),
        ({"name": "resnet50", "width": 32}, "random", -1, False, 0.0),
        ({"name": "resnet18", "style": "caffe"}, "imagenet", 1, True, 0.0),  # basic blocks have no style
        (CAFFE, "random", -1, False, 0.0),
        (CAFFE | {"init": FILE}, FILE, 1, True, 0.0),
        ({"name": "mobilenet_v2"}, "imagenet", 1, True, 0.0),
        ({"name": "mobilenet_v2", "width": 16}, "random", -1, False, 0.0),
        ({"name": "swin_t"}, "imagenet", -1, False, 0.2),
        ({"name": "swin_t", "width": 48, "drop_path": 0.0}, "random", -1, False, 0.0),
        ({"name": "timm/convnext_tiny"}, "imagenet", -1, True, 0.0),
    ],
    ids=str,
)
def test_what_is_not_given_is_filled_in(
    given: dict[str, Any], init: Any, frozen_stages: int, norm_eval: bool, drop_path: float
) -> None:
    config = BackboneConfig.model_validate(given)
    dumped = config.model_dump()
    assert (dumped["init"], config.frozen_stages, config.norm_eval) == (init, frozen_stages, norm_eval)
    assert config.drop_path == drop_path
    assert BackboneConfig.model_validate(dumped) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (CAFFE | {"init": "imagenet"}, "no imagenet weights for resnet50 in caffe style; use random, or a file"),
        ({"name": "resnet18", "width": 32, "init": "imagenet"}, "no imagenet weights for resnet18 of width 32; use"),
        ({"name": "lw_detr_vit", "init": "imagenet"}, "no imagenet weights for lw_detr_vit; use random, or a file"),
        ({"name": "mobilenet_v2", "width": 12}, "mobilenet_v2 cannot have that width; use a multiple of 8"),
        ({"name": "swin_t", "width": 32}, "swin_t cannot have that width; use a multiple of 3"),
        ({"name": "swin_t", "style": "caffe"}, "swin_t has no caffe style; leave"),
        ({"name": "swin_t", "norm_eval": True}, "swin_t has no batch norm; leave"),
        ({"name": "swin_t", "norm_frozen": True}, "swin_t has no batch norm; leave"),
        ({"name": "resnet18", "drop_path": 0.1}, "resnet18 has no drop path; leave"),
        ({"name": "resnet18", "norm_eval": False, "norm_frozen": True}, "norm_frozen is norm_eval and more; leave"),
        (
            {"name": "timm/convnext_tiny", "frozen_stages": 1},
            "timm/convnext_tiny names no stages; use frozen_stages -1",
        ),
        ({"name": "timm/convnext_tiny", "width": 96}, "timm/convnext_tiny has one width; leave"),
    ],
    ids=str,
)
def test_what_would_not_be_heeded_is_refused_with_a_remedy(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BackboneConfig.model_validate(given)


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [
        ("resnet18", None, (64, 128, 256, 512)),
        ("resnet50", 32, (128, 256, 512, 1024)),
        ("mobilenet_v2", None, (24, 32, 96, 320)),
        ("mobilenet_v2", 24, (24, 24, 72, 240)),  # 18 would become 16, a tenth less and more
        ("swin_t", None, (96, 192, 384, 768)),
        ("swin_t", 24, (24, 48, 96, 192)),
        ("timm/resnet50", None, (512, 1024, 2048)),
    ],
)
def test_the_registry_tells_the_channels_of_the_maps(name: str, width: int | None, channels: tuple[int, ...]) -> None:
    assert registry.BACKBONES[name].channels(width) == channels


HALF = next(name for name, entry in registry.BACKBONES.items() if entry.pixels == ((127.5,) * 3, (127.5,) * 3))
CLIP = next(name for name, entry in registry.BACKBONES.items() if entry.pixels and entry.pixels[0][0] == 122.770938)


@pytest.mark.parametrize(
    ("backbone", "pixels", "mean", "std"),
    [
        ({"name": HALF}, {}, (127.5,) * 3, (127.5,) * 3),
        ({"name": CLIP}, {}, (122.770938, 116.746013, 104.093736), (68.500533, 66.632158, 70.323163)),
        ({"name": CLIP}, {"order": "bgr"}, (104.093736, 116.746013, 122.770938), (70.323163, 66.632158, 68.500533)),
        ({"name": HALF}, {"mean": (1.0, 2.0, 3.0)}, (1.0, 2.0, 3.0), (127.5,) * 3),
        (BackboneConfig(name=HALF), PixelConfig(), (127.5,) * 3, (127.5,) * 3),
        ({"name": "timm/convnext_tiny"}, {}, PixelConfig().mean, PixelConfig().std),
        ({"name": "resnet50"}, {}, PixelConfig().mean, PixelConfig().std),
    ],
    ids=str,
)
def test_pixels_are_by_default_as_timms_weights_want_them(backbone: Any, pixels: Any, mean: Any, std: Any) -> None:
    model = ModelConfig.model_validate({"backbone": backbone, "pixels": pixels})
    assert (model.pixels.mean, model.pixels.std) == (mean, std)
    assert ModelConfig.model_validate(model.model_dump()) == model
