"""With the teacher cache the losses are those without it, and the teacher does not run for what is known."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd.detectors.detector import Detector
from crosskd.distill.cache import keys, stores
from crosskd.distill.cache.entries import size_of
from crosskd.distill.cache.keys import identity
from crosskd.distill.cache.room import Room, folder_bytes
from crosskd.distill.cache.stores import DiskStore, MemoryStore, Store
from crosskd.distill.cache.teacher_cache import TeacherCache, mirrored
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.spec.config import DistillConfig, TeacherCacheConfig
from crosskd.spec.distill.teacher_cache_size import kept
from crosskd.structures import Losses, Shown, Targets
from tests.support import detrs, small

SIZES = [(96, 96), (80, 70), (96, 60)]
CANVAS = (96, 96)
NARROW = {"rtmdet": {"head": {"norm": "batch"}}, "yolox": {"head": {"norm": "batch"}}}
DENSE = ["gfl", "retinanet", "atss", "fcos", "rtmdet", "yolox"]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"crosskd": {}}) for name in DENSE),
    ("gfl", {"crosskd": {"after_relu": False}, "direct": {}, "ld": {}, "pkd": {}}),
    *(("gfl", {name: {}}) for name in ("fgd", "mgd", "skd", "imitation", "gid", "bckd")),
    ("faster_rcnn", {"crosskd": {}}),
    ("deformable_detr", {"crosskd": {}}),
    ("rt_detr", {"crosskd": {"queries": "student"}}),
    ("d_fine", {"direct": {}, "fitnet": {}}),
]


def detector(name: str, seed: int) -> Detector:
    if name == "faster_rcnn":
        return small.two_stage(seed, regions={"samples": 512})  # all there are: none by chance
    if name in detrs.KNOBS:
        return detrs.detector(name, seed)
    return small.detector(seed, detector=name, channels=8, depth=2, strides=[8, 16, 32], **NARROW.get(name, {}))


def pair(name: str, terms: dict[str, Any], student: int = 0) -> Distiller:
    config = DistillConfig.model_validate(terms)
    return build_distiller(detector(name, student), detector(name, 9), config, confidence=0.02).train()


def cached(made: Distiller, store: Store, dtype: str = "float32", *, mirrors: bool = True) -> TeacherCache:
    config = TeacherCacheConfig.model_validate({"dtype": dtype})
    made.cache = TeacherCache(store, config, mirrors=mirrors)
    return made.cache


def batch() -> tuple[Tensor, Targets]:
    images, targets = small.batch(images=len(SIZES), size=CANVAS)
    shown = [Shown(f"image {number}", mirrored=False) for number in range(len(SIZES))]
    return images, replace(targets, sizes=SIZES, padded=[CANVAS] * len(SIZES), shown=shown)


def turned(images: Tensor, targets: Targets, order: list[int]) -> tuple[Tensor, Targets]:
    """The same images the other way round, in another order."""
    assert targets.shown is not None
    sizes = [targets.sizes[i] for i in order]
    shown = [Shown(targets.shown[i].digest, mirrored=not targets.shown[i].mirrored) for i in order]
    boxes = [targets.boxes[i] for i in order]
    labels = [targets.labels[i] for i in order]
    pixels = torch.stack([mirrored(images[i], targets.sizes[i]) for i in order])
    return pixels, Targets(boxes, labels, sizes, [CANVAS] * len(order), shown=shown)


def losses(made: Distiller, images: Tensor, targets: Targets) -> Losses:
    """Of one step, which leaves the student as it was."""
    torch.manual_seed(3)  # MGD's masks, dropout, noisy objects
    state = {name: x.clone() for name, x in made.student.state_dict().items()}
    found = {name: x.detach() for name, x in made(images, targets).items()}
    made.student.load_state_dict(state)
    return found


def without(made: Distiller, images: Tensor, targets: Targets) -> Losses:
    """The losses as they are without a cache."""
    return losses(made, images, replace(targets, shown=None))


def never(*_: Any) -> Any:
    raise AssertionError("the teacher runs")


def the_teacher_rests(made: Distiller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made.teacher, "features", never)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("name", "terms"), CASES)
def test_losses_are_those_without_it(name: str, terms: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair(name, terms)
    images, targets = batch()
    other = turned(images, targets, [2, 0, 1])
    plain, plain_turned = without(made, images, targets), without(made, *other)
    cache = cached(made, MemoryStore(10**9))
    first = losses(made, images, targets)
    the_teacher_rests(made, monkeypatch)
    again, round_again = losses(made, images, targets), losses(made, *other)
    assert cache.summary()["runs"] == 2  # the images, and their mirror images at once
    assert (cache.whole.hits, cache.whole.misses) == (6, 3)
    for loss, wanted in plain.items():
        torch.testing.assert_close(again[loss], wanted, rtol=1e-6, atol=1e-6, msg=loss)
        torch.testing.assert_close(round_again[loss], plain_turned[loss], rtol=1e-6, atol=1e-6, msg=loss)
        assert torch.equal(first[loss], again[loss]), loss  # the first time it means what it means later


@pytest.mark.parametrize("name", DENSE)
def test_what_float16_costs_is_small(name: str) -> None:
    """At most 2.1e-4 of a loss, of these detectors; the documents say 1e-3."""
    made = pair(name, {"crosskd": {}})
    plain = without(made, *batch())
    sizes = {}
    for dtype in ("float32", "float16"):
        cache = cached(made, MemoryStore(10**9), dtype)
        found = losses(made, *batch())
        sizes[dtype] = cache.view_bytes
        apart = [
            float((found[x] - plain[x]).abs().max() / plain[x].abs().max()) for x in ("crosskd_cls", "crosskd_box")
        ]
        assert max(apart) < (1e-3 if dtype == "float16" else 1e-6)
    assert apart != [0.0, 0.0]
    assert sizes["float16"] < 0.6 * sizes["float32"]


@pytest.mark.parametrize("name", ["fcos", "d_fine"])  # whose teachers say some of it in float32
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_mixed_precision_takes_what_is_kept(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair(name, {"crosskd": {}})
    with torch.autocast("cpu", torch.bfloat16):
        plain = without(made, *batch())
        cached(made, MemoryStore(10**9), dtype)
        first = losses(made, *batch())
        the_teacher_rests(made, monkeypatch)
        again = losses(made, *batch())
    for loss, wanted in plain.items():
        torch.testing.assert_close(again[loss], wanted, rtol=1e-3 if dtype == "float16" else 1e-6, atol=1e-6, msg=loss)
        assert torch.equal(first[loss], again[loss]), loss


@pytest.mark.parametrize(
    ("name", "terms"), [("gfl", {"crosskd": {}, "pkd": {}}), ("gfl", {"imitation": {}}), ("rt_detr", {"crosskd": {}})]
)
def test_images_without_labels_are_kept_as_well(
    name: str, terms: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pair(name, terms)
    for module in made.student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    images, targets = batch()
    nothing = (targets.boxes[2][:0], targets.labels[2][:0])
    targets = replace(
        targets, boxes=[*targets.boxes[:2], nothing[0]], labels=[*targets.labels[:2], nothing[1]], unlabelled=1
    )
    plain = without(made, images, targets)
    sure = made.figures()
    cached(made, MemoryStore(10**9))
    losses(made, images, targets)
    made.figures()
    the_teacher_rests(made, monkeypatch)
    found = losses(made, images, targets)
    for loss, wanted in plain.items():
        torch.testing.assert_close(found[loss], wanted, rtol=1e-6, atol=1e-6, msg=loss)
    told = made.figures()
    assert {name: told[name] for name in sure} == sure
    assert (told["teacher_cache_hits"], told["teacher_cache_misses"]) == (3, 0)


def disk(folder: Path, limit: int = 10**9, room: int = 10**9, name: str = "teacher") -> DiskStore:
    return DiskStore(Room(folder, room), name, limit)


def test_another_seed_finds_it_on_disk_and_damage_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pair("gfl", {"crosskd": {}}), pair("gfl", {"crosskd": {}}, student=1)
    images, targets = batch()
    cached(one, disk(tmp_path))
    losses(one, images, targets)
    plain = without(other, images, targets)
    cache = cached(other, store := disk(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(other.teacher, "features", never)
        found = losses(other, images, targets)
    assert cache.whole.runs == 0
    assert store.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 2 * len(SIZES)  # and nothing half-written
    content = files[0].read_bytes()
    for path, bad in zip(files, (content[:-1] + b"?", content[:40], b"", content), strict=False):
        path.write_bytes(bad)  # the last is the sound entry of another view
    again = losses(other, images, targets)
    losses(other, *turned(images, targets, [0, 1, 2]))
    assert store.damaged == 4
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(files)  # made anew
    for loss, wanted in plain.items():
        torch.testing.assert_close(found[loss], wanted, rtol=1e-6, atol=1e-6, msg=loss)
        torch.testing.assert_close(again[loss], wanted, rtol=1e-6, atol=1e-6, msg=loss)


def _canvas(_: Distiller, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    return torch.nn.functional.pad(images, (0, 32)), replace(targets, padded=[(96, 128)] * 3)


def _pixels(_: Distiller, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    return images + 1, replace(targets, shown=[Shown(f"other {n}", mirrored=False) for n in range(3)])


def _precision(_: Distiller, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    return images.double(), targets.to("cpu", torch.float64)


@pytest.mark.parametrize("change", [_canvas, _pixels, _precision])
def test_another_view_is_another_entry(
    change: Callable[[Distiller, Tensor, Targets], tuple[Tensor, Targets]],
) -> None:
    made = pair("gfl", {"crosskd": {}})
    cache = cached(made, MemoryStore(10**9))
    losses(made, *batch())
    changed = change(made, *batch())
    losses(made.to(changed[0].dtype), *changed)
    assert (cache.whole.hits, cache.whole.misses) == (0, 6)


def test_another_teacher_or_another_wish_is_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair("gfl", {"crosskd": {}})
    section = TeacherCacheConfig()

    def name(distiller: Distiller, config: TeacherCacheConfig = section) -> str:
        return identity(distiller.teacher, distiller.needs(), distiller.student.config.pixels, config)

    assert name(made) == name(pair("gfl", {"crosskd": {}}, student=3))  # the student has no say
    others = [
        name(pair("gfl", {"crosskd": {"cut": 0}})),
        name(pair("gfl", {"crosskd": {"after_relu": False}})),
        name(pair("gfl", {"crosskd": {}, "pkd": {}})),
        name(made, TeacherCacheConfig(dtype="float16")),
    ]
    with monkeypatch.context() as updated:
        updated.setattr(keys, "version", lambda package: "0" if package == "torch" else version(package))
        others.append(name(made))
    next(made.teacher.parameters()).data[0] += 1e-3
    assert len({name(made), *others, name(pair("gfl", {"crosskd": {}}))}) == 7


def test_what_a_view_costs_is_known_beforehand() -> None:
    for name, terms in CASES:
        made = pair(name, terms)
        cache = cached(made, MemoryStore(10**9), mirrors=False)
        losses(made, *batch())
        config = DistillConfig.model_validate(terms)
        needs = [x for knobs in config.terms().values() for x in knobs.needs(made.student.config, made.teacher.config)]
        told = kept(needs, made.teacher.config, small.CLASSES, made.teacher.padded(*CANVAS), "float32").total
        close = 0.1 if name in detrs.KNOBS else 0.0
        assert abs(told - cache.view_bytes) <= close * cache.view_bytes, (name, terms, told, cache.view_bytes)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_full_cache_keeps_what_it_has_and_says_so_once(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = pair("gfl", {"crosskd": {}})
    images, targets = batch()
    plain = without(made, images, targets)
    probe = cached(made, MemoryStore(10**9), mirrors=False)
    losses(made, images, targets)
    limit = int(1.5 * probe.view_bytes)
    store = MemoryStore(limit) if where == "memory" else disk(tmp_path, limit + 10_000)
    cache = cached(made, store)
    for _ in range(3):
        found = losses(made, images, targets)
    assert store.full
    # Mirror images are made while there seems to be room for them, and no more.
    assert (cache.whole.hits, cache.whole.misses, cache.whole.runs) == (2, 7, 4)
    assert sum("keeps no more" in record.message for record in caplog.records) == 1
    for loss, wanted in plain.items():
        torch.testing.assert_close(found[loss], wanted, rtol=1e-6, atol=1e-6, msg=loss)


ENTRY = {"a": torch.zeros(1000)}
KEYS = [f"{number:02}" + "a" * 62 for number in range(20)]


def test_a_folder_may_be_removed_while_it_is_in_use(tmp_path: Path) -> None:
    """The documents say so; and a worker whose jobs stand still for an hour removes it itself."""
    store = disk(tmp_path / "cache")
    store.write({KEYS[0]: ENTRY})
    assert {path.stat().st_mode & 0o77 for path in tmp_path.rglob("*")} == {0}  # nobody else's
    shutil.rmtree(tmp_path / "cache")
    assert store.read(KEYS[:1]) == [None]
    store.write({KEYS[1]: ENTRY})
    assert not store.full
    assert store.has(KEYS[1])
    assert store.bytes == folder_bytes(tmp_path)


def test_what_vanishes_while_it_is_counted_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where two trainings, or two processes of one, make way at once."""
    room, scandir = tmp_path / "cache", os.scandir
    for name in ("one", "other"):
        disk(room, name=name).write({KEYS[0]: ENTRY})
    size = folder_bytes(room) // 2

    def too_late(path: Any) -> Any:
        if str(path) == str(room / "other"):
            (room / "other").rename(tmp_path / "gone")
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", too_late)
        assert folder_bytes(room) == size


