from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.data.shards import Prepared
from facecrafter.errors import DataError
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.evaluation import independent, moved_photos, numbers, ways
from facecrafter.evaluation.judges import DetectedFace, Judge
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.numbers import POSES, VALUES, NumbersResult, Trial, live
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.report import publish
from facecrafter.evaluation.result import read, read_file
from facecrafter.evaluation.ways import WAYS, WORDS
from facecrafter.faces.asked import Asked, sides_of
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import BLENDSHAPES, Face
from facecrafter.faces.followed import MEASURED
from facecrafter.faces.gain import Gain
from facecrafter.faces.rig import Rig, load
from facecrafter.request import Portrait, Request

REQUEST = Request(Portrait(embedding=np.ones(4, np.float32)))


def shown(count: int) -> Measurements:
    """What a judge would see in images of which nothing moves."""
    return Measurements(
        np.ones(count, bool),
        np.zeros((count, 3)),
        np.full((count, 52), 0.1),
        np.tile([1.0, 0.0], (count, 1)),
        np.tile([0.0, 0.0, 1.0, *[0.0] * 7], (count, 1)),
    )


def test_a_control_that_is_followed_by_half_and_drags_another_along() -> None:
    trials = [Trial(person, "jawOpen", value, REQUEST) for person in (0, 1) for value in VALUES]
    seen = shown(len(trials))
    asked = np.array([one.value for one in trials])
    seen.expression[:, BLENDSHAPES.index("jawOpen")] = 0.1 + asked / 2
    seen.expression[:, BLENDSHAPES.index("mouthFunnel")] = 0.3 * asked
    found = numbers._followed("jawOpen", trials, seen, np.full(len(trials), 0.5), load())
    assert found.asked == list(VALUES)
    assert found.read == pytest.approx([0.1, 0.3, 0.5])
    assert (found.correlation, found.slope, found.identity) == pytest.approx((1, 0.5, 0.5))
    assert found.error == pytest.approx(np.abs(0.1 - asked / 2).mean())
    assert found.worst == "mouthFunnel 0.30"
    assert found.cross_talk == pytest.approx(0.3 / (load().live.sum() - 1))


def test_a_pose_is_read_in_degrees_and_lost_faces_are_left_out() -> None:
    trials = [Trial(0, "yaw", value, REQUEST) for value in POSES["yaw"]]
    seen = shown(len(trials))
    seen.pose[:, 0] = np.radians([-33, -18, 2, 22, 99])
    seen.found[-1] = False
    found = numbers._followed("yaw", trials, seen, np.ones(len(trials)), load())
    assert found.error == pytest.approx(2)
    assert found.read[:4] == pytest.approx([-33, -18, 2, 22]) and found.read[4] is None
    seen.found[:] = False
    assert numbers._followed("yaw", trials, seen, np.ones(len(trials)), load()).correlation is None


