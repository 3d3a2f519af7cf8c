"""What was asked of images and what they show, and the closest of several."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from facecrafter import FaceCrafter, Pose
from facecrafter.cli import app
from facecrafter.errors import ConfigError, OutputError
from facecrafter.faces.asked import asked_of
from facecrafter.faces.face import BLENDSHAPES, Face
from facecrafter.models.checkpoint import FaceModel
from facecrafter.pipelines.batch import Numbers, generate_pairs
from facecrafter.pipelines.missing import Summary, generate_many
from facecrafter.pipelines.report import MOST, Report, Row, best_key, candidates, closest, rendered
from facecrafter.pipelines.report_files import check_reports, lines, write_report
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Request

QUICK = Settings(steps=1)


@pytest.fixture
def crafter(small_model: FaceModel, face: Face, monkeypatch: pytest.MonkeyPatch) -> FaceCrafter:
    """A model whose images are the photo's own face, at its size; those of seeds above 100 show none."""
    crafter = FaceCrafter(small_model)
    own = np.asarray(Image.fromarray(face.image).resize((128, 128), Image.Resampling.LANCZOS))

    def generate(requests: Sequence[Request], progress: Any = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for number, request in enumerate(requests):
            if progress:
                progress(1)
            yield number, own if request.seed <= 100 else np.full_like(own, 90)

    monkeypatch.setattr(crafter.generator, "generate", generate)
    return crafter


def report(identity: float | None, error: float = 0.0) -> Report:
    return Report(identity is not None, (Row("expression", "jawOpen", 0.0, None, error),), identity, "sface")


def test_a_report_has_what_was_asked_what_the_landmarks_have_and_what_is_shown(
    crafter: FaceCrafter, portrait: Path, face: Face
) -> None:
    (image,) = crafter.generate(
        portrait, pose=Pose(yaw=20), expression={"jawOpen": 0.6}, emotion="sad:0.7", n=1, steps=1, report=True
    )
    found = image.info["facecrafter"]["report"]
    assert json.loads(json.dumps(found)) == found
    assert list(found["controls"]) == ["yaw", "pitch", "jawOpen", "sad"]
    assert found["controls"]["yaw"]["asked"] == 20 and found["controls"]["sad"]["asked"] == pytest.approx(0.7)
    assert found["controls"]["yaw"]["rig"] == pytest.approx(20, abs=1) and found["controls"]["sad"]["rig"] is None
    assert found["controls"]["jawOpen"]["rig"] == pytest.approx(0.6, abs=0.07)
    assert found["controls"]["yaw"]["got"] == pytest.approx(face.angles[0], abs=2)
    jaw = float(face.blendshapes[BLENDSHAPES.index("jawOpen")])
    assert found["controls"]["jawOpen"]["got"] == pytest.approx(jaw, abs=0.05)
    assert found["identity"] > 0.9 and found["identity by"] == "sface"


def test_a_distance_adds_up_the_mean_errors_of_pose_expression_and_emotion() -> None:
    rows = [Row("pose", "yaw", 20, None, 11), Row("pose", "pitch", 0, None, 0), Row("emotion", "sad", 0.7, None, 0.4)]
    rows += [Row("expression", "jawOpen", 0.6, None, 0.5), Row("expression", "eyeBlinkLeft", 0, None, 0.4)]
    assert Report(True, tuple(rows), 0.5, "sface").distance == pytest.approx(9 / 45 / 2 + 0.25 + 0.3)
    assert Report(True, (), 0.5, "sface").distance == 0


def test_a_photo_asks_for_its_own_pose_and_its_clear_blendshapes(
    crafter: FaceCrafter, portrait: Path, face: Face
) -> None:
    read = crafter.conditions(portrait, portrait)
    found = crafter.measurer.report(read, face.image)
    asked = {row.name: row.asked for row in found.rows if row.kind != "emotion"}
    clear = [name for name, score in zip(BLENDSHAPES, face.blendshapes, strict=True) if score >= 0.2]
    assert list(asked) == ["yaw", "pitch", *(name for name in clear if name != "_neutral")]
    assert asked["yaw"] == pytest.approx(face.angles[0])
    assert found.distance < 0.2 and max(row.error for row in found.rows) < 0.3


def test_without_a_face_or_without_conditions(crafter: FaceCrafter, portrait: Path) -> None:
    alone = crafter.conditions(portrait)
    blank = np.full((128, 128, 3), 90, np.uint8)
    lost = crafter.measurer.report(alone, blank)
    assert (lost.found, lost.rows, lost.identity, lost.distance) == (False, (), None, math.inf)
    assert lost.data()["distance"] is None
    by_embedding = crafter.conditions(crafter.person(portrait), asked=asked_of(Pose(10)))
    found = crafter.measurer.report(by_embedding, np.asarray(Image.open(portrait).convert("RGB")))
    assert found.judge == "dlib" and found.identity == pytest.approx(1, abs=1e-3)
    assert [(row.name, row.asked) for row in found.rows][:2] == [("yaw", 10), ("pitch", 0)]


def test_a_choice_can_be_stopped_between_two_measurements(
    crafter: FaceCrafter, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Any] = []

    class Stopped(Exception):
        pass

    def stop(amount: float) -> None:
        if amount == 0 and len(measured) == 1:
            raise Stopped

    monkeypatch.setattr(crafter.measurer, "report", lambda *given: measured.append(given))
    request = crafter.conditions(portrait, asked=asked_of(Pose(10)))
    with pytest.raises(Stopped):
        list(rendered(crafter, [request], 3, stop))
    assert len(measured) == 1


def test_likeness_is_to_the_face_that_is_picked(crafter: FaceCrafter, astronaut: NDArray[np.uint8]) -> None:
    both = np.hstack([astronaut, astronaut[:, ::-1]])
    for number in (1, 2):
        person = crafter.request(both, face=number).identity
        assert crafter.measurer.likeness(person, crafter.face(both, number)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("reports", "best"),
    [
        ([report(0.4, 0.5), report(0.4, 0.2), report(0.5, 0.3)], 1),
        ([report(0.4, 0.5), report(0.39, 0.1), report(0.5, 0.3)], 2),  # nearer, and less like the person
        ([report(0.4, 0.1), report(0.5, 0.3)], 0),
        ([report(0.4, 0.1), report(0.5, 0.1)], 0),
        ([report(None), report(0.1, 0.9), report(0.2, 0.8)], 2),  # the first shows no face
        ([report(0.4, 0.5), report(None)], 0),
        ([report(None), report(None)], 0),
    ],
)
def test_the_closest_is_kept_at_no_less_identity(reports: list[Report], best: int) -> None:
    assert closest(reports) == best


def test_candidates_follow_from_the_seed(crafter: FaceCrafter, portrait: Path) -> None:
    request = crafter.request(portrait, asked=asked_of(Pose(10)), seed=7)
    seeds = [one.seed for one in candidates(request, 4)]
    assert seeds[0] == 7 and len(set(seeds)) == 4
    assert seeds[:3] == [one.seed for one in candidates(request, 3)]
    assert best_key("k", 1) == "k" and len({best_key("k", count) for count in (1, 2, 3)}) == 3
    for count in (0, MOST + 1):
        with pytest.raises(ConfigError, match=f"the best is of 1 to 16 images, not of {count}"):
            candidates(request, count)
    with pytest.raises(ConfigError, match="needs something to be close to"):
        candidates(crafter.request(portrait), 2)


def test_of_several_images_one_is_made_and_kept(crafter: FaceCrafter, portrait: Path, tmp_path: Path) -> None:
    # The first shows no face, and so do those of high seeds: whichever does is kept, whatever its seed.
    amounts: list[float] = []
    request = crafter.request(portrait, asked=asked_of(Pose(10)), seed=101, settings=QUICK)
    made = dict(rendered(crafter, [crafter.read(request)] * 2, 3, amounts.append))
    assert sorted(made) == [0, 1] and sum(amounts) == pytest.approx(2)
    assert made[0].info["facecrafter"]["best of"] == 3
    assert made[0].info["facecrafter"]["seed of the first"] == 101
    shown = crafter.request(portrait, asked=asked_of(Pose(10)), seed=5, settings=QUICK)
    assert dict(rendered(crafter, [crafter.read(shown)], 3))[0].info["facecrafter"]["seed"] == 5
    assert generate_many(crafter, shown, 2, tmp_path, best_of=2) == Summary(2, 0, 0)
    assert generate_many(crafter, shown, 2, tmp_path, best_of=2) == Summary(0, 2, 0)
    with pytest.raises(OutputError, match="is the image of another request"):
        generate_many(crafter, shown, 2, tmp_path)


def test_a_row_without_conditions_has_no_closest_image(crafter: FaceCrafter, portrait: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(f"identity,target,yaw\n{portrait},,10\n{portrait},,\n")
    done = generate_pairs(crafter, table, tmp_path / "out", 0, QUICK, numbers=Numbers(best_of=2))
    assert done == Summary(1, 0, 1) and len(done.jobs) == 1
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    assert rows[0]["error"] == "" and "needs something to be close to" in rows[1]["error"]


def test_reports_are_lines_a_table_and_a_chart(tmp_path: Path) -> None:
    rows = (Row("pose", "yaw", 20, 26.7, 19.04), Row("expression", "jawOpen", 0.6, 0.58, None))
    reports = [("0.png", Report(True, rows, 0.4321, "sface")), ("1.png", Report(False, (), None, "sface"))]
    assert list(lines(reports)) == [
        "0.png: identity 0.43 (sface)",
        "  yaw                  asked   20.0  rig   26.7  got   19.0",
        "  jawOpen              asked   0.60  rig   0.58  got      -",
        "1.png: no face was found",
    ]
    check_reports(tmp_path)
    table, chart = write_report(tmp_path, reports)
    assert table.read_text().splitlines() == [
        "image,kind,name,asked,rig,got,identity,identity by",
        "0.png,pose,yaw,20.0000,26.7000,19.0400,0.4321,sface",
        "0.png,expression,jawOpen,0.6000,0.5800,,0.4321,sface",
        "1.png,,,,,,,sface",
    ]
    with Image.open(chart) as image:
        assert image.width > 400
    check_reports(tmp_path)  # an earlier report is replaced


@pytest.mark.parametrize("name", ["report.csv", "report.png"])
def test_another_programs_files_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=rf"{name} exists already and is no report of this program"):
        check_reports(tmp_path)
    check_reports(tmp_path, overwrite=True)


def test_the_command_measures_what_is_there_too(
    crafter: FaceCrafter, portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaceCrafter, "from_pretrained", lambda *given, **named: crafter)
    line = ["generate", "--identity", str(portrait), "--yaw", "10", "-n", "2", "--steps", "1", "--report"]
    for made in (2, 0):
        done = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        assert f"{made} made" in done.stdout
        assert "00001.png: identity 0.9" in done.stdout and "  yaw                  asked   10.0" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"report.csv", "report.png", "sheet.png"}
    (tmp_path / "out" / "report.csv").write_text("mine")
    refused = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
    assert refused.exit_code != 0 and (tmp_path / "out" / "report.csv").read_text() == "mine"
    nothing = CliRunner().invoke(app, [*line[:3], "--free", "--best-of", "2", "--out", str(tmp_path / "no")])
    assert nothing.exit_code == 2 and "nothing to be close to" in " ".join(nothing.output.replace("│", " ").split())
