"""Every way to ask wrongly for a pose or an expression by numbers, through the command: one sentence, and no files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from facecrafter import FaceCrafter, Pose
from facecrafter.cli import app
from facecrafter.errors import ConfigError
from facecrafter.faces.followed import Following
from facecrafter.models.checkpoint import FaceModel
from facecrafter.pipelines.images import inspect

# What is asked for, and what is said of it.
REFUSED = {
    "an unknown name": ("--expression jawOpne=0.5", "there is no control 'jawOpne'; did you mean 'jawOpen'?"),
    "an unknown name in a sweep": ("--sweep jawOpne=0:1:3", "no control 'jawOpne'; did you mean 'jawOpen'?"),
    "an unknown angle in a sweep": ("--sweep ptich=0:3:3", "no control 'ptich'; did you mean 'pitch'?"),
    "a name before its number": ("--expression jawOpne=5", "there is no control 'jawOpne'; did you mean 'jawOpen'?"),
    "an angle among blendshapes": ("--expression Yaw=20", "Yaw is an angle; give it as --yaw 20"),
    "both of two directions": ("--expression jaw=0.5", "there is no control 'jaw'"),
    "both of two directions in a sweep": ("--sweep mouth=0:1:3", "there is no control 'mouth'"),
    "a decimal comma": ("--expression jawOpen=0,5", "'5' in 'jawOpen=0,5' is no NAME=NUMBER"),
    "an unknown emotion": ("--emotion hapy", "unknown emotion 'hapy'; did you mean 'happy'?"),
    "a share without a colon": ("--emotion sad=0.7", "a share follows a colon, as in sad:0.7"),
    "an unknown preset": ("--preset wnik", "no preset 'wnik'; did you mean 'wink'?"),
    "NaN": ("--expression jawOpen=nan", "jawOpen must be a number from 0 to 1, not nan"),
    "an angle that is NaN": ("--pitch nan", "the pitch must be from -30 to 30 degrees, not nan"),
    "an infinite angle": ("--yaw inf", "the yaw must be from -45 to 45 degrees, not inf"),
    "out of range": ("--expression jawOpen=1.2", "jawOpen must be a number from 0 to 1, not 1.2"),
    "out of range below": ("--expression jawOpen=-0.2", "jawOpen must be a number from 0 to 1, not -0.2"),
    "out of range in a sweep": ("--sweep jawOpen=0:2:3", "jawOpen must be a number from 0 to 1, not 2"),
    "yaw beyond 45": ("--yaw 46", "the yaw must be from -45 to 45 degrees, not 46"),
    "pitch beyond 30": ("--pitch -31", "the pitch must be from -30 to 30 degrees, not -31"),
    "blink and wide": ("--expression eyeBlink=0.8,eyeWide=0.8", "eyeBlinkLeft shuts the eye that eyeWideLeft opens"),
    "a name that is empty": ("--expression =0.5", "'=0.5' is no NAME=NUMBER"),
    "a name that is nothing like one": ("--expression q=0.5", "no control 'q'; 'facecrafter controls list' shows all"),
    "a comma too many": ("--expression jawOpen=0.5,", "'' in 'jawOpen=0.5,' is no NAME=NUMBER"),
    "one name in two options": ("--expression jawOpen=0.5 --expression jawOpen=0.1", "jawOpen is named twice"),
    "blink and wide in two options": ("--expression eyeBlink=1 --expression eyeWide=1", "shuts the eye"),
    "an empty name in a sweep": ("--sweep =0:1:3", "'=0:1:3' is no NAME=FIRST:LAST:COUNT"),
    "one image in a sweep": ("--sweep yaw=0:10:1", "a sweep has from 2 to 64 images, not 1"),
    "too many in a sweep": ("--sweep yaw=0:10:1000000000000", "from 2 to 64 images, not 1000000000000"),
    "too many in a grid": ("--sweep yaw=0:9:9 --sweep pitch=0:9:9", "a grid has at most 64 images, not 81"),
    "NaN in a sweep": ("--sweep yaw=nan:10:3", "the yaw must be from -45 to 45 degrees, not nan"),
    "a half image in a sweep": ("--sweep yaw=0:10:2.5", "is no NAME=FIRST:LAST:COUNT"),
    "a sweep of one number": ("--sweep yaw=10:10:3", "has the same number twice"),
    "a sweep of nearly one number": ("--sweep jawOpen=0:1e-9:3", "has the same number twice"),
    "one control in two sweeps": ("--sweep yaw=0:9:2 --sweep yaw=0:5:2", "a grid two of different controls"),
    "a side and both in two sweeps": (
        "--sweep mouthSmile=0:1:2 --sweep mouthSmileLeft=0:1:2",
        "a grid two of different controls",
    ),
    "an angle that is swept and given": ("--sweep yaw=0:30:3 --yaw 10", "yaw is swept and also given a number"),
    "a blendshape that is swept and given": (
        "--sweep mouthSmile=0:1:3 --expression mouthSmileLeft=0.5",
        "mouthSmileLeft is swept and also given a number",
    ),
    "a sweep into a contradiction": ("--sweep eyeBlink=0:1:3 --expression eyeWide=0.9", "shuts the eye"),
    "a grid into a contradiction": ("--sweep eyeBlink=0:1:2 --sweep eyeWide=0:1:2", "shuts the eye"),
    "a preset and a sweep that contradict": ("--preset asleep --sweep eyeWide=0:1:2", "shuts the eye"),
    "a dead control in a sweep": ("--sweep cheekPuff=0:1:2 --strict", "MediaPipe does not read"),
    "a way to act without an emotion": ("--emotion-through landmarks --yaw 5", "has no effect without one in words"),
    "presets without a preset": ("--presets own.yaml --yaw 5", "--presets has no effect without --preset"),
    "free and an expression kept": ("--free --keep-expression", "--free has no effect but with --identity alone"),
    "free and relative": ("--free --relative", "--free has no effect but with --identity alone"),
    "an emotion that a number takes away": (
        "--emotion happy --expression mouthSmile=0 --strict",
        "mouthSmileLeft 0 contradicts the emotion happy, which raises it",
    ),
    "an emotion by its module that a number takes away": (
        "--emotion happy --emotion-through module --expression mouthSmile=0 --strict",
        "mouthSmileLeft 0 contradicts the emotion happy, which raises it",
    ),
    "an emotion that a change takes away": (
        "--emotion happy --relative --expression mouthSmile=-1 --strict",
        "mouthSmileLeft -1 contradicts the emotion happy, which raises it",
    ),
    "a dead control": ("--expression cheekPuff=0.5 --strict", "cheekPuff is a control that MediaPipe does not read"),
    "one that the model hardly follows": ("--roll 10 --strict", "small hardly follows roll"),
    "a contradiction": (
        "--emotion surprise --expression browDown=0.9 --strict",
        "browDownLeft 0.9 contradicts the emotion surprise",
    ),
}
NOTED = {
    "a dead control": ("--expression cheekPuff=0.5", ["cheekPuff is a control that MediaPipe does not read"]),
    "one that the model hardly follows": ("--roll 10", ["small hardly follows roll: images show 8 % of what is asked"]),
    "a contradiction": (
        "--emotion surprise --expression browDownLeft=0.9",
        ["browDownLeft 0.9 contradicts the emotion surprise, which lowers it; the number counts"],
    ),
    "an emotion that a number takes away": (
        "--emotion happy --expression mouthSmileLeft=0",
        ["mouthSmileLeft 0 contradicts the emotion happy, which raises it; the number counts"],
    ),
    "an emotion that a number makes weaker": ("--emotion happy --expression mouthSmile=0.3", []),
    "a dead control at rest": ("--expression cheekPuff=0", []),
    "nothing": ("--yaw 10 --expression jawOpen=0.5 --emotion happy", []),
}


@pytest.fixture
def crafter(small_model: FaceModel, monkeypatch: pytest.MonkeyPatch) -> FaceCrafter:
    """A model that was measured to hardly follow roll, behind the command."""
    crafter = FaceCrafter(small_model, name="small")
    crafter.following = {"roll": Following(0.9, 0.08, 12, 10), "yaw": Following(0.99, 0.9, 3, 10)}
    monkeypatch.setattr(FaceCrafter, "from_pretrained", lambda *given, **named: crafter)
    return crafter


def generate(photo: Path, out: Path, options: str) -> Any:
    count = [] if "--sweep" in options else ["-n", "1"]
    line = ["generate", "--identity", str(photo), "--out", str(out), "--steps", "3", *count, *options.split()]
    return CliRunner().invoke(app, line)


@pytest.mark.usefixtures("crafter")
@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_asked_is_refused_and_writes_nothing(
    portrait: Path, tmp_path: Path, options: str, words: str
) -> None:
    done = generate(portrait, tmp_path / "out", options)
    assert isinstance(done.exception, ConfigError) or done.exit_code in (1, 2)
    assert words in str(done.exception) + done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("crafter")
@pytest.mark.parametrize(("options", "words"), NOTED.values(), ids=NOTED)
def test_what_will_not_be_followed_is_noted_and_made(
    portrait: Path, tmp_path: Path, options: str, words: list[str]
) -> None:
    done = generate(portrait, tmp_path / "out", options)
    assert done.exit_code == 0, done.output
    said = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert len(said) == len(words) and all(word in note for word, note in zip(words, said, strict=True))
    assert (tmp_path / "out" / "00000.png").is_file()


@pytest.mark.usefixtures("crafter")
def test_options_add_up(portrait: Path, tmp_path: Path) -> None:
    options = "--expression jawOpen=0.5 --expression browDown=0.1 --preset asleep --yaw -0"
    assert generate(portrait, tmp_path / "out", options).exit_code == 0
    made = inspect(tmp_path / "out" / "00000.png").made
    assert made["expression asked"] == (
        "browDownLeft 0.1, browDownRight 0.1, eyeBlinkLeft 0.75, eyeBlinkRight 0.75, jawOpen 0.5"
    )
    assert made["pose asked"] == "yaw 0, pitch -8, roll 0"


@pytest.mark.usefixtures("crafter")
def test_a_photo_without_a_face_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), "grey").save(tmp_path / "blank.png")
    done = generate(tmp_path / "blank.png", tmp_path / "out", "--yaw 10")
    assert done.exit_code == 1 and "blank.png (80x60)" in str(done.exception) + done.output
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.usefixtures("crafter")
def test_in_a_table_a_bad_row_costs_itself_alone(portrait: Path, tmp_path: Path) -> None:
    rows = ["46,", "10,", ",jawOpne=0.5", ',"eyeBlink=0.8,eyeWide=0.8"', "nan,", ",jawOpen=0.4"]
    table = "identity,target,yaw,expression\n" + "".join(f"{portrait},,{row}\n" for row in rows)
    (tmp_path / "pairs.csv").write_text(table)
    line = ["generate", "--pairs", str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out"), "--steps", "3"]
    done = CliRunner().invoke(app, line)
    assert "2 made, 0 already there, 4 failed" in done.output
    errors = [row["error"] for row in csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())]
    assert [bool(error) for error in errors] == [True, False, True, True, True, False]
    assert "not 46" in errors[0] and "did you mean 'jawOpen'" in errors[2] and "shuts the eye" in errors[3]
    assert "not nan" in errors[4]


@pytest.mark.usefixtures("crafter")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--relative --keep-expression", "give one of both"),
        ("--presets missing.yaml", "the presets cannot be read: there is no config missing.yaml"),
    ],
)
def test_what_is_wrong_for_all_rows_is_refused_at_once(
    portrait: Path, tmp_path: Path, options: str, words: str
) -> None:
    (tmp_path / "pairs.csv").write_text(f"identity,target,yaw\n{portrait},,10\n")
    line = ["generate", "--pairs", str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out"), *options.split()]
    done = CliRunner().invoke(app, line)
    assert done.exit_code in (1, 2) and words in str(done.exception) + done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pose": {"yaw": "20"}}, "the yaw must be from -45 to 45 degrees, not '20'"),
        ({"pose": (20, 0, 0)}, "a pose is Pose.*, not of the type tuple"),
        ({"pose": 20}, "a pose is Pose.*, not of the type int"),
        ({"expression": ["jawOpen"]}, "an expression is .*, not of the type list"),
        ({"expression": {3: 0.5}}, "there is no control '3'"),
        ({"pose": {"yaw": True}}, "the yaw must be from -45 to 45 degrees, not True"),
        ({"expression": {"jawOpen": True}}, "jawOpen must be a number from 0 to 1, not True"),
        ({"expression": {"jawOpen": None}}, "jawOpen must be a number from 0 to 1, not None"),
        ({"best_of": 0, "pose": Pose(10)}, "the best is of 1 to 16 images, not of 0"),
    ],
)
def test_what_is_no_pose_or_expression_in_python(
    crafter: FaceCrafter, portrait: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        crafter.generate(portrait, n=1, steps=3, **given)


def test_numbers_of_numpy_are_numbers(crafter: FaceCrafter, portrait: Path) -> None:
    pose = Pose(yaw=np.float32(20), pitch=np.int64(0))  # type: ignore[arg-type]
    (image,) = crafter.generate(portrait, pose=pose, expression={"jawOpen": np.float64(0.5)}, n=1, steps=3)
    assert image.info["facecrafter"]["pose asked"] == "yaw 20, pitch 0, roll 0"
    numpy = {"landmark_scale": np.float32(1.5), "steps": np.int64(3), "seed": np.int64(3), "n": np.int64(1)}
    plain = {"landmark_scale": 1.5, "steps": 3, "seed": 3, "n": 1}
    moods = ({"happy": np.float32(0.5)}, {"happy": 0.5})
    (one,), (other,) = (
        crafter.generate(portrait, emotion=mood, **given)
        for mood, given in zip(moods, (numpy, plain), strict=True)  # type: ignore[arg-type]
    )
    assert one.info["facecrafter"] == other.info["facecrafter"]
