"""Cases of DETR distillation (`detr_kd/...`): the losses alone, layers replayed, and whole pairs (`query_pairs.py`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosskd.detectors.detr.ports.by_type import port_of
from crosskd.detectors.detr.ports.port import DecoderState, LayerPredictions, Memory, Port
from crosskd.distill.queries.mimic import mimic_queries
from crosskd.spec.config import CrossKDConfig
from crosskd.structures import Losses
from tests.oracle import regions, weight_rule
from tests.oracle.case import UnknownSettingError
from tests.oracle.compare import Comparison
from tests.oracle.compute import norm, summary
from tests.oracle.network import SAMPLES, STEP, tens
from tests.support import detr_library

PREFIX, DETECTOR = "detr_kd", "deformable_detr"
DESCRIPTION = {
    "name", "kind", "query_mode", "seed", "layers", "batch", "queries", "num_classes", "img_shapes", "kd_cfg",
    "embed_dims", "num_heads", "num_points", "num_levels", "spatial_shapes", "reference_dim", "with_box_refine",
    "valid_ratios", "masked_keys", "size", "empty_images", "student", "teacher", "encoder_layers", "decoder_layers",
    "feedforward_channels", "dropout", "img_metas", "gt_bboxes", "gt_labels", "variant", "test_max_per_img",
}  # fmt: skip
DETACHED = "teacher targets detached (not the reference)"
MODES = {"student": ("student", False), "teacher": ("teacher", False), "teacher_giou": ("teacher", True)}
LOSS_NAMES = {"crosskd_cls": "loss_cls_kd", "crosskd_box": "loss_reg_kd", "crosskd_giou": "loss_iou_kd"}
# MMDetection's names of the parts of a transformer -> the library's.
PARTS = {
    r"(encoder|decoder)\.layers\.(\d+)\.ffn\.layers\.0\.0": r"model.\1.layers.\2.mlp.fc1",
    r"(encoder|decoder)\.layers\.(\d+)\.ffn\.layers\.1": r"model.\1.layers.\2.mlp.fc2",
    r"encoder\.layers\.(\d+)\.norms\.0": r"model.encoder.layers.\1.self_attn_layer_norm",
    r"encoder\.layers\.(\d+)\.norms\.1": r"model.encoder.layers.\1.final_layer_norm",
    r"decoder\.layers\.(\d+)\.norms\.0": r"model.decoder.layers.\1.self_attn_layer_norm",
    r"decoder\.layers\.(\d+)\.norms\.1": r"model.decoder.layers.\1.encoder_attn_layer_norm",
    r"decoder\.layers\.(\d+)\.norms\.2": r"model.decoder.layers.\1.final_layer_norm",
    r"decoder\.layers\.(\d+)\.cross_attn": r"model.decoder.layers.\1.encoder_attn",
    r"decoder\.layers\.(\d+)\.self_attn\.attn\.out_proj": r"model.decoder.layers.\1.self_attn.o_proj",
    r"decoder\.layers\.(\d+)\.self_attn\.attn\.in_proj": r"model.decoder.layers.\1.self_attn.in_proj",
    r"encoder\.layers\.(\d+)\.self_attn": r"model.encoder.layers.\1.self_attn",
    r"bbox_head\.cls_branches\.(\d+)": r"class_embed.\1",
    r"bbox_head\.reg_branches\.(\d+)\.0": r"bbox_embed.\1.layers.0",
    r"bbox_head\.reg_branches\.(\d+)\.2": r"bbox_embed.\1.layers.1",
    r"bbox_head\.reg_branches\.(\d+)\.4": r"bbox_embed.\1.layers.2",
    r"memory_trans_fc": "model.enc_output",
    r"memory_trans_norm": "model.enc_output_norm",
    r"pos_trans_fc": "model.pos_trans",
    r"pos_trans_norm": "model.pos_trans_norm",
    r"level_embed": "model.level_embed",
}


def is_case(values: Mapping[str, Any]) -> bool:
    return str(values.get("name")).startswith(f"{PREFIX}/")


def completed(case: dict[str, Any], others: Sequence[Any]) -> dict[str, Any]:
    """A variant says no more than what it changes: the rest is that of the case of the same seed and mode."""
    if not is_case(case) or not case.get("variant"):
        return case
    if case["variant"] != DETACHED:
        raise UnknownSettingError(f"unknown variant {case['variant']!r}")
    same = ("kind", "query_mode", "seed")
    for other in others:
        if isinstance(other, dict) and other is not case and all(other.get(name) == case.get(name) for name in same):
            return {name: value for name, value in other.items() if name in DESCRIPTION | {"state_dict"}} | case
    return case


def compute(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """What this project makes of a case, under the vectors' own field names."""
    from tests.oracle import query_pairs  # which imports this file

    kinds = {"function": _function, "replay": _replay, "end-to-end": query_pairs.compute}
    if values["kind"] not in kinds:
        raise UnknownSettingError(f"unknown kind {values['kind']!r}")
    return kinds[values["kind"]](values, dtype)


def compare(expected: Mapping[str, Any], computed: Mapping[str, Any], *, single: bool) -> Comparison:
    return regions.compare(expected, computed, single=single, described=DESCRIPTION)


