from __future__ import annotations

import contextlib
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from crosskd.data import images
from crosskd.data.images import ORIENTATION, TRANSPOSES, ImageFolder
from crosskd.errors import DataError
from tests.support.coco_files import noise

SIZE = (12, 20)  # height, width


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    return root


def read(folder: Path, name: str, size: tuple[int, int] = SIZE, max_pixels: int = 10_000) -> np.ndarray:
    image = ImageFolder(folder, max_pixels).read(name, size)
    assert image.mode == "RGB"
    assert (image.height, image.width) == size
    return np.asarray(image)


def test_rgb_is_read_as_stored(folder):
    image = noise(20, 12)
    image.save(folder / "a.png")
    assert np.array_equal(read(folder, "a.png"), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_the_rgb_that_pillow_shows(folder, mode):
    image = noise(20, 12).convert("RGB" if mode in ("YCbCr", "CMYK", "HSV") else "RGBA")
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    name = "a.tiff" if mode in ("CMYK", "YCbCr", "PA", "HSV") else "a.png"
    if mode in ("PA", "HSV"):  # no file format of ours stores these
        image = image.convert("RGBA" if mode == "PA" else "RGB")
    image.save(folder / name)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read(folder, name) - expected).max() <= 2  # YCbCr is rounded


def test_a_transparent_palette_loses_its_transparency_without_a_warning(folder):
    image = noise(20, 12).convert("P")
    image.info["transparency"] = bytes(range(256))
    image.save(folder / "a.png", transparency=bytes(range(256)))
    assert np.array_equal(read(folder, "a.png"), np.asarray(image.convert("RGBA").convert("RGB")))


def test_sixteen_bit_grey_keeps_its_upper_byte(folder):
    values = np.random.default_rng(0).integers(0, 2**16, SIZE, dtype=np.uint16)
    Image.fromarray(values).save(folder / "a.png")
    assert np.array_equal(read(folder, "a.png")[:, :, 1], values >> 8)


def png16(values: np.ndarray) -> bytes:
    """Values [h, w, 1 to 4] as a 16-bit PNG, which Pillow writes of grey alone."""
    height, width, planes = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[planes]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, colour, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@pytest.mark.parametrize(("bits", "said"), [(12, True), (14, True), (16, False)])
def test_a_sixteen_bit_image_that_becomes_nearly_black_is_told_and_can_be_stretched(folder, planes, bits, said):
    """Of colour Pillow drops the lower byte itself, in silence."""
    values = np.random.default_rng(planes).integers(100, 2**bits, (*SIZE, planes), dtype=np.uint16)
    if planes in (2, 4):
        values[..., -1] = 65535  # opaque
    (folder / "a.png").write_bytes(png16(values))
    colours = np.broadcast_to(values[..., : planes - 1 + planes % 2], (*SIZE, 3)).astype(float)

    plain = ImageFolder(folder, 10_000)
    assert np.array_equal(np.asarray(plain.read("a.png", SIZE)), colours.astype(int) >> 8)
    assert list(plain.dark) == ["a.png"] * said
    assert all("own_range" in remark for remark in plain.dark.values())

    stretching = ImageFolder(folder, 10_000, "own_range")
    wanted = (colours - colours.min()) * 255 / (colours.max() - colours.min())
    found = np.asarray(stretching.read("a.png", SIZE))
    assert np.abs(found - wanted).max() <= 0.5 + 1e-9
    assert (found.min(), found.max(), stretching.dark) == (0, 255, {})


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colour_in_tiff_is_stretched_too(folder, order):
    values = np.random.default_rng(1).integers(0, 4096, (*SIZE, 3), dtype=np.uint16)
    values[0, 0] = 0
    height, width = SIZE
    pixels, bits = 8, 8 + values.nbytes
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, pixels), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, values.nbytes)]
    whole = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, bits + 6)
    whole += values.astype(f"{order}u2").tobytes() + struct.pack(f"{order}3HH", 16, 16, 16, len(tags))
    for tag, kind, count, value in tags:
        short = kind == 3 and count == 1
        whole += struct.pack(f"{order}HHI" + ("HH" if short else "I"), tag, kind, count, value, *([0] if short else []))
    (folder / "a.tiff").write_bytes(whole + bytes(4))
    assert np.array_equal(read(folder, "a.tiff"), values >> 8)
    found = np.asarray(ImageFolder(folder, 10_000, "own_range").read("a.tiff", SIZE))
    assert np.abs(found - values * (255 / values.max())).max() < 1


