"""What the teacher makes of images, made once and kept: neither its backbone nor its head runs for what is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from crosskd.detectors.view import SHAPES, Kept
from crosskd.distill.cache import keys
from crosskd.distill.cache.entries import Entry, narrowed, size_of, widened
from crosskd.distill.cache.stores import Store
from crosskd.spec.config import TeacherCacheConfig
from crosskd.structures import Shown, Size, Targets

log = logging.getLogger(__name__)

# Images [N, 3, H, W] of a canvas, and their (height, width) in it -> what is kept of each.
See = Callable[[Tensor, Targets], Kept]
MIB = 2**20


@dataclass
class Uses:
    """Of images since a start: found, not found; and how often the teacher ran."""

    hits: int = 0
    misses: int = 0
    runs: int = 0


class TeacherCache:
    """Called with a batch, it says what the teacher makes of it, and has the teacher `see` what is not known.

    What is seen goes through the form in which it is kept in any case, so that an image means the same the first time
    and later. The teacher sees as many images at once as the batch has, whatever is missing: what it says of one of
    them then does not depend on how many others were known.
    """

    def __init__(self, store: Store, config: TeacherCacheConfig, *, mirrors: bool) -> None:
        """`mirrors`: images come mirrored as well as they stand. Where one of both is missing, both are made: so all
        views are known from the second epoch on."""
        self.store, self.mirrors = store, mirrors
        self.dtype = {"float32": torch.float32, "float16": torch.float16}[config.dtype]
        self.config = config
        self.whole, self.since = Uses(), Uses()
        self.view_bytes = 0

    def __call__(self, images: Tensor, targets: Targets, see: See) -> Kept:
        """images [N, 3, H, W], normalised for the student and padded; the targets say what each shows."""
        assert targets.shown is not None
        canvas, kind = (images.shape[-2], images.shape[-1]), keys.precision(images)
        wanted = [keys.view_key(shown, canvas, kind) for shown in targets.shown]
        found = dict(zip(wanted, self.store.read(wanted), strict=True))
        missing = [index for index, key in enumerate(wanted) if found[key] is None]
        self._count(len(wanted) - len(missing), len(missing))
        if missing:
            made = self._made(images, targets, missing, (canvas, kind), see)
            self.store.write({key: entry for key, entry in made.items() if found.get(key) is None})
            found |= made
        return self._batch([entry for key in wanted if (entry := found[key]) is not None], images, kind)

    def figures(self) -> dict[str, float]:
        """Of the images since the last call, for the metrics; MiB that are kept so far. Of this rank."""
        told, self.since = self.since, Uses()
        found = {"teacher_cache_hits": told.hits, "teacher_cache_misses": told.misses}
        return {name: float(value) for name, value in found.items()} | {
            "teacher_cache_damaged": float(self.store.damaged),
            "teacher_cache_mib": self.store.bytes / MIB,
        }

    def summary(self) -> dict[str, Any]:
        """For a manifest: of this sitting and this rank."""
        return self.config.model_dump(mode="json") | asdict(self.whole) | {
            "damaged": self.store.damaged,
            "bytes": self.store.bytes,
            "bytes_per_view": self.view_bytes,
            "full": self.store.full,
        }  # fmt: skip

    def _count(self, hits: int, misses: int) -> None:
        for uses in (self.whole, self.since):
            uses.hits += hits
            uses.misses += misses

    def _made(
        self, images: Tensor, targets: Targets, missing: Sequence[int], place: tuple[Size, str], see: See
    ) -> dict[str, Entry]:
        """By key what the teacher says of the missing images, and of their mirror images that are not known either."""
        shown = targets.shown or []
        views = {keys.view_key(shown[index], *place): (index, False) for index in missing}
        if self.mirrors and not self.store.full:  # or they would be made again and again, and thrown away
            for index in missing:
                other = keys.view_key(Shown(shown[index].digest, not shown[index].mirrored), *place)
                if other not in views and not self.store.has(other):
                    views[other] = (index, True)
        made: dict[str, Entry] = {}
        known, count = list(views.items()), len(images)
        for start in range(0, len(known), count):
            part = known[start : start + count]
            filled = part + [part[-1]] * (count - len(part))
            entries = self._seen(images, targets, [view for _, view in filled], see)
            made |= {key: entry for (key, _), entry in zip(part, entries, strict=False)}
        return made

    def _seen(self, images: Tensor, targets: Targets, views: Sequence[tuple[int, bool]], see: See) -> list[Entry]:
        """What the teacher says of each view: an image of the batch, or that image turned round."""
        sizes = [targets.sizes[index] for index, _ in views]
        batch = torch.stack(
            [mirrored(images[index], targets.sizes[index]) if turned else images[index] for index, turned in views]
        )
        nothing = [targets.boxes[0][:0]] * len(views), [targets.labels[0][:0]] * len(views)
        kept = see(batch, Targets(*nothing, sizes, [targets.padded[index] for index, _ in views]))
        self._count_run()
        stored = {name: x.cpu() for name, x in narrowed(kept, self.dtype).items()}
        entries = [{name: x[index].contiguous().clone() for name, x in stored.items()} for index in range(len(views))]
        if not self.view_bytes:
            self.view_bytes = size_of(entries[0])
            parts: dict[str, int] = {}
            for name, x in entries[0].items():
                part = name.partition(".")[0]
                parts[part] = parts.get(part, 0) + size_of({name: x})
            listed = ", ".join(f"{name} {size / MIB:.3f}" for name, size in parts.items())
            log.info("the teacher cache keeps %.3f MiB of a view of an image: %s", self.view_bytes / MIB, listed)
        return entries

    def _count_run(self) -> None:
        self.whole.runs += 1
        self.since.runs += 1

    def _batch(self, entries: Sequence[Entry], images: Tensor, kind: str) -> Kept:
        """Entry by entry, on the images' device."""
        with torch.autocast(
            images.device.type, enabled=False
        ):  # to bfloat16, it refuses to join what is kept in halves
            joined = {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}
            moved = {name: x if name.startswith(SHAPES) else _to(x, images.device) for name, x in joined.items()}
            return widened(moved, getattr(torch, kind.removeprefix("torch.")))


def mirrored(image: Tensor, size: Size) -> Tensor:
    """An image [3, H, W] turned left to right within its (height, width); what is outside stays."""
    height, width = size
    out = image.clone()
    out[:, :height, :width] = image[:, :height, :width].flip(-1)
    return out


def _to(x: Tensor, device: torch.device) -> Tensor:
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x
