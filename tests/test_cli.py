"""The command line: bad input is one sentence and an exit code, good input goes all the way to files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from facecrafter import __version__
from facecrafter.cli import app
from facecrafter.interruption import Terminated, deferred, kept_of, stating

if TYPE_CHECKING:
    from facecrafter.models.checkpoint import FaceModel

HEAVY = ("torch", "diffusers", "transformers", "mediapipe", "cv2", "onnxruntime", "pyarrow", "rich", "matplotlib", "av")
CONFIG = "stage: autoencoder\ndata: prepared\nrun: run\nsteps: 2\n"


def facecrafter(*arguments: object) -> Any:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- through the real entry point -------------------------------------------------------------------------------------


def entry_point(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "facecrafter", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_version_is_the_packages() -> None:
    done = entry_point("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"facecrafter {__version__}\n", "")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project.get("version", __version__) == __version__
    assert project["scripts"] == {"facecrafter": "facecrafter.cli:main"}


def test_help_tells_the_scales_own_defaults() -> None:
    from facecrafter.cli.options import DEFAULTS
    from facecrafter.models.scales import ARC2FACE, MINI

    assert {name: (MINI.sampling[name], ARC2FACE.sampling[name]) for name in MINI.sampling} == DEFAULTS
    assert MINI.sampling.keys() == ARC2FACE.sampling.keys()
    shown = " ".join(facecrafter("generate", "--help").output.split())
    assert f"mini {MINI.sampling['steps']}, arc2face 25" in shown


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom facecrafter.cli import main\n"
        "try:\n    sys.argv[1:] = ['--help']\n    main()\n"
        f"finally:\n    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    for command in ("generate", "inspect", "perceive", "demo", "train", "data", "weights"):
        assert command in done.stdout


def test_an_error_has_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    done = entry_point("inspect", tmp_path / "a.png")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "a.png" in done.stderr


def test_ctrl_c_while_sampling(portrait: Path, model_folder: Path, tmp_path: Path) -> None:
    arguments = ("generate", "--identity", portrait, "--model", model_folder, "--out", tmp_path / "out")
    many = ("-n", "1", "--steps", "900", "--scheduler", "ddim")
    command = [sys.executable, "-m", "facecrafter", *map(str, arguments), *many]
    # A test run in the background has Ctrl-C switched off, and its children would inherit that.
    listen = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, preexec_fn=listen) as process:
        assert process.stderr is not None
        seen = b""
        # The bar moves once sampling has begun; on a fast machine it may skip a percentage.
        while not re.search(rb" [1-9]\d?%", seen):
            seen += process.stderr.read1(1000)
            assert process.poll() is None, seen.decode()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=120)
    outcome = (seen + rest).decode()
    assert process.returncode == 130
    assert outcome.strip().splitlines()[-1] == "stopped: no file was written"
    assert "Traceback" not in outcome
    assert not (tmp_path / "out").exists() or files(tmp_path / "out") == []


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, portrait: Path, model_folder: Path, small_model: FaceModel) -> Path:
    """Inputs, most of them bad."""
    from facecrafter.models.checkpoint import save_part

    face = Image.open(portrait)
    face.save(tmp_path / "face.jpg", quality=90)
    whole = (tmp_path / "face.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.jpg").write_text("hello")
    Image.new("RGB", (320, 240), "grey").save(tmp_path / "blank.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "typo.yaml").write_text(CONFIG + "lerning_rate: 0.1\n")
    (tmp_path / "value.yaml").write_text(CONFIG.replace("2", "-2"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "pairs.csv").write_text("identity\nface.jpg\n")
    (tmp_path / "model").symlink_to(model_folder)
    assert small_model.controls is not None
    save_part(small_model.controls, tmp_path / "large.safetensors", "controls", "arc2face")
    (tmp_path / "damaged.safetensors").write_bytes(b"12345678")
    return tmp_path


def test_inspect_goes_on_and_writes_nothing_that_steers_a_terminal(tmp_path: Path) -> None:
    from facecrafter.pipelines.images import save

    hostile = Image.new("RGB", (64, 64))
    hostile.info |= {"Title": "\x1b]0;owned\x07", "facecrafter": json.dumps({"model": "\ud800\x1b[2J", "rows": [1]})}
    save(hostile, tmp_path / "a.png")
    (tmp_path / "b.avif").write_bytes(b"\0\0\0\x1cftypavif" + b"\0" * 40)
    done = facecrafter("inspect", tmp_path / "b.avif", tmp_path / "a.png")
    assert done.exit_code == 1 and "b.avif" in done.stderr
    assert "Title: \\x1b]0;owned\\x07\n" in done.stdout
    assert "model: \\ud800\\x1b[2J\n" in done.stdout and "rows: [1]" in done.stdout


# What is asked (files in the folder by their names), the exit code, and words of the sentence.
BAD = {
    "no face": ("generate --identity blank.png", 1, "no face found in blank.png (320x240)"),
    "no face in any of several": (
        "generate --identity words.jpg --identity blank.png",
        1,
        "no face found in blank.png",
    ),
    "no face in the target": ("generate --identity face.jpg --target blank.png", 1, "blank.png"),
    "no face for landmarks": ("generate --identity face.jpg --landmarks-from blank.png", 1, "blank.png"),
    "no face for emotion": ("generate --identity face.jpg --emotion-from blank.png", 1, "blank.png"),
    "not an image": ("generate --identity words.jpg", 1, "words.jpg is not an image"),
    "truncated JPEG": ("generate --identity truncated.jpg", 1, "truncated.jpg is damaged"),
    "a folder for a photo": ("generate --identity empty", 1, "empty is a folder"),
    "no such photo": ("generate --identity none.jpg", 1, "there is no file"),
    "unknown control": ("generate --identity face.jpg --expression jawopen=1", 1, "did you mean 'jawOpen'"),
    "yaw of 60": ("generate --identity face.jpg --yaw 60", 1, "the yaw must be from -45 to 45 degrees, not 60"),
    "unknown preset": ("generate --identity face.jpg --preset wnik", 1, "did you mean 'wink'"),
    "unknown second preset": ("generate --identity face.jpg --preset wink --preset wnik", 1, "did you mean 'wink'"),
    "a loop of nothing": ("generate --identity face.jpg --gif", 2, "--gif has no effect without --sweep"),
    "sweep of a word": ("generate --identity face.jpg --sweep yaw=all", 1, "as in yaw=-30:30:7"),
    "relative sweep out of range": (
        "generate --identity face.jpg --relative --sweep jawOpen=-2:0:3",
        1,
        "jawOpen must be a number from -1 to 1, not -2",
    ),
    "unknown emotion": ("generate --identity face.jpg --emotion jolly", 1, "unknown emotion 'jolly'"),
    "valence of 3": ("generate --identity face.jpg --valence 3 --arousal 0", 1, "valence 3 is outside [-1, 1]"),
    "arousal alone": ("generate --identity face.jpg --arousal 0", 1, "valence is missing"),
    "emotion twice": ("generate --identity face.jpg --emotion sad --emotion-from face.jpg", 1, "give it one way"),
    "unknown scheduler": ("generate --identity face.jpg --scheduler magic", 1, "unknown scheduler 'magic'"),
    "scale of nan": (
        "generate --identity face.jpg --identity-scale nan",
        1,
        "the identity scale must be from -20 to 20, not nan",
    ),
    "scale of 1000": (
        "generate --identity face.jpg --identity-scale 1000",
        1,
        "the identity scale must be from -20 to 20, not 1000",
    ),
    "no such face": (
        "generate --identity face.jpg --face 2",
        1,
        "there is no face 2 in face.jpg, which shows 1 at (",
    ),
    "no face at a point": (
        "generate --identity face.jpg --face-at 500,20",
        1,
        "there is no face at (500, 20) in face.jpg, which shows 1 at (",
    ),
    "no such face in the target": (
        "generate --identity face.jpg --target face.jpg --target-face 3",
        1,
        "there is no face 3 in face.jpg",
    ),
    "a face of no target": (
        "generate --identity face.jpg --target-face 1",
        1,
        "a face is picked in one photo, and not for a target without a photo",
    ),
    "a face of two photos": (
        "generate --identity face.jpg --identity blank.png --face 1",
        1,
        "a face is picked in one photo, and not for an identity of 2 photos; crop the photos instead",
    ),
    "an estimator of no photo": (
        "generate --identity face.jpg --emonet emonet_8.pth",
        2,
        "--emonet has no effect without a photo whose emotion to take",
    ),
    "a face twice": ("generate --identity face.jpg --face 1 --face-at 2,3", 2, "give --face or --face-at"),
    "a face at a word": (
        "generate --identity face.jpg --face-at left",
        2,
        "--face-at is X,Y in pixels of the photo, as 120,80, not 'left'",
    ),
    "a face at one number": (
        "generate --identity face.jpg --target face.jpg --target-face-at 3",
        2,
        "--target-face-at is X,Y in pixels of the photo, as 120,80, not '3'",
    ),
    "a face of number 0": ("generate --identity face.jpg --face 0", 2, "Invalid value for '--face'"),
    "a face beside a table": ("generate --pairs pairs.csv --face 2", 2, "with --pairs faces are picked by --choose"),
    "a choice that is made already": (
        "generate --identity face.jpg --face 1 --choose centre",
        2,
        "--choose has no effect beside the face that is picked",
    ),
    "endless scale": (
        "generate --identity face.jpg --landmark-scale inf",
        1,
        "the landmark scale must be from -20 to 20, not inf",
    ),
    "emotions of nothing": (
        "generate --identity face.jpg --emotion happy:0,sad:0",
        1,
        "the emotion has no share above 0; give one, or ask for neutral",
    ),
    "an emotion by two words": (
        "generate --identity face.jpg --emotion happy:0.5,joy:0.2",
        1,
        "the emotion 'happy' is named twice in 'happy:0.5,joy:0.2'",
    ),
    "neutral beside its rest": (
        "generate --identity face.jpg --emotion neutral:0.2,happy:0.3",
        1,
        "the shares of neutral, happy sum to 0.5; where neutral is among them, they must sum to 1",
    ),
    "seeds beyond the last one": (
        f"generate --identity face.jpg --seed {2**63 - 2}",
        1,
        f"a seed must be between 0 and 2^63 - 1, not {2**63 + 1}",
    ),
    "a device that computes nothing": (
        "generate --identity face.jpg --device meta",
        1,
        "the device 'meta' computes nothing",
    ),
    "weights beside mini": (
        "generate --identity face.jpg --model mini --weights empty",
        1,
        "mini has weights of its own; leave --weights out",
    ),
    "empty output folder": ("generate --identity face.jpg --out=", 2, "the value after --out is empty"),
    "renewing at a size": ("data prepare none --only emotion --size 64", 2, "--size has no effect beside --only"),
    "starting again to renew": (
        "data prepare none --only emotion --overwrite",
        2,
        "--overwrite has no effect beside --only",
    ),
    "a file for no recogniser": (
        "data prepare empty prepared --arcface a.onnx",
        2,
        "--arcface has no effect without --recogniser arcface",
    ),
    "overwriting no PNGs": ("perceive face.jpg --overwrite", 2, "--overwrite has no effect without --out"),
    "a share of nan": ("weights blend model model --out out --share nan", 2, "Invalid value for '--share'"),
    "no such model": ("generate --identity face.jpg --model none", 1, "there is no model folder"),
    "controls of the other scale": ("generate --identity face.jpg --controls large.safetensors", 1, "says arc2face"),
    "damaged controls": ("generate --identity face.jpg --controls damaged.safetensors", 1, "damaged.safetensors"),
    "a table without a column": ("generate --pairs pairs.csv", 1, "no column 'target'"),
    "no such table": ("generate --pairs none.csv", 1, "none.csv"),
    "neither photo nor table": ("generate", 2, "either --identity or --pairs"),
    "photo and table": ("generate --identity face.jpg --pairs pairs.csv", 2, "either --identity or --pairs"),
    "conditions beside a table": ("generate --pairs pairs.csv --emotion sad", 2, "come from the table"),
    "valence of a word": ("generate --identity face.jpg --valence high", 2, "Invalid value for '--valence'"),
    "no images": ("generate --identity face.jpg -n 0", 2, "-n"),
    "unknown choice": ("generate --identity face.jpg --choose smallest", 2, "smallest"),
    "unknown option": ("generate --identity face.jpg --emotoin sad", 2, "--emotoin"),
    "inspecting words": ("inspect words.jpg", 1, "words.jpg is not an image"),
    "inspecting nothing": ("inspect none.png", 1, "there is no file"),
    "preparing an empty folder": ("data prepare empty prepared", 1, "empty"),
    "no people": ("data synthesise out --people 0", 1, "people 0 is outside 1 to 5000000"),
    "people too large": ("data synthesise out --size 1024", 1, "size 1024 is outside 32 to 512 pixels"),
    "people by no directions": ("data synthesise out --directions none", 1, "there is no file of directions none"),
    "people by other weights": ("data synthesise out --directions words.jpg", 1, "holds no directions"),
    "fitting into nothing": ("data directions --fit", 2, "--fit needs a FILE to write"),
    "learning into nothing": ("data directions --learn", 2, "--learn needs a FILE to write"),
    "ages without fitting": ("data directions --ages photos", 2, "--ages has no effect without --fit"),
    "preparing no folder": ("data prepare none prepared", 1, "none"),
    "config with a typo": ("train typo.yaml", 1, "no setting 'lerning_rate'; did you mean 'learning_rate'?"),
    "config with a bad value": ("train value.yaml", 1, "steps"),
    "config of another kind": ("train list.yaml", 1, "holds no settings"),
    "no such config": ("train none.yaml", 1, "there is no config"),
    "nothing to resume": ("train config.yaml --resume", 1, "no checkpoint to resume"),
    "steps of 0": ("train config.yaml --steps 0", 2, "--steps"),
    "renewing what is not there": ("data prepare none --only emotion", 1, "none is not a prepared folder"),
    "renewing in a second folder": ("data prepare empty prepared --only emotion", 2, "the prepared folder alone"),
    "preparing into nothing": ("data prepare empty", 2, "SOURCE and OUT"),
    "emotions of no folder": (
        "evaluate emotion none --labels l.csv --fer2013 f.tar --votes v.csv --out out",
        1,
        "v.csv cannot be read",
    ),
    "emotions by a wrong network": (
        "evaluate emotion none --labels l.csv --fer2013 f.tar --votes v.csv --out out --estimator damaged.safetensors",
        1,
        "damaged.safetensors",
    ),
    "evaluating where nothing computes": (
        "evaluate model none --model model --out out --device magic",
        1,
        "no device 'magic'",
    ),
    "evaluating at no speed": ("evaluate model none --out out --speed fast", 2, "--speed"),
    "unknown weights": ("weights fetch magic", 1, "no weights called 'magic'"),
    "unknown command": ("conjure", 2, "conjure"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_an_exit_code(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, code, words = BAD[case]
    arguments = line.split()
    if arguments[0] == "generate":
        arguments += ["--out", "out", *(() if "--model" in arguments else ("--model", "model")), "--steps", "1"]
    monkeypatch.chdir(folder)
    before = files(folder)
    done = facecrafter(*arguments)
    assert done.exit_code == code, done.output
    assert words in done.stderr
    if code == 1:
        complaints = [outcome for outcome in done.stderr.splitlines() if outcome.startswith("error: ")]
        assert len(complaints) == 1
        assert done.stderr.strip().splitlines()[-1] == complaints[0]
    assert "Traceback" not in done.output
    assert files(folder) == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["generate", "--identity", "a.jpg", "--out", ""], "the value after --out is empty"),
        (["generate", "--identity", "", "--out", "out"], "the value after --identity is empty"),
        (["demo", "--out", "  "], "the value after --out is empty"),
        (["data", "prepare", "photos", ""], "the value after photos is empty"),
        (["train", ""], "the value after train is empty"),
        (["", "--help"], "the value after the command is empty"),
    ],
)
def test_an_empty_value_is_refused(line: list[str], words: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = facecrafter(*line)
    assert done.exit_code == 2 and words in done.stderr
    assert files(tmp_path) == []


NO_STEPS = "after 1 step an image need not show a face; the mini scale's own are 8"
NOTES = {
    "landmark scale alone": (
        "--free --landmark-scale 3",
        ["the landmark scale 3 has no effect where no landmarks are asked for", NO_STEPS],
    ),
    "emotion scale alone": (
        "--emotion-scale 2 --landmark-scale 0",
        ["the emotion scale 2 has no effect where no emotion is asked for", NO_STEPS],
    ),
    "a speed for one prediction": (
        "--free --identity-scale 1 --speed interval --steps 4",
        ["the speed 'interval' has no effect: with these scales Eq. 6 is one prediction a step"],
    ),
    "an interval of no steps": (
        "--speed interval --steps 2",
        [
            "after 2 steps an image need not show a face; the mini scale's own are 8",
            "the scales have no effect: of 2 steps the speed 'interval' guides none",
        ],
    ),
    "a target that is replaced": (
        "--target face.jpg --landmarks-from face.jpg --emotion angry --steps 3",
        ["the target has no effect: its landmarks and its emotion are both replaced"],
    ),
    "nothing to say": ("--target face.jpg --landmark-scale 3 --emotion Joyful --steps 3", []),
}


@pytest.mark.parametrize("case", NOTES)
def test_what_has_no_effect_is_said_once(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, notes = NOTES[case]
    monkeypatch.chdir(folder)
    asked = f"generate --identity face.jpg --model model --out out -n 2 --batch-size 1 {line}".split()
    done = facecrafter(*asked, *(() if "--steps" in asked else ("--steps", 1)))
    assert done.exit_code == 0, done.output
    assert [
        outcome.removeprefix("note: ") for outcome in done.stderr.splitlines() if outcome.startswith("note: ")
    ] == notes


def test_a_full_disk_is_one_sentence_and_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[:100])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    out = folder / "out"
    asked = ("--identity", folder / "face.jpg", "--model", folder / "model", "--steps", 1, "-n", 1)
    done = facecrafter("generate", *asked, "--out", out)
    assert done.exit_code == 1
    assert "00000.png could not be written (no space left on device)" in done.stderr.splitlines()[-1]
    assert files(out) == []


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, portrait: Path, tmp_path: Path) -> None:
    from facecrafter.pipelines.generate import FaceCrafter

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceCrafter, "from_pretrained", stop)
    done = facecrafter("generate", "--identity", portrait, "--out", tmp_path / "out")
    assert done.exit_code == 130
    assert done.stderr == "stopped: no file was written\n"


def test_what_is_said_to_be_kept_is_what_was_written(folder: Path, interrupted: Any, tmp_path: Path) -> None:
    """The moments are those of writing: before the third image takes its place, and before its bytes are written.
    What has begun to take its place takes it."""
    asked = ("generate", "--identity", folder / "face.jpg", "--model", folder / "model", "--steps", 1, "-n", 4)
    for moment, code, kept in (
        ("pathlib:Path.replace 3 SIGINT", 130, 3),
        ("pathlib:Path.write_bytes 3 SIGTERM", 143, 2),
        ("pathlib:Path.write_bytes 1 SIGINT", 130, 0),
        ("pathlib:Path.write_bytes 2 SIGINT; pathlib:Path.unlink 2 SIGINT", 130, 1),
        ("pathlib:Path.replace 3 SIGKILL", -9, 2),
    ):
        out = tmp_path / f"{kept}-{code}"
        done = interrupted(moment, *asked, "--out", out)
        assert done.returncode == code, done.stderr
        pngs = [f"{number:05d}.png" for number in range(kept)]
        assert files(out) == pngs + [f"{kept:05d}.png.partial"] * (code == -9)
        for name in pngs:
            Image.open(out / name).load()
        names = {0: "no file was written", 1: f"1 file was written, {out}/00000.png"}
        many = f"{kept} files were written, the last one {out}/{kept - 1:05d}.png"
        if code > 0:
            assert done.stderr.splitlines()[-1] == f"stopped: {names.get(kept, many)}"
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
def test_an_interrupt_says_what_the_outermost_work_kept(error: type[KeyboardInterrupt]) -> None:
    with pytest.raises(error) as caught, stating(lambda: "outer"), stating(lambda: "inner"):
        raise error
    assert kept_of(caught.value) == "outer"
    assert kept_of(KeyboardInterrupt()) is None


def test_a_first_interrupt_waits_and_a_second_breaks_in() -> None:
    before, done = signal.signal(signal.SIGINT, signal.default_int_handler), []
    with pytest.raises(KeyboardInterrupt), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        done.append(1)
    with pytest.raises(KeyboardInterrupt), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        done.append(2)
        os.kill(os.getpid(), signal.SIGINT)
        done.append(3)
    assert done == [1, 2]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


# --- good input -------------------------------------------------------------------------------------------------------


def test_generate_writes_images_and_a_sheet_and_inspect_reads_them(folder: Path) -> None:
    out = folder / "out"
    face = folder / "face.jpg"
    asked = [
        "generate",
        "--identity",
        face,
        "--identity",
        face,
        "--target",
        face,
        "--emotion",
        "happy:0.8,surprise:0.2",
    ]
    asked += ["--model", folder / "model", "--steps", 1, "-n", 3, "--seed", 5]
    done = facecrafter(*asked, "--out", out)
    assert done.exit_code == 0, done.output
    assert files(out) == ["00005.png", "00006.png", "00007.png", "sheet.png"]
    assert done.stdout == f"3 made, 0 already there: {out / 'sheet.png'}\n"
    seen = facecrafter("inspect", out / "00006.png", folder / "words.jpg", face)
    assert seen.exit_code == 1 and seen.stderr.startswith("error: ")
    ours, others = seen.stdout.split(str(face))
    assert "watermark: yes" in ours and "watermark: no" in others
    for words in ("seed: 6", "identity: face.jpg, face.jpg", "emotion: happy 0.80", "artificial", "scale: mini"):
        assert words in ours

    first = (out / "00005.png").read_bytes()
    (out / "00006.png").unlink()
    again = facecrafter(*asked, "--out", out)
    assert again.exit_code == 0 and again.stdout == f"1 made, 2 already there: {out / 'sheet.png'}\n"
    other = facecrafter(*asked, "--landmark-scale", 0.5, "--out", out)
    assert other.exit_code == 1 and "00005.png is the image of another request" in other.stderr
    anew = facecrafter(*asked, "--out", out, "--overwrite")
    assert anew.exit_code == 0
    assert (out / "00005.png").read_bytes() == first


def test_generate_says_which_of_several_faces_it_took(folder: Path, astronaut: NDArray[np.uint8]) -> None:
    pair = np.concatenate([astronaut, np.ascontiguousarray(astronaut[:, ::-1])], 1)
    Image.fromarray(pair).save(folder / "pair.png")
    asked = ("--identity", folder / "pair.png", "--choose", "centre", "--steps", 3, "-n", 1)
    done = facecrafter("generate", *asked, "--model", folder / "model", "--out", folder / "out")
    assert done.exit_code == 0
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].startswith(f"note: {folder / 'pair.png'} shows 2 faces; number ")
    assert ", the nearest to the centre, at (" in notes[0] and "--face or --face-at picks another" in notes[0]


@pytest.mark.parametrize(
    ("picks", "identity_at", "target_at"),
    [
        (("--face-at", "225,124", "--target-face-at", "798,124"), 225, 798),
        (("--face-at", "798,124", "--target-face-at", "225,124"), 798, 225),
        (("--face", 1, "--target-face", 2), "1", "2"),
        (("--face", 2, "--target-face", 1), "2", "1"),
    ],
)
def test_generate_picks_faces(
    folder: Path, astronaut: NDArray[np.uint8], picks: tuple[Any, ...], identity_at: int | str, target_at: int | str
) -> None:
    pair = np.concatenate([astronaut, np.ascontiguousarray(astronaut[:, ::-1])], 1)
    for name in ("pair.png", "posed.png"):
        Image.fromarray(pair).save(folder / name)
    asked = ("--identity", folder / "pair.png", "--target", folder / "posed.png", "--steps", 3, "-n", 1)
    done = facecrafter("generate", *asked, "--model", folder / "model", "--out", folder / "out", *picks)
    assert done.exit_code == 0, done.output
    assert "picks another" not in done.stderr
    for name, expected in (("pair", identity_at), ("posed", target_at)):
        ((number, x),) = re.findall(rf"{name}\.png shows 2 faces; number ([12]) at \((\d+), \d+\) is used", done.stderr)
        assert number == expected if isinstance(expected, str) else abs(int(x) - expected) < 15


def test_generate_reads_a_folder(folder: Path) -> None:
    people = folder / "people"
    people.mkdir()
    asked = ("--identity", people, "--steps", 3, "-n", 1, "--model", folder / "model")
    Image.open(folder / "face.jpg").save(people / "face.jpg")
    shutil.copy(folder / "blank.png", people / "blank.png")
    done = facecrafter("generate", *asked, "--out", folder / "averaged")
    assert done.exit_code == 0, done.output
    assert "blank.png (320x240)" in done.stderr and "it is left out" in done.stderr
    seen = facecrafter("inspect", folder / "averaged" / "00000.png")
    assert "identity: face.jpg\n" in seen.stdout


def test_generate_pairs(folder: Path) -> None:
    (folder / "pairs.csv").write_text("identity,target\nface.jpg,face.jpg\nblank.png,face.jpg\nface.jpg,\n")
    asked = (
        "generate",
        "--pairs",
        folder / "pairs.csv",
        "--steps",
        1,
        "--model",
        folder / "model",
        "--out",
        folder / "out",
    )
    done = facecrafter(*asked)
    assert done.exit_code == 1
    assert done.stdout.startswith("2 made, 0 already there, 1 failed")
    assert "error: 1 of 3 rows failed" in done.stderr
    Image.open(folder / "face.jpg").save(folder / "blank.png")
    done = facecrafter(*asked)
    assert done.exit_code == 0
    assert done.stdout.startswith("1 made, 2 already there, 0 failed")


def test_data_prepare_then_train(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the wiring: what preparing and training do is tested beside them."""
    from facecrafter.data import prepare as preparing
    from facecrafter.training import trainer

    calls: list[tuple[Any, ...]] = []

    def prepare(*places: Path, **options: Any) -> preparing.Report:
        calls.append((*places, options))
        return preparing.Report(places[1], 10, 8, 2, 0, 1.0)

    monkeypatch.setattr(preparing, "prepare", prepare)
    done = facecrafter("data", "prepare", folder, folder / "out", "--size", 64, "--choose", "largest", "--workers", 1)
    assert done.exit_code == 0
    assert "8 of 10 images" in done.stdout and "rejected.csv" in done.stdout
    source, out, options = calls.pop()
    assert (source, out) == (folder, folder / "out")
    assert (options["size"], options["choose"], options["workers"]) == (64, "largest", 1)
    assert tuple(options["recognisers"]) == ("dlib",)
    facecrafter("data", "prepare", folder, folder / "out", "--recogniser", "dlib", "--recogniser", "arcface")
    assert tuple(calls.pop()[2]["recognisers"]) == ("dlib", "arcface")

    def train(config: Any, resume: bool, box: Any = None) -> Path:
        calls.append((config.run, config.steps, resume))
        return Path("run/model")

    monkeypatch.setattr(trainer, "train", train)
    done = facecrafter("train", folder / "config.yaml", "--run", folder / "elsewhere", "--steps", 7, "--resume")
    assert done.exit_code == 0 and done.stdout == "the model is in run/model\n"
    assert calls == [(folder / "elsewhere", 7, True)]


