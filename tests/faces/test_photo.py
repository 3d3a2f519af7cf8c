"""One reader of images: a file is what its bytes say, of a named format, regular, and of a stated size."""

from __future__ import annotations

import builtins
import io
import logging
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import EpsImagePlugin, Image

from facecrafter.errors import PhotoError
from facecrafter.faces import photo as module
from facecrafter.faces.photo import (
    FOREIGN_SUFFIXES,
    FORMATS,
    SUFFIXES,
    decode_photo,
    find_photos,
    load_photo,
    load_with_text,
    read_text,
    to_rgb,
)

CASES = Path(__file__).parents[3] / "shared" / "cases"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
COLOURS = [RED, GREEN, BLUE, WHITE]


def quadrants(height: int = 64, width: int = 96) -> Image.Image:
    """An image whose four quarters are red, green / blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    middle, centre = height // 2, width // 2
    pixels[:middle, :centre], pixels[:middle, centre:] = RED, GREEN
    pixels[middle:, :centre], pixels[middle:, centre:] = BLUE, WHITE
    return Image.fromarray(pixels)


def corners(image: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """The colours near the four corners, row by row, rounded to full or empty."""
    height, width = image.shape[:2]
    rows, columns = (height // 4, -height // 4), (width // 4, -width // 4)
    return [tuple(((image[y, x] > 127) * 255).tolist()) for y in rows for x in columns]


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """An image in one of the formats."""
    content, image = io.BytesIO(), image or quadrants()
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.from_pillow(image).save(content, quality=90, **options)
    else:
        image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_named_format_is_read_whatever_the_file_is_called(tmp_path: Path, kind: str) -> None:
    (tmp_path / "photo").write_bytes(encoded(kind))
    image = load_photo(tmp_path / "photo")
    assert image.shape == (64, 96, 3) and image.dtype == np.uint8
    assert corners(image) == COLOURS
    np.testing.assert_array_equal(decode_photo(encoded(kind), "a photo"), image)


def test_heic_is_read_without_registering_anything_with_pillow(tmp_path: Path) -> None:
    (tmp_path / "IMG_0001.HEIC").write_bytes(encoded("HEIF"))
    program = "import sys; from PIL import Image; from facecrafter.faces.photo import load_photo\n"
    program += "print(load_photo(sys.argv[1]).shape, 'HEIF' in Image.OPEN, '.heic' in Image.registered_extensions())"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "IMG_0001.HEIC"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(64, 96, 3) False False\n"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_phones_orientation_is_applied_once(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(quadrants())
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright),
    }[orientation]
    read = decode_photo(encoded(kind, exif=exif.tobytes()), "a photo")
    assert read.shape == turned.shape and corners(read) == corners(turned)


def test_broken_exif_costs_nobody_the_image() -> None:
    for broken in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        assert corners(decode_photo(encoded("JPEG", exif=broken), "a photo")) == COLOURS


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    black = Image.new("RGB", (96, 64))
    for kind in ("GIF", "PNG", "WEBP", "AVIF", "TIFF"):
        content = encoded(kind, save_all=True, append_images=[black, black])
        assert corners(decode_photo(content, kind)) == COLOURS


def test_sixteen_bits_are_read_in_strips_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(100, 60, (700, 5)).astype(np.float32)
    values[3, 3], values[699, 4] = np.nan, 255.0
    expected = (np.nan_to_num(values).clip(0, 65535) * (255 / 65535)).round().astype(np.uint8)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(values))[..., 0], expected)


# --- what is no image -----------------------------------------------------------------------------------------------

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
DOS_EPS = b"\xc5\xd0\xd3\xc6" + struct.pack("<6IH", 32, len(POSTSCRIPT), 0, 0, 0, 0, 0xFFFF) + b"\0\0" + POSTSCRIPT


@pytest.mark.parametrize("content", [POSTSCRIPT, DOS_EPS])
def test_postscript_under_a_photos_name_starts_nothing(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **_: started.append(arguments))
    (tmp_path / "a.jpg").write_bytes(content)
    assert Image.open(tmp_path / "a.jpg").format == "EPS"  # Pillow by itself would go on to Ghostscript
    with pytest.raises(PhotoError, match=r"a\.jpg is not an image that can be read; give a JPEG"):
        load_photo(tmp_path / "a.jpg")
    assert started == []


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "IM", "PDF", "SGI"])
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(kind))
    with pytest.raises(PhotoError, match=r"a\.png is not an image that can be read"):
        load_photo(tmp_path / "a.png")


@pytest.mark.parametrize("read", [load_photo, load_with_text, read_text])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(PhotoError, match=r"a\.jpg is a pipe or a device, not an image; give a file"):
        read(tmp_path / "a.jpg")


def test_devices_are_refused() -> None:
    with pytest.raises(PhotoError, match="/dev/zero is a pipe or a device"):
        load_photo("/dev/zero")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("JPEG"))

    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if file == path:
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *arguments, **options)

    real = builtins.open
    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(PhotoError, match=r"a\.jpg cannot be read \(permission denied\); change its permissions"):
        load_photo(path)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Failed to decode image"), struct.error("unpack"), IndexError(), ZeroDivisionError(), OSError()],
)
def test_whatever_a_decoder_raises_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(
        PhotoError, match=r"a\.png is damaged or cannot be read \(.+\); save or copy it again"
    ) as caught:
        load_photo(tmp_path / "a.png")
    assert caught.value.__context__ is error


def test_a_damaged_avif_is_one_sentence(tmp_path: Path) -> None:
    content = encoded("AVIF")
    path = tmp_path / "a.avif"
    path.write_bytes(content.replace(b"pitm", b"xxxx"))
    with pytest.raises(PhotoError, match=r"a\.avif is damaged"):
        load_photo(path)


def test_a_camera_files_preview_is_not_taken_for_the_photo(tmp_path: Path) -> None:
    (tmp_path / "a.NEF").write_bytes(encoded("TIFF"))
    with pytest.raises(PhotoError, match=r"a\.NEF is of a kind that is not read; convert it to JPEG or PNG"):
        load_photo(tmp_path / "a.NEF")


def test_pil_images_that_break_only_now_are_named() -> None:
    cut = Image.open(io.BytesIO(encoded("PNG", quadrants(200, 200))[:200]))
    with pytest.raises(PhotoError, match="the image is damaged"):
        to_rgb(cut)


@pytest.mark.parametrize("name", ["damaged.avif", "eps_named.jpg"])
def test_found_cases_are_refused(name: str) -> None:
    if not (CASES / name).is_file():
        pytest.skip(f"needs {CASES / name}, which only the project's own machines have")
    with pytest.raises(PhotoError, match=name):
        load_photo(CASES / name)


# --- how large --------------------------------------------------------------------------------------------------------


def test_a_jpeg_beyond_the_limit_is_read_at_half_its_size(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = encoded("JPEG", quadrants(128, 160))
    monkeypatch.setattr(module, "MOST_PIXELS", 128 * 160 - 1)
    with caplog.at_level(logging.WARNING, "facecrafter"):
        image = decode_photo(content, "large.jpg")
    assert image.shape == (64, 80, 3) and corners(image) == COLOURS
    assert caplog.messages == ["large.jpg has 160x128 pixels; it is read, and measured, at half its size"]
    caplog.clear()
    with pytest.raises(PhotoError, match=r"large\.jpg has 160x128 pixels, which is more than"):  # and not 80x64
        decode_photo(content, "large.jpg", most=64 * 80 - 1)
    assert not caplog.messages
    monkeypatch.setattr(module, "MOST_PIXELS", 128 * 160)
    assert decode_photo(content, "large.jpg").shape == (128, 160, 3)


def test_beyond_the_limits_a_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PIXELS", 64 * 96 - 1)
    monkeypatch.setattr(module, "MOST_JPEG_PIXELS", 64 * 96 - 1)
    for kind in FORMATS:
        with pytest.raises(PhotoError, match=r"a\.x has 96x64 pixels, which is more than the 0 million that are read"):
            decode_photo(encoded(kind), "a.x")


def test_a_header_that_promises_too_much_is_refused() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        import zlib

        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 60000, 60000, 8, 2, 0, 0, 0))
    with pytest.raises(PhotoError, match=r"a\.png has more pixels than the 178 million that are read; make it smaller"):
        decode_photo(header + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "a.png")


def test_a_large_file_is_refused_unopened(tmp_path: Path) -> None:
    with open(tmp_path / "a.heic", "wb") as file:
        file.truncate(module.MOST_BYTES + 1)  # sparse: it takes no room
    with pytest.raises(PhotoError, match=r"a\.heic is larger than the 1\.1 GiB that are read"):
        load_photo(tmp_path / "a.heic")


def test_a_progressive_jpeg_of_endless_scans_is_refused() -> None:
    content = encoded("JPEG", progressive=True)
    assert corners(decode_photo(content, "a.jpg")) == COLOURS
    last = content.rindex(b"\xff\xda")
    scan, end = content[last:-2], content[-2:]
    scans = module._count_scans(io.BytesIO(content))
    assert 3 <= scans <= 20
    many = content[:last] + scan * 200 + end
    assert module._count_scans(io.BytesIO(many)) == scans + 199
    with pytest.raises(PhotoError, match=r"a\.jpg is a JPEG of more than 100 scans"):
        decode_photo(many, "a.jpg")


def test_a_phones_200_megapixels_are_read() -> None:
    path = CASES / "phone_200mp.jpg"
    if not path.is_file():
        pytest.skip(f"needs {path}, which only the project's own machines have")
    assert load_photo(path).shape == (6120, 8160, 3)


# --- texts and folders ------------------------------------------------------------------------------------------------


def test_texts_are_read_with_and_without_the_pixels(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("Title", "a face")
    (tmp_path / "a.png").write_bytes(encoded("PNG", pnginfo=text))
    pixels, texts = load_with_text(tmp_path / "a.png")
    assert corners(pixels) == COLOURS and texts == {"Title": "a face"}
    assert read_text(tmp_path / "a.png") == {"Title": "a face"}


def test_a_folder_gives_all_endings_and_names_what_may_be_a_image(tmp_path: Path) -> None:
    listed = [f"a{suffix}" for suffix in SUFFIXES] + ["B.JPG", "inside/c.HeIc"]
    foreign = [f"a{suffix}" for suffix in FOREIGN_SUFFIXES]
    for name in [*listed, *foreign, "notes.txt", "data.csv", ".hidden.jpg", ".cache/d.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("words")
    for kind, name in (("JPEG", "IMG_1"), ("PNG", "x.png.part"), ("HEIF", "y.dat"), ("WEBP", "z.bin"), ("AVIF", "v")):
        (tmp_path / name).write_bytes(encoded(kind))
    os.mkfifo(tmp_path / "pipe")
    found, passed = find_photos(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == sorted(listed, key=lambda name: Path(name))
    reasons = {path.name: reason for path, reason in passed}
    assert reasons.keys() == {*foreign, "IMG_1", "x.png.part", "y.dat", "z.bin", "v"}
    assert "begins as an image does" in reasons["IMG_1"] and "rename it" in reasons["IMG_1"]
    assert "is of a kind that is not read; convert it" in reasons["a.nef"]


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refuse(place: Any) -> Any:
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", refuse)
    found, passed = find_photos(tmp_path)
    assert found == [tmp_path / "a.jpg"]
    assert [reason for _, reason in passed] == [
        f"the folder {tmp_path / 'closed'} cannot be listed (permission denied)"
    ]