def test_an_image_of_one_value_is_stretched_to_black(folder):
    (folder / "a.png").write_bytes(png16(np.full((*SIZE, 1), 900, np.uint16)))
    assert np.asarray(ImageFolder(folder, 10_000, "own_range").read("a.png", SIZE)).max() == 0


def test_a_broken_sixteen_bit_image_is_a_clear_error(folder):
    whole = png16(np.random.default_rng(0).integers(0, 4096, (*SIZE, 3), dtype=np.uint16))
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be decoded"):
        ImageFolder(folder, 10_000, "own_range").read("a.png", SIZE)


def test_float_pixels_are_refused(folder):
    Image.fromarray(np.zeros(SIZE, np.float32)).save(folder / "a.tiff")
    with pytest.raises(DataError, match="32-bit pixels"):
        read(folder, "a.tiff")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_where_it_leads_to_the_annotated_size(folder, orientation):
    image = noise(20, 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / "a.png", exif=exif)
    shown = image.transpose(TRANSPOSES[orientation]) if orientation > 1 else image
    assert np.array_equal(read(folder, "a.png", (shown.height, shown.width)), np.asarray(shown))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_exif_orientation_is_left_alone_where_the_boxes_refer_to_the_stored_image(folder, orientation):
    image = noise(20, 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / "a.png", exif=exif)
    assert np.array_equal(read(folder, "a.png", (12, 20)), np.asarray(image))