def test_evaluate_model_and_emotion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the wiring: what they measure is tested beside them."""
    from facecrafter.evaluation import emotions, heldout
    from facecrafter.evaluation.result import EmotionResult, HeldoutResult, Setting

    calls: list[tuple[Any, ...]] = []
    nobody = Setting.model_validate(
        dict.fromkeys(Setting.model_fields) | {"images": 3, "face_found": 0.0, "emotion_by_class": {}}
    )

    def model(*arguments: Any, **options: Any) -> HeldoutResult:
        calls.append((*arguments, options))
        return HeldoutResult(environment={}, model="mini", estimators={}, settings={"identity": nobody})

    monkeypatch.setattr(heldout, "evaluate", model)
    asked = ("evaluate", "model", folder, "--model", folder / "model", "--out", folder / "out")
    done = facecrafter(
        *asked,
        "--device",
        "cpu",
        "--speed",
        "interval",
        "--controls",
        "c.safetensors",
        "--overwrite",
        "--emonet",
        "e.pth",
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(
        "identity\n  images: 3\n  face_found: 0.000\n  seconds_an_image: none\n  same: none\n"
    )
    *places, protocol, options = calls.pop()
    assert places == [folder / "model", folder, folder / "out"]
    assert (protocol.sampling.speed, protocol.sampling.batch_size, protocol.words) == ("interval", 16, 60)
    assert options == {"controls": Path("c.safetensors"), "device": "cpu", "overwrite": True, "emonet": Path("e.pth")}
    facecrafter(*asked, "--words", 0)
    *_, protocol, options = calls.pop()
    assert protocol.sampling.speed is None and protocol.words == 0
    assert options == {"controls": None, "device": "auto", "overwrite": False, "emonet": None}

    def emotion(*_: Any, variations: int, overwrite: bool) -> EmotionResult:
        calls.append((variations, overwrite))
        return EmotionResult(environment={}, estimator="pixels", sets={}, circumplex={}, faces_a_second=1.0)

    monkeypatch.setattr(emotions, "evaluate", emotion)
    sets = ("--labels", "l.csv", "--fer2013", "f.tar", "--votes", "v.csv")
    line = ("evaluate", "emotion", folder, *sets, "--out", folder / "out")
    for more in ((), ("--overwrite",)):
        assert facecrafter(*line, *more).exit_code == 0
    assert calls == [(200, False), (200, True)]


def test_weights_blend(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "between"
    out.mkdir()
    (out / "distilled.safetensors").write_bytes(b"of another model")
    done = facecrafter("weights", "blend", model_folder, model_folder, "--out", out, "--half")
    assert done.exit_code == 0, done.output
    assert files(out) == sorted(path.name for path in model_folder.iterdir())
    assert (out / "unet.safetensors").stat().st_size < 0.6 * (model_folder / "unet.safetensors").stat().st_size
    again = facecrafter("weights", "blend", model_folder, model_folder, "--out", out)
    assert again.exit_code == 1 and "exists already" in again.stderr


def test_weights_list_and_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    from facecrafter import weights

    done = facecrafter("weights", "list")
    assert done.exit_code == 0
    for words in ("face_landmarker", "sface", "CC0-1.0", weights.WEIGHTS["dlib"].sha256, "emotion/pixels"):
        assert words in done.stdout
    monkeypatch.setattr(weights, "fetch", lambda name: Path("cache") / name)
    done = facecrafter("weights", "fetch", "sface", "dlib")
    assert done.stdout == "sface is in cache/sface\ndlib is in cache/dlib\n"


def test_demo_shows_the_photo_and_every_row(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "demo.png"
    asked = ("demo", "--model", model_folder, "--steps", 1, "--out", out)
    done = facecrafter(*asked)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"see {out}\n"
    with Image.open(out) as poster:
        width, height = poster.size
        assert width > 1300 and height > 800
        assert np.asarray(poster.convert("L")).std() > 20
    seen = facecrafter("inspect", out)
    assert "watermark: yes" in seen.stdout and "steps: 1" in seen.stdout
    again = facecrafter(*asked)
    assert again.exit_code == 1 and "demo.png exists already" in again.stderr
