"""A graph of a few nodes that says of itself what an exported one says: no detector is needed to make it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CLASSES = ["ring", "<script>alert(1)</script>\x1b[31m"]
SCALE = {"val_short_edge": 64, "long_edge": 96, "pad_to": 32, "antialias": True, "sixteen_bit": "high_byte"}
IDS = [7, 3]
FOUND = [("ring", 0.9, (0.0, 0.0, 0.5, 0.5)), (CLASSES[1], 0.2, (0.25, 0.5, 0.75, 0.25))]  # x, y, width, height


def tiny_graph(**metadata: Any) -> bytes:
    """Finds `FOUND` in every image, as shares of its sides. An image that is higher than wide it never ends with."""
    corners = np.array([[[0, 0, 0.5, 0.5], [0.25, 0.5, 1, 0.75]]], np.float32)
    constants = {
        "corners": corners,
        "order": np.array([1, 0, 1, 0]),
        "row": np.array([0]),
        "column": np.array([1]),
        "one": np.array([1]),
        "for_ever": np.array([2**60]),
        "scores": np.array([[0.9, 0.2]], np.float32),
        "labels": np.array([[0, 1]]),
        "counts": np.array([2]),
        "flat": np.array([], np.int64),
        "going": np.array(True),
        "zero": np.array([0.0], np.float32),
    }
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["still"]),
            helper.make_node("Add", ["sum", "sum"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["sizes", "order"], ["whwh"], axis=1),
        helper.make_node("Cast", ["whwh"], ["sides"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["sides", "one"], ["scaled"]),
        helper.make_node("Mul", ["corners", "scaled"], ["whole"]),
        helper.make_node("Gather", ["sizes", "row"], ["height"], axis=1),
        helper.make_node("Gather", ["sizes", "column"], ["width"], axis=1),
        helper.make_node("Greater", ["height", "width"], ["tall"]),
        helper.make_node("Cast", ["tall"], ["tall_number"], to=TensorProto.INT64),
        helper.make_node("Mul", ["tall_number", "for_ever"], ["trips"]),
        helper.make_node("Reshape", ["trips", "flat"], ["trip_count"]),
        helper.make_node("Loop", ["trip_count", "going", "zero"], ["nothing"], body=body),
        helper.make_node("Add", ["whole", "nothing"], ["boxes"]),
        *(helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("scores", "labels", "counts")),
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"]),
        helper.make_tensor_value_info("sizes", TensorProto.INT64, ["batch", 2]),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("scores_out", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("labels_out", TensorProto.INT64, None),
        helper.make_tensor_value_info("counts_out", TensorProto.INT64, None),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    told = {"classes": CLASSES, "scale": SCALE, "category_ids": IDS} | metadata
    helper.set_model_props(
        model, {key: json.dumps(value) for key, value in told.items() if value is not None} | {"weights_sha256": "ab"}
    )
    return bytes(model.SerializeToString())
