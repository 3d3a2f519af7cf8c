from __future__ import annotations

import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.studio import reproduce
from facecrafter.studio.schema import ImageRequest

NAMES = {"a" * 64: "my photo.jpg", "b" * 64: "b.png"}
MINI = {"model": "mini"}
REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"pose": {"yaw": -20.5}}, "--yaw -20.5 -n 1 --seed 0"),
    ({"pose": {"pitch": 5}}, "--yaw 0.0 --pitch 5.0 -n 1 --seed 0"),
    ({"expression": {"jawOpen": 0.5, "mouthSmile": 0.25}}, "--expression jawOpen=0.5,mouthSmile=0.25 -n 1 --seed 0"),
    ({"emotion": {"sad": 0.8}, "n": 4}, "--emotion sad:0.8 -n 4 --seed 0"),
    ({"emotion": "sad:0.8"}, "--emotion sad:0.8 -n 1 --seed 0"),
    ({"valence": -0.5, "arousal": 0.1, "seed": 9}, "--valence -0.5 --arousal 0.1 -n 1 --seed 9"),
    ({"preset": "look left", "start": "keep"}, "--preset 'look left' --keep-expression -n 1 --seed 0"),
    (
        {"preset": "asleep", "pose": {"yaw": 3}},  # a whole pose, also where the preset has another pitch
        "--yaw 3.0 --pitch 0.0 --roll 0.0 --preset asleep -n 1 --seed 0",
    ),
    ({"pose": {"yaw": 3}, "start": "relative"}, "--yaw 3.0 --relative -n 1 --seed 0"),
    ({"sweep": ["yaw=-30:30:7"], "loop": True}, "--sweep yaw=-30:30:7 --gif --seed 0"),
    (
        {"steps": 4, "speed": "distilled", "emotion_scale": 2.0},
        "--emotion-scale 2.0 --steps 4 --speed distilled -n 1 --seed 0",
    ),
    ({"pose": {"yaw": 3}, "best_of": 4, "n": 2}, "--yaw 3.0 --best-of 4 -n 2 --seed 0"),
    ({"sweep": ["yaw=-30:30:7"], "best_of": 2}, "--best-of 2 --sweep yaw=-30:30:7 --seed 0"),
    (  # the page sends all angles, and a control's number beside its sweep
        {"pose": {"yaw": 0, "pitch": 5, "roll": 0}, "sweep": ["yaw=-30:30:7"]},
        "--pitch 5.0 --sweep yaw=-30:30:7 --seed 0",
    ),
    ({"pose": {"yaw": 0}, "sweep": ["pitch=0:9:2", "yaw=0:9:2"]}, "--sweep pitch=0:9:2 --sweep yaw=0:9:2 --seed 0"),
    (
        {"expression": {"mouthSmile": 0.5, "jawOpen": 0.2}, "sweep": ["mouthSmileLeft=0:0.8:3"]},
        "--expression mouthSmileRight=0.5,jawOpen=0.2 --sweep mouthSmileLeft=0:0.8:3 --seed 0",
    ),
    ({"expression": {"mouthSmileLeft": 0.5}, "sweep": ["mouthSmile=0:0.8:3"]}, "--sweep mouthSmile=0:0.8:3 --seed 0"),
    (
        {"landmarks_from": "b" * 64, "target_face": [3, 4.5]},
        "--landmarks-from b.png --target-face-at 3,4.5 -n 1 --seed 0",
    ),
    (
        {"emotion_through": "landmarks", "emotion": "sad", "strict": True, "face": 2},
        "--face 2 --emotion sad --emotion-through landmarks --strict -n 1 --seed 0",
    ),
]


@pytest.mark.parametrize(("values", "options"), REQUESTS)
def test_a_command_has_the_options_of_the_command_line(values: dict[str, Any], options: str) -> None:
    request = ImageRequest(identity=["a" * 64], **values)
    text = reproduce.command(request, NAMES, MINI, "out/a b")
    assert text == f"facecrafter generate --identity 'my photo.jpg' {options} --out 'out/a b'"
    # The command line takes all of them; what is missing is the photo.
    outcome = CliRunner().invoke(app, shlex.split(text)[1:])
    assert "there is no file" in outcome.output, outcome.output


