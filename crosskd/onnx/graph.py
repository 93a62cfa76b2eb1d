"""A detector as one ONNX graph, from pixels to detections: normalisation, network, decoding and NMS."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset18
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.boxes.suppression import suppress
from crosskd.detectors.dense.head import flatten, map_sizes
from crosskd.detectors.dense.tower_convs import best_class
from crosskd.detectors.detector import Detector
from crosskd.errors import ExportError
from crosskd.losses import at_least_float32
from crosskd.onnx.same_padding import traceable_padding
from crosskd.spec.config import PostprocessConfig
from crosskd.structures import Predictions
from crosskd.weights.files import replacing

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "labels", "counts")
op: Any = opset18  # its types do not know that a constant may stand for a tensor
NOBODY = -1  # the label of a row behind the last detection


class Pipeline(nn.Module):
    """What `Detector.detect` does, in shapes that depend on the number and size of the images and not on their pixels.

    Images [N, 3, H, W], RGB, 0..255, and their sizes [N, 2] (height, width; what lies beyond is padding, whatever it
    holds) -> boxes [N, D, 4] in pixels of the input, clipped to the sizes (YOLOX's are not); scores [N, D] in
    descending order; labels [N, D]; counts [N]. D is `max_detections`. The rows behind an image's count are 0, with the
    label -1.
    """

    mean: Tensor
    std: Tensor
    outside: Tensor | float

    def __init__(self, detector: Detector, postprocess: PostprocessConfig) -> None:
        super().__init__()
        self.detector, self.postprocess = detector, postprocess
        pixels = detector.config.pixels
        self.channels = [0, 1, 2] if pixels.order == "rgb" else [2, 1, 0]
        self.register_buffer("mean", torch.tensor(pixels.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(pixels.std)[:, None, None])
        if pixels.padding is not None:
            self.register_buffer("outside", torch.tensor(pixels.outside)[:, None, None])
        else:
            self.outside = 0.0

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head = self.detector.head
        predictions = head(self.detector.features(self._normalised(images, sizes)))
        anchors = head.anchors(map_sizes(predictions.cls), at_least_float32(predictions.cls[0]))
        scores, anchor, labels = self._candidates(predictions)  # [N, P] each
        decoded = head.decode(head.codes(predictions), anchors)  # [N, A, 4]
        boxes = decoded.gather(1, anchor[..., None].expand(-1, -1, 4))  # [N, P, 4]
        boxes = _clipped(boxes, sizes) if head.clips else boxes
        solid = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        return self._best(boxes, torch.where(solid, scores, 0.0), labels)

    def _normalised(self, images: Tensor, sizes: Tensor) -> Tensor:
        """As in the training, also where padded."""
        images = (images[:, self.channels] - self.mean) / self.std
        rows = torch.arange(images.shape[2])[:, None] < sizes[:, 0, None, None]  # [N, H, 1]
        columns = torch.arange(images.shape[3]) < sizes[:, 1, None, None]  # [N, 1, W]
        return torch.where((rows & columns)[:, None], images, self.outside)

    def _candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Score, anchor and label of the `pre_nms` best (anchor, class) pairs of each level; score 0: there are fewer.

        See `DenseHead.detect`.
        """
        config, classes = self.postprocess, self.detector.num_classes
        scores, anchors, labels, start = [], [], [], 0
        for level, logits in enumerate(predictions.cls):
            score = flatten([logits], classes).sigmoid()  # [N, A_l, K]
            centre = None
            if predictions.centerness is not None:
                centre = flatten([predictions.centerness[level]], 1).sigmoid()  # [N, A_l, 1]
            if centre is not None and config.score == "root":
                score, centre = (score * centre).sqrt(), None
            if predictions.objectness is not None:
                score = score * flatten([predictions.objectness[level]], 1).sigmoid()
                score = torch.where(best_class(score), score, 0.0)
            count = score.shape[1]
            passed = torch.where(score > config.score_threshold, score, 0.0).flatten(1)
            best, pair = F.pad(passed, (0, config.pre_nms)).topk(config.pre_nms, dim=1)
            pair = torch.where(best > 0, pair, 0)
            anchor = pair // classes
            scores.append(best if centre is None else best * centre[..., 0].gather(1, anchor))
            anchors.append(anchor + start)
            labels.append(pair % classes)
            start = start + count
        return torch.cat(scores, dim=1), torch.cat(anchors, dim=1), torch.cat(labels, dim=1)

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The `max_detections` best of the candidates that survive NMS within their classes."""
        keep = self.postprocess.max_detections
        own = labels[:, None] == torch.arange(self.detector.num_classes)[:, None]  # [N, K, P]
        kept = nms_mask(boxes, torch.where(own, scores[:, None], 0.0), self.postprocess.nms_iou, keep)
        scores, row = F.pad(torch.where(kept, scores, 0.0), (0, keep)).topk(keep, dim=1)
        there = scores > 0
        row = torch.where(there, row, 0)
        boxes = boxes.gather(1, row[..., None].expand(-1, -1, 4))
        return (
            torch.where(there[..., None], boxes, 0.0),
            scores,
            torch.where(there, labels.gather(1, row), NOBODY),
            there.sum(dim=1),
        )


def _clipped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [N, P, 4] inside their images, sizes [N, 2]."""
    limits = sizes.flip(1).to(boxes.dtype).repeat(1, 2)[:, None]  # [N, 1, 4] width, height, width, height
    return torch.minimum(boxes.clamp(min=0), limits)


@torch.library.custom_op("crosskd::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, iou: float, keep: int) -> Tensor:
    """Which candidates non-maximum suppression within each class leaves, the `keep` best: -> [N, P] bool.

    Boxes [N, P, 4]; scores [N, K, P], 0 but for the class of the candidate, or wholly where there is none. An operator
    of its own: PyTorch's takes one image, and returns as many rows as it finds, which has no shape to be traced.
    """
    scores, labels = scores.max(dim=1)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        rows = (scores[image] > 0).nonzero()[:, 0]
        best = suppress(boxes[image, rows], scores[image, rows], labels[image, rows], iou)[:keep]
        kept[image, rows[best]] = True
    return kept


@nms_mask.register_fake
def _nms_mask_shape(boxes: Tensor, scores: Tensor, iou: float, keep: int) -> Tensor:  # noqa: ARG001 - as above
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


def _nms_mask_in_onnx(boxes: Any, scores: Any, iou: float, keep: int) -> Any:
    """`nms_mask` in ONNX; the best `keep` of each class are at least those of all."""
    selected = op.NonMaxSuppression(  # [M, 3] image, class, candidate
        boxes,
        scores,
        op.Constant(value_ints=[keep]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[0.0]),
    )
    place = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)  # [M, 2]
    ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(selected), [0], [1]))
    zeros = op.ConstantOfShape(op.Slice(op.Shape(boxes), [0], [2]))  # [N, P]
    return op.Cast(op.ScatterND(zeros, place, ones), to=onnx.TensorProto.BOOL)


def write_graph(pipeline: Pipeline, path: Path, *, opset: int, metadata: Mapping[str, str]) -> None:
    """Write `pipeline` as an ONNX file whose batch, height and width are free, wholly or not at all.

    Raises `ExportError` where the model has an operation that ONNX has not.
    """
    # The exporter takes a side of one for a constant, and equal ones for the same: no level may have either.
    coarsest = max(pipeline.detector.strides)
    batch, height, width = 2, 3 * coarsest, 4 * coarsest
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
                custom_translation_table={torch.ops.crosskd.nms_mask.default: _nms_mask_in_onnx},
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
    _name_axes(program.model)
    program.model.metadata_props.update(metadata)
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)


def _name_axes(model: Any) -> None:
    """The exporter numbers the free axes; whoever opens the file shall read what they are."""
    images, sizes = model.graph.inputs
    names = {str(images.shape[axis]): name for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    for value in (images, sizes, *model.graph.outputs):
        value.shape = type(value.shape)([names.get(str(side), side) for side in value.shape])
