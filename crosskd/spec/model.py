"""A detector: every knob of its parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from crosskd.spec import registry
from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.bounds import AtMost
from crosskd.spec.detr.fits import refuse_other_backbone, refuse_other_strides
from crosskd.spec.detr.section import DetrConfig, detr_maps, readers, unread_knob
from crosskd.spec.detr.types import TYPES
from crosskd.spec.names import DetectorName
from crosskd.spec.regions import COARSEST, RegionConfig
from crosskd.spec.regions import STRIDES as REGION_STRIDES
from crosskd.spec.section import Channels, Probability, Section, Weight, given, refused

PYRAMID = [8, 16, 32, 64, 128]
PAFPN_LEVELS = 3
DENSE_SECTIONS = frozenset({"head", "losses"})
PADDING = 114.0  # around the images of a published RTMDet or YOLOX
# What they are published with.
OWN_PIXELS: Mapping[str, Mapping[str, Any]] = {
    "rtmdet": {
        "order": "bgr",
        "mean": (103.53, 116.28, 123.675),
        "std": (57.375, 57.12, 58.395),
        "padding": PADDING,
    },
    "yolox": {"order": "bgr", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "padding": PADDING},
}
OWN_NECKS = {"rtmdet": "pafpn", "yolox": "yolox_pafpn"}
GROUPS = 32  # of a group norm, as published
SMALLEST_GROUP = 2  # channels: with one, the single cell of a small image's last level has no deviation


class NeckConfig(Section):
    """What makes the pyramid of C3..C5.

    fpn (arXiv 1612.03144): P3..P5, and P6 and P7 (where `strides` has them) by strided convolutions. pafpn: RTMDet's
    (arXiv 2212.07784), P3..P5 by cross-stage partial layers from the top down and from the bottom up. yolox_pafpn:
    YOLOX's (2107.08430), as RTMDet's but of CSPDarknet's blocks.
    """

    kind: Literal["fpn", "pafpn", "yolox_pafpn"] = Field(
        default="fpn",
        description="Default: pafpn for RTMDet with a CSPNeXt backbone, yolox_pafpn for YOLOX with CSPDarknet, else "
        "fpn.",
    )
    blocks: int = Field(
        default=1,
        ge=1,
        le=16,
        description="pafpn, yolox_pafpn: blocks of each layer. Default: as in the backbone's first stage.",
    )
    depthwise: bool = Field(
        default=False,
        description="yolox_pafpn: 3 x 3 convolutions channel by channel, then 1 x 1 ones. Default: true with "
        "cspdarknet_nano, else false.",
    )

    channels: Channels = Field(
        default=256,
        description="Of every map of the pyramid. Default: 256; RTMDet with CSPNeXt and YOLOX with CSPDarknet: as C3 "
        "has.",
    )
    p6_from: Literal["p5", "c5"] = Field(
        default="p5", description="`c5` (on input) as in MMDetection's and torchvision's RetinaNet."
    )
    relu_before_p7: bool = Field(default=False, description="Default: as published for the detector; FCOS has it.")


class HeadConfig(Section):
    """Two towers (classes, boxes) of `depth` times convolution, norm, ReLU (RTMDet, YOLOX: SiLU), then predictions.

    What only one detector reads must keep its default with the others.
    """

    channels: Channels = Field(
        default=256,
        description="Of every convolution of the towers. Default: 256; RTMDet with CSPNeXt and YOLOX with CSPDarknet: "
        "as C3 has.",
    )
    depth: int = Field(default=4, ge=0, le=16, description="Convolutions of each tower. Default: 4; RTMDet, YOLOX: 2.")
    norm: Literal["group", "batch", "none"] = Field(
        default="group",
        description="Default: group; none for RetinaNet; batch for RTMDet and YOLOX alone, whose levels have norms of "
        "their own.",
    )
    norm_groups: int = Field(
        default=GROUPS, ge=1, le=256, description="Default: 32, or half the channels where that is less."
    )
    conv_bias: bool | None = Field(default=None, description="Of the towers. Default: only where there is no norm.")
    reg_max: int = Field(default=16, ge=1, le=64, description="GFL: the last bin of the distribution, in strides.")
    octaves: int = Field(default=3, ge=1, le=16, description="RetinaNet: anchor sizes per cell, 2^(i/octaves) apart.")
    ratios: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=1), AtMost(16)] = Field(
        default=[0.5, 1.0, 2.0], description="RetinaNet: height over width of the anchors."
    )
    whole_pixel_anchors: bool = Field(
        default=False, description="RetinaNet: sizes cut and corners rounded to pixels, as torchvision's are."
    )
    center_sampling: bool = Field(default=False, description="FCOS: only cells near a box's centre are positive.")
    center_radius: float = Field(default=1.5, gt=0, le=16, description="FCOS: how near, in strides.")
    norm_on_bbox: bool = Field(default=False, description="FCOS: distances by ReLU, in strides; else exp, in pixels.")
    centerness_on_reg: bool = Field(default=False, description="FCOS: centerness from the box tower.")
    exp_on_reg: bool = Field(
        default=False,
        description="RTMDet: distances by exp, in strides; else the output itself, in strides. Default: true with "
        "cspnext_m, l and x, else false.",
    )
    depthwise: bool = Field(
        default=False,
        description="YOLOX: convolutions of the towers channel by channel, then 1 x 1 ones. Default: true with "
        "cspdarknet_nano, else false.",
    )
    point_offset: Probability = Field(default=0.5, description="FCOS: where in its cell a point is; torchvision: 0.")
    spread_cells: bool = Field(
        default=False,
        description="RetinaNet, FCOS: a level's cells lie (padded size // cells) pixels apart, as torchvision's do, "
        "which is less than the stride where that does not divide the size.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _default_groups(cls, data: Any, handler: ModelWrapValidatorHandler[HeadConfig]) -> HeadConfig:
        """As with all defaults, `model_fields_set` does not have it."""
        if not isinstance(data, dict) or "norm_groups" in data or not isinstance(data.get("channels"), int):
            return handler(data)
        head = handler({**data, "norm_groups": max(1, min(GROUPS, data["channels"] // SMALLEST_GROUP))})
        head.model_fields_set.discard("norm_groups")
        return head

    @model_validator(mode="after")
    def _groups(self) -> HeadConfig:
        if self.norm != "group":
            return self
        if self.channels % self.norm_groups and "norm_groups" not in self.model_fields_set:
            raise refused(
                f"{self.channels} channels are no multiple of {self.norm_groups}, the number of groups by default; use "
                "a multiple, or give `norm_groups` too",
                "channels",
            )
        if self.channels % self.norm_groups:
            raise refused(f"channels {self.channels} is no multiple of norm_groups {self.norm_groups}", "norm_groups")
        if self.channels // self.norm_groups < SMALLEST_GROUP:
            raise refused(
                f"norm_groups {self.norm_groups} leaves one of the {self.channels} channels to a group, and a single "
                f"value cannot be normalised; use {self.channels // SMALLEST_GROUP} at most",
                "norm_groups",
            )
        return self

    @property
    def tower_bias(self) -> bool:
        """Whether the towers' convolutions have a bias."""
        return self.norm == "none" if self.conv_bias is None else self.conv_bias


