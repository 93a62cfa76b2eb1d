"""The distillation terms: their knobs, and what each needs of its two models. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from crosskd.spec import registry
from crosskd.spec.distill.imitation import BCKDConfig, DeFeatConfig, FGFIConfig, GIDConfig, ImitationConfig
from crosskd.spec.distill.needs import AnchorPredictions, DecoderQueries, HeadCut, Need, Pyramid, SampledRegions, Side
from crosskd.spec.distill.teacher_cache import TeacherCacheConfig
from crosskd.spec.distill.term import MapsConfig, TermConfig
from crosskd.spec.model import ModelConfig
from crosskd.spec.section import Probability, Section, Weight

_PUBLISHED = "Default: as published for the teacher's detector."


def _is_none(value: Any) -> bool:
    return value is None


def _published(teacher: ModelConfig) -> registry.Published:
    return registry.DETECTORS[teacher.detector].published


def _with_levels_of(student: ModelConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` whose number of levels is what a shorter pyramid has."""
    return {**defaults, "levels": min(defaults["levels"], len(student.strides))}


def _asking_nothing(knob: str) -> tuple[float, ...]:
    return (0.0,) if knob.endswith("_weight") else ()


def _has_bins(teacher: ModelConfig) -> bool:
    return teacher.detector == "d_fine"


# What not every family reads.
_DENSE_KNOBS = ("cut", "teacher_cut", "after_relu", "box", "temperature", "beta", "reference_normaliser")
_QUERY_KNOBS = ("queries", "detach_target", "giou", "giou_weight", "bins_weight")


