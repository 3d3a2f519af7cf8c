"""Emotions asked in words: who is asked, and each number against a case whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.evaluation import report, words
from facecrafter.evaluation.emotion_records import IndependentResult, WordMean, WordsResult
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.result import HeldoutResult
from facecrafter.faces.emotion import EMOTIONS, Emotion

NAMES = [f"person {number}" for number in range(400)]
OUT = [name for name, out in zip(NAMES, held_out(NAMES), strict=True) if out]
IN = [name for name, out in zip(NAMES, held_out(NAMES), strict=True) if not out]


def folder(persons: list[str], labels: list[str]) -> Prepared:
    """A photo a name, with its emotion by one word."""
    count = len(persons)
    return Prepared(
        images=np.zeros((count, 8, 8, 3), np.uint8),
        points=np.zeros((count, 478, 3), np.float32),
        blendshapes=np.zeros((count, 52), np.float32),
        angles=np.zeros((count, 3), np.float32),
        identity=np.zeros((count, 128), np.float32),
        emotion=np.stack([Emotion.from_words({label: 1.0}).vector for label in labels]),
        masks=np.zeros((count, 64, 64), np.uint8),
        persons=persons,
        files=[f"{number}.jpg" for number in range(count)],
    )


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """Ten held-out people, happy and neutral, and ten others."""
    persons = [name for name in OUT[:10] + IN[:10] for _ in range(2)]
    return folder(persons, ["happy", "neutral"] * 20)


def test_held_out_people_get_a_neutral_photo_of_another_of_them(prepared: Prepared) -> None:
    asked = words.choose(prepared, 8, seed=0)
    whose = [prepared.persons[row] for row in asked.identity]
    others = [prepared.persons[row] for row in asked.neutral]
    assert len(set(whose)) == 8 and {*whose, *others} <= set(OUT[:10])
    assert all(one != other for one, other in zip(whose, others, strict=True))
    assert (prepared.emotion[asked.neutral, 2] == 1).all()
    again, other = words.choose(prepared, 8, seed=0), words.choose(prepared, 8, seed=1)
    assert np.array_equal(again.neutral, asked.neutral) and not np.array_equal(other.neutral, asked.neutral)


def test_fewer_people_than_asked_are_all_of_them(prepared: Prepared) -> None:
    asked = words.choose(prepared, 60, seed=0)
    assert {prepared.persons[row] for row in asked.identity} == set(OUT[:10])


@pytest.mark.parametrize(
    ("persons", "labels"),
    [
        (OUT[:3], ["happy", "neutral", "sad"]),
        (IN[:3], ["neutral"] * 3),
        ([OUT[0]] * 3, ["neutral"] * 3),
    ],
)
def test_without_neutral_photos_of_two_people_it_is_one_clear_error(persons: list[str], labels: list[str]) -> None:
    with pytest.raises(DataError, match=r"held-out people have a photo with a neutral face.* --words 0$"):
        words.choose(folder(persons, labels), 60, seed=0)


def test_the_words_are_those_of_the_command_line() -> None:
    for name, portrait in zip(EMOTIONS, words.WORDS, strict=True):
        assert np.array_equal(portrait.emotion.astype(np.float32), Emotion.from_words({name: 1.0}).vector)


def test_obeyed_words_are_read_as_asked() -> None:
    scores = words.scores(np.tile(np.eye(8), (5, 1, 1)), OUT[:5])
    sure = Interval(1.0, 1.0, 1.0)
    assert (scores.images, scores.face_found) == (40, 1)
    assert scores.mean == WordMean(read_as_asked=sure, auc=sure)
    for name in EMOTIONS:
        row = scores.classes[name]
        assert (row.faces, row.read_as_asked, row.auc) == (5, sure, sure)
        assert row.read == {other: 5 * (other == name) for other in EMOTIONS}


def test_words_that_change_nothing_are_a_guess() -> None:
    """Whatever is asked, one person is read as happy and the other as sad."""
    happy, sad = np.eye(8)[EMOTIONS.index("happy")], np.eye(8)[EMOTIONS.index("sad")]
    scores = words.scores(np.stack([np.tile(happy, (8, 1)), np.tile(sad, (8, 1))]), OUT[:2])
    assert scores.mean.read_as_asked.value == pytest.approx(1 / 8)
    assert [scores.classes[name].auc.value for name in EMOTIONS] == [0.5] * 8
    row = scores.classes["happy"].read_as_asked
    assert (row.value, row.low, row.high) == (0.5, 0, 1)  # people are drawn, whole


def test_an_auc_is_against_the_other_requests() -> None:
    """Two people; images asked happy are at .6 and .3, the fourteen others at .5 (three of them) and .1."""
    read = np.full((2, 8, 8), 0.0)
    place = EMOTIONS.index("happy")
    read[:, :, place] = 0.1
    read[0, place, place], read[1, place, place] = 0.6, 0.3
    read[0, [0, 2, 3], place] = 0.5
    read[:, :, 0] = 0.4
    scores = words.scores(read, OUT[:2]).classes["happy"]
    assert scores.auc.value == pytest.approx((14 + 11) / 28)
    assert scores.read_as_asked.value == 0.5
    assert scores.read == {name: int(name in ("happy", "neutral")) for name in EMOTIONS}


def test_images_without_a_face_are_left_out_and_counted() -> None:
    read = np.tile(np.eye(8), (4, 1, 1))
    read[1, 2] = np.nan
    read[:, 7] = np.nan
    scores = words.scores(read, OUT[:4])
    assert scores.face_found == pytest.approx(27 / 32)
    sad, contempt = scores.classes["sad"], scores.classes["contempt"]
    assert (sad.faces, sad.read_as_asked.value) == (3, 1)
    nothing = Interval()
    assert (contempt.faces, contempt.read_as_asked, contempt.auc) == (0, nothing, nothing)
    assert scores.mean.auc == nothing
    json.dumps(scores.model_dump(), allow_nan=False)


def test_a_class_of_one_persons_face_leaves_the_mean_its_interval() -> None:
    """Four people; a face of fear was found of the first alone, and nobody's anger is read as asked but hers."""
    read = np.tile(np.eye(8), (4, 1, 1))
    fear, anger = EMOTIONS.index("fear"), EMOTIONS.index("anger")
    read[1:, fear] = np.nan
    read[1:, anger] = np.eye(8)[0]
    scores = words.scores(read, OUT[:4])
    assert scores.classes["fear"].read_as_asked == Interval(1.0, None, None)
    assert scores.classes["fear"].auc.low is None
    assert scores.classes["anger"].read_as_asked == Interval(0.25, 0.0, 0.75)
    found = scores.mean.read_as_asked
    # Whoever's fear is known, one in four at least is the person whose anger is read.
    assert (found.value, found.low) == pytest.approx(((7 + 1 / 4) / 8, (7 + 1 / 4) / 8))
    assert found.high == pytest.approx((7 + 3 / 4) / 8)
    assert None not in (scores.mean.auc.low, scores.mean.auc.high)


