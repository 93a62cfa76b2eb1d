"""Folders of transformers: they detect and lose as the library's own models, and go there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.boxes.ops import clip
from crosskd.convert.convert import prepare
from crosskd.convert.formats import from_native
from crosskd.convert.hints import hints
from crosskd.convert.load import load_weights
from crosskd.detectors.detector import Detector, build_detector
from crosskd.detectors.detr import field_table
from crosskd.detectors.detr.detector import corners
from crosskd.detectors.detr.view import shares
from crosskd.errors import ConfigError, CrossKDError, WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.spec.detr import folder_config
from crosskd.spec.detr.folder_config import read_config
from crosskd.spec.detr.folder_vit import UNSAID
from crosskd.spec.detr.types import TYPES
from crosskd.spec.model import PixelConfig
from crosskd.weights.description import describe
from tests.support import library_folders, small
from tests.support.toys import full_disk

ALL = sorted(TYPES)
LEFT_OUT = {"lw_detr": ["17"], "rf_detr": ["19"]}  # tensors of a block behind the last map; and a mask token


def loaded(folder: Path) -> Detector:
    model = describe(folder).model()
    assert model is not None
    detector = build_detector(model, len(library_folders.CLASSES), pretrained=False)
    load_weights(detector, folder)
    return detector.double().eval()


@pytest.fixture(scope="module", params=ALL)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("folders") / request.param
    return folder, library_folders.write(folder, request.param).double()


def _labels(targets: Any) -> list[dict[str, Any]]:
    return [
        {"class_labels": labels, "boxes": shares(boxes, size)}
        for boxes, labels, size in zip(targets.boxes, targets.labels, targets.sizes, strict=True)
    ]


def test_detections_and_losses_are_the_librarys_and_it_goes_there_and_back(written: Any, tmp_path: Path) -> None:
    folder, theirs = written
    ours = loaded(folder)
    assert describe(folder).classes() == library_folders.CLASSES
    # It saves by the names of older versions, or of the published code; those of its modules are read as well.
    theirs.save_pretrained(tmp_path / "modern", save_original_format=False)
    torch.testing.assert_close(loaded(tmp_path / "modern").state_dict(), ours.state_dict(), rtol=0, atol=0)
    # Of an image that is no square RF-DETR's windows are others there.
    images, targets = small.batch(size=(64, 64)) if ours.config.detector == "rf_detr" else small.batch()
    images = images.double()
    mask = torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)
    whole = [tuple(images.shape[-2:])] * len(images)
    _same_detections(ours, theirs, images, whole)

    kind = torch.float32 if ours.config.detector == "d_fine" else torch.float64  # whose loss there knows no other
    targets.sizes[:], targets.boxes[:] = whole, [boxes.to(kind) for boxes in targets.boxes]
    for model in (ours, theirs):
        model.to(kind).train()
    for module in [*ours.modules(), *theirs.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):  # frozen in the library's backbone; of few values elsewhere
            module.eval()
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    theirs.config.auxiliary_loss = True
    made = ours.view("student", ours.features(images.to(kind)), targets, ())
    loss = theirs(pixel_values=images.to(kind), pixel_mask=mask, labels=_labels(targets)).loss
    precision = 1e-9 if kind == torch.float64 else 1e-6
    assert made.output.loss.item() == pytest.approx(loss.item(), rel=precision)  # type: ignore[attr-defined]

    # Our form, and from it the library's again, which the library reads.
    native, back = tmp_path / "native.safetensors", tmp_path / "back"
    report = prepare(folder, "native").report
    assert (report.missing, report.unexpected) == ([], [])
    left_out = [note.partition(" ")[0] for note in report.notes if "left out" in note]
    assert left_out == LEFT_OUT.get(ours.config.detector, [])
    prepare(folder, "native").write(native)
    prepare(native, "transformers").write(back)
    from transformers import AutoModelForObjectDetection

    again = AutoModelForObjectDetection.from_pretrained(back).double().eval()
    _same_detections(loaded(folder), again, images, whole)
    assert [again.config.id2label[place] for place in range(3)] == library_folders.CLASSES
    assert describe(back).model() == describe(native).model()
    with pytest.raises(ConfigError, match="there already"):
        prepare(native, "transformers").write(back)
    # A disk that gets full leaves nothing, and so no half of a folder.
    before = sorted(tmp_path.iterdir())
    with full_disk(), pytest.raises(CrossKDError, match=r"again cannot be written: .*large"):
        prepare(native, "transformers").write(tmp_path / "again")
    assert sorted(tmp_path.iterdir()) == before


@torch.no_grad()
def _same_detections(ours: Detector, theirs: Any, images: torch.Tensor, sizes: Any) -> None:
    mask = torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)
    said = theirs(pixel_values=images, pixel_mask=mask)
    found = ours.predict(images, sizes)  # type: ignore[operator]
    for place, (scores, boxes) in enumerate(found):
        torch.testing.assert_close(scores, said.logits[place].sigmoid(), atol=1e-9, rtol=0)
        torch.testing.assert_close(
            boxes, clip(corners(said.pred_boxes[place], sizes[place]), sizes[place]), atol=1e-6, rtol=0
        )
    assert found[0][0].std() > 1e-3


def test_what_its_preprocessor_cannot_say_of_pixels_is_refused_or_told() -> None:
    backbone = {"name": "rt_detr_resnet_tiny", "init": "random"}
    model = ModelConfig.model_validate({"detector": "rt_detr", "backbone": backbone, "pixels": {"order": "bgr"}})
    with pytest.raises(WeightsError, match=r"gives its models RGB, and pixels\.order is bgr"):
        from_native({}, "transformers", model)
    padded = model.model_copy(update={"pixels": PixelConfig(padding=114)})
    assert from_native({}, "transformers", padded) == {}
    assert "padded with 114.0" in hints(padded, 3, "transformers")[0]


@pytest.mark.parametrize("kind", UNSAID)
def test_a_backbone_that_nothing_says_is_the_librarys_default(kind: str) -> None:
    from transformers import AutoConfig

    library = AutoConfig.for_model(kind, projector_scale_factors=[1.0])
    told = {"model_type": kind, "projector_scale_factors": [1.0]}
    assert (
        read_config("told", told, None).model == read_config("whole", json.loads(library.to_json_string()), None).model
    )


def test_the_table_of_fields_is_the_installed_librarys() -> None:
    assert field_table.all_fields() == folder_config.fields()