class MimicConfig(TermConfig):
    """How predictions imitate the teacher's: what CrossKD and direct mimicking have in common."""

    cls_weight: Weight | None = Field(default=None, description=_PUBLISHED)
    box_weight: Weight | None = Field(default=None, description=_PUBLISHED)
    centerness_weight: Weight | None = Field(default=None, description=_PUBLISHED)
    objectness_weight: Weight | None = Field(default=None, description="YOLOX. " + _PUBLISHED)
    box: registry.BoxMimic | None = Field(
        default=None, description="kl: of the distributions over bins (GFL); giou, iou: of the boxes. " + _PUBLISHED
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Of the distributions over bins.")
    beta: float | None = Field(
        default=None, ge=0, le=10, description="Exponent of the quality focal weight |p - q|. Default: 1; DETRs: 0."
    )
    reference_normaliser: bool = Field(
        default=False,
        description="FCOS: divide by a summed centerness below 1, too, down to 1e-6, as the reference does.",
    )
    giou: bool | None = Field(
        default=None,
        exclude_if=_is_none,
        description="DETRs alone: compare boxes in shares of the image, and by their GIoU; false: in pixels. "
        "Default: true.",
    )
    giou_weight: Weight | None = Field(
        default=None, exclude_if=_is_none, description="DETRs alone, where giou is true. Default: as published, 1."
    )
    bins_weight: Weight | None = Field(
        default=None,
        exclude_if=_is_none,
        description="D-FINE alone: of the KL divergence of the distributions over distances. Default: 1; nobody has "
        "published one.",
    )

    def resolved(self, student: ModelConfig, teacher: ModelConfig, beside: Collection[str] = ()) -> Self:  # noqa: ARG002
        # What is published for the teacher's detector: CrossKD happens in the teacher's head.
        published = _published(teacher)
        weights = ("cls_weight", "box_weight", "centerness_weight", "objectness_weight")
        return self._filled({name: getattr(published, name) for name in ("box", "beta", *weights)})

    def _of_queries(self, teacher: ModelConfig) -> Self:
        """Resolved for two DETRs."""
        published = _published(teacher)
        names = ("cls_weight", "box_weight", "centerness_weight", "objectness_weight", "beta")
        filled = self._filled({name: getattr(published, name) for name in names} | {"giou": True})
        weights = {"giou_weight": 1.0 if filled.giou else 0.0, "bins_weight": 1.0 if _has_bins(teacher) else 0.0}
        return filled._filled(weights)

    def _predictions(self, *, both: bool, unread: tuple[str, ...] = ()) -> Need:
        """Of a resolved section."""
        asked = {"centerness": bool(self.centerness_weight), "objectness": bool(self.objectness_weight)}
        return AnchorPredictions(both=both, box=self.box, unread=unread, **asked)

    def _decoder_queries(self, given: MimicConfig, teacher: ModelConfig, through: Side | None) -> Need:
        """Of a resolved section; `given` is the one that was sent."""
        others = {"beta", "temperature"} if _has_bins(teacher) else {"beta"}
        unread = [knob for knob in (*_DENSE_KNOBS, "class_temperature") if knob not in others]
        unread += [] if self.giou else ["giou_weight"]
        unread += [] if _has_bins(teacher) else ["bins_weight"]
        unread += [] if through == "teacher" else ["detach_target"]
        return DecoderQueries(through, bins=bool(self.bins_weight), unread=given._unread(unread, self))

    def _unread(self, knobs: Collection[str], full: MimicConfig | None = None) -> tuple[str, ...]:
        """Those of `knobs` that were given, though nothing reads them; a weight of 0 asks for nothing.

        `full`: this section resolved, where a detector has neither centerness nor objectness to imitate.
        """
        fields = type(self).model_fields
        found = [
            name
            for name in knobs
            if name in fields and getattr(self, name) not in (fields[name].default, *_asking_nothing(name))
        ]
        weights = ("centerness_weight", "objectness_weight") if full else ()
        return (*found, *(name for name in weights if getattr(full, name)))


class CrossKDConfig(MimicConfig):
    """CrossKD (arXiv 2306.11369): the student's head features through the teacher's head, against the teacher.

    `after_relu` says where the features are cut: behind the activation, as the published results were made,
    or before it, as the paper's text reads.
    """

    cut: int | None = Field(default=None, ge=0, le=16, description="Convs the student keeps; default: as published.")
    teacher_cut: int | None = Field(
        default=None, ge=0, le=16, description="Convs of the teacher's that are left out; default: as many."
    )
    after_relu: bool = Field(
        default=True,
        description="Whether the heads are cut behind the activation, as in the published code, or before it.",
    )
    class_temperature: float | None = Field(
        default=None,
        gt=0,
        le=100,
        exclude_if=_is_none,
        description="faster_rcnn alone: of the class probabilities of a region. Default: as published, 3.",
    )
    queries: Literal["teacher", "student"] | None = Field(
        default=None,
        exclude_if=_is_none,
        description="DETRs alone: whose queries go through the teacher's decoder, layer by layer, on both memories. "
        "Default: teacher.",
    )
    detach_target: bool | None = Field(
        default=None,
        exclude_if=_is_none,
        description="DETRs alone, where queries is student: whether what is imitated is a constant. Default: false, as "
        "in the published code, where the positions of the student's queries learn through it.",
    )

    def resolved(self, student: ModelConfig, teacher: ModelConfig, beside: Collection[str] = ()) -> Self:
        if "detr" in (student.family, teacher.family):
            filled = self._filled({"queries": "teacher"})
            return filled._filled({"detach_target": False} if filled.queries == "student" else {})._of_queries(teacher)
        if student.two_stage or teacher.two_stage:
            published = _published(teacher)
            names = ("cls_weight", "box_weight", "centerness_weight", "class_temperature")
            return self._filled({name: getattr(published, name) for name in names})
        most = min(_published(teacher).cut, student.head.depth, teacher.head.depth)
        cut = self.cut if self.cut is not None else most
        teacher_cut = self.teacher_cut if self.teacher_cut is not None else cut
        return super().resolved(student, teacher, beside).model_copy(update={"cut": cut, "teacher_cut": teacher_cut})

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:
        """What the student predicts is not needed: all happens in the teacher's head."""
        full = self.resolved(student, teacher)
        if "detr" in (student.family, teacher.family):
            return (full._decoder_queries(self, teacher, through="teacher" if full.queries == "student" else None),)
        if student.two_stage or teacher.two_stage:
            return (SampledRegions(self._unread(_DENSE_KNOBS + _QUERY_KNOBS, full)),)
        assert full.cut is not None
        assert full.teacher_cut is not None
        cut = HeadCut(
            full.cut,
            full.teacher_cut,
            full.after_relu,
            unread=self._unread(("class_temperature", *_QUERY_KNOBS)),
            one_knob=self.teacher_cut is None,
        )
        return cut, full._predictions(both=False)


class PKDConfig(TermConfig):
    """PKD (arXiv 2207.02039): mean squared error of normalised FPN maps."""

    weight: Weight | None = Field(
        default=None, description="Default: 10 alone; beside CrossKD as published for the teacher's detector."
    )
    levels: int | None = Field(
        default=None, ge=1, le=5, description="Maps that are compared, P3 first. Default: 4 alone; all beside CrossKD."
    )

    def resolved(self, student: ModelConfig, teacher: ModelConfig, beside: Collection[str] = ()) -> Self:
        published = _published(teacher)
        if "crosskd" not in beside:
            return self._filled(_with_levels_of(student, published.pkd_alone))
        return self._filled({"weight": published.pkd_weight, "levels": len(student.strides)})

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (Pyramid(same_channels=True, levels=self.levels),)


class DirectConfig(MimicConfig):
    """Prediction mimicking: CrossKD's losses between the student's own predictions and the teacher's.

    The baseline of the CrossKD paper (arXiv 2306.11369). Student and teacher need the same anchors and box code. A DETR
    student is asked about the teacher's own queries, so that nothing has to be matched (KD-DETR, arXiv 2211.08071).
    """

    def resolved(self, student: ModelConfig, teacher: ModelConfig, beside: Collection[str] = ()) -> Self:
        if student.family == teacher.family == "detr":
            return self._of_queries(teacher)
        return super().resolved(student, teacher, beside)

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:
        full = self.resolved(student, teacher)
        if student.family == teacher.family == "detr":
            return (full._decoder_queries(self, teacher, through="student"),)
        return (full._predictions(both=True, unread=self._unread(_QUERY_KNOBS)),)


class LDConfig(TermConfig):
    """LD (arXiv 2102.12252): KL divergence of GFL's box distributions, at positives and around them."""

    main_weight: Weight = Field(default=0.25, description="Of the main region, the positives; published: 0.25.")
    vlr_weight: Weight = Field(default=0.25, description="Of the valuable localisation region; published: 0.25.")
    temperature: float = Field(default=10.0, gt=0, le=100, description="Of the distributions; published: 10.")
    gamma: Probability = Field(
        default=0.25,
        description="The valuable region begins at this share of the IoU from which an anchor is positive; "
        "published: 0.25.",
    )

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (AnchorPredictions(both=True, bins=True),)


class FitNetConfig(MapsConfig):
    """FitNets (arXiv 1412.6550): mean squared error of FPN maps, the student's behind a 1 x 1 convolution."""

    weight: Weight = Field(default=1.0, description="The paper has none for detectors.")


class FGDConfig(MapsConfig):
    """FGD (arXiv 2111.11837): features by foreground, background and attention, and relations between cells.

    In an image that is padded to the size of its batch the published code finds the cells of a box elsewhere than where
    the box is: `mask_scale` puts that right.
    """

    foreground_weight: Weight | None = Field(default=None, description="Alpha, of features in boxes. " + _PUBLISHED)
    background_weight: Weight | None = Field(default=None, description="Beta, of features outside. " + _PUBLISHED)
    attention_weight: Weight | None = Field(default=None, description="Gamma, of the attention maps. " + _PUBLISHED)
    global_weight: Weight | None = Field(default=None, description="Lambda, of relations between cells. " + _PUBLISHED)
    temperature: float | None = Field(default=None, gt=0, le=100, description="Of the attention maps. " + _PUBLISHED)
    mask_scale: Literal["image", "stride"] = Field(
        default="image",
        description="How a box is turned into cells. image: over the image's size, times the map's, as the published "
        "code does, which stretches boxes where the batch is padded; stride: over the level's stride, where they are.",
    )

    def resolved(self, student: ModelConfig, teacher: ModelConfig, beside: Collection[str] = ()) -> Self:  # noqa: ARG002
        return self._filled(_published(teacher).fgd)


class MGDConfig(MapsConfig):
    """MGD (arXiv 2205.01529): the teacher's FPN maps, made anew from the student's, of which much is masked."""

    weight: Weight = Field(default=2e-5, description="Alpha; published for one-stage detectors: 2e-5.")
    masked: Probability = Field(
        default=0.65, description="Lambda, the share of masked cells; published for one-stage detectors: 0.65."
    )


class CWDConfig(MapsConfig):
    """CWD (arXiv 2011.13256): KL divergence of each channel's distribution over the cells of an FPN map."""

    weight: Weight | None = Field(default=None, description=_PUBLISHED)
    temperature: float | None = Field(default=None, gt=0, le=100, description=_PUBLISHED)
    levels: int | None = Field(default=None, ge=1, le=5, description="Maps that are compared, P3 first. " + _PUBLISHED)

    def resolved(self, student: ModelConfig, teacher: ModelConfig, beside: Collection[str] = ()) -> Self:  # noqa: ARG002
        return self._filled(_with_levels_of(student, _published(teacher).cwd))

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (Pyramid(levels=self.levels),)


class SKDConfig(MapsConfig):
    """SKD (arXiv 2211.13133): structural similarity of FPN maps, the student's behind a 1 x 1 convolution."""

    weight: Weight = Field(default=4.0, description="Lambda; the paper finds 2 and 4 best.")


class DistillConfig(Section):
    """The distillation terms by name; a combination names several. An empty section means CrossKD alone."""

    crosskd: CrossKDConfig | None = Field(
        default=None,
        description="CrossKD: the student's head features through the teacher's head. Default where no term is named.",
    )
    pkd: PKDConfig | None = Field(default=None, description="PKD: normalised maps of the pyramid. null: off.")
    direct: DirectConfig | None = Field(
        default=None, description="Direct mimicking of the teacher's predictions. null: off."
    )
    ld: LDConfig | None = Field(default=None, description="LD: distributions over bins of boxes, for GFL. null: off.")
    fitnet: FitNetConfig | None = Field(
        default=None, description="FitNets: maps of the pyramid as they are. null: off."
    )
    fgd: FGDConfig | None = Field(
        default=None, description="FGD: maps by foreground, background and attention. null: off."
    )
    mgd: MGDConfig | None = Field(
        default=None, description="MGD: the teacher's maps out of masked ones of the student. null: off."
    )
    cwd: CWDConfig | None = Field(
        default=None, description="CWD: maps as a distribution over cells, by channel. null: off."
    )
    skd: SKDConfig | None = Field(
        default=None, description="SKD: maps of the pyramid by their structural similarity. null: off."
    )
    bckd: BCKDConfig | None = Field(
        default=None, description="BCKD: classes as binary maps, boxes by their overlap. null: off."
    )
    imitation: ImitationConfig | None = Field(
        default=None, description="Maps of the pyramid in the main region, or in the boxes. null: off."
    )
    fgfi: FGFIConfig | None = Field(
        default=None, description="FGFI: maps of the pyramid where anchors come near an object. null: off."
    )
    defeat: DeFeatConfig | None = Field(
        default=None, description="DeFeat: maps of the pyramid in boxes and outside, apart. null: off."
    )
    gid: GIDConfig | None = Field(
        default=None, description="GID: instances on which both models differ most. null: off."
    )
    cache: TeacherCacheConfig | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Keep what the teacher makes of an image: from the second epoch on it need not run. null: off.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one(cls, data: Any) -> Any:
        if isinstance(data, dict) and all(data.get(name) is None for name in registry.TERMS):
            data = {**data, "crosskd": {}}
        return data

    def terms(self) -> dict[str, TermConfig]:
        """The terms that are on, in the order of the registry."""
        return {name: knobs for name in registry.TERMS if (knobs := getattr(self, name)) is not None}
