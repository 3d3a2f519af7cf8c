"""A table of pairs: one picture a row, bad rows told and left behind, nothing made twice."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facecrafter import FaceCrafter
from facecrafter.errors import ConfigError, OutputError
from facecrafter.model.checkpoint import FaceModel
from facecrafter.sampling import pairs
from facecrafter.sampling.output import inspect
from facecrafter.sampling.pairs import Summary, generate_pairs, read_pairs
from facecrafter.sampling.pipeline import Settings

QUICK = Settings(steps=1, batch_size=2)


@pytest.fixture(scope="module")
def crafter(small_model: FaceModel) -> FaceCrafter:
    return FaceCrafter(small_model)


@pytest.fixture
def folder(portrait: Path, tmp_path: Path) -> Path:
    """A folder with a.png, which shows a face, and blank.png, which does not."""
    (tmp_path / "a.png").write_bytes(portrait.read_bytes())
    Image.new("RGB", (64, 64)).save(tmp_path / "blank.png")
    return tmp_path


def table(folder: Path, *lines: str, header: str = "identity,target,emotion,valence,arousal,seed") -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def results(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def pictures(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.png"))


def test_one_picture_a_row(crafter: FaceCrafter, folder: Path, portrait: Path) -> None:
    path = table(folder, "a.png,a.png", f"{portrait},,happy:0.5,,,40", "a.png,a.png,,0.6,-0.4,", "a.png,,,,,")
    amounts: list[float] = []
    out = folder / "out"
    assert generate_pairs(crafter, path, out, 5, QUICK, progress=amounts.append) == Summary(4, 0, 0)
    assert sum(amounts) == pytest.approx(4)
    told = results(out)
    assert list(told[0]) == ["identity", "target", "output", "seed", "error"]
    assert [row["seed"] for row in told] == ["5", "40", "7", "8"]
    assert [row["error"] for row in told] == [""] * 4
    assert told[1]["identity"] == str(portrait) and told[0]["target"] == "a.png"
    assert sorted(row["output"] for row in told) == pictures(out)
    made = [inspect(out / row["output"]).made for row in told]
    assert [one["seed"] for one in made] == [5, 40, 7, 8]
    assert made[1]["emotion"].startswith("neutral 0.50, happy 0.50") and "landmarks" not in made[1]
    assert "valence +0.60, arousal -0.40" in made[2]["emotion"] and made[2]["landmarks"] == "a.png"
    assert set(made[3]) == {"model", "scale", "identity", "seed", "steps", "scheduler", "speed", "precision", *SCALES}


SCALES = ("identity_scale", "landmark_scale", "emotion_scale")

BAD_ROWS = {
    "missing.jpg,a.png,,,,": "there is no file",
    "a.png,blank.png,,,,": "no face found in",
    "a.png,pairs.csv,,,,": "not a picture",
    ",a.png,,,,": "names no identity photo",
    "a.png,a.png,jolly,,,": "unknown emotion 'jolly'",
    "a.png,a.png,,3,0,": "valence 3 is outside [-1, 1]",
    "a.png,a.png,,high,0,": "the valence 'high' is not a number",
    "a.png,a.png,,0.5,,": "arousal is missing",
    "a.png,a.png,,,,1.5": "the seed '1.5' is not a whole number",
    "a.png,a.png,,,,-3": "the seed '-3' is not a whole number",
}


def test_a_bad_row_is_told_and_the_rest_goes_on(crafter: FaceCrafter, folder: Path) -> None:
    path = table(folder, "a.png,a.png", *BAD_ROWS, "a.png,a.png,sad,,,9")
    assert generate_pairs(crafter, path, folder / "out", 0, QUICK) == Summary(2, 0, len(BAD_ROWS))
    told = results(folder / "out")
    assert len(told) == 2 + len(BAD_ROWS)
    assert told[0]["output"] and told[-1]["output"]
    for row, (line, words) in zip(told[1:-1], BAD_ROWS.items(), strict=True):
        assert words in row["error"] and not row["output"], line
    assert len(pictures(folder / "out")) == 2


def test_run_again_only_what_is_missing_is_made(crafter: FaceCrafter, folder: Path) -> None:
    out = folder / "out"
    path = table(folder, "a.png,a.png", "a.png,", "later.png,a.png")
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(2, 0, 1)
    first = {name: (out / name).stat().st_mtime_ns for name in pictures(out)}
    (folder / "later.png").write_bytes((folder / "a.png").read_bytes())
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(1, 2, 0)
    assert all((out / name).stat().st_mtime_ns == changed for name, changed in first.items())
    (out / results(out)[0]["output"]).unlink()
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(1, 2, 0)
    assert [bool(row["output"]) for row in results(out)] == [True] * 3
    assert generate_pairs(crafter, path, out, 0, QUICK, overwrite=True) == Summary(3, 0, 0)


def test_another_models_pictures_are_not_taken_for_its_own(
    crafter: FaceCrafter, small_model: FaceModel, folder: Path
) -> None:
    path, out = table(folder, "a.png,a.png"), folder / "out"
    assert generate_pairs(crafter, path, out, 0, QUICK).made == 1
    assert generate_pairs(FaceCrafter(small_model, "elsewhere"), path, out, 0, QUICK) == Summary(0, 1, 0)
    other = copy.deepcopy(small_model)
    with torch.no_grad():
        next(other.controls.parameters()).add_(1e-3)
    assert generate_pairs(FaceCrafter(other), path, out, 0, QUICK).made == 1
    assert generate_pairs(FaceCrafter(copy.deepcopy(small_model).to(torch.bfloat16)), path, out, 0, QUICK).made == 1
    assert len(pictures(out)) == 3
    own = Settings(steps=1, **{name: small_model.scale.sampling[name] for name in SCALES})
    assert generate_pairs(crafter, path, out, 0, own) == Summary(0, 1, 0)


def test_a_run_that_stops_keeps_the_rows_of_all_pictures_that_are_there(
    crafter: FaceCrafter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, lines = folder / "out", [f"a.png,a.png,,,,{seed}" for seed in range(5)]
    assert generate_pairs(crafter, table(folder, *lines), out, 0, QUICK).made == 5
    made = [row["output"] for row in results(out)]
    (out / made[0]).unlink()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(crafter, "render", stop)
    with pytest.raises(KeyboardInterrupt):
        generate_pairs(crafter, table(folder, *lines), out, 0, QUICK)
    assert [row["output"] for row in results(out)] == made[1:]


def test_other_settings_or_rows_make_other_pictures(crafter: FaceCrafter, folder: Path) -> None:
    out = folder / "out"
    path = table(folder, "a.png,a.png")
    assert generate_pairs(crafter, path, out, 0, QUICK).made == 1
    assert generate_pairs(crafter, path, out, 1, QUICK).made == 1
    assert generate_pairs(crafter, path, out, 0, Settings(steps=1, emotion_scale=1)).made == 1
    assert generate_pairs(crafter, path, out, 0, Settings(steps=1, batch_size=5)).made == 0
    assert generate_pairs(crafter, table(folder, "a.png,a.png,sad,,,"), out, 0, QUICK).made == 1
    assert len(pictures(out)) == 4


def test_ctrl_c_keeps_what_is_done(crafter: FaceCrafter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out"
    path = table(folder, *["a.png,a.png"] * 6)
    render, calls = crafter.render, []

    def stops(*arguments: Any) -> Iterator[tuple[int, Image.Image]]:
        calls.append(1)
        for index, picture in render(*arguments):
            if len(calls) == 2 and index == 1:
                raise KeyboardInterrupt
            yield index, picture

    with monkeypatch.context() as patch:
        patch.setattr(crafter, "render", stops)
        with pytest.raises(KeyboardInterrupt):
            generate_pairs(crafter, path, out, 0, QUICK)
    assert len(pictures(out)) == 3
    assert [row["seed"] for row in results(out)] == ["0", "1", "2"]
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(3, 3, 0)


def test_a_full_disk_stops_the_run(crafter: FaceCrafter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="no space left on device"):
            generate_pairs(crafter, table(folder, "a.png,a.png"), folder / "out", 0, QUICK)
    assert pictures(folder / "out") == []


def test_each_photo_is_read_once(crafter: FaceCrafter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    find = crafter._finder.find
    monkeypatch.setattr(crafter._finder, "find", lambda *arguments: read.append(arguments[-1]) or find(*arguments))
    generate_pairs(crafter, table(folder, *["a.png,a.png"] * 5), folder / "out", 0, QUICK)
    assert read == [folder / "a.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column 'identity'"),
        (b"identity\na.png\n", "no column 'target'"),
        (b"identity,target,mood\na.png,b.png,sad\n", "a column 'mood'"),
        (b"identity,target\n", "no rows"),
        (b"\xff\xfe\x00\x01", "not UTF-8"),
        (b'identity,target\n"a.png,b.png\n', "not a table"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_pairs(tmp_path / "pairs.csv")
    assert "pairs.csv" in str(caught.value)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv cannot be read"):
        read_pairs(tmp_path / "none.csv")


def test_tables_of_spreadsheets_are_read(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes("\ufeffidentity, target,seed\r\n Zoë.jpg ,b.png,7\r\nc.jpg\r\n".encode())
    first, second = read_pairs(tmp_path / "pairs.csv")
    assert first.photo("identity") == tmp_path / "Zoë.jpg" and first.seed(0) == 7
    assert second.photo("target") is None and second.seed(10) == 11


def test_columns_come_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("seed,target,identity\n3,t.png,i.png\n")
    (pair,) = read_pairs(tmp_path / "pairs.csv")
    assert pair.photo("identity") == tmp_path / "i.png" and pair.photo("target") == tmp_path / "t.png"
    assert set(pairs.REQUIRED + pairs.OPTIONAL) == set(pair.values)
    assert np.isclose(pair.seed(0), 3)
