"""A model card in Hugging Face's form: the `README.md` that lies beside published weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath, PurePosixPath
from typing import Any

import yaml

from wire.artifacts import BEST_WEIGHTS, ONNX
from wire.job_report import JobReport, ReportedDetector

# https://huggingface.co/docs/hub/model-cards: the words that the hub knows.
_TASK = "object-detection"
_NONE = "-"
_ESCAPES = {ord(sign): f"&#{ord(sign)};" for sign in "&\\`*_[]<>|#"}
_LOCAL = re.compile(r"(?<![\w./:])/[^\s'\"`,;:]+")  # an absolute path within a sentence
_METRICS = {"AP": "mAP", "AP50": "mAP50", "AP75": "mAP75"}


def model_card(report: JobReport, roots: Sequence[PurePath] = ()) -> str:
    """Front matter with the results in the hub's form, then the same for people.

    A card is published: files are named as they lie below `roots`, the folders that data may come from, and any other
    by its last name alone.
    """
    student = report.detectors[-1]
    parts = [
        "---",
        yaml.safe_dump(_front_matter(report, student), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {_plain(report.job.name)}",
        "",
        _plain(_LOCAL.sub(lambda path: _published(path[0], roots), report.verdict)),
        "",
        *_use(report),
        *_results(report),
        *_training(report, roots),
    ]
    return "\n".join(parts) + "\n"


def _front_matter(report: JobReport, student: ReportedDetector) -> dict[str, Any]:
    card: dict[str, Any] = {
        "library_name": "crosskd",
        "pipeline_tag": _TASK,
        "tags": [_TASK, *_architecture(report), *(["knowledge-distillation"] if report.job.kind == "distill" else [])],
    }
    if student.metrics is not None:
        measured = [
            {"type": _METRICS[name], "value": round(getattr(student.metrics, name), 4), "name": f"COCO {name}"}
            for name in _METRICS
            if getattr(student.metrics, name) >= 0
        ]
        result = {
            "task": {"type": _TASK},
            "dataset": {"name": f"validation split, {student.images} images", "type": "coco"},
            "metrics": measured,
        }
        card["model-index"] = [{"name": report.job.name, "results": [result]}]
    return card


def _architecture(report: JobReport) -> list[str]:
    section = report.job.spec.get("student")
    if not isinstance(section, dict):
        return []
    backbone = section.get("backbone")
    names = [section.get("detector"), backbone.get("name") if isinstance(backbone, dict) else None]
    return [name for name in names if isinstance(name, str)]


def _use(report: JobReport) -> list[str]:
    names = {artifact.name for artifact in report.artifacts}
    told = ["## Use", ""]
    if BEST_WEIGHTS in names:
        told += [
            "```python",
            "import crosskd",
            "",
            f'detector = crosskd.load("{BEST_WEIGHTS}")',
            'found = detector.detect("image.jpg")  # boxes, scores, labels',
            "```",
            "",
        ]
    else:
        told += ["The job has left no weights.", ""]
    if ONNX in names:
        told += [f"`{ONNX}` is the same detector for onnxruntime.", ""]
    if report.classes:
        told += [f"Classes: {', '.join(sorted(_plain(row.name) for row in report.classes))}.", ""]
    return told


def _results(report: JobReport) -> list[str]:
    if report.detectors[-1].metrics is None:
        return []
    titles = [one.title for one in report.detectors]
    return [
        "## Results",
        "",
        f"COCO's numbers on {report.detectors[-1].images} validation images.",
        "",
        f"| | {' | '.join(titles)} |",
        f"|---|{'---|' * len(titles)}",
        *(
            f"| {row.name} | {' | '.join(_number(row.values.get(one.role)) for one in report.detectors)} |"
            for row in report.numbers
        ),
        f"| parameters | {' | '.join(_count(one.parameters) for one in report.detectors)} |",
        "",
    ]


def _training(report: JobReport, roots: Sequence[PurePath]) -> list[str]:
    spec = _spec_published(report.job.spec, roots)
    versions = ", ".join(f"{_plain(name)} {_plain(value)}" for name, value in report.versions.items())
    digests = [f"- {_plain(name)}: `{_plain(digest)}`" for name, digest in report.digests.items()]
    return [
        "## Training",
        "",
        f"Job {report.job.id} ({report.job.kind}), seed {'unknown' if report.seed is None else report.seed}"
        + (f"; {versions}." if versions else "."),
        "",
        *(["sha256:", "", *digests, ""] if digests else []),
        "<details><summary>Specification</summary>",
        "",
        *(f"    {line}" for line in yaml.safe_dump(spec, sort_keys=False, allow_unicode=True).splitlines()),
        "",
        "</details>",
    ]


def _spec_published(value: Any, roots: Sequence[PurePath]) -> Any:
    """The specification without the folders of this machine."""
    if isinstance(value, dict):
        return {key: _spec_published(inner, roots) for key, inner in value.items()}
    if isinstance(value, list):
        return [_spec_published(inner, roots) for inner in value]
    return _published(value, roots) if isinstance(value, str) and value.startswith("/") else value


def _published(path: str, roots: Sequence[PurePath]) -> str:
    """As it lies below the innermost of the roots, or its last name."""
    local = PurePosixPath(path)
    below = [local.relative_to(root) for root in roots if root != root.parent and local.is_relative_to(root)]
    return str(min(below, key=lambda one: len(one.parts))) if below and local not in roots else local.name


def _plain(text: str) -> str:
    """Text from outside on one line, with what Markdown or HTML would obey as itself."""
    return " ".join(text.split()).translate(_ESCAPES)


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"
