from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facecrafter.errors import ConfigError
from facecrafter.faces.asked import (
    Asked,
    Pose,
    acting_through,
    angles_of,
    asked_of,
    doubts,
    expression_of,
    read_presets,
    wanted,
)
from facecrafter.faces.control_words import DOES
from facecrafter.faces.emotion import Emotion
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.rig import load

BOTH = {"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5}


@pytest.mark.parametrize("given", ["jawOpen=0.6, mouthSmile=0.5", {"jawOpen": 0.6, "mouthSmile": 0.5}])
def test_a_name_without_its_side_means_both(given: Any) -> None:
    assert expression_of(given) == {"jawOpen": 0.6, **BOTH}
    assert expression_of("mouthSmileLeft=1") == {"mouthSmileLeft": 1.0}


BAD = {
    "unknown": ({"expression": "jawopn=0.5"}, "no control 'jawopn'; did you mean 'jawOpen'"),
    "case": ({"expression": {"MOUTHSMILE": 0.5}}, "did you mean 'mouthSmile'"),
    "neutral": ({"expression": {"_neutral": 0.5}}, "no control '_neutral'"),
    "no number": ({"expression": "jawOpen=wide"}, "'jawOpen=wide' is no NAME=NUMBER"),
    "no equals": ({"expression": "jawOpen"}, "'jawOpen' is no NAME=NUMBER"),
    "empty": ({"expression": ""}, "'' is no NAME=NUMBER"),
    "nan": ({"expression": "jawOpen=nan"}, "jawOpen must be a number from 0 to 1, not nan"),
    "infinite": ({"expression": {"jawOpen": float("inf")}}, "from 0 to 1, not inf"),
    "above": ({"expression": {"jawOpen": 1.5}}, "from 0 to 1, not 1.5"),
    "below": ({"expression": {"jawOpen": -0.1}}, "from 0 to 1, not -0.1"),
    "a change below": ({"expression": {"jawOpen": -1.1}, "relative": True}, "from -1 to 1, not -1.1"),
    "text": ({"expression": {"jawOpen": "0.5"}}, "from 0 to 1, not '0.5'"),
    "twice": ({"expression": "mouthSmile=0.5,mouthSmileLeft=0.1"}, "mouthSmileLeft is named twice"),
    "lids": ({"expression": "eyeBlink=0.8,eyeWide=0.8"}, "eyeBlinkLeft shuts the eye that eyeWideLeft opens"),
    "lids of a preset": ({"preset": "asleep", "expression": "eyeWide=0.8"}, "shuts the eye"),
    "unknown preset": ({"preset": "wnik"}, "no preset 'wnik'; did you mean 'wink'"),
    "an angle that there is not": ({"pose": {"jaw": 5}}, "there is no angle 'jaw'; did you mean 'yaw'"),
    "one unknown preset of two": ({"preset": "look left,wnik"}, "no preset 'wnik'; did you mean 'wink'"),
    "no preset between commas": ({"preset": "wink,"}, "no preset ''"),
    "an angle out of range beside a preset": ({"pose": {"yaw": 46}, "preset": "wink"}, "yaw must be from -45 to 45"),
    "two starts": ({"expression": "jawOpen=1", "relative": True, "keep_expression": True}, "give one of both"),
    "a number of many digits": ({"pose": {"yaw": 10**400}}, "not a number of more than 40 digits"),
    "a blendshape of many digits": ({"expression": {"jawOpen": 10**400}}, "not a number of more than 40 digits"),
    "a preset that is no name": ({"preset": 5}, "a preset is a name, as 'wink', not of the type int"),
    "presets without a preset": ({"presets": Path("own.yaml")}, "no effect without a preset"),
    "an angle among blendshapes": ({"expression": "yaw=0.5"}, "yaw is an angle; give it as --yaw 20"),
    "directions and not sides": ({"expression": "mouth=0.8"}, "no control 'mouth'"),
    "no change": ({"relative": True}, "nothing is to be added"),
}


@pytest.mark.parametrize(("given", "words"), BAD.values(), ids=BAD)
def test_bad_numbers_are_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        asked_of(**given)


@pytest.mark.parametrize("given", [{"yaw": 46}, {"yaw": float("nan")}, {"pitch": -31}, {"roll": "10"}])
def test_bad_angles_are_one_sentence(given: dict[str, Any]) -> None:
    name = next(iter(given))
    with pytest.raises(ConfigError, match=f"the {name} must be from -"):
        Pose(**given)


def test_nothing_asked_is_nothing() -> None:
    assert asked_of() is None
    assert asked_of(preset="neutral") == Asked()
    assert asked_of(keep_expression=True) == Asked(start="keep")


def test_several_presets_make_one_and_a_later_one_counts_more(tmp_path: Path) -> None:
    known = read_presets()
    asked = asked_of(preset="look left, wink,pout")
    assert asked == Asked(Pose(yaw=-25), dict(sorted({**known["wink"], **known["pout"]}.items())))
    assert asked_of(preset="laugh,smile").expression["mouthSmileLeft"] == 0.6  # type: ignore[union-attr]
    path = tmp_path / "own.yaml"
    path.write_text('"wink, slow": {eyeBlinkLeft: 0.5}\n')
    assert asked_of(preset="wink, slow", presets=path) == Asked(None, {"eyeBlinkLeft": 0.5})


def test_what_is_given_beside_a_preset_counts_more() -> None:
    asked = asked_of(Pose(yaw=5), "eyeBlinkLeft=0.4", preset="asleep")
    assert asked is not None
    assert asked.pose == Pose(yaw=5)
    assert asked.expression == {"eyeBlinkLeft": 0.4, "eyeBlinkRight": 0.75}


@pytest.mark.parametrize(
    ("given", "pose"),
    [
        ({"pitch": 10}, Pose(yaw=-25, pitch=10)),
        ({"yaw": 5}, Pose(yaw=5)),
        ({"yaw": 0}, Pose()),
        ({}, Pose(yaw=-25)),
        (None, Pose(yaw=-25)),
        (Pose(pitch=10), Pose(pitch=10)),  # a whole pose
    ],
)
def test_angles_are_added_to_a_presets_one_by_one(given: Any, pose: Pose) -> None:
    assert asked_of(given, preset="look left") == Asked(pose)
    assert asked_of(angles_of(pitch=10)) == Asked(Pose(pitch=10))
    assert asked_of(angles_of()) is None


def test_presets_of_ones_own_are_added(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("wink: {eyeBlinkRight: 0.9}\nmine: {mouthSmile: 0.5, yaw: 10}\n")
    asked = asked_of(preset="mine", presets=path)
    assert asked == Asked(Pose(yaw=10), BOTH)
    assert read_presets(path)["wink"] == {"eyeBlinkRight": 0.9}
    assert read_presets(path).keys() > read_presets().keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "cannot be read"),
        ("- a", "the presets cannot be read: .*own.yaml holds no settings"),
        ("a: 2024-13-45", "cannot be read"),
        ("a:", "must be NAME"),
        ("a: {jawOpen: yes}", "jawOpen must be a number from 0 to 1, not True"),
        ("a: {yaw: '5'}", "the yaw must be from -45 to 45 degrees, not '5'"),
        ("a: 3", "must be NAME"),
        ("a: {jawOpen: 0.5, jawOpen: 0.6}", "'jawOpen' is there twice, the second time in line 1"),
        ("a: {yaw: 5}\na: {yaw: 6}", "'a' is there twice, the second time in line 2"),
        ("a: {yaw: 1" + "0" * 400 + "}", "not a number of more than 40 digits"),
        ("a: {jawopen: 0.5}", "the preset 'a' of .*did you mean 'jawOpen'"),
        ("a: {yaw: 90}", "the preset 'a' of .*yaw must be"),
        ("a: {jawOpen: wide}", "jawOpen must be a number"),
        (None, "cannot be read"),
    ],
)
def test_bad_presets_are_one_sentence(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_presets(path)


def test_wanted_scores_start_from_the_face() -> None:
    rig, now = load(), np.full(52, 0.3)
    jaw, smile = BLENDSHAPES.index("jawOpen"), BLENDSHAPES.index("mouthSmileLeft")
    absolute = wanted(Asked(expression={"jawOpen": 0.6}), rig, now)
    assert absolute[jaw] == 0.6 and absolute[smile] == 0.3
    assert wanted(Asked(expression={"jawOpen": -0.2}, start="relative"), rig, now)[jaw] == pytest.approx(0.1)
    assert wanted(Asked(expression={"jawOpen": -0.5}, start="relative"), rig, now)[jaw] == 0
    happy = wanted(Asked(emotion=Emotion.from_words({"happy": 1.0})), rig, now)
    assert happy[smile] > 0.7


def test_doubts_are_said() -> None:
    rig = load()
    assert not list(doubts(Asked(Pose(10), {"jawOpen": 0.5}), rig))
    (dead,) = doubts(Asked(expression={"cheekPuff": 0.5}), rig)
    assert dead.startswith("cheekPuff is a control that MediaPipe does not read")
    happy = Emotion.from_words({"happy": 1.0})
    assert not list(doubts(Asked(expression={"mouthSmileLeft": 0.9}, emotion=happy), rig))
    lowered = Asked(expression={"eyeSquintLeft": 0.0}, emotion=Emotion.from_words({"happy": 1.0}))
    assert not list(doubts(lowered, rig))  # happiness hardly changes it
    surprised = Emotion.from_words({"surprise": 1.0})
    (against,) = doubts(Asked(expression={"browDownLeft": 0.9}, emotion=surprised), rig)
    assert against == "browDownLeft 0.9 contradicts the emotion surprise, which lowers it; the number counts"


def test_ways_of_an_emotion() -> None:
    happy = Emotion.from_words({"happy": 1.0})
    assert acting_through(None, happy, by_photo=False) == "both"
    assert acting_through(None, happy, by_photo=True) == "module"
    assert acting_through("landmarks", happy, by_photo=True) == "landmarks"
    assert acting_through(None, None, by_photo=False) == "module"
    with pytest.raises(ConfigError, match="no effect without one"):
        acting_through("both", None, False)
    with pytest.raises(ConfigError, match="acts through both, landmarks, module, not 'pixels'"):
        acting_through("pixels", happy, False)


def test_every_blendshape_is_explained() -> None:
    explained = {full for name in DOES for full in (name, f"{name}Left", f"{name}Right") if full in BLENDSHAPES}
    assert explained == set(BLENDSHAPES[1:])
