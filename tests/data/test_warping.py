"""Prepared photos with other expressions and poses: what is drawn, what is kept, and how a run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.data import shards, warping
from facecrafter.data.prepare import prepare
from facecrafter.data.warping import Drawn, Recipe, Warper, draw, moved_points, warp
from facecrafter.errors import ConfigError, DataError
from facecrafter.faces.face import BLENDSHAPES, Face
from facecrafter.faces.rig import load


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    """A prepared folder of one photo under two names, of whom Ida is held out of training."""
    root = tmp_path_factory.mktemp("photos")
    for person in ("Ann", "Ida"):
        (root / "source" / person).mkdir(parents=True)
        Image.fromarray(astronaut).save(root / "source" / person / "1.png")
    prepare(root / "source", root / "prepared", size=128, workers=1, progress=False)
    return root / "prepared"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.*"))}


def test_images_of_a_photo_are_a_prepared_folder(photos: Path, tmp_path: Path) -> None:
    report = warp(photos, tmp_path / "out", copies=3, workers=1, progress=False)
    assert report.images + report.rejected == 3 and report.images > 0
    made, before = shards.load(tmp_path / "out"), shards.load(photos)
    assert made.persons == ["Ann"] * report.images and all(file.startswith("Ann/1.png#") for file in made.files)
    assert made.images.shape[1:] == (128, 128, 3)
    np.testing.assert_array_equal(made.identity, np.repeat(before.identity[:1], report.images, 0))
    assert np.abs(made.blendshapes - before.blendshapes[0]).max(1).min() > 0.1
    meta = shards.read_meta(tmp_path / "out")
    assert meta["warped"] == {"seed": 0, "copies": 3, "rig": load().digest}


def test_the_same_bytes_in_one_process_or_two_and_after_a_stop(photos: Path, tmp_path: Path) -> None:
    warp(photos, tmp_path / "one", workers=1, progress=False)
    warp(photos, tmp_path / "two", workers=2, progress=False)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    (tmp_path / "two" / "shard-00000.tar").unlink()
    (tmp_path / "two" / "index.parquet").unlink()
    warp(photos, tmp_path / "two", workers=1, progress=False)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    warp(photos, tmp_path / "other", seed=1, workers=1, progress=False)
    assert content(tmp_path / "one")["shard-00000.tar"] != content(tmp_path / "other")["shard-00000.tar"]


def test_a_head_that_keeps_its_pose_has_the_landmarks_that_its_pixels_went_to(face: Face) -> None:
    warper = Warper(Recipe())
    try:
        scores = np.array(face.blendshapes, np.float64)
        scores[BLENDSHAPES.index("jawOpen")] += 0.2
        moved = warper._moved(face, Drawn(scores, 0.0, 0.0))
        assert moved is not None
        np.testing.assert_array_equal(moved.points, moved_points(face, scores, 0, 0, load()))
        assert moved.blendshapes[BLENDSHAPES.index("jawOpen")] > face.blendshapes[BLENDSHAPES.index("jawOpen")] + 0.1
        turned = warper._moved(face, Drawn(np.array(face.blendshapes, np.float64), -10.0, 0.0))
        assert turned is not None and turned.angles[0] < face.angles[0] - 3
    finally:
        warper.close()


def test_no_change_moves_nothing(face: Face) -> None:
    same = moved_points(face, np.array(face.blendshapes, np.float64), 0, 0, load())
    np.testing.assert_allclose(same, face.points, atol=1e-3)


def test_what_is_drawn_is_within_its_bounds(face: Face) -> None:
    random, rig = np.random.default_rng(0), load()
    drawn = [draw(face, rig, random) for _ in range(300)]
    scores = np.stack([one.scores for one in drawn])
    assert scores.min() >= 0 and scores.max() <= 1
    smile = [BLENDSHAPES.index(f"mouthSmile{side}") for side in ("Left", "Right")]
    changed = np.delete(np.abs(scores - face.blendshapes) > 1e-6, smile, axis=1)
    assert changed.sum(1).min() >= 0 and changed.sum(1).max() <= 6 and changed.any(1).mean() > 0.9
    dead = [number for number, live in enumerate(rig.live) if not live]
    np.testing.assert_allclose(scores[:, dead], np.tile(face.blendshapes[dead], (300, 1)), atol=1e-6)
    turned = np.array([[one.yaw, one.pitch] for one in drawn])
    assert 0.3 < (turned != 0).any(1).mean() < 0.5
    assert np.abs(turned).max(0).tolist() == pytest.approx([15, 12])
    outward = turned[(turned != 0).any(1)] * np.sign(face.angles[:2]) > 0
    assert outward.all(1).mean() > 0.7


def test_torn_images_are_listed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warping, "FOLDED", -1.0)
    monkeypatch.setattr(warping, "FOLDED_TURNED", -1.0)
    with pytest.raises(DataError, match=r"not one image could be made .*rejected\.csv says why"):
        warp(photos, tmp_path / "out", workers=1, progress=False)
    assert (tmp_path / "out/rejected.csv").read_text() == f'file,reason\nAnn/1.png#0,"{warping.LOST}"\n'


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
        (_full, {}, "is not empty and no folder of moved photos"),
        (lambda folder: folder / "out", {"copies": 0}, "copies 0 is outside 1 to 100"),
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
    with pytest.raises(DataError, match="where the photos are"):
        warp(photos, photos, progress=False)
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


def test_a_damaged_sample_ends_the_run_with_its_name(photos: Path, tmp_path: Path) -> None:
    key, parts = next(shards.read_shard(photos / "shard-00000.tar"))
    warper = Warper(Recipe())
    try:
        with pytest.raises(DataError, match=f"the sample {key} is damaged"):
            warper.read((key, {**parts, "npz": b"no array"}))
    finally:
        warper.close()


def test_the_command(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["data", "warp", str(photos), str(out), "--workers", "1"])
    assert done.exit_code == 0 and f"1 images are in {out}" in done.output
    assert json.loads((out / "meta.json").read_text())["warped"]["copies"] == 1
