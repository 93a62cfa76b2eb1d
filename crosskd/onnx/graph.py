"""A detector as one ONNX graph, from pixels to detections: normalisation, network, decoding and NMS."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from crosskd.errors import ExportError
from crosskd.onnx.operators import TRANSLATIONS
from crosskd.onnx.pipeline import INPUTS, OUTPUTS, Pipeline
from crosskd.onnx.same_padding import traceable_padding
from crosskd.weights.files import replacing


def write_graph(pipeline: Pipeline, path: Path, *, opset: int, metadata: Mapping[str, str]) -> None:
    """Write `pipeline` as an ONNX file whose batch, height and width are free, wholly or not at all.

    Raises `ExportError` where the model has an operation that ONNX has not.
    """
    # The exporter takes a side of one for a constant, and equal ones for the same: no level may have either.
    least, step = pipeline.detector.least_side, pipeline.detector.step
    unit = math.lcm(max(pipeline.detector.strides), step)
    batch, steps = 2, max(3, math.ceil(least / unit))
    height, width = steps * unit, (steps + 1) * unit
    inputs = (torch.zeros(batch, 3, height, width), torch.tensor([[height, width]] * batch))
    free = torch.export.Dim.DYNAMIC
    try:
        with traceable_padding(), warnings.catch_warnings(action="ignore"):  # of the exporter's own matters
            program = torch.onnx.export(
                pipeline.eval(),
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: free, 2: free, 3: free}, {0: free}),
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "no reason given")
        raise ExportError(
            f"the model cannot be written as ONNX: {reason.strip()}",
            where="/model/backbone/name",
            remedy="Its backbone has an operation that the exporter does not know with free image sizes; use another.",
        ) from error
    assert program is not None
    _keep_constants(program.model)
    pipeline.complete(program.model)
    if least or step > 1:
        _pad(program.model, least, step)
    _name_axes(program.model)
    program.model.metadata_props.update(metadata)
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)


def _keep_constants(model: Any) -> None:
    """The exporter loses a constant where it fuses the limits of one value twice, as Deformable DETR's references."""
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.producer() is None:
                model.graph.initializers.setdefault(value.name, value)


def _pad(model: Any, least: int, step: int) -> None:
    """Images are padded before all else, to `least` pixels a side and to a multiple of `step`.

    What is traced is what the detector does with images that are as large already.
    """
    images = model.graph.inputs[0]
    numbers = {"least": [least], "below": [step - 1], "step": [step], "begin": [0] * 6}
    constants = {name: ir.Value(name=f"pad_{name}", const_value=ir.tensor(value)) for name, value in numbers.items()}
    shape = ir.node("Shape", [images], {"start": 2})
    nodes = [shape]

    def then(operator: str, *given: Any, **how: Any) -> Any:
        nodes.append(ir.node(operator, list(given), how))
        return nodes[-1].outputs[0]

    wanted = then("Max", shape.outputs[0], constants["least"])
    if step > 1:
        steps = then("Div", then("Add", wanted, constants["below"]), constants["step"])
        wanted = then("Mul", steps, constants["step"])
    pads = then("Concat", constants["begin"], then("Sub", wanted, shape.outputs[0]), axis=0)
    padded = then("Pad", images, pads)
    padded.name, padded.type = "padded_images", images.type
    for user, place in images.uses():
        if user not in (shape, padded.producer()):
            user.replace_input_with(place, padded)
    for value in constants.values():
        if value.uses():
            model.graph.register_initializer(value)
    model.graph.insert_before(model.graph[0], nodes)


def _name_axes(model: Any) -> None:
    """The exporter numbers the free axes; whoever opens the file shall read what they are."""
    images, sizes = model.graph.inputs
    names = {str(images.shape[axis]): name for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    for value in (images, sizes, *model.graph.outputs):
        value.shape = type(value.shape)([names.get(str(side), side) for side in value.shape])
