"""Which timm models export: the shipped file, and how it is made."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import timm

from crosskd.onnx import timm_exports
from crosskd.onnx.timm_exports import backbones, fault_of, kinds, text
from crosskd.spec import registry
from crosskd.spec.backbones.registry import TIMM_EXPORTS, Backbone
from crosskd.spec.evaluate_export import unexportable
from tests.support import small

CONTENT: dict[str, Any] = json.loads(TIMM_EXPORTS.read_text())
KNOWN: dict[str, str] = CONTENT["models"]


def test_it_is_written_as_the_command_writes_it() -> None:
    assert CONTENT["timm"] == timm.__version__
    assert TIMM_EXPORTS.read_text() == text(KNOWN)


def test_it_knows_every_backbone_of_timm() -> None:
    assert KNOWN.keys() == set(backbones())


def test_what_does_not_export_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.config(backbone={"name": "timm/tf_efficientnet_lite0", "width": None, "init": "random"})
    assert unexportable(model) == ""
    entry = Backbone("", "timm", (1, 2, 3), export_fault="its windows")
    monkeypatch.setitem(registry.BACKBONES, "timm/tf_efficientnet_lite0", entry)
    assert unexportable(model) == "timm/tf_efficientnet_lite0 cannot be exported: its windows"


def test_a_model_that_the_exporter_does_not_master_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_exports, "_tell", lambda *_: all(zero == 0 for zero in iter(int, 1)))  # for ever
    assert fault_of("resnet18", 1) == "the exporter does not end within 1 seconds"
    monkeypatch.setattr(timm_exports, "_tell", lambda *_: None)
    assert fault_of("resnet18", 60) == "the exporter ends without a word"
    monkeypatch.setattr(timm_exports, "_tell", lambda name, pipe: pipe.send(name))
    assert fault_of("resnet18", 60) == "resnet18"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sample_exports_as_the_file_says() -> None:
    """To tell a model's kind it is built: of a twentieth of the table, others on every run.

    Of the six that do not end none is tried: each takes the ten minutes after which it is given up.
    """
    ending = [name for name, fault in KNOWN.items() if "does not end" not in fault]
    drawn = random.Random().sample(ending, 40)
    for names in random.Random().sample(list(kinds(drawn).values()), 3):
        assert bool(fault_of(names[0])) == bool(KNOWN[names[0]]), names[0]
