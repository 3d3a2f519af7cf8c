"""What is known of how well the shipped model follows each control."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from facecrafter.errors import CheckpointError
from facecrafter.faces.asked import Asked, Pose
from facecrafter.faces.followed import Following, measured, unfollowed

WELL, HARDLY = Following(0.99, 0.9, 2, 5), Following(0.1, 0.04, 0.4, 5)
FOLLOWING = {"yaw": WELL, "roll": HARDLY, "jawOpen": WELL, "eyeWide": HARDLY}


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (Asked(), []),
        (Asked(Pose(yaw=10), {"jawOpen": 0.5}), []),
        (Asked(Pose(roll=10)), ["roll"]),
        (Asked(expression={"eyeWideLeft": 0.5, "eyeWideRight": 0.5, "jawOpen": 0.1}), ["eyeWide"]),
        (Asked(expression={"eyeWideLeft": 0.0}), []),
        (Asked(expression={"mouthFunnel": 0.5}), []),  # not measured
    ],
)
def test_what_is_hardly_followed_is_said_once(asked: Asked, names: list[str]) -> None:
    assert list(unfollowed(asked, FOLLOWING, "mini")) == [
        f"mini hardly follows {name}: images show 4 % of what is asked (5 people)" for name in names
    ]


def test_how_much_can_be_read_is_said_too() -> None:
    following = {"eyeWide": Following(0.1, -0.01, 0.4, 5, readable=0.062)}
    (said,) = unfollowed(Asked(expression={"eyeWideLeft": 0.5}), following, "mini")
    assert said == "mini hardly follows eyeWide: images show 0 % of what is asked, moved photos 6 % (5 people)"


def test_measurements_are_read(tmp_path: Path) -> None:
    path = tmp_path / "controls.json"
    assert measured(path) == {}
    controls = {
        "yaw": {"correlation": 0.99, "slope": 0.9, "error": 2, "read": [1]},
        "lost": {"correlation": None, "slope": None, "error": None},
    }
    path.write_text(json.dumps({"people": 5, "controls": controls}))
    assert measured(path) == {"yaw": WELL}
    path.write_text(json.dumps({"people": 5, "controls": controls, "photos": {"yaw": {"slope": 0.5}}}))
    assert measured(path) == {"yaw": replace(WELL, readable=0.5)}
    for damaged in ("", "[]", '{"people": 3}', '{"people": 3, "controls": {"yaw": 3}}'):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match="damaged; write it again with: facecrafter evaluate numbers"):
            measured(path)


def test_the_shipped_measurements_are_of_angles_and_live_blendshapes() -> None:
    found = measured()
    assert {"yaw", "pitch", "roll", "jawOpen", "mouthSmile"} <= found.keys()
    assert not found["yaw"].hardly and found["roll"].hardly