@pytest.mark.parametrize(("values", "options"), REQUESTS)
def test_python_can_be_run(values: dict[str, Any], options: str) -> None:
    request = ImageRequest(identity=["a" * 64], **values)
    text = reproduce.python(request, NAMES, {"model": "mini", "bfloat16": True}, "out/a")
    if "sweep" in values:
        assert text == ""
        return
    compile(text, "copied", "exec")
    given = {}

    class Crafter:
        @classmethod
        def from_pretrained(cls, model: str, bfloat16: bool) -> type[Crafter]:
            given["model"] = (model, bfloat16)
            return cls

        @staticmethod
        def generate(photo: str, **values: Any) -> list[str]:
            given.update(values, photo=photo)
            return []

    import facecrafter

    names = {"FaceCrafter": Crafter, "Pose": facecrafter.Pose, "save": facecrafter.save}
    exec("\n".join(text.splitlines()[1:]), names)
    assert 'save(image, f"out/a/{seed:05d}.png")' in text
    assert given["model"] == ("mini", True)
    assert given["photo"] == "my photo.jpg"
    assert (given["n"], given["seed"]) == (values.get("n", 1), values.get("seed", 0))
    for name in ("emotion", "valence", "steps", "speed", "preset", "strict", "face", "expression"):
        assert given.get(name) == values.get(name)
    assert given.get("best_of", 1) == values.get("best_of", 1)
    assert given.get("relative", False) == (values.get("start") == "relative")


def test_photos_of_one_name_have_places_of_their_own() -> None:
    names = {"a" * 64: "me.jpg", "b" * 64: "Me.jpg", "c" * 64: "other.jpg", "d" * 64: "me.jpg"}
    assert list(reproduce.places(names).values()) == ["me.jpg", "2/Me.jpg", "other.jpg", "3/me.jpg"]
    request = ImageRequest(identity=["a" * 64, "c" * 64], target="b" * 64, emotion_from="d" * 64)
    expected = "--identity me.jpg --identity other.jpg --target 2/Me.jpg --emotion-from 3/me.jpg"
    assert expected in reproduce.command(request, names, MINI, "out")
    text = reproduce.python(request, names, {"model": "mini"}, "out")
    assert all(word in text for word in ("['me.jpg', 'other.jpg']", "target='2/Me.jpg'", "emotion_from='3/me.jpg'"))
    found = reproduce.notes(names)
    assert [note.rpartition(" as ")[2] for note in found] == ["2/Me.jpg", "3/me.jpg"]
    assert reproduce.notes(NAMES) == []


def test_another_model_is_chosen_by_its_options() -> None:
    request = ImageRequest(identity=["a" * 64])
    text = reproduce.command(request, {"a" * 64: "--out"}, {"model": "runs/my model"}, "out")
    assert "--model 'runs/my model'" in text


CHOSEN = {"model": "mini", "choose": "centre", "emonet": __file__}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pose": {"yaw": 3}}, ["--choose"]),
        ({"emotion_from": "b" * 64}, ["--choose", "--emonet"]),
        ({"target": "b" * 64, "face": 2}, ["--choose", "--emonet"]),  # of the target's faces
        ({"target": "b" * 64, "face": 2, "target_face": 1}, ["--emonet"]),
        ({"face": 2}, []),
    ],
)
def test_what_chooses_the_model_is_left_out_where_it_has_no_effect(values: dict[str, Any], expected: list[str]) -> None:
    request = ImageRequest(identity=["a" * 64], **values)
    words = shlex.split(reproduce.command(request, NAMES, CHOSEN, "out"))
    assert [word for word in words if word in ("--choose", "--emonet")] == expected
    outcome = CliRunner().invoke(app, words[1:])
    assert "there is no file" in outcome.output, outcome.output
