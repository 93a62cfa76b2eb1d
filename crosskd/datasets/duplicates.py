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
    groups = list(by_hash.values())
    trained = np.array([any(split == TRAIN for split, _ in _all(files)) for files in groups], dtype=bool)
    tested = np.array([any(split != TRAIN for split, _ in _all(files)) for files in groups], dtype=bool)
    near = np.array([len(files) > 1 for files in groups], dtype=bool)
    leaking = np.zeros(len(groups), dtype=bool)  # near a training image of another hash
    leaks: set[Member] = set()
    for files in groups:
        if len(files) > 1:
            _add(found.near_first, 0, files[0][0], files[1][0])
            for member, other in _inside(files):
                leaks.add(member)
                _add(found.near_leaks_first, 0, other, member)
    for pairs in near_pairs(np.array(list(by_hash), dtype=np.uint64)):
        near[pairs[:, :2]] = True
        for i, j, distance in pairs[: FIRST - len(found.near_first)].tolist():
            _add(found.near_first, distance, groups[i][0][0], groups[j][0][0])
        both = np.concatenate([pairs, pairs[:, [1, 0, 2]]])
        both = both[trained[both[:, 0]] & tested[both[:, 1]]]
        leaking[both[:, 1]] = True
        for i, j, distance in both[: FIRST - len(found.near_leaks_first)].tolist():
            member = next(member for member in _all(groups[j]) if member[0] != TRAIN)
            _add(found.near_leaks_first, distance, _trained(groups[i]), member)
    for place in np.flatnonzero(leaking).tolist():
        leaks.update(member for member in _all(groups[place]) if member[0] != TRAIN)
    found.near = sum(len(members) for place in np.flatnonzero(near).tolist() for members in groups[place])
    found.near_leaks = len(leaks)


def _all(files: Sequence[Sequence[Member]]) -> Iterator[Member]:
    return (member for members in files for member in members)


def _trained(files: Sequence[Sequence[Member]]) -> Member:
    return next(member for member in _all(files) if member[0] == TRAIN)


def _inside(files: Sequence[Sequence[Member]]) -> Iterator[tuple[Member, Member]]:
    """Of the files of one hash: each image that is not trained on, with a training image that is another file."""
    trained = [place for place, members in enumerate(files) if any(split == TRAIN for split, _ in members)]
    for place, members in enumerate(files):
        other = next((each for each in trained[:2] if each != place), None)
        if other is not None:
            yield from ((member, _trained([files[other]])) for member in members if member[0] != TRAIN)


def near_pairs(values: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """[n, 3] places i < j of hashes, all unlike, that differ in at most `NEAR` bits, and in how many; each pair once.

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
) -> Iterator[NDArray[np.int64]]:
    """Pairs of one bucket, but for those that an earlier band has found. Its places ascend: the order was stable."""
    inside = values[bucket]
    for start in range(0, len(bucket), ROWS):
        differ = inside[start : start + ROWS, None] ^ inside[None, start:]
        distances = np.bitwise_count(differ)
        rows, columns = np.nonzero(np.triu(distances <= NEAR, k=1))
        found = differ[rows, columns]
        new = np.ones(len(found), dtype=bool)
        for mask in earlier:
            new &= (found & mask) != 0
        rows, columns = rows[new], columns[new]
        if len(rows):
            yield np.stack([bucket[rows + start], bucket[columns + start], distances[rows, columns]], axis=1).astype(
                np.int64
            )


def _same(sha256: str, members: Sequence[Member]) -> SameImages:
    return SameImages(sha256=sha256, images=[_name(member) for member in members[:FIRST]])


def _add(first: list[NearImages], distance: int, *members: Member) -> None:
    if len(first) < FIRST:
        first.append(NearImages(distance=distance, images=[_name(member) for member in members]))


def _name(member: Member) -> ImageName:
    return ImageName(split=member[0], file_name=member[1])