class LossConfig(Section):
    """Weights of the detection loss. Their defaults, and which of them count, are the detector's.

    GFL (arXiv 2006.04388): quality focal, distribution focal, GIoU. RetinaNet (1708.02002): focal, L1 of the box
    deltas. ATSS (1912.02424): focal, GIoU, centerness. FCOS (1904.01355): focal, IoU, centerness.
    RTMDet (2212.07784): quality focal, GIoU. YOLOX (2107.08430): cross entropy, objectness, IoU, and L1 in the end.
    """

    quality_focal: Weight = Field(default=1.0, description="GFL, RTMDet: weight of the quality focal loss on classes.")
    quality_focal_beta: float = Field(
        default=2.0, ge=0, le=10, description="GFL, RTMDet: exponent of its |target - prediction|."
    )
    distribution_focal: Weight = Field(
        default=0.25, description="GFL: weight of the loss on the distributions over bins."
    )
    giou: Weight = Field(
        default=2.0, description="Weight of 1 - GIoU of the boxes. Default: 2 for GFL, ATSS and RTMDet, else 0."
    )
    focal: Weight = Field(default=1.0, description="RetinaNet, ATSS, FCOS: weight of the focal loss on classes.")
    focal_gamma: float = Field(default=2.0, ge=0, le=10, description="Its exponent: how much less easy anchors count.")
    focal_alpha: Probability = Field(default=0.25, description="Its weight of positives; negatives have the rest to 1.")
    l1: Weight = Field(
        default=0.0, description="Weight of the L1 loss on box deltas. Default: 1 for RetinaNet and YOLOX, else 0."
    )
    l1_last_epochs: int = Field(
        default=15, ge=0, le=10_000, description="YOLOX: the L1 loss is on in so many epochs, the last ones."
    )
    iou: Weight = Field(
        default=0.0,
        description="Weight of -log IoU of the boxes; YOLOX: of 1 - IoU^2. Default: 1 for FCOS, 5 for YOLOX, else 0.",
    )
    centerness: Weight = Field(default=1.0, description="ATSS, FCOS: weight of the loss on centerness.")
    cross_entropy: Weight = Field(default=1.0, description="YOLOX: weight of the cross entropy on classes.")
    objectness: Weight = Field(default=1.0, description="YOLOX: weight of the cross entropy on objectness.")