def test_a_person_whose_photo_shows_no_face_has_no_part_in_likeness() -> None:
    trials = [Trial(person, name, 0.5, REQUEST) for person in range(3) for name in ("target", "jawOpen", *WAYS)]
    alike = np.repeat([0.2, np.nan, 0.6], len(trials) // 3)
    found = numbers._measured(trials, shown(len(trials)), alike, load())
    assert found["identity_of_targets"] == pytest.approx(0.4) == found["identity"].value
    assert all(one.value == pytest.approx(0.4) for one in found["words_identity"].values())


def test_every_live_control_is_asked_of_every_person(prepared: Prepared) -> None:
    rig = load()
    names = live(rig)
    assert {"jawOpen", "mouthSmile"} <= set(names) and "cheekPuff" not in names
    assert all(len(sides_of(name)) in (1, 2) for name in names)
    with pytest.raises(DataError, match="2 held-out people or more, and there are 1"):
        numbers._chosen(prepared, 60, 0)


def test_a_result_is_two_tables() -> None:
    found = numbers._followed(
        "jawOpen", [Trial(0, "jawOpen", value, REQUEST) for value in VALUES], shown(3), np.ones(3), load()
    )
    result = NumbersResult(
        environment={},
        people=2,
        judges={},
        rig="",
        face_found=1.0,
        identity_of_targets=None,
        controls={"jawOpen": found},
        words=[ways.read("net", EMOTIONS, np.eye(8)[[1] * 6], [*WAYS] * 2, ["happy", "sad"] * 3, ["a", "b", "a"] * 2)],
        words_identity=dict.fromkeys(WAYS, Interval(0.5, 0.25, 0.75)),
    )
    table = numbers.as_markdown(result)
    assert "| jawOpen | 0, 0.4, 0.8 | 0.10, 0.10, 0.10 | none | " in table
    assert "| cosine to the photo | 0.50 [0.25, 0.75] |" in table and "2 held-out people" in table


def test_a_result_is_read_back_and_published(two: Prepared, tmp_path: Path) -> None:
    result = numbers.evaluate(Plain(), two, tmp_path / "numbers", 2, settings={"landmark_scale": 1.4})
    assert result.config["settings"] == {"landmark_scale": 1.4}
    assert read(tmp_path / "numbers") == result
    document = tmp_path / "controls.md"
    document.write_text("Before.\n\n<!-- table numbers -->\n<!-- end of table -->\n\nAfter.\n")
    publish([tmp_path / "numbers"], document)
    text = document.read_text()
    assert numbers.as_markdown(result) in text and text.startswith("Before.") and text.endswith("After.\n")


def test_photos_that_follow_are_read_beside_the_images(
    two: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[NDArray[np.uint8]] = []
    all_torn = False

    def measure(judges: Any, images: Sequence[Any], *given: Any, **named: Any) -> Measurements:
        found = shown(len(images))
        if not isinstance(images[0], Path):  # photos, the first of which is torn
            seen.extend(images)
            found.expression[:, BLENDSHAPES.index("jawOpen")] = [0.5, 0.9] if len(images) == 2 else [0.1, 0.5, 0.9]
        return found

    def moved(own: Portrait, asked: Sequence[Asked], rig: Rig, size: int) -> list[NDArray[np.uint8] | None]:
        assert [one.expression["jawOpen"] for one in asked] == list(VALUES) and size == Plain.size
        torn = not seen or all_torn
        return [None if torn else np.zeros((8, 8, 3), np.uint8), *np.zeros((2, 8, 8, 3), np.uint8)]

    monkeypatch.setattr(numbers, "measure", measure)
    monkeypatch.setattr(numbers.moved_photos, "moved", moved)
    result = numbers.evaluate(Plain(), two, tmp_path, 2)
    assert set(result.photos) == {"jawOpen"} and len(seen) == 5
    assert result.photos["jawOpen"].slope == pytest.approx(1) and result.photos["jawOpen"].read == [0.1, 0.5, 0.9]
    assert result.photos_torn == pytest.approx(1 / 6)
    table = numbers.as_markdown(result)
    assert "| moved photos: r | slope | cross-talk |" in table and "17% would be torn" in table
    (row,) = [line for line in table.splitlines() if line.startswith("| jawOpen")]
    assert row.endswith("| 1.00 | 1.00 | 0.000 |")
    (yaw,) = [line for line in table.splitlines() if line.startswith("| yaw")]
    assert yaw.count("|") == row.count("|")
    # Where nobody's photo shows one of the numbers, nothing can be said of the control.
    all_torn = True
    assert numbers.evaluate(Plain(), two, tmp_path / "torn", 2).photos == {}


def test_an_evaluation_of_photos_that_are_all_torn(
    two: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers.moved_photos, "moved", lambda own, asked, *given: [None] * len(asked))
    result = numbers.evaluate(Plain(), two, tmp_path, 2)
    assert result.photos == {} and result.photos_torn == 1
    assert "moved photos" not in numbers.as_markdown(result).lower()


def test_a_photo_is_moved_as_the_numbers_say(face: Face) -> None:
    own = Portrait(image=face.image, points=face.points, blendshapes=face.blendshapes, size=256)
    asked = [Asked(expression={"jawOpen": value}) for value in (0.1, 0.4)]
    shut, opened = moved_photos.moved(own, asked, load(), 128)
    assert shut is not None and opened is not None and shut.shape == (128, 128, 3)
    with FaceFinder() as finder:
        jaws = [finder.find_all(one)[0].blendshapes[BLENDSHAPES.index("jawOpen")] for one in (shut, opened)]
    assert jaws[1] > jaws[0] + 0.1
    torn = replace(own, points=np.random.default_rng(0).uniform(0, 256, (478, 3)).astype(np.float32))
    assert moved_photos.moved(torn, asked, load(), 128) == [None, None]


def test_words_are_also_read_by_an_independent_network(
    two: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[Path] = []

    def by_judge(judge: Judge[DetectedFace], paths: Sequence[Path], *given: Any, **named: Any) -> NDArray[np.float64]:
        images.extend(paths)
        return np.eye(7)[[1, 1, 0]]  # happy, happy, neutral: the ways of one word

    other = Judge[DetectedFace]("other 1", 7, lambda faces: np.zeros((0, 7)))
    monkeypatch.setattr(independent, "open_judge", lambda: other)
    monkeypatch.setattr(numbers, "by_judge", by_judge)
    own, found = numbers.evaluate(Plain(), two, tmp_path, 2).words
    assert (own.network, found.network) == ("emotion", "other 1") and len(set(images)) == 6
    assert [found.shares[way].value for way in WAYS] == [1, 1, 0]


def test_the_documents_table_is_the_shipped_record() -> None:
    record = read_file(MEASURED)
    assert isinstance(record, NumbersResult)
    text = (Path(__file__).parents[2] / "docs" / "controls.md").read_text(encoding="utf-8")
    table = text.partition("<!-- table numbers -->\n\n")[2].partition("\n\n<!-- end of table -->")[0]
    assert table == numbers.as_markdown(record)


def test_the_list_of_controls_says_how_well_each_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facecrafter.faces import followed, gain
    from facecrafter.weights import ASSETS

    def shown() -> list[str]:
        return CliRunner().invoke(app, ["controls", "list"]).output.splitlines()

    monkeypatch.setattr(followed, "MEASURED", tmp_path / "controls.json")
    assert any(line.startswith("jawOpen") and line.endswith("; not measured") for line in shown())
    measured = {"people": 3, "controls": {"yaw": {"correlation": 0.99, "slope": 0.75, "error": 5.92}}}
    measured["controls"]["eyeWide"] = {"correlation": 0.1, "slope": 0.02, "error": 0.4}  # type: ignore[index]
    measured["photos"] = {"eyeWide": {"slope": 0.031}}
    followed.MEASURED.write_text(json.dumps(measured))
    (yaw,) = [line for line in shown() if line.startswith("yaw ")]
    assert yaw.endswith("r 0.99, slope 0.75, off by 5.9 degrees (3 people)")
    (wide,) = [line for line in shown() if line.startswith("eyeWide ")]
    assert wide.endswith("hardly followed: r 0.10, slope 0.02, 0.03 in moved photos (3 people)")
    assert any("photos are aligned upright" in line for line in shown())
    reached = [degrees for _, degrees in gain.load(ASSETS / "mini").shown["yaw"]]  # type: ignore[union-attr]
    assert any(f"images show {min(reached):.0f} to {max(reached):.0f} degrees" in line for line in shown())
    assert any(line.startswith("cheekPuff") and "dead" in line for line in shown())
    assert any(line.startswith("  wink: eyeBlinkLeft 0.7") for line in shown())


class Plain:
    """Makes images of one colour each, and counts them."""

    name, key, size, extra_parameters = "plain", "k", 8, 0
    made = 0

    def generate(self, requests: Sequence[Request], progress: Any = None) -> Iterator[tuple[int, Any]]:
        for number, request in enumerate(requests):
            self.made += 1
            if self.made == self.last:
                raise KeyboardInterrupt
            yield number, np.full((8, 8, 3), int(request.digest[:2], 16), np.uint8)

    last = 0


@pytest.fixture
def two(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """Two held-out people with faces, of whom two controls are asked, and judges that read nothing of note."""
    rig = load()
    names = ["Ann", "Ann", "Bob", "Ida", "Bob", "Ann", "Person 5", "Cid"]
    monkeypatch.setattr(numbers, "live", lambda _: ["jawOpen"])
    monkeypatch.setattr(numbers, "POSES", {"yaw": (-20, 20)})
    monkeypatch.setattr(numbers, "WORDS", WORDS[:1])
    roles = {role: role for role in ("pose", "expression", "identity", "emotion")}
    judges = SimpleNamespace(names=roles, measure=lambda images: shown(len(images)))
    monkeypatch.setattr(numbers, "Judges", lambda *given, **named: judges)
    monkeypatch.setattr(independent, "open_judge", lambda: None)
    points = np.stack([rig.posed(rig.mean, 3 * row) for row in range(len(prepared))])
    return replace(prepared, points=points, persons=names)


def test_a_stopped_evaluation_goes_on(two: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = 2 * (2 + 3 + 3 + 1)  # turns, values of a shape, ways of a word, another person's photo
    whole = Plain()
    result = numbers.evaluate(whole, two, tmp_path / "whole", 2)
    assert whole.made == expected and result.people == 2 and set(result.controls) == {"yaw", "jawOpen"}
    assert result.identity.value == pytest.approx(1) and result.config["gain"] is None
    stopped = Plain()
    stopped.last = 12  # of the second person
    with pytest.raises(KeyboardInterrupt):
        numbers.evaluate(stopped, two, tmp_path / "out", 2)
    assert not (tmp_path / "out" / "result.json").exists()
    moves: list[int] = []
    move = numbers.moved
    monkeypatch.setattr(numbers, "moved", lambda *given: moves.append(1) or move(*given))
    again = Plain()
    resumed = numbers.evaluate(again, two, tmp_path / "out", 2)
    assert again.made == expected - 9 and moves == []
    assert resumed.model_dump(exclude={"environment"}) == result.model_dump(exclude={"environment"})
    # Fewer people are the first of more.
    fewer = Plain()
    numbers.evaluate(fewer, two, tmp_path / "out", 2, overwrite=True)
    assert fewer.made == 0


def test_a_gain_is_part_of_what_is_measured(two: Prepared, tmp_path: Path) -> None:
    gain = Gain({"yaw": ((-40.0, -20.0), (40.0, 20.0))})
    result = numbers.evaluate(Plain(), two, tmp_path, 2, gain=gain)
    assert result.config["gain"] == {"yaw": [[-40.0, -20.0], [40.0, 20.0]]}
    yaws = [float(load().straightened([np.load(path)]).yaw[0]) for path in (tmp_path / "cache/landmarks").iterdir()]
    assert max(yaws) == pytest.approx(40, abs=1) and min(yaws) == pytest.approx(-40, abs=1)