@pytest.fixture
def record() -> WordsResult:
    read = np.tile(np.eye(8), (4, 1, 1))
    read[0, 1] = np.eye(8)[0]
    both = {name: words.scores(read, OUT[:4]) for name in (words.WORDS_ONLY, words.NEUTRAL_TARGET)}
    return WordsResult(people=4, estimator="stub (12345678)", settings=both)


def test_the_table_has_a_row_a_class_and_names_its_estimator(record: WordsResult) -> None:
    lines = words.as_markdown(record).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:11]] == [*EMOTIONS, "mean of the eight"]
    assert all(line.count("|") == 6 for line in lines[:11])
    row = record.settings[words.WORDS_ONLY].classes["happy"]
    area = row.auc
    assert row.read_as_asked.value == 0.75
    bounds = f"{100 * row.read_as_asked.low:.0f}, {100 * row.read_as_asked.high:.0f}"
    assert f"| 75 % [{bounds}] | {area.value:.2f} [{area.low:.2f}, {area.high:.2f}] |" in lines[3]
    assert "read by stub (12345678); a guess is right in 12.5 %" in lines[-1]
    assert "100 % (words only)" in lines[-1]


def test_an_independent_network_has_a_column_a_setting(record: WordsResult) -> None:
    """It knows two of the classes, and reads one image of four as asked."""
    known = ("happy", "anger")
    read = np.tile([[0.0, 1.0], [0.0, 1.0]], (2, 1, 1))
    read[0, 0] = 1, 0
    read[1, 1] = 1, 0
    scores = words.scores(read, OUT[:2], known)
    assert list(scores.classes) == list(known) and scores.mean.read_as_asked.value == 0.5
    both = IndependentResult(
        network="net (0123)", sha256="0123", words=dict.fromkeys((words.WORDS_ONLY, words.NEUTRAL_TARGET), scores)
    )
    plain, table = words.as_markdown(record).splitlines(), words.as_markdown(record, both).splitlines()
    assert [line.count("|") for line in table[:11]] == [8] * 11
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in table[:11]}
    assert cells["asked in words"][3] == "words only: read as asked by the independent network"
    assert cells["happy"][3] == cells["happy"][6] == "50 % [0, 100]" and cells["sad"][3] == "not known to it"
    assert cells["mean of the eight"][3].startswith("50 % [") and cells["mean of the eight"][3].endswith("] of the 2")
    assert [cell for place, cell in enumerate(cells["sad"]) if place not in (3, 6)] == plain[4].strip("| ").split(" | ")
    assert table[-1].startswith(plain[-1]) and "is net (0123), which had no part" in table[-1]
    assert "knows 2 of the classes, and a guess among them is right in 50 %" in table[-1]
    absent = IndependentResult(network="net (0123)", sha256="0123", missing="not installed")
    assert words.as_markdown(record, absent).splitlines() == plain


