"""Images of one request: what is there is kept, what is missing is made, other requests' images are left alone."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facecrafter import FaceCrafter
from facecrafter.errors import NoFaceError, OutputError, PhotoError
from facecrafter.faces.photo_file import PhotoFile
from facecrafter.models.checkpoint import FaceModel
from facecrafter.pipelines.images import inspect
from facecrafter.pipelines.missing import Summary, generate_many
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Request

QUICK = Settings(steps=1, batch_size=2)


@pytest.fixture(scope="module")
def crafter(small_model: FaceModel) -> FaceCrafter:
    return FaceCrafter(small_model)


@pytest.fixture
def photo(portrait: Path, tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(portrait.read_bytes())
    return path


def asked(crafter: FaceCrafter, photo: Path, seed: int = 0, settings: Settings = QUICK) -> Request:
    return crafter.request([PhotoFile.read(photo)], seed=seed, settings=settings)


def images(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.png"))}


def names(first: int, last: int) -> list[str]:
    return [f"{seed:05d}.png" for seed in range(first, last + 1)]


def shown(out: Path) -> list[int]:
    return [made["seed"] for made in inspect(out / "sheet.png").made["sheet of"]]


def full_after(files: int) -> Callable[[Path, bytes], int]:
    """A write on a disk that has room for some files."""
    write, written = Path.write_bytes, []

    def writes(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) > files:
            write(path, content[:100])
            raise OSError(28, os.strerror(28))
        return write(path, content)

    return writes


def test_a_folder_that_cannot_be_had_is_refused_before_the_work(
    crafter: FaceCrafter, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facecrafter.pipelines.missing.rendered", lambda *_: pytest.fail("images were made"))
    with pytest.raises(OutputError, match=r"the folder .*a\.png/out cannot be written to \(.*; choose another folder$"):
        generate_many(crafter, asked(crafter, photo), 2, photo / "out")


def test_a_refused_request_leaves_no_folder(crafter: FaceCrafter, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Request) -> Request:
        raise NoFaceError("no face found")

    request = asked(crafter, photo)
    with monkeypatch.context() as patch:
        patch.setattr(crafter, "read", refuse)
        with pytest.raises(NoFaceError):
            generate_many(crafter, request, 2, photo.parent / "new" / "out")
    assert not (photo.parent / "new").exists()
    assert generate_many(crafter, request, 1, photo.parent / "new" / "out").made == 1


def test_a_full_disk_keeps_what_was_made_and_a_repeated_run_makes_the_rest(
    crafter: FaceCrafter, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, request = photo.parent / "out", asked(crafter, photo)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_after(3))
        with pytest.raises(
            OutputError, match=r"00003\.png could not be written \(no space left on device\).*run it again"
        ):
            generate_many(crafter, request, 5, out)
    before = images(out)
    assert list(before) == names(0, 2)
    amounts: list[float] = []
    assert generate_many(crafter, request, 5, out, progress=amounts.append) == Summary(2, 3, 0)
    assert sum(amounts) == pytest.approx(5)
    assert list(images(out)) == [*names(0, 4), "sheet.png"]
    assert before.items() <= images(out).items()
    assert shown(out) == [0, 1, 2, 3, 4]
    once = photo.parent / "once"
    generate_many(crafter, request, 5, once)
    for name in names(0, 4):
        difference = np.asarray(Image.open(out / name)).astype(int) - np.asarray(Image.open(once / name))
        assert np.abs(difference).max() <= 1, name  # the last bit is the batched kernels'


def test_ctrl_c_keeps_what_was_made(crafter: FaceCrafter, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, request = photo.parent / "out", asked(crafter, photo)
    amounts: list[float] = []

    def stop(amount: float) -> None:
        amounts.append(amount)
        if sum(amounts) > 2:  # in the second batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_many(crafter, request, 4, out, progress=stop)
    assert list(images(out)) == names(0, 1)
    assert generate_many(crafter, request, 4, out) == Summary(2, 2, 0)


def test_a_run_that_is_finished_or_longer_changes_nothing_that_is_there(crafter: FaceCrafter, photo: Path) -> None:
    out, request = photo.parent / "out", asked(crafter, photo)
    assert generate_many(crafter, request, 2, out) == Summary(2, 0, 0)
    changed = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert generate_many(crafter, request, 2, out) == Summary(0, 2, 0)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == changed
    assert generate_many(crafter, request, 3, out) == Summary(1, 2, 0)
    assert (out / "00000.png").stat().st_mtime_ns == changed["00000.png"]
    assert shown(out) == [0, 1, 2]
    (out / "00001.png").write_bytes((out / "00001.png").read_bytes()[:-100])
    assert generate_many(crafter, request, 3, out) == Summary(1, 2, 0)
    assert inspect(out / "00001.png").made["key"] == crafter.key(replace(request, seed=1))
    renamed = photo.rename(photo.with_name("b.png"))
    assert generate_many(crafter, asked(crafter, renamed), 3, out) == Summary(0, 3, 0)


def spoil(photo: Path) -> None:
    photo.write_bytes(photo.read_bytes() + b"\0")


OTHERS: dict[str, Callable[[FaceCrafter, Path], tuple[FaceCrafter, Request]]] = {
    "a photo that changed": lambda crafter, photo: (spoil(photo), (crafter, asked(crafter, photo)))[1],
    "other settings": lambda crafter, photo: (crafter, asked(crafter, photo, settings=Settings(steps=2))),
    "a condition": lambda crafter, photo: (
        crafter,
        crafter.request([PhotoFile.read(photo)], emotion="sad", settings=QUICK),
    ),
    "another face of the photo": lambda crafter, photo: (
        FaceCrafter(crafter.model, choose="centre"),
        asked(crafter, photo),
    ),
    "another precision": lambda crafter, photo: (
        FaceCrafter(copy.deepcopy(crafter.model).to(torch.bfloat16)),
        asked(crafter, photo),
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_folder_of_another_request_is_refused_before_anything_is_made(
    crafter: FaceCrafter, photo: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    out = photo.parent / "out"
    generate_many(crafter, asked(crafter, photo), 1, out)
    before = images(out)
    other, request = OTHERS[case](crafter, photo)
    monkeypatch.setattr(other, "render", None)
    with pytest.raises(OutputError, match=r"00000\.png is the image of another request, or of a photo or a model"):
        generate_many(other, request, 2, out)
    monkeypatch.undo()
    assert images(out) == before
    assert generate_many(other, request, 1, out, overwrite=True) == Summary(1, 0, 0)
    assert inspect(out / "00000.png").made["key"] == other.key(request)


def test_a_folder_that_cannot_be_looked_into_is_one_sentence(crafter: FaceCrafter, photo: Path) -> None:
    with pytest.raises(OutputError, match=r"0\.png cannot be used \(file name too long\); choose another place"):
        generate_many(crafter, asked(crafter, photo), 1, photo.parent / ("x" * 300))


def test_other_seeds_go_to_another_folder(crafter: FaceCrafter, photo: Path) -> None:
    out = photo.parent / "out"
    generate_many(crafter, asked(crafter, photo), 2, out)
    with pytest.raises(OutputError, match=r"sheet\.png shows images of another request"):
        generate_many(crafter, asked(crafter, photo, seed=7), 2, out)
    assert list(images(out)) == [*names(0, 1), "sheet.png"]


def test_a_photo_that_changes_while_it_is_used_makes_no_image(crafter: FaceCrafter, photo: Path) -> None:
    request = asked(crafter, photo)
    Image.open(photo).save(photo, compress_level=1)
    with pytest.raises(PhotoError, match=r"a\.png has changed since the run began"):
        generate_many(crafter, request, 3, photo.parent / "out")
    Image.new("RGB", (64, 64)).save(photo)
    with pytest.raises(NoFaceError, match=r"a\.png"):
        generate_many(crafter, asked(crafter, photo), 3, photo.parent / "out")
    assert images(photo.parent / "out") == {}
