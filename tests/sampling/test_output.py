"""Files are there whole or not at all, tell how they were made, and never replace another by accident."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facecrafter
from facecrafter.errors import OutputError, PhotoError
from facecrafter.sampling.output import contact_sheet, inspect, save, save_all
from facecrafter.sampling.pipeline import STATEMENT, signed


def picture(seed: int = 0, **told: object) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC)
    return signed(np.asarray(smooth), {"seed": seed, **told})


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_saved_picture_tells_how_it_was_made(tmp_path: Path) -> None:
    made = {"identity": "Zoë, 李.jpg", "identity_scale": 2.5, "scheduler": "dpm"}
    original = picture(3, **made)
    save(original, tmp_path / "new" / "a.png")
    assert files(tmp_path) == ["a.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), np.asarray(original))
    seen = inspect(tmp_path / "new" / "a.png")
    assert seen.made == {"seed": 3, **made}
    assert seen.text["Description"] == STATEMENT and seen.text["Software"].startswith("FaceCrafter ")
    assert seen.marked and seen.score > 10


def test_the_package_itself_saves_to_a_path_in_words(tmp_path: Path) -> None:
    facecrafter.save(picture(4), str(tmp_path / "a.png"))
    assert inspect(tmp_path / "a.png").made == {"seed": 4}
    with pytest.raises(OutputError, match=r"a\.png exists already"):
        facecrafter.save(picture(5), str(tmp_path / "a.png"))


def test_the_mark_is_read_where_the_words_are_lost(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", quality=85)
    seen = inspect(tmp_path / "a.jpg")
    assert seen.marked and seen.made == {}


def test_other_peoples_pictures_tell_nothing(tmp_path: Path, portrait: Path) -> None:
    seen = inspect(portrait)
    assert not seen.marked and seen.made == {} and seen.text == {}


@pytest.mark.parametrize("words", ["[1, 2]", "not JSON", "3"])
def test_a_strangers_word_under_our_name_is_no_story(tmp_path: Path, words: str) -> None:
    stranger = Image.new("RGB", (64, 64))
    stranger.info["facecrafter"] = words
    save(stranger, tmp_path / "a.png")
    assert inspect(tmp_path / "a.png").made == {}


def test_inspect_refuses_what_is_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(PhotoError, match=r"a\.png"):
        inspect(tmp_path / "a.png")


def test_nothing_is_overwritten_unless_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save(picture(0), path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"a\.png exists already.*--overwrite"):
        save(picture(1), path)
    assert path.read_bytes() == before
    save(picture(1), path, overwrite=True)
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
            save(picture(), tmp_path / name, overwrite=True)
    assert files(tmp_path) == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        save(picture(), tmp_path / "file" / "a.png")


def test_stopping_in_the_middle_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save(picture(), tmp_path / "a.png")
    assert files(tmp_path) == []


def test_save_all_writes_as_they_come_and_a_sheet(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    seen: list[list[str]] = []

    def pictures() -> Iterator[tuple[int, Image.Image]]:
        for index in (2, 0, 1):
            seen.append(files(tmp_path))
            yield index, picture(index)

    save_all(pictures(), paths, tmp_path / "sheet.png")
    assert seen == [[], ["2.png"], ["0.png", "2.png"]]
    assert [inspect(path).made["seed"] for path in paths] == [0, 1, 2]
    sheet = inspect(tmp_path / "sheet.png")
    assert sheet.marked and [made["seed"] for made in sheet.made["sheet of"]] == [0, 1, 2]
    with pytest.raises(OutputError, match=r"0\.png exists"):
        save_all(iter(()), paths, tmp_path / "sheet.png")


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (8, 3, 3)])
def test_contact_sheet(count: int, columns: int, rows: int) -> None:
    pictures = [picture(index) for index in range(count)]
    sheet = contact_sheet(pictures, gap=4)
    assert sheet.size == (columns * 132 + 4, rows * 132 + 4)
    last = 4 + (count - 1) % columns * 132, 4 + (count - 1) // columns * 132
    tile = np.asarray(sheet.crop((*last, last[0] + 128, last[1] + 128))).astype(int)
    assert np.abs(tile - np.asarray(pictures[-1])).mean() < 3