class PixelConfig(Section):
    """How an image becomes a tensor: (value - mean) / std per channel, values 0..255, in the channels' order.

    Defaults: ImageNet's; of a timm backbone, those that its published weights were made for; of RTMDet with CSPNeXt
    BGR with a padding of 114, of YOLOX with CSPDarknet that and values 0..255, where none of these is given.
    """

    mean: tuple[float, float, float] = Field(
        default=(123.675, 116.28, 103.53), description="Subtracted, channel by channel, from values 0..255."
    )
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        default=(58.395, 57.12, 57.375),
        description="What is left is divided by this, channel by channel, in values 0..255.",
    )
    order: Literal["rgb", "bgr"] = Field(default="rgb", description="Order of the channels that the model sees.")
    padding: Annotated[float, Field(ge=0, le=255)] | None = Field(
        default=None,
        description="Value, 0..255, of every channel around an image before it is normalised, as 114 for RTMDet and "
        "YOLOX; null: what is 0 after it.",
    )

    @property
    def outside(self) -> tuple[float, float, float]:
        """What stands around an image, channel by channel, once it is normalised."""
        if self.padding is None:
            return 0.0, 0.0, 0.0
        first, second, third = ((self.padding - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return first, second, third


class PostprocessConfig(Section):
    """From predictions to detections."""

    score_threshold: Probability = Field(default=0.05, description="Detections below this score are dropped.")
    nms_iou: Probability = Field(
        default=0.6,
        description="Of two boxes of a class that overlap by more than this IoU, the one with the higher score stays.",
    )
    pre_nms: int = Field(default=1000, ge=1, le=100_000, description="Kept per level before NMS.")
    max_detections: int = Field(
        default=100, ge=1, le=10_000, description="Kept per image; AP counts them all. COCO's own AP is at 100."
    )
    score: Literal["product", "root"] = Field(
        default="product",
        description="FCOS. product: class probability times centerness, of cells whose class passes the threshold; "
        "root: the square root of it passes or fails the threshold, as in torchvision.",
    )


class ModelConfig(Section):
    """A detector. The number of classes is not part of it: it comes with the data."""

    detector: DetectorName = Field(
        default="gfl",
        description="gfl, retinanet, atss, fcos, rtmdet, yolox; faster_rcnn; deformable_detr, rt_detr, rt_detr_v2, "
        "d_fine, lw_detr or rf_detr.",
    )
    backbone: BackboneConfig = Field(description="What turns images into the maps C2..C5.")
    neck: NeckConfig = Field(default=NeckConfig(), description="What makes the pyramid P3..P7 of them.")
    head: HeadConfig = Field(
        default=HeadConfig(), description="What predicts classes and boxes on every map of the pyramid."
    )
    losses: LossConfig = Field(
        default=LossConfig(), description="Weights of the detection loss. Default: the detector's own."
    )
    pixels: PixelConfig = Field(
        default=PixelConfig(), description="How an image becomes a tensor. Default: as the backbone's weights want it."
    )
    postprocess: PostprocessConfig = Field(
        default=PostprocessConfig(), description="How detections are made of predictions. Default: the detector's own."
    )
    regions: RegionConfig | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Faster R-CNN alone, in place of `head` and `losses`: what makes regions and says what they are. "
        "Default: torchvision's.",
    )
    detr: DetrConfig | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="The DETRs alone, in place of `neck`, `head` and `losses`: their sizes. Default: the library's.",
    )
    strides: Annotated[list[int], Field(min_length=1), AtMost(5)] = Field(
        default=[8, 16, 32, 64, 128],
        description="Of P3..P7, in pixels; a shorter list ends the pyramid earlier. faster_rcnn: 4 to 64, of P2..P6; "
        "on mobilenet_v3_large also 32, 32, 64, as torchvision has it. DETRs: 8 to 32, and on as far as `detr.levels` "
        "says; lw_detr and rf_detr: the backbone's patch, divided by each of `detr.scales`.",
    )
    anchor_scale: float = Field(
        default=8.0, gt=0, le=64, description="Side of a square anchor, in strides. Default: 8; RetinaNet's octaves: 4."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _detector_defaults(cls, data: Any, handler: ModelWrapValidatorHandler[ModelConfig]) -> ModelConfig:
        """Fill in the detector's own defaults, section by section, under what is given.

        As with all defaults, `model_fields_set` has none of them: whoever asks what was chosen is not told these.
        """
        name = data.get("detector", "gfl") if isinstance(data, dict) else None
        if not isinstance(name, str) or name not in registry.DETECTORS:
            return handler(data)
        data, filled = dict(data), {}
        own = registry.DETECTORS[name].defaults
        for section in ("regions", "detr"):
            if section in own and data.get(section) is None:
                data.pop(section, None)
        if "detr" in own:
            own = {**own, **detr_maps(data.get("detr"), TYPES[name], data.get("backbone"))}  # type: ignore[index]
        for section, defaults in [*_backbone_defaults(name, data, own).items(), *_pixel_defaults(data).items()]:
            if section == "":
                filled[section] = defaults.keys() - data.keys()
                data = {**defaults, **data}
                continue
            given = data.get(section, {})
            if isinstance(given, BaseModel):
                given = given.model_dump(exclude_unset=True)
            if isinstance(given, Mapping):
                filled[section] = defaults.keys() - given.keys()
                data[section] = {**defaults, **given}
        model = handler(data)
        for section, names in filled.items():
            (getattr(model, section) if section else model).model_fields_set.difference_update(names)
        return model

    @model_serializer(mode="wrap")
    def _own_sections(self, handler: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        """Without the sections that its family does not have."""
        values = handler(self)
        if self.family == "dense" or not isinstance(values, dict):
            return values
        others = DENSE_SECTIONS | ({"neck", "strides", "anchor_scale"} if self.family == "detr" else set())
        return {name: value for name, value in values.items() if name not in others}

    @property
    def family(self) -> registry.DetectorFamily:
        return registry.DETECTORS[self.detector].family

    @model_validator(mode="after")
    def _family(self) -> ModelConfig:
        """The section is a union on `detector`: what belongs to another family is refused."""
        for name, whose, family in (("regions", "faster_rcnn", "two_stage"), ("detr", "the DETRs", "detr")):
            if getattr(self, name) is not None and self.family != family:
                raise refused(f"{name} is a section of {whose}; leave it out for {self.detector}", name)
        own = {"two_stage": "regions", "detr": "detr"}.get(self.family)
        for name, default in (("head", HeadConfig()), ("losses", LossConfig())) if own else ():
            if getattr(self, name) != default:
                message = f"{name} is a section of the dense detectors; leave it out, {self.detector} has `{own}`"
                raise refused(message, name)
        return self

    @model_validator(mode="after")
    def _own_backbone(self) -> ModelConfig:
        refuse_other_backbone(self.detector, self.backbone.name)
        return self

    @model_validator(mode="after")
    def _regions(self) -> ModelConfig:
        if not self.two_stage:
            return self
        backbone = registry.BACKBONES[self.backbone.name]
        if self.strides not in ([REGION_STRIDES, COARSEST] if backbone.coarsest else [REGION_STRIDES]):
            more = f", or {COARSEST} on {self.backbone.name}" if backbone.coarsest else ""
            raise refused(f"{self.detector} has strides {REGION_STRIDES}{more}; leave them out", "strides")
        for knob in ("kind", "p6_from", "relu_before_p7"):
            if getattr(self.neck, knob) != NeckConfig.model_fields[knob].default:
                raise refused(f"{self.detector} has an fpn whose P6 is pooled; leave neck.{knob} out", "neck", knob)
        if backbone.family == "timm":
            message = f"{self.detector} reads C2, which timm backbones do not give here; use another backbone"
            raise refused(message, "backbone", "name")
        return self

    @property
    def two_stage(self) -> bool:
        return self.family == "two_stage"

    @model_validator(mode="after")
    def _detr(self) -> ModelConfig:
        if self.detr is None:
            return self
        if knob := unread_knob(self.detr, TYPES[self.detector]):  # type: ignore[index]  # its family has these alone
            message = f"{knob} is a knob of {', '.join(readers(knob))}; leave it out for {self.detector}"
            raise refused(message, "detr", knob)
        if self.neck != NeckConfig(channels=self.detr.maps_width):
            raise refused(f"{self.detector} has no neck; leave it out, `detr.width` says how wide its maps are", "neck")
        refuse_other_strides(self.detector, self.detr, self.backbone.vit, self.strides)
        for knob in ("nms_iou", "pre_nms"):
            if getattr(self.postprocess, knob) != PostprocessConfig.model_fields[knob].default:
                message = f"{self.detector} needs no suppression of overlapping boxes; leave {knob} out"
                raise refused(message, "postprocess", knob)
        return self

    @property
    def coarsest(self) -> bool:
        """Whether the pyramid is made of the backbone's two maps at stride 32, as torchvision's on a MobileNetV3."""
        return self.two_stage and self.strides == COARSEST

    @model_validator(mode="after")
    def _strides(self) -> ModelConfig:
        if self.family != "dense":
            return self
        if len(self.strides) < PAFPN_LEVELS or self.strides != PYRAMID[: len(self.strides)]:
            message = f"strides must be the first 3 to 5 of {PYRAMID}: C3 of every backbone has stride 8"
            raise refused(message, "strides")
        return self

    @model_validator(mode="after")
    def _norm(self) -> ModelConfig:
        batch = registry.DETECTORS[self.detector].batch_norm
        if (self.head.norm == "batch") != batch:
            allowed = "batch" if batch else "group or none"
            raise refused(f"the towers of {self.detector} have norm {allowed}, not {self.head.norm}", "head", "norm")
        return self

    @model_validator(mode="after")
    def _neck(self) -> ModelConfig:
        """What belongs to the one neck alone."""
        if self.neck.kind == "fpn" and self.neck.blocks != NeckConfig.model_fields["blocks"].default:
            raise refused("neck.blocks is a knob of pafpn; leave it out, or use pafpn", "neck", "blocks")
        if self.neck.depthwise and self.neck.kind != "yolox_pafpn":
            raise refused("neck.depthwise is a knob of yolox_pafpn; leave it out, or use that", "neck", "depthwise")
        if self.neck.kind == "fpn":
            return self
        if len(self.strides) != PAFPN_LEVELS:
            only = f"a {self.neck.kind} neck makes P3, P4 and P5 alone"
            message = f"{only}; use strides {PYRAMID[:PAFPN_LEVELS]}, or an fpn neck"
            raise refused(message, "strides" if "strides" in self.model_fields_set else "neck")
        for knob in ("p6_from", "relu_before_p7"):
            if getattr(self.neck, knob) != NeckConfig.model_fields[knob].default:
                raise refused(f"neck.{knob} is a knob of fpn; leave it out, or use fpn", "neck", knob)
        return self

    @model_validator(mode="after")
    def _reject_unread_fields(self) -> ModelConfig:
        """A knob that the detector does not read must keep its default: it would be heeded by nobody."""
        reads = registry.DETECTORS[self.detector].reads
        for knob in sorted(_SPECIFIC - reads):
            section, _, name = knob.rpartition(".")
            owner = getattr(self, section) if section else self
            if getattr(owner, name) != type(owner).model_fields[name].default:
                readers = sorted(other for other, entry in registry.DETECTORS.items() if knob in entry.reads)
                message = f"{knob} is a knob of {', '.join(readers)}; leave it out for {self.detector}"
                raise refused(message, *knob.split("."))
        return self

    def held_channels(self, cut: int) -> int:
        """Of the head's maps behind convolution `cut`."""
        return self.head.channels if cut else self.neck.channels

    @property
    def anchors_per_cell(self) -> int:
        return self.head.octaves * len(self.head.ratios) if self.detector == "retinanet" else 1

    @property
    def box_channels(self) -> int:
        """Numbers in the box code of one anchor."""
        return 4 * (self.head.reg_max + 1) if self.detector == "gfl" else 4


def _backbone_defaults(
    detector: str, data: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """The detector's `own` defaults, and with its own backbone those that it is published with, at any width."""
    name, width = (given(data.get("backbone"), knob) for knob in ("name", "width"))
    entry = registry.BACKBONES.get(name) if isinstance(name, str) else None
    family = registry.OWN_BACKBONES.get(detector)
    if entry is None or entry.family != family or not isinstance(width, int | None):
        return dict(own)
    kind = given(data.get("neck"), "kind") or OWN_NECKS[detector]
    channels = entry.channels(width)[1]
    layers = {} if kind == "fpn" else {"kind": kind, "blocks": entry.layers[0]}
    more: dict[str, Mapping[str, Any]] = {
        "pixels": {} if data.get("pixels") else OWN_PIXELS[detector],
        "": {"strides": PYRAMID[:PAFPN_LEVELS]} if layers else {},
        "neck": {"channels": channels, **layers} | ({"depthwise": entry.depthwise} if kind == "yolox_pafpn" else {}),
        "head": {"channels": channels}
        | ({"exp_on_reg": name in registry.EXP_ON_REG} if detector == "rtmdet" else {"depthwise": entry.depthwise}),
    }
    return {section: {**own.get(section, {}), **more.get(section, {})} for section in {**own, **more}}


def _pixel_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and deviation that the backbone's published weights were made for, where they are not ImageNet's."""
    backbone, pixels = data.get("backbone"), data.get("pixels")
    name = backbone.get("name") if isinstance(backbone, Mapping) else getattr(backbone, "name", None)
    entry = registry.BACKBONES.get(name) if isinstance(name, str) else None
    if entry is None or entry.pixels is None:
        return {}
    order = pixels.get("order") if isinstance(pixels, Mapping) else getattr(pixels, "order", None)
    step = -1 if order == "bgr" else 1
    mean, std = (values[::step] for values in entry.pixels)
    return {"pixels": {"mean": mean, "std": std}}


_SPECIFIC = frozenset().union(*(entry.reads for entry in registry.DETECTORS.values()))
