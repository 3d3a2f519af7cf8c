"""Files are there whole or not at all, tell how they were made, and never replace another by accident."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facecrafter
from facecrafter.errors import OutputError, PhotoError
from facecrafter.pipelines import images
from facecrafter.pipelines.images import (
    STATEMENT,
    check_sheets,
    contact_sheet,
    inspect,
    is_there,
    save,
    signed,
    write_sheets,
)


def image(seed: int = 0, **outcome: object) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC)
    return signed(np.asarray(smooth), {"seed": seed, **outcome})


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_saved_image_tells_how_it_was_made(tmp_path: Path) -> None:
    made = {"identity": "Zoë, 李.jpg", "identity_scale": 2.5, "scheduler": "dpm"}
    original = image(3, **made)
    save(original, tmp_path / "new" / "a.png")
    assert files(tmp_path) == ["a.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), np.asarray(original))
    seen = inspect(tmp_path / "new" / "a.png")
    assert seen.made == {"seed": 3, **made}
    assert seen.text["Description"] == STATEMENT and seen.text["Software"].startswith("FaceCrafter ")
    assert seen.marked and seen.score > 10


def test_the_package_itself_saves_to_a_path_in_words(tmp_path: Path) -> None:
    facecrafter.save(image(4), str(tmp_path / "a.png"))
    assert inspect(tmp_path / "a.png").made == {"seed": 4}
    with pytest.raises(OutputError, match=r"a\.png exists already"):
        facecrafter.save(image(5), str(tmp_path / "a.png"))


def test_the_mark_is_read_where_the_words_are_lost(tmp_path: Path) -> None:
    image().save(tmp_path / "a.jpg", quality=85)
    seen = inspect(tmp_path / "a.jpg")
    assert seen.marked and seen.made == {}


def test_inspect_names_the_share_that_the_mark_covers(tmp_path: Path, portrait: Path) -> None:
    """An image, a sheet, a sheet with photos, a screenshot, a photo, and an image of an earlier version."""
    made = [image(seed) for seed in range(4)]
    photo = Image.open(portrait).convert("RGB").resize((128, 128))
    photo.info["facecrafter"] = {}
    framed = Image.new("RGB", (168, 168), "white")
    framed.paste(made[0], (20, 20))
    shown = {
        "one": made[0],
        "sheet": contact_sheet(made),
        "mixed": contact_sheet([made[0], photo, photo, made[1]]),
        "framed": framed,
        "photo": photo,
    }
    words = {}
    for name, written in shown.items():
        written.save(tmp_path / f"{name}.png")
        words[name] = inspect(tmp_path / f"{name}.png").watermark.partition(" (score ")[0]
    assert words["one"] == "yes"
    assert words["sheet"] == "yes, 4 images, on 91% of the area"
    assert words["mixed"] == "yes, 2 images, on 46% of the area"
    assert words["framed"] in ("yes, on 57% of the area", "yes, on 58% of the area", "yes, on 59% of the area")
    assert words["photo"] == "no"
    former = images.Inspection(tmp_path, {}, {}, True, 12.0)
    assert former.watermark == "yes, that of an earlier version (score 12.0)"


def test_other_peoples_images_tell_nothing(tmp_path: Path, portrait: Path) -> None:
    seen = inspect(portrait)
    assert not seen.marked and seen.made == {} and seen.text == {}


@pytest.mark.parametrize("words", ["[1, 2]", "not JSON", "3"])
def test_a_strangers_word_under_our_name_is_no_story(tmp_path: Path, words: str) -> None:
    stranger = Image.new("RGB", (64, 64))
    stranger.info["facecrafter"] = words
    save(stranger, tmp_path / "a.png")
    assert inspect(tmp_path / "a.png").made == {}


def test_inspect_refuses_what_is_not_a_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(PhotoError, match=r"a\.png"):
        inspect(tmp_path / "a.png")


def test_nothing_is_overwritten_unless_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save(image(0), path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"a\.png exists already.*--overwrite"):
        save(image(1), path)
    assert path.read_bytes() == before
    save(image(1), path, overwrite=True)
    assert inspect(path).made == {"seed": 1}


def full(written: int) -> Callable[[Path, bytes], int]:
    """A write that runs out of space after some bytes."""

    def write(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[:written])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return write


@pytest.mark.parametrize("written", [0, 1000])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full(written))
    for name in ("new.png", "old.png"):
        with pytest.raises(OutputError, match=rf"{name} could not be written \(no space left on device\)"):
            save(image(), tmp_path / name, overwrite=True)
    assert files(tmp_path) == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        save(image(), tmp_path / "file" / "a.png")


def test_stopping_in_the_middle_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save(image(), tmp_path / "a.png")
    assert files(tmp_path) == []


def saved(folder: Path, keys: str) -> list[Path]:
    """Images of the keys ``a``, ``b`` and so on, saved under them."""
    for index, key in enumerate(keys):
        save(image(index, key=key), folder / f"{key}.png", overwrite=True)
    return [folder / f"{key}.png" for key in keys]


def shown(sheet: Path) -> str:
    return "".join(made["key"] for made in inspect(sheet).made["sheet of"])


def test_sheets_show_saved_images_in_order_and_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SHEET_IMAGES", 2)
    paths = saved(tmp_path, "cab")
    check_sheets(tmp_path, "cab")
    write_sheets(tmp_path, paths)
    assert files(tmp_path) == ["a.png", "b.png", "c.png", "sheet-2.png", "sheet.png"]
    assert [shown(tmp_path / name) for name in ("sheet.png", "sheet-2.png")] == ["ca", "b"]
    sheet = inspect(tmp_path / "sheet.png")
    assert sheet.marked and [made["seed"] for made in sheet.made["sheet of"]] == [0, 1]
    tile = np.asarray(Image.open(tmp_path / "sheet.png"))[4:132, 136:264].astype(int)
    assert np.abs(tile - np.asarray(Image.open(tmp_path / "a.png"))).mean() < 3
    before = (tmp_path / "sheet.png").stat().st_mtime_ns
    write_sheets(tmp_path, [*paths, *saved(tmp_path, "d")])
    assert (tmp_path / "sheet.png").stat().st_mtime_ns == before
    assert shown(tmp_path / "sheet-2.png") == "bd"


def test_sheets_of_a_longer_run_before_are_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SHEET_IMAGES", 1)
    paths = saved(tmp_path, "abcd")
    write_sheets(tmp_path, paths)
    save(image(7, key="x"), tmp_path / "sheet-4.png", overwrite=True)  # no sheet
    write_sheets(tmp_path, paths[:1])
    assert [name for name in files(tmp_path) if name.startswith("sheet")] == ["sheet-4.png", "sheet.png"]


@pytest.mark.parametrize(
    ("before", "wanted", "others", "free"),
    [
        ("ab", "ab", False, True),
        ("ab", "abc", False, True),
        ("abc", "ab", False, True),
        ("ab", "cd", False, False),
        ("ab", "bc", False, False),
        ("ab", "cd", True, True),
    ],
)
def test_a_sheet_of_other_images_is_in_the_way(
    tmp_path: Path, before: str, wanted: str, others: bool, free: bool
) -> None:
    write_sheets(tmp_path, saved(tmp_path, before))
    with nullcontext() if free else pytest.raises(OutputError, match=r"sheet\.png shows images of another request"):
        check_sheets(tmp_path, wanted, others)


def test_a_sheet_that_is_none_of_ours_is_in_the_way_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "sheet.png")
    for others in (False, True):
        with pytest.raises(OutputError, match=r"sheet\.png exists already and is no sheet"):
            check_sheets(tmp_path, "ab", others)
    (tmp_path / "sheet.png").write_bytes(b"")
    check_sheets(tmp_path, "ab")
    save(contact_sheet([image(0, key="x")]), tmp_path / "sheet.png", overwrite=True)
    whole = (tmp_path / "sheet.png").read_bytes()
    (tmp_path / "sheet.png").write_bytes(whole[:-20])
    check_sheets(tmp_path, "ab")
    write_sheets(tmp_path, saved(tmp_path, "ab"))
    assert shown(tmp_path / "sheet.png") == "ab"


# What becomes of the bytes of an image with the key "0123456789abcdef", its name, and whether it counts as there.
FOUND: dict[str, tuple[Callable[[bytes], bytes], str, bool]] = {
    "whole": (lambda whole: whole, "a.png", True),
    "cut in the pixels": (lambda whole: whole[: len(whole) // 2], "a.png", False),
    "without its last byte": (lambda whole: whole[:-1], "a.png", False),
    "one pixel's byte changed": (
        lambda whole: whole[:-5000] + bytes([whole[-5000] ^ 1]) + whole[-4999:],
        "a.png",
        False,
    ),
    "empty": (lambda whole: b"", "a.png", False),
    "cut in its words, known by its name": (lambda whole: whole[:60], "a_b_0123456789.png", False),
}


@pytest.mark.parametrize("case", FOUND)
def test_only_a_whole_image_is_there(tmp_path: Path, case: str) -> None:
    spoil, name, there = FOUND[case]
    path = tmp_path / name
    assert not is_there(path, KEY)
    save(image(key=KEY), path)
    path.write_bytes(spoil(path.read_bytes()))
    assert is_there(path, KEY) is there


KEY = "0123456789abcdef"

IN_THE_WAY: dict[str, tuple[Callable[[Path], object], str]] = {
    "another key": (lambda path: save(image(key="f" * 16), path), "is the image of another request, or of a photo"),
    "no key": (lambda path: save(image(), path), "was made by an earlier version"),
    "a photo": (lambda path: Image.new("RGB", (64, 64)).save(path), "exists already and is no whole image"),
    "words": (lambda path: path.write_text("hello"), "exists already and is no whole image"),
    "a folder": (lambda path: path.mkdir(), "exists already and is no whole image"),
    "a pipe": (lambda path: os.mkfifo(path), "exists already and is no whole image"),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_what_is_in_an_images_place_is_named_and_left_alone(tmp_path: Path, case: str) -> None:
    put, words = IN_THE_WAY[case]
    put(tmp_path / "a.png")
    with pytest.raises(OutputError, match=rf"a\.png {words}.*; choose another folder.*--overwrite"):
        is_there(tmp_path / "a.png", KEY)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (8, 3, 3)])
def test_contact_sheet(count: int, columns: int, rows: int) -> None:
    images = [image(index) for index in range(count)]
    sheet = contact_sheet(images, gap=4)
    assert sheet.size == (columns * 132 + 4, rows * 132 + 4)
    last = 4 + (count - 1) % columns * 132, 4 + (count - 1) // columns * 132
    tile = np.asarray(sheet.crop((*last, last[0] + 128, last[1] + 128)))
    np.testing.assert_array_equal(tile, images[-1])
