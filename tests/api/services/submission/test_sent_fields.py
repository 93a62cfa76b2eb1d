"""No fault is told of a field that was not sent: what a default makes impossible is told at what was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.services.submission.findings import at_their_origin
from tests.support.databases import ONE_DATABASE
from tests.support.specs import TINY, Post, errors, write_weights
from wire.errors import Fault, MissingField
from wire.faults import at_what_was_sent

TEACHER = {"teacher": {"weights": {"file": "teacher.safetensors"}}}
NARROW = TINY | {"neck": {"channels": 16}}


@ONE_DATABASE
@pytest.mark.parametrize("batch_size", [1024, 1025, 4096])
def test_a_batch_larger_than_an_evaluation_may_have_is_taken(resolve: Post, batch_size: int) -> None:
    answer = resolve(batch_size=batch_size)
    assert answer.status_code == 200, answer.text
    assert answer.json()["spec"]["evaluation"]["batch_size"] == 1024


@ONE_DATABASE
@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"evaluation__batch_size": 1025}, "/spec/evaluation/batch_size", "less than or equal to 1024"),
        ({"augment__short_edges": [2000]}, "/spec/augment/short_edges", "long edge, which is 1333 by default"),
        ({"augment": {"short_edges": [2000], "long_edge": 1500}}, "/spec/augment/long_edge", "below the largest"),
        ({"student__head__channels": 100}, "/spec/student/head/channels", "no multiple of 32, the number of groups"),
        ({"student__head": {"channels": 100, "norm_groups": 7}}, "/spec/student/head/norm_groups", "no multiple of"),
        ({"student__head__reg_max": 8, "student__detector": "fcos"}, "/spec/student/head/reg_max", "a knob of gfl"),
        ({"student__strides": [8, 16]}, "/spec/student/strides", "must be the first 3 to 5"),
        ({"student__strides": [4, 8, 16]}, "/spec/student/strides", "must be the first 3 to 5"),
        ({"student__backbone__norm_eps": 0}, "/spec/student/backbone/norm_eps", "norm_eps 0 needs norm_eval"),
        ({"student__backbone__init": "imagenet"}, "/spec/student/backbone/init", "no imagenet weights"),
        ({"schedule__milestones": [3, 2]}, "/spec/schedule/milestones", "must ascend"),
        ({"distill": {"pkd": {}}}, "/spec/distill", "distill needs a teacher"),
        ({"init_student": True}, "/spec/init_student", "init_student needs a teacher"),
        # What the pair makes impossible is told at the section that does not hold the field.
        ({**TEACHER, "student": {"backbone": TINY["backbone"]}, "distill": {"pkd": {}}}, "/spec/student", "256"),
        ({**TEACHER, "student": NARROW, "distill": {"pkd": {}}}, "/spec/student/neck/channels", "16"),
        ({**TEACHER, "student": TINY | {"strides": [8, 16, 32]}}, "/spec/student/strides", "differ in strides"),
        (
            {"student": {"backbone": {"name": "resnet18"}, "init": {"file": "teacher.safetensors"}}},
            "/spec/student/backbone",
            "width is 8",
        ),
    ],
    ids=str,
)
def test_it_is_told_at_what_was_sent(
    resolve: Post, root: Path, changes: dict[str, Any], pointer: str, said: str
) -> None:
    write_weights(root / "teacher.safetensors")
    found = errors(resolve("distill" if "teacher" in changes else "train", **changes))
    assert said in found[pointer]


BODY = {"spec": {"list": [{"a/b": 1}], "empty": {}}}


@pytest.mark.parametrize(
    ("pointer", "told"),
    [
        ("/spec/list/0/a~1b", "/spec/list/0/a~1b"),
        ("/spec/list/0/c", "/spec/list/0"),
        ("/spec/list/9/c", "/spec/list"),
        ("/spec/empty/x/y", "/spec/empty"),
        ("/other", ""),
        ("status", "status"),  # a query parameter
    ],
)
def test_a_pointer_ends_where_the_body_does(pointer: str, told: str) -> None:
    fault = Fault(pointer=pointer, detail="wrong")
    assert at_what_was_sent([fault], BODY)[0].pointer == told
    missing = MissingField(pointer=pointer, detail="missing")
    assert at_what_was_sent([missing], BODY)[0].pointer == pointer  # that is where to add it
    assert at_what_was_sent([fault], None) == [fault]


def test_a_value_out_of_a_file_is_told_at_the_file() -> None:
    faults = [Fault(pointer=f"/spec/{name}", detail="long") for name in ("classes/3", "classified")]
    moved, kept = at_their_origin(faults, {"/spec/classes": "/spec/weights/file"})
    assert (moved.pointer, moved.detail) == ("/spec/weights/file", "classes out of it: long")
    assert kept == faults[1]
