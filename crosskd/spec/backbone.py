"""The backbone of a detector, by a name of the closed registry. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from crosskd.spec import registry
from crosskd.spec.backbones.vit import VITS, VitConfig
from crosskd.spec.names import BackboneName
from crosskd.spec.section import FileRef, Section, refused


class BackboneConfig(Section):
    """What turns images into C2..C5.

    Stages (`frozen_stages` of them have no gradient and stay in evaluation mode; 0: the stem alone, -1: nothing):
    ResNet: stem, then layer1..layer4. MobileNetV2: the first convolution, then the blocks that end in C2, C3, C4, C5.
    MobileNetV3: the first convolution and a block, then the blocks from each one that strides on, then the last
    convolution, as torchvision's detectors count them.
    Swin: the patch embedding, then the four stages, each with the patch merging behind it, without drop path.
    CSPNeXt, CSPDarknet, RT-DETR's ResNet, HGNetV2: the stem, then the four stages.
    timm, and vision transformers: only -1, since timm's models have no stages in common.
    """

    name: BackboneName = Field(description="One of the registry's: resnet18, mobilenet_v2, swin_t, cspnext_s, timm/…")
    width: int | None = Field(
        default=None,
        ge=8,
        le=256,
        description="Channels of the stem; default: the name's own. MobileNetV2: a multiple of 8; Swin: of 3; "
        "CSPNeXt, CSPDarknet: of 2; timm: null.",
    )
    style: Literal["pytorch", "caffe"] = Field(
        default="pytorch", description="ResNet: caffe's bottlenecks stride in their first convolution, not the second."
    )
    init: Literal["random", "imagenet"] | FileRef | None = Field(
        default=None,
        description="imagenet: torchvision's weights; for timm its own default ones. A file: by torchvision's or "
        "timm's names; of a vision transformer by transformers'. Default: imagenet where there are such weights, else "
        "random.",
    )
    frozen_stages: int | None = Field(
        default=None,
        ge=-1,
        le=5,
        description="Default: 1 for a pretrained ResNet or MobileNetV2, 2 for a MobileNetV3, else -1. At most 4; "
        "MobileNetV3: 5.",
    )
    norm_eval: bool | None = Field(
        default=None,
        description="Batch norm by running statistics; its affine part learns. Default: if pretrained, where there is "
        "batch norm; CSPNeXt, CSPDarknet: false.",
    )
    norm_frozen: bool = Field(default=False, description="norm_eval, and the affine part does not learn either.")
    norm_eps: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Added to batch norm's variances; default: the backbone's own, 1e-5; CSPDarknet, MobileNetV3: "
        "1e-3. torchvision's published RetinaNet was made with 0, which needs norm_eval.",
    )
    drop_path: float | None = Field(
        default=None, ge=0, lt=1, description="Swin: how often the last block is left out (1603.09382). Default: 0.2."
    )
    vit: VitConfig | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="lw_detr_vit and rf_detr_dinov2 alone: their sizes. Default: the library's own.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        name = data.get("name") if isinstance(data, dict) else None
        if not isinstance(name, str) or name not in registry.BACKBONES:  # a list cannot be looked up
            return data
        entry = registry.BACKBONES[name]
        data = dict(data)
        if data.get("width") is None:
            data["width"] = entry.width
        strided_elsewhere = data.get("style") == "caffe" and entry.block == "bottleneck"
        publishes = entry.weights and data["width"] == entry.width and not strided_elsewhere
        if data.get("init") is None:
            data["init"] = "imagenet" if publishes else "random"
        if data["init"] == "imagenet" and not publishes:
            which = f"{name} of width {data['width']}" if entry.weights else name
            which = which if not strided_elsewhere else f"{name} in caffe style"
            raise refused(f"there are no imagenet weights for {which}; use random, or a file of them", "init")
        pretrained = data["init"] != "random"
        if data.get("frozen_stages") is None:
            data["frozen_stages"] = entry.frozen_stages if pretrained else -1
        if data.get("norm_eval") is None:
            data["norm_eval"] = entry.batch_norm and (
                (pretrained and entry.norm_eval) or data.get("norm_frozen") is True
            )
        if data.get("drop_path") is None:
            data["drop_path"] = entry.drop_path
        if name in VITS:
            data["vit"] = _vit(name, data.get("vit"))
        return data

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the maps that it gives, the last one the coarsest."""
        if self.vit is not None:
            return (self.vit.width,) * len(self.vit.maps)
        return registry.BACKBONES[self.name].channels(self.width)

    @model_validator(mode="after")
    def _reject_ignored_fields(self) -> BackboneConfig:
        """What the backbone would not heed is refused."""
        name, entry = self.name, registry.BACKBONES[self.name]
        norm = next((knob for knob in ("norm_eval", "norm_frozen", "norm_eps") if getattr(self, knob)), "norm_eps")
        has_norm = norm != "norm_eps" or self.norm_eps is not None
        no_norm = f"{name} has no batch norm; leave norm_eval, norm_frozen and norm_eps out"
        faults = [
            (self.width and not entry.width, "width", f"{name} has one width; leave `width` out"),
            (
                (self.width or 0) % entry.divisor,
                "width",
                f"{name} cannot have that width; use a multiple of {entry.divisor}",
            ),
            (
                self.style == "caffe" and entry.family != "resnet",
                "style",
                f"{name} has no caffe style; leave `style` out",
            ),
            (
                self.frozen_stages != -1 and entry.family in ("timm", "vit"),
                "frozen_stages",
                f"{name} names no stages; use frozen_stages -1",
            ),
            (
                (self.frozen_stages or 0) > entry.stages,
                "frozen_stages",
                f"{name} has {entry.stages} stages behind its stem; use frozen_stages {entry.stages} at most",
            ),
            (has_norm and not entry.batch_norm, norm, no_norm),
            (
                self.norm_frozen and not self.norm_eval,
                "norm_eval",
                "norm_frozen is norm_eval and more; leave norm_eval out",
            ),
            (
                self.norm_eps == 0 and not self.norm_eval,
                "norm_eps",
                "norm_eps 0 needs norm_eval: a batch may have no variance",
            ),
            (self.drop_path and not entry.drop_path, "drop_path", f"{name} has no drop path; leave drop_path out"),
            (
                self.vit is not None and name not in VITS,
                "vit",
                f"vit is a section of {' and '.join(VITS)}; leave it out for {name}",
            ),
            (
                self.vit is not None and self.vit.window_blocks is not None and name != "lw_detr_vit",
                "vit.window_blocks",
                f"{name} has no window_blocks to choose: its blocks whose number is not in `maps` attend in windows",
            ),
        ]
        for holds, knob, fault in faults:
            if holds:
                raise refused(fault, *knob.split("."))
        return self


def _vit(name: str, section: Any) -> Any:
    """The section with the backbone's own defaults under what was given; what is no section is left to be refused."""
    if isinstance(section, VitConfig):
        section = section.model_dump(exclude_unset=True)
    return {**VITS[name].defaults, **section} if isinstance(section, dict) else section or {**VITS[name].defaults}