@pytest.mark.parametrize("whose", ["one teacher's", "the room's"])
def test_processes_share_a_limit(whose: str, tmp_path: Path) -> None:
    """What was there before counts once, not for each of them; and what the others write counts as well."""
    disk(tmp_path, name="a").write(dict.fromkeys(KEYS[:4], ENTRY))
    size = folder_bytes(tmp_path) // 4
    limit, room = (8 * size, 10**9) if whose == "one teacher's" else (10**9, 8 * size)
    ranks = [DiskStore(Room(tmp_path, room), "a", limit, processes=2) for _ in range(2)]
    for number, key in enumerate(KEYS[4:]):
        ranks[number % 2].write({key: ENTRY})
    assert all(store.full for store in ranks)
    assert folder_bytes(tmp_path) == 8 * size


def test_a_full_disk_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another teacher's folder stays for an hour after its last use; a training goes on for days."""
    disk(tmp_path, name="other").write(dict.fromkeys(KEYS[:4], ENTRY))
    store = disk(tmp_path, room=folder_bytes(tmp_path), name="mine")
    store.write({KEYS[5]: ENTRY})
    os.utime(tmp_path / "other", (0, 0))
    store.write({KEYS[5]: ENTRY})
    assert store.full
    assert not store.has(KEYS[5])
    monkeypatch.setattr(stores, "RETRY", 0.0)
    store.write({KEYS[5]: ENTRY})
    assert not store.full
    assert store.has(KEYS[5])


def test_teachers_that_nobody_uses_make_way(tmp_path: Path) -> None:
    entry = {"a": torch.zeros(1000)}
    size = size_of(entry)
    old, busy = (disk(tmp_path, name=name) for name in ("old", "busy"))
    for store in (old, busy):
        store.write({"00" + "a" * 62: entry, "11" + "b" * 62: entry})
    os.utime(tmp_path / "old", (0, 0))
    new = disk(tmp_path, room=int(4.6 * size), name="new")
    new.write({"22" + "c" * 62: entry})
    assert not (tmp_path / "old").exists()
    assert len(list((tmp_path / "busy").rglob("*b*"))) >= 1
    assert new.has("22" + "c" * 62)
    new.write({"33" + "d" * 62: entry, "44" + "e" * 62: entry})  # the busy one stays
    assert new.full
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 4.6 * size