def config(values: Mapping[str, Any]) -> CrossKDConfig:
    """A case's `kd_cfg` as ours; raises `UnknownSettingError` for what we do not have."""
    told = values["kd_cfg"]
    if values["query_mode"] not in MODES:
        raise UnknownSettingError(f"unknown query_mode {values['query_mode']!r}")
    (queries, giou), kinds = MODES[values["query_mode"]], {name: loss["type"] for name, loss in told.items()}
    wanted = {"loss_cls_kd": "KDQualityFocalLoss", "loss_reg_kd": "L1Loss"} | (
        {"loss_iou_kd": "GIoULoss"} if giou else {}
    )
    if kinds != wanted:
        raise UnknownSettingError(f"unknown kd_cfg {told!r}")
    return CrossKDConfig(
        queries=queries,
        giou=giou,
        cls_weight=told["loss_cls_kd"]["loss_weight"],
        beta=told["loss_cls_kd"]["beta"],
        box_weight=told["loss_reg_kd"]["loss_weight"],
        giou_weight=told["loss_iou_kd"]["loss_weight"] if giou else 0.0,
    )


def losses_by_layer(losses: Losses) -> dict[str, float]:
    """Ours, one value a layer, under the reference's names."""
    return {
        f"d{layer}.{theirs}": value
        for ours, theirs in LOSS_NAMES.items()
        if ours in losses
        for layer, value in enumerate(losses[ours].tolist())
    }


# --- the losses -------------------------------------------------------------------------------------------------------


