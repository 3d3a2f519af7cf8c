"""How far landmarks are turned for an image to show a head turned as asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facecrafter.errors import CheckpointError
from facecrafter.faces.asked import Pose
from facecrafter.faces.gain import FILE, Gain, load, rising
from facecrafter.weights import ASSETS

GAIN = Gain({"yaw": ((-40.0, -20.0), (0.0, 0.0), (40.0, 20.0))}, {"people": 3})


@pytest.mark.parametrize(("wanted", "turned"), [(0, 0), (10, 20), (-5, -10), (20, 40), (35, 40), (-45, -40)])
def test_the_landmarks_are_turned_by_what_showed_the_angle(wanted: float, turned: float) -> None:
    assert GAIN.turn("yaw", wanted) == turned
    assert GAIN.turn("pitch", wanted) == wanted
    assert Pose(yaw=wanted, pitch=7).turned(GAIN) == Pose(yaw=turned, pitch=7)
    assert Pose(yaw=wanted).turned(None) == Pose(yaw=wanted)


def test_only_what_rises_can_be_read_backwards() -> None:
    shown = {-45: -20, -30: -22, -15: -11, 0: 1, 15: 12, 30: 25, 45: 24}
    assert rising(shown) == ((-30, -22), (-15, -11), (0, 1), (15, 12), (30, 25))
    assert rising({-10: 5, 0: 1, 10: 8}) == ((0, 1), (10, 8))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    GAIN.save(tmp_path / FILE)
    assert load(tmp_path) == GAIN


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({"format": "another", "shown": {}}),
        json.dumps({"format": "facecrafter-gain-1", "shown": {"yaw": [[0, 0], [10, -3]]}}),
        json.dumps({"format": "facecrafter-gain-1", "shown": {"yaw": [[0, 0]]}}),
        json.dumps({"format": "facecrafter-gain-1", "shown": {"yaw": [[0, "far"], [1, 1]]}}),
        json.dumps({"format": "facecrafter-gain-1", "shown": {"yaw": [[0, float("nan")], [1, 1]]}}),
    ],
)
def test_a_damaged_one_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match="damaged; measure it again with: facecrafter controls gain"):
        load(tmp_path)


def test_the_shipped_one_turns_further_than_asked_and_says_where_it_comes_from() -> None:
    gain = load(ASSETS / "mini")
    assert gain is not None and gain.about["people"] >= 24 and "none is held out" in gain.about["of"]
    for name, angle, least in (("yaw", 20, 1.0), ("yaw", -20, 1.0), ("pitch", -10, 1.0), ("pitch", 10, 0.9)):
        assert least * abs(angle) < abs(gain.turn(name, angle)) < 2 * abs(angle)  # level, it looks up a little
    assert gain.turn("yaw", 20) == pytest.approx(-gain.turn("yaw", -20))
