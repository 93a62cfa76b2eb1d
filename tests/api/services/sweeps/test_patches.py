"""How an arm changes the base, and which arms have a knob of the grid."""

from __future__ import annotations

from typing import Any

import pytest

from api.services.sweeps import patches


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        # RFC 7386, appendix A, as far as a specification goes
        ({"seed": 1}, {"seed": 2}, {"seed": 2}),
        ({"seed": 1}, {"gpus": 2}, {"seed": 1, "gpus": 2}),
        ({"batch_size": 8}, {"batch_size": None}, {}),
        ({"batch_size": 8, "gpus": 2}, {"batch_size": None}, {"gpus": 2}),
        ({"augment": {"short_edges": [1, 2]}}, {"augment": {"short_edges": [3]}}, {"augment": {"short_edges": [3]}}),
        ({"augment": [1]}, {"augment": {"flip": 0}}, {"augment": {"flip": 0}}),
        ({}, {"augment": {"flip": None, "pad_to": 8}}, {"augment": {"pad_to": 8}}),
        ({"schedule": {"epochs": 3}}, {"schedule": {}}, {"schedule": {"epochs": 3}}),
        # what knows null gets it; what is not known is left to be found
        (
            {"optimizer": {"lr": 0.1}},
            {"optimizer": {"base_batch": None}},
            {"optimizer": {"lr": 0.1, "base_batch": None}},
        ),
        ({"distill": {"pkd": {}}}, {"distill": None}, {"distill": None}),
        ({}, {"distill": {"foo": None}}, {"distill": {"foo": None}}),
    ],
)
def test_a_patch_is_merged(target: dict[str, Any], patch: dict[str, Any], merged: dict[str, Any]) -> None:
    before = repr(target)
    assert patches.merge(target, patch) == merged
    assert repr(target) == before


@pytest.mark.parametrize(
    ("path", "spec", "has"),
    [
        ("optimizer.lr", {}, True),
        ("distill.crosskd.cls_weight", {}, False),
        ("distill.crosskd.cls_weight", {"teacher": {}}, True),
        ("distill.crosskd.cls_weight", {"teacher": {}, "distill": {"pkd": {}}}, False),
        ("distill.pkd.weight", {"teacher": {}, "distill": {"pkd": {}}}, True),
        ("distill.foo", {"teacher": {}}, True),  # to be refused as unknown
        ("init_student", {}, False),
    ],
)
def test_a_knob_belongs_to_arms_that_read_it(path: str, spec: dict[str, Any], has: bool) -> None:
    assert patches.applies(path.split("."), spec) is has
