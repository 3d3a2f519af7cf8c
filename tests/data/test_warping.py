"""Prepared photos with other expressions and poses: what is drawn, what is kept, and how a run goes on."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.data import shards, warping
from facecrafter.data.prepare import prepare
from facecrafter.data.prepare.reader import Accepted, Result
from facecrafter.data.rig import fit_rig
from facecrafter.data.warping import OPPOSITE, Drawn, Recipe, Warper, draw, warp
from facecrafter.errors import ConfigError, DataError
from facecrafter.estimators.blendshapes import network
from facecrafter.faces.face import BLENDSHAPES, Face
from facecrafter.faces.rig import load
from facecrafter.faces.warp import moved_points


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    """A prepared folder of three shards with a photo each: Ann's, Bob's, and that of Ida, who is held out."""
    root = tmp_path_factory.mktemp("photos")
    for lighter, person in enumerate(("Ann", "Bob", "Ida")):
        (root / "source" / person).mkdir(parents=True)
        Image.fromarray(np.minimum(astronaut, 235) + np.uint8(10 * lighter)).save(root / "source" / person / "1.png")
    prepare(root / "source", root / "prepared", size=128, workers=1, shard_size=1, progress=False)
    return root / "prepared"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.*"))}


def test_images_of_photos_are_a_prepared_folder(photos: Path, tmp_path: Path) -> None:
    report = warp(photos, tmp_path / "out", copies=3, workers=1, progress=False)
    assert report.images + report.rejected == 6 and report.images > 3
    made, before = shards.load(tmp_path / "out"), shards.load(photos)
    assert set(made.persons) == {"Ann", "Bob"} and len(set(made.files)) == report.images
    assert all(file[:10] in ("Ann/1.png#", "Bob/1.png#") for file in made.files)
    assert made.images.shape[1:] == (128, 128, 3)
    ann = [row for row, person in enumerate(made.persons) if person == "Ann"]
    np.testing.assert_array_equal(made.identity[ann], np.repeat(before.identity[:1], len(ann), 0))
    assert np.abs(made.blendshapes - before.blendshapes[0]).max(1).mean() > 0.2
    assert len({image.tobytes() for image in made.images}) == report.images
    assert (
        shards.read_meta(tmp_path / "out")["warped"].items() >= {"seed": 0, "copies": 3, "rig": load().digest}.items()
    )


def test_the_same_bytes_in_one_process_or_two_and_after_a_stop(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warp(photos, tmp_path / "one", copies=2, workers=1, progress=False)
    warp(photos, tmp_path / "two", copies=2, workers=2, progress=False)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    read, calls = Warper.read, iter(range(9))

    def stopped(warper: Warper, item: warping.Sample) -> list[Result]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return read(warper, item)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stop:
        patch.setattr(Warper, "read", stopped)
        warp(photos, tmp_path / "three", copies=2, workers=1, progress=False)
    assert any("3 of 6 shards are done and kept" in note for note in stop.value.__notes__)
    assert not (tmp_path / "three/index.parquet").exists()
    warp(photos, tmp_path / "three", copies=2, workers=1, progress=False)
    assert content(tmp_path / "one") == content(tmp_path / "three")
    warp(photos, tmp_path / "three", seed=1, copies=2, workers=1, progress=False, overwrite=True)
    other = shards.load(tmp_path / "three")
    assert not np.array_equal(other.points, shards.load(tmp_path / "one").points)


def test_an_image_depends_on_its_photo_and_not_on_its_place(photos: Path) -> None:
    _, parts = next(shards.read_shard(photos / "shard-00001.tar"))
    warper = Warper(Recipe())
    try:
        (one,), (other,) = (warper.read((0, "shard", key, parts)) for key in ("000001", "000777"))
        assert isinstance(one, Accepted) and isinstance(other, Accepted) and one.parts == other.parts
    finally:
        warper.close()


def test_a_head_that_keeps_its_pose_has_the_landmarks_that_its_pixels_went_to(face: Face) -> None:
    warper = Warper(Recipe())
    try:
        scores = np.array(face.blendshapes, np.float64)
        scores[BLENDSHAPES.index("jawOpen")] += 0.2
        moved = warper._moved(face, Drawn(scores, 0.0, 0.0))
        assert moved is not None
        wanted = moved_points(face.points, face.blendshapes, scores, 256, load(), network().scores)
        np.testing.assert_array_equal(moved.points, wanted)
        assert moved.blendshapes[BLENDSHAPES.index("jawOpen")] > face.blendshapes[BLENDSHAPES.index("jawOpen")] + 0.1
        turned = warper._moved(face, Drawn(np.array(face.blendshapes, np.float64), -8.0, 0.0))
        assert turned is not None and turned.angles[0] < face.angles[0] - 2
    finally:
        warper.close()


def test_what_is_drawn_is_within_its_bounds(face: Face) -> None:
    random, rig = np.random.default_rng(0), load()
    drawn = [draw(face, rig, random) for _ in range(400)]
    scores = np.stack([one.scores for one in drawn])
    assert scores.min() >= 0 and scores.max() <= 1
    smile = [BLENDSHAPES.index(f"mouthSmile{side}") for side in ("Left", "Right")]
    changed = np.abs(scores - face.blendshapes) > 1e-6
    assert 0.2 < changed[:, smile].any(1).mean() < 0.7
    of_smile = (scores / face.blendshapes.clip(1e-3))[:, smile][changed[:, smile].all(1)]
    assert (np.abs(of_smile[:, 0] - of_smile[:, 1]) < 1e-6).mean() > 0.8  # both sides alike
    others = np.delete(changed, smile, axis=1)
    assert others.sum(1).max() <= 12 and others.any(1).mean() > 0.9
    dead = [number for number, live in enumerate(rig.live) if not live and BLENDSHAPES[number] != "jawRight"]
    assert not changed[:, dead].any()
    value = {name: scores[:, BLENDSHAPES.index(name)] > 0.3 for name in BLENDSHAPES}
    was = {name: face.blendshapes[BLENDSHAPES.index(name)] > 0.3 for name in BLENDSHAPES}
    assert not (value["eyeBlinkLeft"] & value["eyeWideLeft"]).any() or was["eyeBlinkLeft"] or was["eyeWideLeft"]
    turned = np.array([[one.yaw, one.pitch] for one in drawn])
    assert 0.3 < (turned != 0).any(1).mean() < 0.5
    assert np.abs(turned).max(0) == pytest.approx([15, 12], abs=0.5)
    outward = turned[(turned != 0).any(1)] * np.sign(face.angles[:2]) > 0
    assert outward.all(1).mean() > 0.7


@pytest.mark.parametrize("one", ["eyeBlink", "eyeLookUp", "eyeLookIn", "mouthLeft"])
def test_the_opposite_of_what_is_drawn_is_taken_away(face: Face, one: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = replace(face, blendshapes=np.full(52, 0.6, np.float32))
    monkeypatch.setattr(warping, "live", lambda rig: [one])
    monkeypatch.setattr(warping, "CONTROLS", (1, 1))
    for seed in range(20):
        scores = draw(photo, load(), np.random.default_rng(seed)).scores
        pairs = {(name, other) for name in BLENDSHAPES for other in warping._opposite(name)}
        changed = [(name, other) for name, other in pairs if scores[BLENDSHAPES.index(other)] == 0]
        assert changed and all(scores[BLENDSHAPES.index(name)] >= 0.25 for name, _ in changed)
        assert all(
            name.removesuffix("Left").removesuffix("Right") in {one, OPPOSITE[one], "mouth"} for name, _ in changed
        )


def test_opposites_are_of_the_same_side() -> None:
    assert warping._opposite("eyeLookInLeft") == ["eyeLookOutLeft"]
    assert warping._opposite("eyeWideRight") == ["eyeBlinkRight"]
    assert warping._opposite("jawLeft") == ["jawRight"] and warping._opposite("jawOpen") == []
    assert all(other in BLENDSHAPES for name in BLENDSHAPES for other in warping._opposite(name))


@pytest.mark.parametrize(("now", "outward"), [(0.0, True), (38.0, True), (-38.0, True), (39.0, False), (-20.0, False)])
def test_a_turn_is_at_most_a_step_and_within_the_limit(now: float, outward: bool) -> None:
    random = np.random.default_rng(0)
    turns = np.array([warping._turn(now, 40.0, 15.0, outward, random) for _ in range(200)])
    assert np.abs(turns).max() <= 15 and np.abs(now + turns).max() <= 40 and np.ptp(turns) > 1
    assert not outward or (turns * np.copysign(1, now) >= 0).all()
    assert warping._turn(50.0, 40.0, 15.0, outward, random) == 0


def test_torn_images_are_listed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warping, "TORN", -1.0)
    monkeypatch.setattr(warping, "TORN_TURNED", -1.0)
    with pytest.raises(DataError, match=r"not one image could be made .*rejected\.csv says why"):
        warp(photos, tmp_path / "out", workers=1, progress=False)
    assert (tmp_path / "out/rejected.csv").read_text() == "".join(
        ["file,reason\n", *(f'{name}/1.png#0,"{warping.LOST}"\n' for name in ("Ann", "Bob"))]
    )


def _file(folder: Path) -> Path:
    (folder / "out").write_text("")
    return folder / "out"


def _full(folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "out" / "a.txt").write_text("")
    return folder / "out"


@pytest.mark.parametrize(
    ("out", "given", "message"),
    [
        (_file, {}, "is a file"),
        (_full, {}, "is not empty and no folder of moved photos; name a new one"),
        (lambda folder: folder / "out", {"copies": 0}, "copies 0 is outside 1 to 20"),
        (lambda folder: folder / "out", {"seed": -1}, "seed -1 is outside"),
        (lambda folder: folder / "out", {"workers": -1}, "workers -1 is negative"),
    ],
)
def test_bad_input(
    photos: Path, tmp_path: Path, out: Callable[[Path], Path], given: dict[str, int], message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        warp(photos, out(tmp_path), **{"workers": 1, **given}, progress=False)  # type: ignore[arg-type]


def test_folders_of_other_kinds_are_refused(photos: Path, tmp_path: Path) -> None:
    for out in (photos, photos / "inside"):
        with pytest.raises(DataError, match="where the photos are"):
            warp(photos, out, progress=False)
    other = tmp_path / "other"
    other.mkdir()
    (other / "meta.json").write_bytes((photos / "meta.json").read_bytes())
    with pytest.raises(DataError, match="another kind of prepared folder"):
        warp(photos, other, progress=False)
    warp(photos, tmp_path / "out", workers=1, progress=False)
    with pytest.raises(DataError, match="is not of photos as they were taken"):
        warp(tmp_path / "out", tmp_path / "again", progress=False)
    for given, difference in (({"seed": 2}, "with seed 0, not 2"), ({"copies": 2}, "with copies 1, not 2")):
        with pytest.raises(DataError, match=f"out was begun {difference}; name another folder, or give --overwrite"):
            warp(photos, tmp_path / "out", progress=False, **given)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is not a prepared folder"):
        warp(tmp_path, tmp_path / "again", progress=False)


def _png(mode: str, size: tuple[int, int]) -> bytes:
    packed = io.BytesIO()
    Image.new(mode, size).save(packed, "PNG")
    return packed.getvalue()


def _arrays(parts: Mapping[str, bytes], **changed: Any) -> bytes:
    packed = io.BytesIO()
    with np.load(io.BytesIO(parts["npz"])) as arrays:
        np.savez(packed, **{**arrays, **changed})
    return packed.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda parts: {"npz": b"no array"},
        lambda parts: {"json": b"{}"},
        lambda parts: {"npz": _arrays(parts, points=np.full((478, 3), np.nan, np.float32))},
        lambda parts: {"npz": _arrays(parts, points=np.zeros((400, 3), np.float32))},
        lambda parts: {"npz": _arrays(parts, blendshapes=np.full(52, np.nan, np.float32))},
        lambda parts: {"npz": _arrays(parts, blendshapes=np.zeros(51, np.float32))},
        lambda parts: {"npz": _arrays(parts, pose=np.zeros((4, 4), np.float32))},
        lambda parts: {"png": _png("RGBA", (128, 128))},
        lambda parts: {"png": _png("RGB", (128, 64))},
    ],
)
def test_a_damaged_sample_names_its_shard(
    photos: Path, damage: Callable[[Mapping[str, bytes]], dict[str, bytes]]
) -> None:
    key, parts = next(shards.read_shard(photos / "shard-00000.tar"))
    warper = Warper(Recipe())
    try:
        with pytest.raises(DataError, match=r"shard-00000\.tar is damaged or missing; delete it and run the command"):
            warper.read((0, str(photos / "shard-00000.tar"), key, {**parts, **damage(parts)}))
    finally:
        warper.close()


def test_photos_that_were_prepared_again_are_not_mixed_with_those_before(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    shutil.copytree(photos, source)
    warp(source, tmp_path / "out", workers=1, progress=False)
    meta = json.loads((source / "meta.json").read_text())
    (source / "meta.json").write_text(json.dumps({**meta, "choose": "largest"}))
    with pytest.raises(DataError, match="out was begun from other photos than there are now"):
        warp(source, tmp_path / "out", workers=1, progress=False)
    renewed = {**meta, "emotion": {"name": "another", "sha256": ""}}
    (source / "meta.json").write_text(json.dumps(renewed))
    assert warp(source, tmp_path / "out", workers=1, progress=False).images == 2
    monkeypatch.setattr(warping, "code", lambda *parts: "another")
    with pytest.raises(DataError, match="out was begun by another version"):
        warp(source, tmp_path / "out", workers=1, progress=False)


def test_a_shard_without_people_names_itself(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(photos, source)
    (key, parts), *_ = shards.read_shard(source / "shard-00000.tar")
    (source / "shard-00000.tar").write_bytes(shards.pack([(key, {**parts, "json": b"{}"})]))
    with pytest.raises(DataError, match=r"shard-00000\.tar is damaged or missing"):
        warp(source, tmp_path / "out", workers=1, progress=False)


def test_no_rig_is_fitted_on_photos_that_one_has_moved(photos: Path, tmp_path: Path) -> None:
    warp(photos, tmp_path / "out", workers=1, progress=False)
    with pytest.raises(DataError, match="a rig has moved"):
        fit_rig(photos, [tmp_path / "out"])


def test_the_command(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["data", "warp", str(photos), str(out), "--workers", "1"])
    assert done.exit_code == 0 and f"images are in {out}" in done.output
    assert json.loads((out / "meta.json").read_text())["warped"]["copies"] == 1
