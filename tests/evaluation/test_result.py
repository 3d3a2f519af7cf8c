"""Result files: what is written is read back as it was, former ones too, and damaged ones are one clear error."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from facecrafter.errors import DataError, OutputError
from facecrafter.evaluation import result
from facecrafter.evaluation.result import Column, EmotionResult, HeldoutResult, Interval, TableResult

RECORDS = Path(__file__).parents[2] / "docs" / "results"
TABLE: dict[str, Any] = {
    "version": 2,
    "kind": "control",
    "environment": {"commit": "abc1234", "versions": {"torch": "2.13"}},
    "config": {"identities": 2, "methods": [{"name": "Ours"}]},
    "seed": 3,
    "seconds": 12.5,
    "estimators": {"pose": "mediapipe"},
    "conditions": {"identity": "dlib"},
    "real": {"images": 60, "of": "data", "digest": "0123abcd"},
    "people": None,
    "left_out": ["Jane/1.jpg"],
    "columns": [
        {"key": "pose_rmse", "title": "Pose", "about": "", "better": "lower", "way": "rms", "unit": "rad"},
        {"key": "lpips", "title": "LPIPS", "about": "", "better": "higher", "way": "mean", "unit": ""},
        {"key": "frechet", "title": "Frechet", "about": "", "better": None, "way": None, "unit": ""},
    ],
    "methods": [
        {
            "name": "Ours",
            "kind": "facecrafter",
            "key": "k",
            "extra_parameters": 12,
            "images": 4,
            "failures": 1,
            "without_face": ["images/ours/00002.png"],
            "seconds_an_image": 0.25,
            "values": {"pose_rmse": {"value": 0.1, "low": 0.05, "high": 0.2}},
            "groups": {"yaw": {"0 to 15": {"count": 4, "failures": 1, "values": {"pose_rmse": None}}}},
            "leakage": {
                "changed": ["identity", "gaze"],
                "moved": ["identity", "gaze"],
                "values": [[1.0, 0.1], [None, 0.9]],
                "about": "",
                "probes": 5,
                "failures": 0,
            },
            "curves": {
                "valence": {"asked": [-1.0, 1.0], "perceived": [0.5, None], "low": [None, None], "high": [1, 1]}
            },
            "note": "",
        }
    ],
    "differences": [
        {
            "method": "Ours",
            "against": "Theirs",
            "metric": "pose_rmse",
            "value": -0.1,
            "low": None,
            "high": None,
            "pairs": 4,
            "identities": 1,
            "verdict": "not distinguished",
        }
    ],
}


def edited(*keys: str | int, value: Any) -> dict[str, Any]:
    """The table with one field replaced."""
    content = copy.deepcopy(TABLE)
    place: Any = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return content


def write(folder: Path, content: object) -> Path:
    (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def former(content: Any) -> Any:
    """What version 1 wrote in place of this."""
    if isinstance(content, list):
        return [former(one) for one in content]
    if not isinstance(content, dict):
        return content
    names = {"images": "pictures", "seconds_an_image": "seconds_a_picture"}
    return {names.get(key, key): former(value) for key, value in content.items() if key != "way"}


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = TableResult.model_validate(TABLE)
    made.write(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == TABLE == made.model_dump()
    assert result.read(tmp_path) == made


@pytest.mark.parametrize(("name", "kind"), [("mini", HeldoutResult), ("emotion", EmotionResult)])
def test_the_records_of_the_documents_are_read_and_written_back(name: str, kind: type, tmp_path: Path) -> None:
    record = result.read_file(RECORDS / f"{name}.json")
    assert isinstance(record, kind)
    record.write(tmp_path)
    assert result.read(tmp_path) == record


def test_a_table_of_version_1_is_read_under_its_former_names(tmp_path: Path) -> None:
    old = former(TABLE)
    old["table"], old["real"]["images"] = old.pop("kind"), old["real"].pop("pictures")
    del old["version"], old["differences"], old["methods"][0]["leakage"]
    read = result.read(write(tmp_path, old))
    assert isinstance(read, TableResult)
    wanted = edited("methods", 0, "leakage", value=None) | {"differences": None}
    assert read.model_dump() == wanted


def test_a_held_out_result_of_version_1_is_read_under_its_former_names(tmp_path: Path) -> None:
    scores = dict.fromkeys(result.Setting.model_fields, 0.5)
    del scores["images"], scores["seconds_an_image"], scores["emotion_by_class"]
    settings = {"identity": {"pictures": 3, "seconds_a_picture": 0.25, **scores}}
    old = {"environment": {}, "model": "mini", "controls": None, "protocol": {"seed": 4}, "estimators": {}}
    read = result.read(write(tmp_path, {**old, "settings": settings}))
    assert isinstance(read, HeldoutResult)
    assert read.config == {"seed": 4} and read.words is None
    assert (read.settings["identity"].images, read.settings["identity"].seconds_an_image) == (3, 0.25)


def test_numbers_that_are_not_known_are_none() -> None:
    assert Interval(math.nan, -math.inf, math.inf) == Interval(None, None, None)
    content = edited("methods", 0, "groups", "yaw", "0 to 15", "values", value={"pose_rmse": math.nan})
    assert TableResult.model_validate(content) == TableResult.model_validate(TABLE)


def test_settings_are_kept_as_json_has_them(tmp_path: Path) -> None:
    made = HeldoutResult(
        environment={}, config={"data": Path("a"), "of": (1, 2)}, model="m", estimators={}, settings={}
    )
    made.write(tmp_path)
    assert made.config == {"data": "a", "of": [1, 2]} and result.read(tmp_path) == made


@pytest.mark.parametrize(
    ("better", "unit", "heading"), [("lower", "rad", "Pose (rad) ↓"), ("higher", "", "Pose ↑"), (None, "", "Pose")]
)
def test_a_heading_has_the_unit_and_an_arrow_towards_the_better(better: Any, unit: str, heading: str) -> None:
    assert Column("pose", "Pose", better=better, unit=unit).heading == heading


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "it is no JSON object"),
        ({}, "kind: it is None, not one of control, diversity, heldout, emotion"),
        (edited("kind", value=3), "kind: it is 3, not one of"),
        (edited("version", value=3), "version: 3 is of a newer facecrafter, and this one reads up to 2; update it"),
        (edited("version", value="new"), "version: Input should be a valid integer"),
        (edited("seed", value="x"), "seed: Input should be a valid integer"),
        (edited("environment", value=None), "environment: Input should be a valid dictionary"),
        (edited("columns", 0, "way", value="median"), "columns.0.way: Input should be 'mean' or 'rms'"),
        (edited("columns", 0, "key", value="lpips"), "2 columns have the key 'lpips'"),
        (edited("columns", 0, "key", value="image"), "no column can have the key 'image'"),
        (edited("methods", value=[]), "methods: List should have at least 1 item"),
        (edited("methods", 0, "images", value=None), "methods.0.images: Input should be a valid integer"),
        (edited("methods", 0, "values", "pose_rmse", "low", value="a"), "methods.0.values.pose_rmse.low: Input"),
        (edited("methods", 0, "leakage", "values", value=[[1.0]]), "methods.0.leakage: the matrix is not 2 by 2"),
        (edited("methods", 0, "curves", "valence", "low", value=[]), "asked, perceived, low and high are not equally"),
        (edited("differences", 0, "verdict", value="good"), "differences.0.verdict: Input should be 'better'"),
        ({"settings": {}}, "environment: Field required"),
        ({"sets": {"photos": {"pixels": {}}}}, "environment: Field required"),
    ],
)
def test_a_damaged_result_is_one_error_that_names_the_field(content: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        result.read(write(tmp_path, content))
    assert str(caught.value).startswith(f"{tmp_path / 'result.json'} is damaged: ")
    assert reason in str(caught.value) and str(caught.value).endswith("run the evaluation again")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_is_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DataError, match=r"result\.json is damaged: .*; run the evaluation again"):
        result.read(tmp_path)


def test_a_folder_without_a_result_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no result\.json; name a folder that an evaluation wrote"):
        result.read(tmp_path / "none")


def test_a_result_that_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    made = TableResult.model_validate(TABLE)
    made.write(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="no space left"):
        made.model_copy(update={"seed": 4}).write(tmp_path)
    assert result.read(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