def test_nothing_known_is_none_in_the_table(record: WordsResult) -> None:
    settings = {words.WORDS_ONLY: words.scores(np.full((2, 8, 8), np.nan), OUT[:2])}
    assert (
        words.as_markdown(record.model_copy(update={"settings": settings})).splitlines()[2]
        == "| neutral | none | none |"
    )


def test_brackets_are_explained_where_there_are_some(record: WordsResult) -> None:
    alone = {words.WORDS_ONLY: words.scores(np.eye(8)[None], OUT[:1])}
    about = words.as_markdown(record.model_copy(update={"people": 1, "settings": alone})).splitlines()[-1]
    assert about.startswith("1 held-out person, 8 images each") and "brackets" not in about
    about = words.as_markdown(record).splitlines()[-1]
    assert about.startswith("4 held-out people, 8") and "In brackets the 95 % bootstrap interval over people. " in about


def test_publish_puts_the_table_into_a_document(record: WordsResult, tmp_path: Path) -> None:
    run, document = tmp_path / "model", tmp_path / "README.md"
    HeldoutResult(environment={}, model="mini", estimators={}, settings={}, words=record).write(run)
    document.write_text("before\n<!-- table model -->\nold\n<!-- end of table -->\nafter\n")
    done = CliRunner().invoke(app, ["evaluate", "publish", str(document), str(run)])
    assert done.output == f"{document} has 1 table\n"
    table = words.as_markdown(record)
    assert document.read_text() == f"before\n<!-- table model -->\n\n{table}\n\n<!-- end of table -->\nafter\n"


WITHOUT = HeldoutResult(environment={}, model="mini", estimators={}, settings={})


@pytest.mark.parametrize("content", [None, "{", "[]", '{"words": 3}', WITHOUT.model_dump_json()])
def test_publishing_what_has_no_such_table_is_one_error(content: str | None, tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(f"<!-- table {tmp_path.name} -->\n<!-- end of table -->\n")
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(DataError):
        report.publish([tmp_path], document)