def _function(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    count, rows = values["layers"], (values["batch"], values["queries"])
    logits = {
        name: _tensor(values, name, (count, *rows, values["num_classes"]), 1.5, dtype, shift=-2.0)
        for name in ("reused_cls", "teacher_cls")
    }
    boxes = {
        name: _tensor(values, name, (count, *rows, 4), 0.8, dtype).sigmoid() for name in ("reused_box", "teacher_box")
    }
    given = logits | boxes
    ours = {name: given[name].requires_grad_() for name in ("reused_cls", "reused_box")}
    layers = [
        (
            LayerPredictions(given["reused_cls"][layer], given["reused_box"][layer]),
            LayerPredictions(given["teacher_cls"][layer], given["teacher_box"][layer]),
        )
        for layer in range(count)
    ]
    losses = mimic_queries("crosskd", layers, [tuple(shape) for shape in values["img_shapes"]], config(values))
    total = torch.stack([value.sum() for value in losses.values()]).sum()
    total.backward()
    gradients = {name: tensor.grad for name, tensor in ours.items()}
    return {
        "input_summary": {name: summary(tensor) for name, tensor in given.items()},
        "losses": losses_by_layer(losses),
        "total": total.item(),
        "reg_weight_sum": [x.sigmoid().amax(-1).sum().item() for x in given["teacher_cls"]],
        "grad_l2": {name: norm([gradient]) for name, gradient in gradients.items()},
        "grad_samples": {name: _samples(gradient) for name, gradient in gradients.items()},
    }


def _tensor(
    values: Mapping[str, Any], key: str, shape: tuple[int, ...], scale: float, dtype: torch.dtype, shift: float = 0.0
) -> Tensor:
    drawn = np.float32(scale) * weight_rule.draw(key, shape, values["seed"]) + np.float32(shift)
    return torch.from_numpy(drawn).to(dtype)


def _samples(tensor: Tensor) -> list[float]:
    flat = tensor.flatten()
    return [flat[j * STEP % len(flat)].item() for j in range(SAMPLES)]


# --- layers replayed --------------------------------------------------------------------------------------------------


def _replay(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    (port, filled), layers, width = _decoder(values, dtype), values["layers"], values["embed_dims"]
    shapes = tuple((height, width) for height, width in values["spatial_shapes"])
    batch, keys = values["batch"], sum(height * width for height, width in shapes)
    rows = (batch, values["queries"])
    names = ("student_memory", "teacher_memory")
    given = {name: _tensor(values, name, (batch, keys, width), 1.0, dtype) for name in names}
    given["query_pos"] = _tensor(values, "query_pos", (*rows, width), 1.0, dtype)
    count = layers if values["query_mode"] == "student" else 1
    queries = [_tensor(values, f"query.{layer}", (*rows, width), 1.0, dtype).requires_grad_() for layer in range(count)]
    references = [
        _tensor(values, f"reference.{m}", (*rows, 4 if m else values["reference_dim"]), 0.8, dtype).sigmoid()
        for m in range(layers + 1)
    ]
    ours, own = (_memory(values, given[name], shapes) for name in names)
    for name in ("student_memory", "query_pos"):
        given[name].requires_grad_()
    if values["query_mode"] == "student":
        states = [DecoderState(m, queries[m], given["query_pos"], references[m]) for m in range(layers)]
        states_of = [(port.layer(state, ours), port.layer(state, own)) for state in states]
    else:
        way = port.decode(DecoderState(0, queries[0], given["query_pos"], references[0]), own)
        references = [references[0], *(seen.predictions.boxes.detach() for seen in way)]
        states_of = [(port.layer(seen.state, ours), seen.hidden) for seen in way]
    reused, theirs = (list(each) for each in zip(*states_of, strict=True))
    grad_out = _tensor(values, "grad_out", (layers, *rows, width), 1.0, dtype)
    dot = (torch.stack(reused) * grad_out).sum()
    dot.backward()
    return {
        "input_summary": {name: summary(tensor) for name, tensor in given.items()}
        | {"query": [summary(query) for query in queries]},
        "reused_hidden_states": tens(reused),
        "teacher_hidden_states": tens(theirs),
        "reused_first_query": reused[0][1, 0].tolist(),
        "teacher_first_query": theirs[0][1, 0].tolist(),
        "references": [reference.tolist() for reference in references],
        "dot_with_grad_out": dot.item(),
        "grad_l2": {name: norm([given[name].grad]) for name in ("student_memory", "query_pos")}
        | {"query": [norm([query.grad]) for query in queries]},
        "state_dict": filled,
    }


def _memory(values: Mapping[str, Any], cells: Tensor, shapes: tuple[tuple[int, int], ...]) -> Memory:
    """Image 1's keys beyond its share of the columns are padding."""
    ratios = torch.tensor(values["valid_ratios"], dtype=cells.dtype)
    valid = [
        torch.stack([torch.arange(width).expand(height, width) < width * ratio[0] for ratio in ratios[:, level]])
        for level, (height, width) in enumerate(shapes)
    ]
    mask = torch.cat([each.flatten(1) for each in valid], 1)
    if (~mask).sum(1).tolist() != values["masked_keys"]:
        raise UnknownSettingError(f"unknown masked_keys {values['masked_keys']}")
    return Memory(cells, shapes, mask, ratios)


def _decoder(values: Mapping[str, Any], dtype: torch.dtype) -> tuple[Port, dict[str, list[int]]]:
    """And the shapes of what the case's `state_dict` lists, which is all that a decoder and the refinement have."""
    model = detr_library.build(
        "deformable_detr",
        d_model=values["embed_dims"],
        decoder_layers=max(2, values["layers"]),  # of one layer alone the library builds none
        decoder_attention_heads=values["num_heads"],
        decoder_n_points=values["num_points"],
        num_feature_levels=values["num_levels"],
        decoder_ffn_dim=64,
        two_stage=False,
        with_box_refine=values["with_box_refine"],
    )
    filled = fill(model, values["state_dict"], values["seed"])
    set_anew = {id(tensor) for theirs in values["state_dict"] for tensor in places(model, theirs)}
    parts = [model.model.decoder.layers, model.bbox_embed]
    if not all(id(p) in set_anew for part in parts for p in part[: values["layers"]].parameters()):
        raise UnknownSettingError("the case has no weights for all of the decoder")
    return port_of(model.to(dtype)), filled


# --- weights ----------------------------------------------------------------------------------------------------------


def places(model: Any, theirs: str) -> list[Tensor]:
    """The tensors of the library's model that are, one below the other, MMDetection's `theirs`."""
    for pattern, ours in PARTS.items():
        found = re.fullmatch(rf"{pattern}(?P<rest>[._].*)?", theirs)
        if found is None:
            continue
        name = found.expand(ours) + (found["rest"] or "")
        if ".in_proj_" not in name:
            return [model.get_parameter(name)]
        return [model.get_parameter(name.replace("in_proj_", f"{part}_proj.")) for part in "qkv"]
    raise UnknownSettingError(f"no place for {theirs}")


@torch.no_grad()
def fill(model: Any, names: Iterable[str], seed: int) -> dict[str, list[int]]:
    """Set what MMDetection calls `names` by the rule -> the shape of each, as ours is."""
    shapes = {}
    for theirs in names:
        ours = places(model, theirs)
        shape = (sum(len(tensor) for tensor in ours), *ours[0].shape[1:])
        value = torch.from_numpy(_value(theirs, shape, seed))
        for tensor, part in zip(ours, value.split([len(tensor) for tensor in ours]), strict=True):
            tensor.copy_(part)
        shapes[theirs] = list(shape)
    return shapes


def _value(key: str, shape: tuple[int, ...], seed: int) -> Any:
    f, n, last = np.float32, weight_rule.draw(key, shape, seed), key.rsplit(".", 1)[-1]
    is_weight, gain = last == "weight", f(1.0 / math.sqrt(shape[-1]))
    if re.search(r"(norms\.\d+|_trans_norm)\.(weight|bias)$", key):
        return f(1.0) + f(0.1) * n if is_weight else f(0.1) * n
    if key.endswith("level_embed"):
        return f(0.5) * n
    if "sampling_offsets." in key:
        return f(0.5 / math.sqrt(shape[-1])) * n if is_weight else f(1.5) * n
    if ".cls_branches." in key:
        return gain * n if is_weight else f(-2.0) + f(0.1) * n
    if re.search(r"reg_branches\.\d+\.4\.", key):
        return f(0.5 / math.sqrt(shape[-1])) * n if is_weight else f(0.1) * n
    return gain * n if len(shape) == 2 else f(0.05) * n
