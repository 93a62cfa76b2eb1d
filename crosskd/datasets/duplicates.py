"""Images that are there more than once: by the bytes of their files, and by a perceptual hash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crosskd.datasets.model import TRAIN, Source
from crosskd.datasets.perceptual import BITS
from crosskd.spec.results.dataset_report import FIRST, Duplicates, ImageName, NearImages, SameImages

NEAR = 4  # bits, of 64, in which the hashes of two images may differ that nearly show the same
ROWS = 256  # hashes that are compared with all of their bucket at once: bounds the memory

Member = tuple[str, str]  # split, name


def find_duplicates(source: Source, *, near: bool) -> Duplicates:
    """All of them counted, the first named. Without `near` perceptual hashes are not looked at."""
    by_content: defaultdict[str, list[Member]] = defaultdict(list)
    hashes: dict[str, int] = {}
    for split, images in source.ordered():
        for image in images:
            by_content[image.sha256].append((split, image.name))
            if image.phash is not None:
                hashes[image.sha256] = image.phash
    same = [(sha256, members) for sha256, members in by_content.items() if len(members) > 1]
    leaking = [(sha256, members) for sha256, members in same if _leaks(members)]
    found = Duplicates(
        exact=sum(len(members) - 1 for _, members in same),
        exact_first=[_same(*group) for group in same[:FIRST]],
        near=None,
        near_first=[],
        leaks=sum(split != TRAIN for _, members in leaking for split, _ in members),
        leaks_first=[_same(*group) for group in leaking[:FIRST]],
        near_leaks=None,
        near_leaks_first=[],
    )
    if near:
        _find_near(found, by_content, hashes)
    return found


def _leaks(members: Sequence[Member]) -> bool:
    return len({split == TRAIN for split, _ in members}) == 2


def _find_near(found: Duplicates, by_content: dict[str, list[Member]], hashes: dict[str, int]) -> None:
    """Of files that are not the same. Those of one hash are compared as one, so that many blank images cost nothing."""
    by_hash: defaultdict[int, list[list[Member]]] = defaultdict(list)
    for sha256, members in by_content.items():
        if sha256 in hashes:
            by_hash[hashes[sha256]].append(members)
    near: set[Member] = set()
    leaks: set[Member] = set()
    for a, b, distance in _pairs(by_hash):
        found_near = [member for members in (*a, *b) for member in members]
        near.update(found_near)
        if len(found.near_first) < FIRST:
            first, second = (a[0][0], b[0][0]) if a is not b else (a[0][0], a[1][0])
            found.near_first.append(_near(distance, first, second))
        _note_leak(found, leaks, a, b, distance)
    found.near, found.near_leaks = len(near), len(leaks)


def _note_leak(
    found: Duplicates, leaks: set[Member], a: list[list[Member]], b: list[list[Member]], distance: int
) -> None:
    """Images of the one that are not trained on, and near a training image of the other; and the other way round."""
    for one, other in [(a, b)] if a is b else [(a, b), (b, a)]:
        trained = [place for place, members in enumerate(one) if any(split == TRAIN for split, _ in members)]
        for place, members in enumerate(other):
            near = next((each for each in trained if one is not other or each != place), None)
            tested = [member for member in members if member[0] != TRAIN]
            if near is None or not tested:
                continue
            leaks.update(tested)
            if len(found.near_leaks_first) < FIRST:
                first = next(member for member in one[near] if member[0] == TRAIN)
                found.near_leaks_first.append(_near(distance, first, tested[0]))


def _pairs(
    by_hash: dict[int, list[list[Member]]],
) -> Iterator[tuple[list[list[Member]], list[list[Member]], int]]:
    """Pairs of hashes that are near, with the files of each: a hash of several files is near itself."""
    for files in by_hash.values():
        if len(files) > 1:
            yield files, files, 0
    values = np.array(list(by_hash), dtype=np.uint64)
    groups = list(by_hash.values())
    for i, j, distance in near_pairs(values):
        yield groups[i], groups[j], distance


def near_pairs(values: NDArray[np.uint64]) -> Iterator[tuple[int, int, int]]:
    """Places i < j of two of the hashes (all different) that differ in at most `NEAR` bits, and in how many.

    Of `NEAR` + 1 bands of bits two such hashes have one in common, so only those with an equal band are compared.
    """
    edges = np.linspace(0, BITS, NEAR + 2).astype(int).tolist()
    masks = [np.uint64(((1 << (high - low)) - 1) << low) for low, high in pairwise(edges)]
    for band, mask in enumerate(masks):
        keys = values & mask
        order = np.argsort(keys, kind="stable")
        bounds = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(order, bounds):
            if len(bucket) > 1:
                yield from _in_bucket(values, bucket, masks[:band])


def _in_bucket(
    values: NDArray[np.uint64], bucket: NDArray[np.intp], earlier: Sequence[np.uint64]
) -> Iterator[tuple[int, int, int]]:
    """Pairs of one bucket, but for those that an earlier band has found."""
    inside = values[bucket]
    for start in range(0, len(bucket), ROWS):
        differ = inside[start : start + ROWS, None] ^ inside[None, :]
        distances = np.bitwise_count(differ)
        rows, columns = np.nonzero(distances <= NEAR)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if column <= row + start or any(not differ[row, column] & mask for mask in earlier):
                continue
            i, j = int(bucket[row + start]), int(bucket[column])
            yield min(i, j), max(i, j), int(distances[row, column])


def _same(sha256: str, members: Sequence[Member]) -> SameImages:
    return SameImages(sha256=sha256, images=[_name(member) for member in members[:FIRST]])


def _near(distance: int, *members: Member) -> NearImages:
    return NearImages(distance=distance, images=[_name(member) for member in members])


def _name(member: Member) -> ImageName:
    return ImageName(split=member[0], file_name=member[1])
