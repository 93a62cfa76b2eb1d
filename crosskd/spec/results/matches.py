"""The form of a file of matches, for whoever writes it and whoever reads it. Imports no torch and no numpy.

A safetensors file. Its metadata has one entry, `KEY`, with JSON: `format`, `classes` in label order, `ious`,
`max_detections` (COCO's limits), `as_is`, and `truth_sha256`, the digest of the ground truth of its images. Its arrays,
for I images, K classes, D detections, P states, G pairs of a class and an image with boxes of it:

- `image_ids` [I]
- `starts` [K + 1]: the detections of class k are `starts[k]` up to `starts[k + 1]`, sorted as COCO's evaluation does
- `images`, `scores`, `states` [D]: where in `image_ids`, the score, and which of the states: 8 bytes a detection
- `state_bits` [P, 10]: 80 bits, packed: [2, 4, 10] of (right, counted), `AREAS`, `IOUS`
- `truth_classes`, `truth_images` [G] and `truth_counts` [G, 4]: boxes that are to be found, by area
"""

from __future__ import annotations

FORMAT = 1
KEY = "crosskd_matches"
AREAS = ("all", "small", "medium", "large")
IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
MOST_BYTES = 64 * 2**20  # of a file: ten times what COCO's validation split leaves
BITS = 2 * len(AREAS) * len(IOUS)
