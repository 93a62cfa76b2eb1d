"""Non-maximum suppression within each class: one result, whatever the device, the classes and the candidates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from crosskd.structures import Detections


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """What is left of boxes [D, 4] with scores [D] and labels [D]: their indices [D'], best score first.

    A box goes that overlaps a better one of its class by an IoU above `threshold`, which is a float32, as in ONNX. Of
    equal scores the first counts as the better one.

    Each class is gone through by itself, on the CPU. torchvision's `batched_nms` does so only where there are many
    candidates, how many depends on the device; it moves few apart instead, class by class, and their corners are
    rounded: of 80 classes in an image of 1333 pixels to a 128th of a pixel, of 1,203 to an eighth.
    """
    device, limit = boxes.device, float(np.float32(threshold))
    boxes, scores, labels = boxes.cpu(), scores.cpu(), labels.cpu()
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    counts = torch.unique_consecutive(labels[order], return_counts=True)[1].tolist()
    kept = [
        rows if len(rows) == 1 else rows[nms(boxes[rows], scores[rows], limit)] for rows in torch.split(order, counts)
    ]
    left = torch.cat([order[:0], *kept]).sort().values
    return left[scores[left].argsort(descending=True, stable=True)].to(device)


def class_nms(boxes: Tensor, scores: Tensor, labels: Tensor, *, threshold: float, keep: int) -> Detections:
    """Suppression within each class, after dropping boxes without area: [D', 4] -> the best `keep`."""
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
    kept = suppress(boxes, scores, labels, threshold)[:keep]
    return Detections(boxes[kept], scores[kept], labels[kept])