@pytest.mark.parametrize("kept", [8, 9, 12, 20])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_broken_exif_block_leaves_a_sound_image_as_it_is_stored(folder, suffix, kept):
    """Cut short at some place, as careless tools do, or with an offset that leads nowhere."""
    image, path = noise(20, 12), folder / f"a.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    block = exif.tobytes()
    image.save(path, exif=block[:kept])
    with warnings.catch_warnings(action="ignore"):
        stored = np.asarray(Image.open(path))
    assert np.array_equal(read(folder, path.name), stored)
    assert ImageFolder(folder, 10_000).measure(path.name) == (SIZE, path.stat().st_size)
    with pytest.raises(DataError, match="but annotated as"):
        read(folder, path.name, (20, 12))
    image.save(path, exif=block[:10] + b"\xff" * 4 + block[14:])
    assert read(folder, path.name).shape == (12, 20, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_is_measured_by_its_header_alone(folder, monkeypatch, suffix, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise(20, 12).save(folder / f"a.{suffix}", **({} if orientation == 1 else {"exif": exif}))
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.format))
    assert ImageFolder(folder, 10_000).measure(f"a.{suffix}")[0] == (SIZE if orientation == 1 else SIZE[::-1])
    assert decoded == []


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_is_none(folder, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    noise(20, 12).save(folder / "a.png", exif=exif)
    assert np.array_equal(read(folder, "a.png"), np.asarray(noise(20, 12)))


@given(
    suffix=st.sampled_from(["png", "jpg", "webp", "tiff", "gif", "bmp"]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broken_bytes_are_a_picture_or_a_clear_error(folder, suffix, changes):
    path = folder / f"a.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    noise(20, 12).save(path, **({} if suffix in ("gif", "bmp") else {"exif": exif}))
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % min(len(data), 300)] = value  # the headers
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        assert ImageFolder(folder, 10_000).read(path.name, SIZE).size == (20, 12)


def test_another_size_than_the_annotated_one_names_both_and_the_file(folder):
    noise(20, 12).save(folder / "a.png")
    with pytest.raises(DataError, match=r"is 20 x 12 pixels, but annotated as 21 x 12 \(at .*a\.png\)"):
        read(folder, "a.png", (12, 21))


@pytest.mark.parametrize("kept", [0, 1, 30, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_a_truncated_image_is_a_clear_error(folder, suffix, kept):
    path = folder / f"a.{suffix}"
    noise(20, 12).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(DataError, match=r"(cannot be decoded|not an image|but annotated as)"):
        read(folder, path.name)


def test_what_is_no_image_is_a_clear_error(folder):
    (folder / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(DataError, match="not an image of a known format"):
        read(folder, "a.jpg")


def test_postscript_is_not_opened(folder):
    noise(20, 12).save(folder / "a.eps")
    with pytest.raises(DataError, match="not an image of a known format"):
        read(folder, "a.eps")


def test_a_gigantic_image_is_refused_by_its_header(folder):
    noise(20, 12).save(folder / "a.png")
    with pytest.raises(DataError, match=r"of 20 x 12 has more than max_image_pixels \(239\)"):
        read(folder, "a.png", max_pixels=239)


@pytest.mark.parametrize("side", [12_000, 60_000])  # above Pillow's warning, and above its error
def test_a_decompression_bomb_is_refused_undecoded(folder, side):
    Image.new("1", (20, 12)).save(folder / "a.png")
    data = bytearray((folder / "a.png").read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = _crc(bytes(data[12:29]))
    (folder / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="max_image_pixels"):
        read(folder, "a.png", (side, side), max_pixels=64_000_000)


def test_a_limit_above_pillows_own_is_obeyed(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    noise(20, 12).save(folder / "a.png")
    assert read(folder, "a.png", max_pixels=240).shape == (12, 20, 3)


def test_missing_images_folders_and_pipes_are_clear_errors(folder):
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe.png")
    for name in ("none.png", "sub/none.png", "x" * 5000):
        with pytest.raises(DataError, match="is missing"):
            read(folder, name)
    for name in ("sub", "pipe.png"):
        with pytest.raises(DataError, match="is not a regular file"):
            read(folder, name)


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png", "sub/../../secret.png"])
def test_a_name_that_leaves_the_folder_is_refused(folder, name):
    noise(20, 12).save(folder.parent / "secret.png")
    with pytest.raises(DataError, match=r"must be relative to the images folder and stay in it"):
        read(folder, name)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(folder):
    noise(20, 12).save(folder.parent / "secret.png")
    noise(20, 12).save(folder / "a.png")
    (folder / "inside.png").symlink_to("a.png")
    (folder / "outside.png").symlink_to("../secret.png")
    (folder / "up").symlink_to("..")
    assert read(folder, "inside.png").shape == (12, 20, 3)
    for name in ("outside.png", "up/secret.png"):
        with pytest.raises(DataError, match="link that leads out of the data"):
            read(folder, name)
        image = ImageFolder(folder, 10**6, roots=[folder.parent]).read(name, SIZE)  # a data root that holds both
        assert image.size == (20, 12)


@pytest.mark.parametrize("module", [images.Image, os], ids=["decoded", "opened"])
def test_a_file_that_becomes_a_link_out_while_it_is_read_shows_nothing_of_outside(folder, monkeypatch, module):
    inside = noise(20, 12, seed=1)
    inside.save(folder / "a.png")
    noise(20, 12, seed=2).save(folder.parent / "secret.png")
    seen, real = ImageFolder(folder, 10_000), module.open

    def swap_first(*arguments, **options):
        (folder / "a.png").unlink(missing_ok=True)
        (folder / "a.png").symlink_to("../secret.png")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "open", swap_first)
    if module is os:
        with pytest.raises(DataError, match="leads out of the data"):
            seen.read("a.png", SIZE)
    else:
        assert np.array_equal(np.asarray(seen.read("a.png", SIZE)), np.asarray(inside))


def test_the_folder_itself_may_be_a_link(folder):
    noise(20, 12).save(folder / "a.png")
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert read(link, "a.png").shape == (12, 20, 3)


def test_a_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="the image folder does not exist"):
        ImageFolder(tmp_path / "none", 10)


def _crc(chunk: bytes) -> bytes:
    import zlib

    return zlib.crc32(chunk).to_bytes(4, "big")
