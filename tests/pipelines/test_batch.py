"""A table of pairs: one image a row, bad rows told and left behind, nothing made twice."""

from __future__ import annotations

import copy
import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from facecrafter import FaceCrafter
from facecrafter.errors import ConfigError, OutputError
from facecrafter.models.checkpoint import FaceModel
from facecrafter.pipelines import batch
from facecrafter.pipelines.batch import generate_pairs, read_pairs
from facecrafter.pipelines.images import inspect
from facecrafter.pipelines.missing import Summary
from facecrafter.pipelines.settings import Settings

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


def images(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.png") if path.name != "sheet.png")


def shown(out: Path) -> list[int]:
    return [made["seed"] for made in inspect(out / "sheet.png").made["sheet of"]]


def test_rows_have_poses_and_expressions_by_numbers(crafter: FaceCrafter, folder: Path) -> None:
    rows = (
        "a.png,,20,,,jawOpen=0.5,",
        'a.png,,,"-5,5",,"jawOpen=0.5,mouthSmile=0.2",wink',
        "a.png,,60,,,,",
        "a.png,,,,,,wnik",
        "a.png,,,4,,,look left",
    )
    path = table(folder, *rows, header="identity,target,yaw,pitch,roll,expression,preset")
    out = folder / "out"
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(3, 0, 2)
    outcome = results(out)
    assert inspect(out / outcome[4]["output"]).made["pose asked"] == "yaw -25, pitch 4, roll 0"
    assert "yaw must be from -45 to 45" in outcome[2]["error"] and "did you mean 'wink'" in outcome[3]["error"]
    made = [inspect(out / row["output"]).made for row in outcome[:2]]
    assert [one["pose"] for one in made] == ["yaw 20, pitch 0, roll 0", "yaw 0, pitch -5.5, roll 0"]
    assert made[0]["expression asked"] == "jawOpen 0.5"
    assert "eyeBlinkLeft 0.7" in made[1]["expression asked"] and "mouthSmileLeft 0.2" in made[1]["expression asked"]
    assert outcome[0]["output"].startswith("a_yaw20_jawOpen-0.5_")
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(0, 3, 2)


def test_one_image_a_row(crafter: FaceCrafter, folder: Path, portrait: Path) -> None:
    path = table(folder, "a.png,a.png", f'{portrait},,"happy:0.5,sad:0.5",,,40', "a.png,a.png,,0.6,-0.4,", "a.png,,,,,")
    amounts: list[float] = []
    out = folder / "out"
    assert generate_pairs(crafter, path, out, 5, QUICK, progress=amounts.append) == Summary(4, 0, 0)
    assert sum(amounts) == pytest.approx(4)
    outcome = results(out)
    numbers = ["yaw", "pitch", "roll", "expression", "preset"]
    assert list(outcome[0]) == [
        *("identity", "target", "emotion", "valence", "arousal", "seed", *numbers, "output", "error")
    ]
    seeds = [int(row["seed"]) for row in outcome]
    assert len(set(seeds)) == 4 and seeds[1] == 40
    assert [row["error"] for row in outcome] == [""] * 4
    assert outcome[1]["identity"] == str(portrait) and outcome[0]["target"] == "a.png"
    assert outcome[1]["emotion"] == "happy:0.5,sad:0.5" and (outcome[2]["valence"], outcome[2]["arousal"]) == (
        "0.6",
        "-0.4",
    )
    assert sorted(row["output"] for row in outcome) == images(out)
    assert [row["output"].rpartition("_")[0] for row in outcome] == [
        "a_a",
        "astronaut_happy-0.5-sad-0.5",
        "a_a_v0.6_a-0.4",
        "a",
    ]
    made = [inspect(out / row["output"]).made for row in outcome]
    assert [one["seed"] for one in made] == seeds == shown(out)
    assert [one["key"][:10] for one in made] == [row["output"][-14:-4] for row in outcome]
    assert made[1]["emotion"].startswith("sad 0.50, happy 0.50")
    assert made[1]["landmarks"] == "astronaut.png, by numbers"
    assert "valence +0.60, arousal -0.40" in made[2]["emotion"] and made[2]["landmarks"] == "a.png"
    told_of_all = {"model", "scale", "identity", "seed", "steps", "scheduler", "speed", "precision", "key", *SCALES}
    assert set(made[3]) == {*told_of_all, "pose and expression"}


SCALES = ("identity_scale", "landmark_scale", "emotion_scale")

BAD_ROWS = {
    "missing.jpg,a.png,,,,": "there is no file",
    "a.png,blank.png,,,,": "no face found in",
    "a.png,pairs.csv,,,,": "not an image",
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
    outcome = results(folder / "out")
    assert len(outcome) == 2 + len(BAD_ROWS)
    assert outcome[0]["output"] and outcome[-1]["output"]
    for row, (line, words) in zip(outcome[1:-1], BAD_ROWS.items(), strict=True):
        assert words in row["error"] and not row["output"], line
    assert len(images(folder / "out")) == 2


def test_run_again_only_what_is_missing_is_made(crafter: FaceCrafter, folder: Path) -> None:
    out = folder / "out"
    path = table(folder, "a.png,a.png", "a.png,", "later.png,a.png")
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(2, 0, 1)
    first = {name: (out / name).stat().st_mtime_ns for name in images(out)}
    (folder / "later.png").write_bytes((folder / "a.png").read_bytes())
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(1, 2, 0)
    assert all((out / name).stat().st_mtime_ns == changed for name, changed in first.items())
    (out / results(out)[0]["output"]).unlink()
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(1, 2, 0)
    assert [bool(row["output"]) for row in results(out)] == [True] * 3
    assert generate_pairs(crafter, path, out, 0, QUICK, overwrite=True) == Summary(3, 0, 0)


def test_another_models_images_are_not_taken_for_its_own(
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
    assert len(images(out)) == 3
    own = Settings(steps=1, **{name: small_model.scale.sampling[name] for name in SCALES})
    assert generate_pairs(crafter, path, out, 0, own) == Summary(0, 1, 0)


def test_a_run_that_stops_keeps_the_rows_of_all_images_that_are_there(
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


def test_other_settings_or_rows_make_other_images(crafter: FaceCrafter, folder: Path) -> None:
    out = folder / "out"
    path = table(folder, "a.png,a.png")
    assert generate_pairs(crafter, path, out, 0, QUICK).made == 1
    assert generate_pairs(crafter, path, out, 1, QUICK).made == 1
    assert generate_pairs(crafter, path, out, 0, Settings(steps=1, emotion_scale=1)).made == 1
    assert generate_pairs(crafter, path, out, 0, Settings(steps=1, batch_size=5)).made == 0
    assert generate_pairs(crafter, table(folder, "a.png,a.png,sad,,,"), out, 0, QUICK).made == 1
    assert len(images(out)) == 4


def test_ctrl_c_keeps_what_is_done(crafter: FaceCrafter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out"
    path = table(folder, *["a.png,a.png"] * 6)
    render, calls = crafter.render, []

    def stops(*arguments: Any) -> Iterator[tuple[int, Image.Image]]:
        calls.append(1)
        for index, image in render(*arguments):
            if len(calls) == 2 and index == 1:
                raise KeyboardInterrupt
            yield index, image

    with monkeypatch.context() as patch:
        patch.setattr(crafter, "render", stops)
        with pytest.raises(KeyboardInterrupt):
            generate_pairs(crafter, path, out, 0, QUICK)
    assert len(images(out)) == 3
    before = results(out)
    assert len(before) == 3 and len({row["seed"] for row in before}) == 3
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(3, 3, 0)
    assert results(out)[:3] == before and len(shown(out)) == 6


def test_an_inserted_row_leaves_every_other_row_its_seed_and_its_bytes(crafter: FaceCrafter, folder: Path) -> None:
    one_by_one = Settings(steps=1, batch_size=1)
    lines = ["a.png,a.png", "a.png,", "a.png,a.png,sad,,,", "a.png,a.png", "a.png,a.png,,,,7", "a.png,a.png"]
    longer = ["a.png,a.png,fear,,,", "a.png,,,,,7", lines[0], "a.png,,happy,,,", *lines[1:]]
    content: dict[str, dict[tuple[str, ...], bytes]] = {}
    # In the folder of the shorter table, in an empty one, and with a table that lies elsewhere.
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "a.png").write_bytes((folder / "a.png").read_bytes())
    for name, place, rows in (
        ("out", folder, lines),
        ("out", folder, longer),
        ("new", folder, longer),
        ("other", folder / "elsewhere", lines[::-1]),
    ):
        assert generate_pairs(crafter, table(place, *rows), folder / name, 0, one_by_one).failed == 0
        outcome = results(folder / name)
        made = {
            (*(row[column] for column in ("identity", "target", "emotion", "seed")),): (
                folder / name / row["output"]
            ).read_bytes()
            for row in outcome
        }
        assert len(made) == len(rows) == len({row["output"] for row in outcome})
        content[f"{name} {len(rows)}"] = made
    short, longer_there, longer_new, elsewhere = content.values()
    assert short.items() <= longer_there.items()
    assert longer_there == longer_new
    assert short == elsewhere


def test_rows_for_the_same_image_share_it(crafter: FaceCrafter, folder: Path) -> None:
    out, lines = folder / "out", ["a.png,,happy,,,7", "a.png,,happy:1,,,7", "a.png,,sad,,,"]
    amounts: list[float] = []
    assert generate_pairs(crafter, table(folder, *lines), out, 0, QUICK, progress=amounts.append) == Summary(3, 0, 0)
    assert sum(amounts) == pytest.approx(3)
    outcome = results(out)
    assert outcome[0]["output"] == outcome[1]["output"] != outcome[2]["output"] and len(images(out)) == 2


def test_a_photo_that_changed_makes_its_image_again_and_one_that_moved_does_not(
    crafter: FaceCrafter, folder: Path, astronaut: NDArray[np.uint8]
) -> None:
    out = folder / "out"
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    assert generate_pairs(crafter, table(folder, "a.png,b.png", "a.png,"), out, 0, QUICK) == Summary(2, 0, 0)
    before = results(out)
    (folder / "b.png").rename(folder / "c.png")
    assert generate_pairs(crafter, table(folder, "a.png,c.png", "a.png,"), out, 0, QUICK) == Summary(0, 2, 0)
    assert [row["output"] for row in results(out)] == [row["output"] for row in before]
    Image.fromarray(np.ascontiguousarray(astronaut[:, ::-1])).save(folder / "c.png")
    os.utime(folder / "c.png", (0, 0))
    assert generate_pairs(crafter, table(folder, "a.png,c.png", "a.png,"), out, 0, QUICK) == Summary(1, 1, 0)
    outcome = results(out)
    assert (
        outcome[1] == before[1]
        and outcome[0]["output"] != before[0]["output"]
        and outcome[0]["seed"] != before[0]["seed"]
    )
    assert shown(out) == [int(row["seed"]) for row in outcome]
    (folder / "c.png").unlink()
    assert generate_pairs(crafter, table(folder, "a.png,c.png", "a.png,"), out, 0, QUICK) == Summary(0, 1, 1)


@pytest.mark.parametrize("left", [0, 60, 4000, -1])
def test_a_truncated_image_is_made_again(crafter: FaceCrafter, folder: Path, left: int) -> None:
    out, path = folder / "out", table(folder, "a.png,a.png")
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(1, 0, 0)
    (name,) = images(out)
    whole = (out / name).read_bytes()
    (out / name).write_bytes(whole[:left])
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(1, 0, 0)
    assert (out / name).read_bytes() == whole


IN_THE_WAY = {
    "an earlier version's": ("results.csv", "identity,target,output,seed,error\n", "of an earlier version"),
    "another program's results": ("results.csv", "name,score\n", r"results\.csv exists already"),
    "results that are no text": ("results.csv", "\udcff\udcfe", r"results\.csv exists already"),
    "another program's sheet": ("sheet.png", "hello", r"sheet\.png exists already"),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_a_folder_of_something_else_is_refused(
    crafter: FaceCrafter, folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, content, words = IN_THE_WAY[case]
    out, path = folder / "out", table(folder, "a.png,a.png")
    out.mkdir()
    (out / name).write_bytes(content.encode(errors="surrogateescape"))
    with monkeypatch.context() as patch:
        patch.setattr(crafter, "render", None)
        with pytest.raises(OutputError, match=rf"{words}.*choose another .*--overwrite"):
            generate_pairs(crafter, path, out, 0, QUICK)
    assert [path.name for path in out.iterdir()] == [name]
    assert generate_pairs(crafter, path, out, 0, QUICK, overwrite=True) == Summary(1, 0, 0)
    assert generate_pairs(crafter, path, out, 0, QUICK) == Summary(0, 1, 0)


def test_a_full_disk_stops_the_run(crafter: FaceCrafter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="no space left on device"):
            generate_pairs(crafter, table(folder, "a.png,a.png"), folder / "out", 0, QUICK)
    assert images(folder / "out") == []


def test_each_photo_is_read_once(crafter: FaceCrafter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crafter = FaceCrafter(crafter.model)  # another test's may know the photo
    read = []
    find = crafter._finder.find_ordered
    noted = lambda *arguments: read.append(arguments[-1]) or find(*arguments)  # noqa: E731
    monkeypatch.setattr(crafter._finder, "find_ordered", noted)
    generate_pairs(crafter, table(folder, *["a.png,a.png"] * 5), folder / "out", 0, QUICK)
    assert read == [folder / "a.png"]


BAD_TABLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no column 'identity'"),
    "no target": (b"identity\na.png\n", "no column 'target'; it needs identity,target in its first line"),
    "a column of its own": (b"identity,target,mood\na.png,b.png,sad\n", "a column 'mood'; there are identity, target"),
    "a column twice": (b"identity,target,target\na.png,b.png,\n", "two columns 'target'"),
    "no rows": (b"identity,target\n", "no rows"),
    "empty rows": (b"identity,target\n\n,\n", "no rows"),
    "separated by a bar": (b"identity|target\na.png|b.png\n", "no column 'identity'; it needs identity,target"),
    "UTF-16": ("identity\ttarget\na.png\tb.png\n".encode("utf-16"), "not UTF-8 text; save it as CSV UTF-8"),
    "an open quote": (b'identity,target\n"a.png,b.png\n', "not a table in CSV .* in line 2"),
    "an unquoted emotion": (
        b"identity,target,emotion\na.png,t.png,sad\na.png,t.png,happy:0.8,surprise:0.2\n",
        'line 3 has 4 cells for 3 columns; put a cell that holds a comma in quotes, as in "happy:0.8,surprise:0.2"',
    ),
    "an unquoted emotion before another cell": (
        b'identity,target,emotion,seed\n"two\nlines.png",t.png,happy:0.8,surprise:0.2,7\n',
        "line 3 has 5 cells for 4 columns",
    ),
    "semicolons, one too many": (
        b"identity;target;emotion\na.png;t.png;happy;sad\n",
        "line 2 has 4 cells for 3 columns; put a cell that holds a semicolon in quotes",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, case: str) -> None:
    content, words = BAD_TABLES[case]
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_pairs(tmp_path / "pairs.csv")
    assert "pairs.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv cannot be read"):
        read_pairs(tmp_path / "none.csv")


GOOD_TABLES = {
    "commas": 'identity,target,emotion,valence\nZoë.jpg,t.png,"happy:0.8,surprise:0.2",0.5\n',
    "semicolons": "identity;target;emotion;valence\nZoë.jpg;t.png;happy:0.8,surprise:0.2;0,5\n",
    "tabs": "identity\ttarget\temotion\tvalence\nZoë.jpg\tt.png\thappy:0.8,surprise:0.2\t0.5\n",
    "of a spreadsheet": (
        '\ufeffidentity, target,emotion,valence,,\r\n Zoë.jpg ,t.png,"happy:0.8,surprise:0.2",0.5,,,\r\n,,,,\r\n'
    ),
    "quoted names": '"target";"identity";"valence";"emotion"\n"t.png";"Zoë.jpg";"0,5";"happy:0.8,surprise:0.2"\n',
}


@pytest.mark.parametrize("case", GOOD_TABLES)
def test_tables_of_spreadsheets_are_read(tmp_path: Path, case: str) -> None:
    (tmp_path / "pairs.csv").write_bytes(GOOD_TABLES[case].encode())
    (pair,) = read_pairs(tmp_path / "pairs.csv")
    assert pair.photo("identity") == tmp_path / "Zoë.jpg" and pair.photo("target") == tmp_path / "t.png"
    assert pair.values["emotion"] == "happy:0.8,surprise:0.2"
    assert pair.decimal("valence") == 0.5 and pair.decimal("arousal") is None and pair.seed is None


def test_rows_may_end_early_and_columns_come_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("seed,identity,target\n3,i.png,t.png\n,i.png\n")
    first, second = read_pairs(tmp_path / "pairs.csv")
    assert first.photo("identity") == tmp_path / "i.png" and first.photo("target") == tmp_path / "t.png"
    assert set(batch.REQUIRED + batch.OPTIONAL) == set(first.values) == set(second.values)
    assert (first.seed, second.seed, second.photo("target")) == (3, None, None)


def test_an_images_name_is_short_and_safe(tmp_path: Path) -> None:
    values = dict.fromkeys(batch.REQUIRED + batch.OPTIONAL, "")
    values |= {"identity": f"deep/{'李' * 80}.jpg", "target": "../-a b:c.jpg", "emotion": "happy:0.8, sad:0.1"}
    name = batch.file_name(batch.Pair(values, tmp_path), "0123456789abcdef")
    assert name == f"{'李' * 16}_a-b-c_happy-0.8-sad-0.1_0123456789.png"
    longest = dict.fromkeys(batch.REQUIRED + batch.OPTIONAL, "李" * 80)
    name = batch.file_name(batch.Pair(longest, tmp_path), "0123456789abcdef")
    assert len(f"{name}.partial".encode()) < 255 and name.endswith("_0123456789.png")
    assert not (tmp_path / name).exists()
