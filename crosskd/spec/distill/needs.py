"""What a distillation term can need of its two models, and what keeps a pair from giving it. Imports no torch.

A term's section of the configuration says what it needs (`section.py`). `pairing.py` checks a pair by that list, and in
each step the detectors give the term what is on it. One more kind of need is one more class here, and how it is met in
the `view.py` of each family that meets it (`crosskd/detectors/dense/view.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from crosskd.spec import registry
from crosskd.spec.alike import code_facts
from crosskd.spec.distill.levels import FARTHEST, too_far
from crosskd.spec.model import ModelConfig

Side = Literal["student", "teacher"]
BOTH: tuple[Side, ...] = ("student", "teacher")
ONE_FAMILY = "Use a student and a teacher that are both of two stages, both dense, or both DETRs."
KINDS: dict[registry.DetectorFamily, str] = {"dense": "dense", "two_stage": "of two stages", "detr": "a DETR"}
PREDICTS: dict[registry.DetectorFamily, str] = {"two_stage": "of sampled regions", "detr": "of queries"}


@dataclass(frozen=True)
class Incompatibility:
    """Why a pair cannot work: at which field of `TrainConfig` (a JSON pointer), and what to do."""

    where: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Need(ABC):
    """One thing that a term reads of a step. Equal needs of several terms are met by one and the same thing."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """Of which models."""
        return BOTH

    @property
    def same_maps(self) -> bool:
        """Whether both pyramids must have the same cells."""
        return True

    @abstractmethod
    def incompatibilities(self, term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
        """All that keeps this pair from meeting it; `term` is the name of the section that asks."""


@dataclass(frozen=True)
class Pyramid(Need):
    """The maps of both pyramids, level by level; `same_channels`: also channel by channel."""

    same_channels: bool = False
    levels: int | None = field(default=None, compare=False)  # what that knob asks for; None: it was not given

    def incompatibilities(self, term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
        found = _other_levels(student, teacher)
        if self.levels is not None and self.levels > (most := len(student.strides)):
            found.append(
                Incompatibility(
                    f"/distill/{term}/levels",
                    f"the student's pyramid has {most} maps, fewer than the {self.levels} to compare",
                    f"Use {most} at most, or leave it out.",
                )
            )
        ours, theirs = student.neck.channels, teacher.neck.channels
        if self.same_channels and ours != theirs:
            found.append(
                Incompatibility(
                    "/student/detr/width" if student.family == "detr" else "/student/neck/channels",
                    f"{registry.TERMS[term].method} compares feature maps channel by channel: the student's have "
                    f"{ours} channels, the teacher's {theirs}",
                    f"Use {theirs}, or leave `distill.{term}` out.",
                )
            )
        return found


@dataclass(frozen=True)
class SampledRegions(Need):
    """The maps of both pyramids, and the regions that the student samples: two-stage detectors alone have these."""

    unread: tuple[str, ...] = ()  # knobs that were given and that only dense heads read

    def incompatibilities(self, term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
        if student.family != teacher.family:
            return [_other_family(term, student, teacher)]
        return _other_levels(student, teacher) + _unread(term, self.unread, teacher)


@dataclass(frozen=True)
class DecoderQueries(Need):
    """What went through both decoders, memory and queries: DETRs alone have these.

    `through`: the decoder that the other model's queries go through, too, so that it has to take them; None: neither.
    """

    through: Side | None
    bins: bool = field(default=False, compare=False)  # whether distributions over distances are compared
    unread: tuple[str, ...] = field(default=(), compare=False)  # knobs that were given and that nothing reads

    @property
    def same_maps(self) -> bool:
        return False  # one memory is resampled for the other's decoder, or each decoder looks at its own

    def incompatibilities(self, term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
        ours, theirs = student.detr, teacher.detr
        if ours is None or theirs is None:
            return [_other_family(term, student, teacher)]
        found = [] if self.through == "student" else _other_grid(student, teacher)
        if self.through is not None:
            found += _other_queries(term, self, student, teacher)
        return found + _unread(term, self.unread, teacher)


@dataclass(frozen=True)
class AnchorPredictions(Need):
    """What a head predicts of every anchor, and what its anchors are assigned to.

    Of the teacher alone, whatever the student predicts; or of `both`, which are then compared anchor by anchor.
    """

    both: bool
    bins: bool = False  # the method compares distributions over bins, of both
    box: registry.BoxMimic | None = None  # how boxes are compared, where a knob of that name says it
    centerness: bool = False  # whether the knob `centerness_weight` asks for the teacher's
    objectness: bool = False  # whether `objectness_weight` does
    unread: tuple[str, ...] = field(default=(), compare=False)  # knobs that were given and that dense heads do not read

    @property
    def sides(self) -> tuple[Side, ...]:
        return BOTH if self.both else ("teacher",)

    def incompatibilities(self, term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
        if not_dense := _not_dense(term, student, teacher):
            return not_dense
        found = _other_levels(student, teacher)
        without_bins = _without_bins(term, student, teacher) if self.bins else []
        found += without_bins
        if self.both and not without_bins:
            found += _other_code(term, student, teacher)
        if self.box == "kl" and teacher.detector != "gfl":
            found.append(
                Incompatibility(
                    f"/distill/{term}/box",
                    f"kl compares distributions over bins, which a {teacher.detector} teacher does not predict",
                    "Use giou or iou.",
                )
            )
        entry = registry.DETECTORS[teacher.detector]
        wanted = {"centerness": self.centerness and not entry.centerness}
        wanted["objectness"] = self.objectness and not entry.objectness
        found += [
            Incompatibility(
                f"/distill/{term}/{what}_weight",
                f"a {teacher.detector} teacher predicts no {what}",
                "Leave it out, or use 0.",
            )
            for what, lacks in wanted.items()
            if lacks
        ]
        return found + _unread(term, self.unread, teacher)


@dataclass(frozen=True)
class StudentAnchors(Need):
    """The student's anchors: where their boxes lie, or which of them learn a box."""

    what: Literal["boxes", "assignment"]

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("student",)

    def incompatibilities(self, term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:  # noqa: ARG002
        method, name = registry.TERMS[term].method, student.detector
        if self.what == "assignment" and name not in registry.DENSE:
            return [
                Incompatibility(
                    f"/distill/{term}/region",
                    f"the main region of {method} are the positive anchors of dense heads; a {name} student has none",
                    "Use inside_boxes.",
                )
            ]
        if self.what == "boxes" and "anchor_scale" not in registry.DETECTORS[name].reads:
            return [
                Incompatibility(
                    "/student/detector",
                    f"{method} looks for the anchors that overlap an object, and a {name} student has no anchor boxes",
                    f"Use a student that has them, or `distill.imitation` in place of `distill.{term}`.",
                )
            ]
        return []


@dataclass(frozen=True)
class HeadCut(Need):
    """Both towers' maps where the heads are cut, behind so many convolutions of each and on one side of the ReLU."""

    student: int
    teacher: int
    after_relu: bool = True
    unread: tuple[str, ...] = field(default=(), compare=False)  # knobs of other families that were given
    one_knob: bool = field(default=False, compare=False)  # `cut` says both: it is to blame for the teacher's, too

    def of(self, side: Side) -> int:
        return self.student if side == "student" else self.teacher

    def incompatibilities(self, term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
        beyond = []
        if self.student > student.head.depth:
            beyond.append(_beyond(term, "cut", self.student, "student", student.head.depth))
        if self.teacher > teacher.head.depth and not (self.one_knob and beyond):
            knob = "cut" if self.one_knob else "teacher_cut"
            beyond.append(_beyond(term, knob, self.teacher, "teacher", teacher.head.depth))
        found = _other_levels(student, teacher) + beyond
        found += _unread(term, self.unread, teacher)
        if (self.student == 0) != (self.teacher == 0):
            found.append(
                Incompatibility(
                    f"/distill/{term}/teacher_cut",
                    f"a cut of {self.student} in the student's head and of {self.teacher} in the teacher's do not go "
                    "together: pyramid maps have no activation, and maps behind a convolution do",
                    "Cut both heads at 0, or both behind a convolution.",
                )
            )
        return found


def _other_levels(student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
    if student.strides == teacher.strides:
        return []
    if student.family != teacher.family and "two_stage" in (student.family, teacher.family):  # nobody can choose them
        return [
            Incompatibility(
                "/student/detector",
                f"the pyramids of a {student.detector} student and a {teacher.detector} teacher differ in strides, "
                f"{student.strides} and {teacher.strides}: {_kinds(student, teacher)}",
                ONE_FAMILY,
            )
        ]
    return [
        Incompatibility(
            _levels_knob(student),
            f"student and teacher differ in strides: {student.strides} and {teacher.strides}; every method compares "
            "the maps of one level with those of the same level",
            f"Use {teacher.strides}, or another teacher."
            if student.family != "detr"
            else f"Use {len(teacher.strides)} levels where the detector has them, or another teacher.",
        )
    ]


# By what it is said which maps a memory has, where there is a choice.
_CHOSEN_LEVELS = {
    "deformable_detr": "`levels`",
    "lw_detr": "`detr.scales`",
    "rf_detr": "patches (`backbone.vit.patch`)",
}


def _levels_knob(student: ModelConfig) -> str:
    """Where it is said which maps a model has."""
    own = {"lw_detr": "/student/detr/scales", "rf_detr": "/student/backbone/vit/patch"}
    if student.detector in own:
        return own[student.detector]
    return "/student/detr/levels" if student.family == "detr" else "/student/strides"


# Whose a knob is, for messages; all others are those of dense heads.
_KNOBS = {
    "class_temperature": "faster_rcnn",
    "queries": "the DETRs",
    "giou": "the DETRs",
    "giou_weight": "the DETRs, where giou is true",
    "detach_target": "the DETRs, where queries is student",
    "bins_weight": "d_fine",
}


def _unread(term: str, knobs: tuple[str, ...], teacher: ModelConfig) -> list[Incompatibility]:
    return [
        Incompatibility(
            f"/distill/{term}/{knob}",
            f"{knob} is a knob of {_KNOBS.get(knob, 'dense heads')}; a {teacher.detector} teacher does not read it",
            "Leave it out.",
        )
        for knob in knobs
    ]


def _other_grid(student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
    """What keeps the student's memory from being resampled for the teacher's decoder."""
    missing = too_far(student.strides, teacher.strides)
    if not missing:
        return []
    strides = ", ".join(map(str, missing))
    return [
        Incompatibility(
            _levels_knob(student) if student.detector in _CHOSEN_LEVELS else "/student/detector",
            f"the teacher's decoder looks at levels of stride {strides}; the student's memory has strides "
            f"{student.strides}, and a level is resampled to a stride at most {FARTHEST} times as coarse or as fine",
            f"Use {_CHOSEN_LEVELS[student.detector]} that come nearer to {teacher.strides}, or another teacher."
            if student.detector in _CHOSEN_LEVELS
            else "Use a teacher without them, or a student of another type.",
        )
    ]


def _other_queries(
    term: str, need: DecoderQueries, student: ModelConfig, teacher: ModelConfig
) -> list[Incompatibility]:
    """What keeps one decoder from taking the queries of the other, or from comparing what both say of them."""
    ours, theirs = student.detr, teacher.detr
    assert ours is not None
    assert theirs is not None
    remedy = "Use `distill.crosskd` with the teacher's queries (`queries: teacher`), or another teacher."
    whose, taker = ("student's", "teacher's") if need.through == "teacher" else ("teacher's", "student's")
    kinds = {_takes(model, need) for model in (student, teacher)}
    if len(kinds) > 1:
        what = f"the {taker} decoder cannot take the {whose} queries: {student.detector} and {teacher.detector} "
        return [Incompatibility("/student/detector", what + "differ in what a query brings along", remedy)]
    found = []
    if ours.decoder_layers != theirs.decoder_layers:
        layers = f"the student's decoder has {ours.decoder_layers} layers, the teacher's {theirs.decoder_layers}"
        what = f"{layers}: {registry.TERMS[term].method} compares layer by layer"
        found.append(Incompatibility("/student/detr/decoder_layers", what, f"Use {theirs.decoder_layers}. {remedy}"))
    both = student.detector == teacher.detector == "d_fine"
    if both and ours.bins != theirs.bins and (need.bins or need.through == "teacher"):
        what = f"the student's distributions have {ours.bins} bins, the teacher's {theirs.bins}"
        found.append(Incompatibility("/student/detr/bins", what, f"Use {theirs.bins}."))
    if both and ours.reg_scale != theirs.reg_scale and (need.bins or need.through == "teacher"):
        what = f"the student's bins lie by reg_scale {ours.reg_scale:g}, the teacher's by {theirs.reg_scale:g}"
        found.append(Incompatibility("/student/detr/reg_scale", what, f"Use {theirs.reg_scale:g}."))
    return found


def _takes(model: ModelConfig, need: DecoderQueries) -> str:
    """Decoders of one kind take each other's queries; inside D-FINE's, queries bring distributions along.

    LW-DETR's and RF-DETR's are one kind: their boxes are no logits, and are never refined from layer to layer.
    """
    if model.detector in ("lw_detr", "rf_detr"):
        return "lw_detr"
    if model.detector == "deformable_detr" or (model.detector == "d_fine" and need.through == "teacher"):
        return model.detector
    return "rt_detr"


def _other_family(term: str, student: ModelConfig, teacher: ModelConfig) -> Incompatibility:
    return Incompatibility(
        "/student/detector",
        f"{registry.TERMS[term].method} goes on in the teacher's head, and a {teacher.detector} head cannot read what "
        f"a {student.detector} student has: {_kinds(student, teacher)}",
        ONE_FAMILY,
    )


def _kinds(student: ModelConfig, teacher: ModelConfig) -> str:
    """In a fixed order: of a pair and of the pair turned round the same is told."""
    first, second = sorted((student.family, teacher.family), key=["two_stage", "detr", "dense"].index)
    return f"the one is {KINDS[first]}, the other {KINDS[second]}"


def _sides(term: str, student: ModelConfig, teacher: ModelConfig) -> list[tuple[str, Side, ModelConfig]]:
    """Where a fault of each of the two models is told, and whose it is."""
    return [("/student/detector", "student", student), (f"/distill/{term}", "teacher", teacher)]


def _not_dense(term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
    same = student.family == teacher.family
    return [
        Incompatibility(
            where,
            f"{registry.TERMS[term].method} compares what dense heads predict of every anchor; a {model.detector} "
            f"{whose} predicts {PREDICTS[model.family]}",
            f"Use `distill.crosskd`, or leave `distill.{term}` out." if same else ONE_FAMILY,
        )
        for where, whose, model in _sides(term, student, teacher)
        if model.family in PREDICTS
    ][:1]


def _without_bins(term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
    return [
        Incompatibility(
            where,
            f"{registry.TERMS[term].method} compares distributions over bins, which a {model.detector} {whose} does "
            "not predict",
            f"Use a gfl {whose}, or leave `distill.{term}` out.",
        )
        for where, whose, model in _sides(term, student, teacher)
        if model.detector != "gfl"
    ]


def _other_code(term: str, student: ModelConfig, teacher: ModelConfig) -> list[Incompatibility]:
    """The first knob by which the two predict different things of an anchor, or have other anchors."""
    ours, theirs = code_facts(student), code_facts(teacher)
    knobs = [knob for knob in ours if knob != "strides" and ours[knob] != theirs[knob]]  # strides: see _other_levels
    return [
        Incompatibility(
            f"/student/{knob}",
            f"{registry.TERMS[term].method} compares the predictions of both heads anchor by anchor, but they differ "
            f"in {knob.replace('/', '.')}: {ours[knob]} and {theirs[knob]}",
            f"Use {theirs[knob]}; or `distill.crosskd`, which happens in the teacher's head, in place of "
            f"`distill.{term}`.",
        )
        for knob in knobs[:1]
    ]


def _beyond(term: str, knob: str, cut: int, whose: str, depth: int) -> Incompatibility:
    return Incompatibility(
        f"/distill/{term}/{knob}",
        f"the cut {cut} lies behind the {whose}'s head, which has {depth} convolutions",
        f"Use a cut of 0 to {depth}.",
    )
