"""The tables of docs/training.md that tell which detectors, methods and files go together, made from the registry.

`python -m tests.support.detector_tables` writes them into the page; a test fails while page and code differ.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from crosskd.convert import megvii, mmdet, torchvision
from crosskd.spec import registry
from crosskd.spec.detr.types import TYPES
from crosskd.spec.distill.pairing import resolve_pair
from crosskd.spec.distill.section import DistillConfig
from crosskd.spec.evaluate_export import unexportable
from crosskd.spec.model import ModelConfig

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
LEVELS = [8, 16, 32]  # every dense detector can have these: what is told is not about another number of levels

DETRS = "crosskd/detectors/detr/test_detector.py"

# What a training may do, and by family the test that shows it of each of its detectors.
PROOFS: Mapping[str, Mapping[registry.DetectorFamily, str]] = {
    "train": {
        "dense": "crosskd/detectors/dense/test_losses.py::test_it_learns_one_batch_by_heart",
        "two_stage": "crosskd/runs/test_train_faster_rcnn.py::test_a_student_is_taught_and_resumed_bit_by_bit",
        "detr": f"{DETRS}::test_a_student_is_trained_in_bf16_with_an_average_and_resumed_bit_by_bit",
    },
    "AMP": {
        "dense": "crosskd/detectors/dense/test_losses.py::test_half_precision_stays_close_to_full",
        "two_stage": "crosskd/distill/test_crosskd_regions.py"
        "::test_methods_on_maps_work_beside_it_and_a_half_precision_step_is_finite",
        "detr": f"{DETRS}::test_a_student_is_trained_in_bf16_with_an_average_and_resumed_bit_by_bit",
    },
    "DDP": {
        "dense": "crosskd/test_ranks.py::test_each_share_is_computed_by_itself_and_averaged",
        "two_stage": "crosskd/distill/test_crosskd_regions.py"
        "::test_two_ranks_have_one_gradient_of_every_parameter_also_where_one_has_no_box",
        "detr": f"{DETRS}::test_two_ranks_have_one_gradient_also_where_one_has_no_object",
    },
}

Rows = list[list[str]]


# On levels that all of its family can have; of a detector with other maps, each that another one has, too.
_VIT_16 = {"name": "rf_detr_dinov2", "vit": {"patch": 16, "image_side": 512}}
SIZES: Mapping[str, Sequence[Mapping[str, object]]] = {
    **{name: [{"strides": LEVELS}] for name in registry.DENSE},
    "deformable_detr": [{"detr": {"levels": len(LEVELS)}}],
    "lw_detr": [
        {"backbone": {"name": "lw_detr_vit"}, "detr": {"scales": scales}} for scales in ([2.0, 1.0, 0.5], [1.0])
    ],
    "rf_detr": [{"backbone": _VIT_16}],
}


def models(detector: str) -> list[ModelConfig]:
    """The detector by its defaults, in each of its sizes."""
    base = {"detector": detector, "backbone": {"name": "resnet18"}}
    return [ModelConfig.model_validate({**base, **sizes}) for sizes in SIZES.get(detector, [{}])]


def refusals(method: str, student: str, teacher: str) -> list[str]:
    """Why a student cannot learn so from a teacher, whatever their sizes; empty if it can."""
    section = DistillConfig.model_validate({method: {}})
    pairs = itertools.product(models(student), models(teacher))
    return min(([found.what for found in resolve_pair(section, *pair)[1]] for pair in pairs), key=len)


def methods() -> Rows:
    """A row for each method: the students that learn by it from each teacher, and why the others do not."""
    rows = [["method", *(f"from `{teacher}`" for teacher in registry.DETECTORS), "why not the others"]]
    for method in registry.TERMS:
        reasons: dict[str, None] = {}
        cells = []
        for teacher in registry.DETECTORS:
            told = {student: refusals(method, student, teacher) for student in registry.DETECTORS}
            cells.append(_students([student for student, why in told.items() if not why]))
            reasons |= dict.fromkeys(without_the_pair(why[0]) for why in told.values() if why)
        rows.append([f"`{method}`", *cells, "; ".join(reasons)])
    return rows


def _students(able: Sequence[str]) -> str:
    levelled = [name for name in TYPES if name != "rf_detr"]
    for words, names in (
        ("all dense", registry.DENSE),
        ("all dense, all DETRs", [*registry.DENSE, *TYPES]),
        ("all dense, all DETRs but `rf_detr`", [*registry.DENSE, *levelled]),
        ("all DETRs", TYPES),
        ("all DETRs but `rf_detr`", levelled),
    ):
        if set(able) == set(names):
            return words
    return ", ".join(f"`{student}`" for student in able) or "none"


def without_the_pair(what: str) -> str:
    """A reason as it stands for every pair."""
    what = re.sub(r", but they differ in .*", ", and these differ", what)
    for names, instead in _NAMES.items():
        what = re.sub(names, instead, what)
    return what


_NAMES = {
    r"the pyramids of an? \w+ student and an? \w+ teacher differ in strides, .*\]:": "the pyramids have other strides:",
    r"student and teacher differ in strides: .*\]; .*": "the pyramids have other strides: RF-DETR has one map alone",
    r"the student's memory has [^:]*:": "the memories have other numbers of levels:",
    r"\ban? \w+ (?:student|teacher) does not predict": "both must predict",
    r"\ban? \w+ student has no(ne)?\b": r"the others have no\1",
    r"\ba faster_rcnn (?:student|teacher) predicts": "a two-stage one predicts",
    r"\ba \w+ (?:student|teacher) predicts of queries": "a DETR predicts of queries",
    r"\b\w+ and \w+ differ in what a query": "these two types differ in what a query",
    r"\ban? \w+ head cannot read what a \w+ student has": "one of another family cannot read the student's features",
}


def files() -> Rows:
    """A row for each detector: how it trains, the forms of its files that are read and written, and whether it becomes
    ONNX."""
    forms: Mapping[str, Iterable[str]] = {
        "our own": registry.DETECTORS, "MMDetection's": mmdet.PAIRS, "torchvision's": torchvision.PAIRS,
        "transformers'": TYPES,
    }  # fmt: skip
    rows = [["detector", *PROOFS, *forms, "Megvii's", "ONNX"]]
    for detector, entry in registry.DETECTORS.items():
        trained = ["yes" if entry.family in tests else "not tested" for tests in PROOFS.values()]
        both = ["read, written" if detector in known else "" for known in forms.values()]
        why = unexportable(models(detector)[0])
        onnx = "no: " + why.partition(": ")[2] if why else "written, checked"
        rows.append([f"`{detector}`", *trained, *both, "read" if detector == megvii.DETECTOR else "", onnx])
    return rows


def unlabelled() -> Rows:
    """A row for each method: what of it learns from images without labels."""
    rows = [["method", "on images without labels", "on labelled images alone, since it asks for the ground truth"]]
    for method, entry in registry.TERMS.items():
        losses = ", ".join(f"`{loss}`" for loss in entry.truth)
        whole = {"all": ["nothing", "all of it"], (): ["all of it", ""]}.get(entry.truth, ["all else", losses])
        rows.append([f"`{method}`", *whole])
    return rows


# By the name in the page's markers.
TABLES: Mapping[str, Callable[[], Rows]] = {"methods": methods, "files": files, "unlabelled": unlabelled}


def table(rows: Rows) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def filled(page: str) -> str:
    """`page` with every table made anew between its markers. Raises `ValueError` where these do not stand once."""
    for name, rows in TABLES.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        found = re.findall(f"{begin}.*?{end}", page, flags=re.DOTALL)
        if len(found) != 1:
            raise ValueError(f"the page must have {begin.strip()} and {end.strip()} once")
        page = page.replace(found[0], begin + table(rows()) + end)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
