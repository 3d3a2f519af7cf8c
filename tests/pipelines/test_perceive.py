"""`facecrafter perceive`: faces become rows and images, and what cannot be read costs only itself."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.cli.printing import MANY
from facecrafter.estimators.emotion_estimator import estimator
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import Face
from facecrafter.faces.photo import KINDS
from facecrafter.pipelines import perceive as perceiving
from facecrafter.pipelines.perceive import COLUMNS, find_sources

HEADER = (
    "file,face,valence,arousal,neutral,happy,sad,surprise,fear,disgust,anger,contempt,emotion,yaw,pitch,roll,"
    "left,top,right,bottom"
)


@pytest.fixture(autouse=True)
def one_finder(finder: FaceFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process share a face finder, which takes long to make."""
    monkeypatch.setattr(perceiving, "FaceFinder", lambda most: nullcontext(finder))


def perceive(*arguments: object) -> Any:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["perceive", *map(str, arguments)])


def rows(*arguments: object) -> list[dict[str, str]]:
    done = perceive(*arguments, "--format", "csv")
    assert done.exit_code == 0, done.output
    return list(csv.DictReader(io.StringIO(done.stdout)))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path: Path, portrait: Path) -> Path:
    """Inputs, most of them bad."""
    face = Image.open(portrait)
    face.save(tmp_path / "face.jpg", quality=90)
    whole = (tmp_path / "face.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.jpg").write_text("hello")
    Image.new("RGB", (320, 240), "grey").save(tmp_path / "blank.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "notes.txt").write_text("hello")
    return tmp_path


# --- through the real entry point -------------------------------------------------------------------------------------


def test_a_photo_from_the_shell(portrait: Path, tmp_path: Path, face: Face) -> None:
    command = [sys.executable, "-m", "facecrafter", "perceive", portrait, "--format", "csv", "--out", tmp_path / "out"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, f"written to {tmp_path / 'out'}: 1 PNG\n")
    header, line, end = done.stdout.split("\n")
    assert (header, end) == (HEADER, "") and ",".join(COLUMNS) == HEADER
    row = dict(zip(COLUMNS, line.split(","), strict=True))
    emotion = estimator().estimate([face])[0]
    assert (row["file"], row["face"], row["emotion"]) == (str(portrait), "1", "happy")
    outcome = [float(row[name]) for name in COLUMNS[2:12]]
    np.testing.assert_allclose(outcome, emotion.vector, atol=1e-4)
    np.testing.assert_allclose([float(row[name]) for name in COLUMNS[-7:]], [*face.angles, *face.box], atol=0.01)
    assert sum(outcome[2:]) == pytest.approx(1, abs=1e-3)
    with Image.open(tmp_path / "out" / f"{portrait.stem}_1.png") as chart:
        assert chart.size == (1300, 750)
        assert len(np.unique(np.asarray(chart.convert("RGB")).reshape(-1, 3), axis=0)) > 1000
    assert files(tmp_path / "out") == ["astronaut_1.png"]


# --- stopped ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def crops(tmp_path: Path, astronaut: NDArray[np.uint8]) -> Path:
    """Five tight crops and a file that is none, which are read fast: c0.png to c3.png, c4-bad.png, c5.png."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for number in (0, 1, 2, 3, 5):
        left = 158 + number
        crop = Image.fromarray(astronaut[60:190, left : left + 130]).convert("L")
        crop.resize((48, 48), Image.Resampling.LANCZOS).save(folder / f"c{number}.png")
    (folder / "c4-bad.png").write_text("no image")
    return folder


# Which signal, on which call of what, the exit code, and how many crops are read then. The last case's second signal
# comes while it is said what is kept.
READING = "facecrafter.pipelines.perceive:_read_crop"
STOPS = [
    ("SIGINT", READING, 3, 130, 2),
    ("SIGTERM", READING, 3, 143, 2),
    ("SIGINT", "facecrafter.pipelines.perceive:_csv_row", 3, 130, 3),
    ("SIGINT", READING, 1, 130, 0),
    ("SIGINT", READING, 6, 130, 5),
    ("SIGINT; facecrafter.cli.perceive:say_skipped 1 SIGTERM", READING, 3, 143, 2),
]


@pytest.mark.parametrize(("sent", "place", "call", "code", "read"), STOPS)
def test_rows_are_printed_as_they_are_read(
    sent: str, place: str, call: int, code: int, read: int, crops: Path, interrupted: Any
) -> None:
    done = interrupted(f"{place} {call} {sent}", "perceive", crops, "--aligned", "--format", "csv")
    lines = done.stdout.splitlines()
    good = min(read, 4)
    whole = perceive(crops, "--aligned", "--format", "csv").stdout.splitlines()
    assert done.returncode == code, done.stderr
    assert lines == (whole[: good + 1] if good else [])
    assert done.stderr.splitlines()[-1] == f"stopped: {read} of 6 images were read; {good} rows are printed"
    assert done.stderr.count("skipped: ") == (read == 5)
    assert "Traceback" not in done.stderr


def test_what_kill_9_leaves_is_rows_too(crops: Path, interrupted: Any) -> None:
    done = interrupted(f"{READING} 4 SIGKILL", "perceive", crops, "--aligned", "--format", "csv")
    whole = perceive(crops, "--aligned", "--format", "csv").stdout.splitlines()
    assert (done.returncode, done.stdout.splitlines()) == (-9, whole[:4])


def test_a_stopped_table_and_json_are_whole(crops: Path, interrupted: Any, tmp_path: Path) -> None:
    asked = ("perceive", crops, "--aligned", "--out", tmp_path / "out", "--overwrite", "--format")
    done = interrupted(f"{READING} 4 SIGINT", *asked, "json")
    outcome = json.loads(done.stdout)
    assert [Path(row["file"]).name for row in outcome["faces"]] == ["c0.png", "c1.png", "c2.png"]
    assert (outcome["skipped"], outcome["unread"]) == ([], 3)
    said = f"stopped: 3 of 6 images were read; 3 rows are printed, and 3 PNG are in {tmp_path / 'out'}"
    assert done.stderr.splitlines()[-1] == said
    assert files(tmp_path / "out") == ["c0_1.png", "c1_1.png", "c2_1.png"]
    done = interrupted(f"{READING} 4 SIGINT", *asked, "table")
    assert [name in done.stdout for name in ("c0.png", "c2.png", "c3.png")] == [True, True, False]
    assert done.stderr.splitlines()[-1] == said


def test_json_is_what_json_writes(crops: Path) -> None:
    text = perceive(crops, "--aligned", "--format", "json").stdout
    assert text == json.dumps(json.loads(text), indent=1) + "\n"
    nothing = perceiving.Survey("pixels", skipped=[(Path("a"), "why")])
    assert perceiving.as_json(nothing) == json.dumps(json.loads(perceiving.as_json(nothing)), indent=1) + "\n"
    done = perceive(crops, "--aligned", "--format", "csv").stdout
    seen = perceiving.Survey("pixels", [dict(row) for row in json.loads(text)["faces"]])
    assert perceiving.as_csv(seen) == done


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to stand for a full disk")
def test_results_that_cannot_be_printed_are_one_sentence(crops: Path) -> None:
    command = [sys.executable, "-m", "facecrafter", "perceive", str(crops), "--aligned", "--format", "csv"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: the results could not be printed (no space left on device); free some space, and run it again"
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


# --- formats ----------------------------------------------------------------------------------------------------------


def test_the_formats_say_the_same(folder: Path) -> None:
    inputs = (folder / "face.jpg", folder / "words.jpg")
    (line,) = rows(*inputs)
    content = json.loads(perceive(*inputs, "--format", "json").stdout)
    assert content["estimator"] == "pixels"
    assert content["skipped"][0]["file"] == str(inputs[1]) and "is not an image" in content["skipped"][0]["reason"]
    (seen,) = content["faces"]
    assert tuple(seen) == COLUMNS
    assert {name: str(value) for name, value in seen.items()} == line
    done = perceive(*inputs)
    assert done.exit_code == 0
    assert done.stderr == f"skipped: {content['skipped'][0]['reason']}\n"
    for words in (
        str(inputs[0]),
        f"happy {seen['happy']:.2f}",
        f"{seen['valence']:+.2f}",
        f"{round(seen['pitch']):+d}°",
    ):
        assert words in done.stdout


def test_names_with_marks_come_through(folder: Path) -> None:
    odd = folder / '[red]a, "b" $x_{$ 字.jpg'
    (folder / "face.jpg").rename(odd)
    assert rows(odd)[0]["file"] == str(odd)
    done = perceive(odd, "--out", folder / "out")
    assert str(odd) in done.stdout and done.exit_code == 0
    assert files(folder / "out") == [f"{odd.stem}_1.png"]


# --- which faces ------------------------------------------------------------------------------------------------------


def test_choosing_faces(tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    """A small face in the middle, and a large one at the edge."""
    small = Image.fromarray(astronaut[40:240, 120:320])
    montage = Image.new("RGB", (640, 300), "grey")
    montage.paste(small.resize((300, 300)), (0, 0))
    montage.paste(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (300, 50))
    montage.save(tmp_path / "pair.png")
    both = rows(tmp_path / "pair.png")
    assert [row["face"] for row in both] == ["1", "2"]
    assert float(both[0]["right"]) < 300 < float(both[1]["left"])
    assert both == rows(tmp_path / "pair.png", "--choose", "all")
    assert rows(tmp_path / "pair.png", "--choose", "largest") == both[:1]
    (centre,) = rows(tmp_path / "pair.png", "--choose", "centre")
    assert centre == both[1] | {"face": "1"}


# --- folders and output -----------------------------------------------------------------------------------------------


def test_folders_are_walked_for_images(tmp_path: Path) -> None:
    for name in ("b/x.png", "b/x.jpg", "a.JPEG", "a-2.png", "notes.txt", ".hidden.png", ".git/y.png", "b/c/x.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources, lacking = find_sources([tmp_path, tmp_path / "b" / "x.png", tmp_path / "notes.txt", tmp_path / "b" / "c"])
    found = {source.path.relative_to(tmp_path).as_posix(): source.name for source in sources}
    assert found == {
        "a-2.png": "a-2",
        "a.JPEG": "a",
        "b/c/x.webp": "b/c/x",
        "b/x.jpg": "b/x",
        "b/x.png": "b/x-2",
        "notes.txt": "notes",
    }
    assert next(iter(found)) == "a-2.png" and lacking == []
    again, _ = find_sources([tmp_path / "a.JPEG", tmp_path / "A.png", tmp_path / "b" / "a-2.png", tmp_path / "c" / "a"])
    assert [source.name for source in again] == ["a", "A-2", "a-2-2", "a-3"]


def test_nothing_is_overwritten_unasked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out"
    assert perceive(folder, "--out", out).exit_code == 0
    assert files(out) == ["face_1.png"]
    first = (out / "face_1.png").read_bytes()
    (out / "face_1.png").rename(out / "face_2.png")  # as if the photo had had two faces then
    with monkeypatch.context() as patched:
        patched.setattr(perceiving, "load_photo", pytest.fail)
        again = perceive(folder / "face.jpg", "--out", out)
    assert (again.exit_code, again.stdout, again.stderr.count("\n")) == (1, "", 1)
    assert again.stderr.startswith(f"error: {out / 'face_2.png'} exists already; ")
    (out / "face_1.png").write_bytes(b"old")
    assert perceive(folder / "face.jpg", "--out", out, "--overwrite").exit_code == 0
    assert (out / "face_1.png").read_bytes() == first
    assert files(out) == ["face_1.png", "face_2.png"]


def test_a_full_disk_is_one_sentence_and_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[:100])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    done = perceive(folder / "face.jpg", "--out", folder / "out")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "face_1.png could not be written (no space left on device)" in done.stderr
    assert files(folder / "out") == []


def test_a_bar_shows_for_many_images_only(folder: Path) -> None:
    assert MANY == 5
    several = [folder / "face.jpg", *(folder / f"none{number}.jpg" for number in range(4))]
    assert "images: 100%" in perceive(*several).stderr
    assert "%" not in perceive(*several[:4]).stderr


# --- bad input --------------------------------------------------------------------------------------------------------

# The input, and words of the sentence about it.
BAD = {
    "constant image": ("blank.png", "no face found in blank.png (320x240); try"),
    "words": ("words.jpg", f"words.jpg is not an image that can be read; give a {KINDS} file"),
    "truncated": ("truncated.jpg", "truncated.jpg is damaged"),
    "missing": ("none.jpg", "there is no file none.jpg"),
    "empty folder": ("empty", f"empty has no images in it; name a folder with {KINDS} files"),
    "folder of papers": ("papers", "papers has no images in it"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_nothing_to_read_is_an_error(case: str, form: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, words = BAD[case]
    monkeypatch.chdir(folder)
    before = files(folder)
    done = perceive(name, "--format", form, "--out", "out")
    assert (done.exit_code, done.stdout) == (1, "")
    reason, error = done.stderr.splitlines()
    assert reason.startswith(f"skipped: {words}") and error == "error: no face could be read; 1 skipped, see above"
    assert files(folder) == before


def test_bad_files_cost_only_themselves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = perceive(*(name for name, _ in BAD.values()), "face.jpg", "--format", "csv")
    assert done.exit_code == 0
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["file", "face.jpg"]
    reasons = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(reasons) == len(BAD)
    assert all(any(words in reason for reason in reasons) for _, words in BAD.values())


def test_a_folder_is_read_past_everything_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage of a kind that no other file has, PostScript, a pipe, and names that hide an image."""
    monkeypatch.chdir(folder)
    face = Image.open("face.jpg")
    face.save("a.avif")
    Path("a.avif").write_bytes(Path("a.avif").read_bytes().replace(b"pitm", b"xxxx"))
    Path("b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    os.mkfifo("c.jpg")
    face.save("IMG_0001", "JPEG")
    pillow_heif.from_pillow(face).save("z.HEIC", quality=90)
    done = perceive(".", "--format", "csv")
    assert done.exit_code == 0
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["file", "face.jpg", "z.HEIC"]
    skipped = [line.removeprefix("skipped: ") for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    for words in (
        "a.avif is damaged",
        "b.jpg is not an image",
        "c.jpg is a pipe",
        "IMG_0001 begins as an image does",
    ):
        assert sum(line.startswith(words) for line in skipped) == 1


# The arguments, the exit code, and words of the sentence.
REFUSED = {
    "nothing named": ((), 2, "Missing argument"),
    "unknown format": (("face.jpg", "--format", "xml"), 2, "xml"),
    "unknown choice": (("face.jpg", "--choose", "smallest"), 2, "smallest"),
    "a choice of crops": (("face.jpg", "--aligned", "--choose", "all"), 2, "leave out --choose"),
    "a file as folder": (("face.jpg", "--out", "face.jpg"), 2, "face.jpg"),
    "no EmoNet there": (("face.jpg", "--emonet", "none.pth"), 1, "there is no EmoNet file none.pth"),
    "another file as EmoNet": (("face.jpg", "--emonet", "words.jpg"), 1, "words.jpg is damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_options(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, code, words = REFUSED[case]
    monkeypatch.chdir(folder)
    done = perceive(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr and "Traceback" not in done.stderr


# --- face crops -------------------------------------------------------------------------------------------------------


@pytest.fixture
def crop(tmp_path: Path, astronaut: NDArray[np.uint8]) -> Path:
    """The astronaut's face as a set of emotions has it: tight, grey, 48 px."""
    path = tmp_path / "crop.png"
    Image.fromarray(astronaut[60:190, 160:290]).convert("L").resize((48, 48), Image.Resampling.LANCZOS).save(path)
    return path


@pytest.fixture(scope="module")
def emonet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of EmoNet whose weights are all zero but for the bias of its answer: happy, 0.5 and -0.25."""
    import torch

    from facecrafter.estimators.emonet import EmoNet

    with torch.device("meta"):
        shapes = EmoNet(8).state_dict()
    state = {name: torch.zeros(()).expand(place.shape) for name, place in shapes.items()}
    state["emo_fc_2.3.bias"] = torch.tensor([0, 2, 0, 0, 0, 0, 0, 0, 0.5, -0.25])
    path = tmp_path_factory.mktemp("emonet") / "emonet_8.pth"
    torch.save(state, path)
    return path


def test_crops_are_read_by_their_pixels(crop: Path, emonet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blank, out = crop.with_name("blank.png"), crop.with_name("out")
    Image.new("L", (48, 48), 128).save(blank)
    monkeypatch.setattr(perceiving, "FaceFinder", pytest.fail)
    done = perceive(crop, blank, "--aligned", "--emonet", emonet, "--format", "json", "--out", out)
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert (content["estimator"], content["skipped"]) == ("emonet_8", [])
    share = round(float(np.exp(2) / (np.exp(2) + 7)), 4)
    for seen, path in zip(content["faces"], (crop, blank), strict=True):
        assert (seen["file"], seen["emotion"], seen["happy"]) == (str(path), "happy", share)
        assert (seen["valence"], seen["arousal"]) == (0.5, -0.25)
        assert [seen[name] for name in COLUMNS[-7:]] == [None] * 7
    assert files(out) == ["blank_1.png", "crop_1.png"]
    header, line = perceive(crop, "--aligned", "--emonet", emonet, "--format", "csv").stdout.splitlines()
    assert header == HEADER and line.endswith(",happy,,,,,,,")
    assert "-" in perceive(crop, "--aligned", "--emonet", emonet).stdout


def test_a_crop_without_a_face_in_it_costs_only_itself(crop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = crop.with_name("blank.png")
    Image.new("L", (48, 48), 128).save(blank)
    monkeypatch.setattr(perceiving, "FaceFinder", pytest.fail)
    done = perceive(blank, crop, "--aligned", "--format", "csv")
    assert done.exit_code == 0, done.output
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["file"], row["emotion"]) == (str(crop), "happy")
    assert [row[name] for name in COLUMNS[-7:]] == [""] * 7
    assert done.stderr.startswith("skipped: ") and "all of one colour" in done.stderr
    assert str(blank) in done.stderr and done.stderr.count("\n") == 1


def test_photos_are_read_with_emonet(portrait: Path, emonet: Path) -> None:
    (row,) = rows(portrait, "--emonet", emonet)
    assert (row["valence"], row["arousal"], row["emotion"]) == ("0.5", "-0.25", "happy")
    (plain,) = rows(portrait)
    assert {name: row[name] for name in COLUMNS[-7:]} == {name: plain[name] for name in COLUMNS[-7:]}
    assert row["happy"] != plain["happy"] and tuple(row)[4:12] == EMOTIONS
