"""The held-out protocol: which pairs, and each score against a case whose answer is known."""

from __future__ import annotations

import dataclasses
import json
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import ConfigError, DataError, OutputError
from facecrafter.evaluation import appearance, heldout, independent, session, words
from facecrafter.evaluation.judges import Judge
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.result import read
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.pipelines import watermark
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Portrait


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """Twelve held-out people and five others, two photos each; every photo is of one shade."""
    random = np.random.default_rng(0)
    names = [f"person {number}" for number in range(600)]
    people = [name for name, out in zip(names, held_out(names), strict=True) if out][:12] + names[:5]
    persons = [name for name in people for _ in range(2)]
    count = len(persons)
    shapes = random.random((count, 52)).astype(np.float32)
    return Prepared(
        images=np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 128, 128, 3), np.uint8),
        points=np.zeros((count, 478, 3), np.float32),
        blendshapes=shapes,
        angles=random.uniform(-40, 40, (count, 3)).astype(np.float32),
        identity=np.zeros((count, 128), np.float32),
        emotion=np.array([feeling(shape) for shape in shapes]),
        masks=np.zeros((count, 64, 64), np.uint8),
        persons=persons,
        files=[f"{number}.jpg" for number in range(count)],
    )


def feeling(shapes: np.ndarray) -> np.ndarray:
    """The emotion of a face whose first blendshapes are its classes."""
    return Emotion.from_probabilities(shapes[:8] / shapes[:8].sum()).vector


def shown(angles: np.ndarray, shapes: np.ndarray, found: np.ndarray | None = None) -> Measurements:
    """What images show that have these angles in degrees and blendshapes; identity is by the first of these."""
    found = np.ones(len(angles), bool) if found is None else found
    rows = [np.radians(angles), shapes, shapes[:, :8], np.array([feeling(shape) for shape in shapes])]
    rows = [np.where(found[:, None], row, np.nan).astype(np.float64) for row in rows]
    rows[2] /= np.linalg.norm(rows[2], axis=1, keepdims=True)
    return Measurements(found, *rows)


def showing(prepared: Prepared, rows: np.ndarray, turned: float = 0, moved: float = 0) -> Measurements:
    """Images that show what photos show, with the head turned and the face moved by so much."""
    return shown(prepared.angles[rows] + [turned, 0, 0], prepared.blendshapes[rows] + moved)


PROTOCOL = heldout.Protocol(identities=6, targets=3)


def test_pairs_are_of_people_kept_out_and_never_of_one_person_twice(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    assert len(pairs.identity) == len(pairs.target) == 18
    out = held_out(prepared.persons)
    assert out[pairs.identity].all() and out[pairs.target].all()
    for source, target in zip(pairs.identity, pairs.target, strict=True):
        assert prepared.persons[source] != prepared.persons[target]
    assert len(np.unique(pairs.identity)) == 6


def test_targets_of_each_person_spread_over_yaw(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    yaw = prepared.angles[pairs.target, 0].reshape(6, 3)
    assert (np.diff(yaw, axis=1) > 0).all()


def test_pairs_depend_on_the_seed_alone(prepared):
    again = heldout.choose_pairs(prepared, PROTOCOL)
    assert np.array_equal(heldout.choose_pairs(prepared, PROTOCOL).target, again.target)
    other = heldout.choose_pairs(prepared, heldout.Protocol(identities=6, targets=3, seed=1))
    assert not np.array_equal(other.target, again.target)


def test_too_few_people_is_one_clear_error(prepared):
    with pytest.raises(DataError, match="100 held-out people are asked for"):
        heldout.choose_pairs(prepared, heldout.Protocol())


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_pairs_in_order(seed):
    random = np.random.default_rng(seed)
    positive, negative = random.integers(0, 6, 40) / 5.0, random.integers(-2, 4, 30) / 5.0
    share = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert heldout.auc(positive, negative) == pytest.approx(share)


def test_outputs_that_equal_their_targets_have_no_error(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    scores = heldout.control_scores(showing(prepared, pairs.target), prepared, pairs.target)
    for name in ("yaw_error", "pitch_error", "blendshape_rmse", "valence_rmse", "arousal_rmse"):
        assert scores[name] == pytest.approx(0, abs=1e-5), name
    assert scores["yaw_correlation"] == pytest.approx(1)
    assert scores["emotion_agreement"] == 1


def test_a_known_error_is_measured_and_missing_faces_are_left_out(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    images = showing(prepared, pairs.target, turned=5, moved=0.1)
    images.found[4] = False
    images.pose[4] = np.nan
    scores = heldout.control_scores(images, prepared, pairs.target)
    assert scores["yaw_error"] == pytest.approx(5, abs=1e-4) and scores["pitch_error"] == pytest.approx(0, abs=1e-4)
    assert scores["blendshape_rmse"] == pytest.approx(0.1, abs=1e-4)


def test_identity_is_compared_with_everybodys_photo(prepared):
    identity = np.array([0, 0, 2, 2, 4])
    photos = showing(prepared, identity)
    assert heldout.identity_scores(photos, photos, identity)["same"] == pytest.approx(1)
    swapped = showing(prepared, np.array([2, 2, 0, 0, 4]))
    scores = heldout.identity_scores(swapped, photos, identity)
    cosines = photos.identity[[0, 2, 4]] @ photos.identity[[0, 2, 4]].T
    own = np.array([cosines[0, 1]] * 4 + [1.0])
    assert scores["same"] == pytest.approx(own.mean())
    others = [1, cosines[1, 2]] * 2 + [1, cosines[0, 2]] * 2 + [cosines[0, 2], cosines[1, 2]]
    assert scores["other"] == pytest.approx(np.mean(others))
    images = showing(prepared, identity)
    images.found[:4] = False
    assert heldout.identity_scores(images, photos, identity) == {"same": pytest.approx(1), "other": None, "auc": None}


def test_agreement_is_counted_by_the_targets_class(prepared):
    """Outputs that show the target's blendshapes agree; those of the first class are given another's."""
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    labels = prepared.emotion[pairs.target, 2:].argmax(1)
    spoilt = int(labels[0])
    other = pairs.target[labels != spoilt][0]
    images = showing(prepared, np.where(labels == spoilt, other, pairs.target))
    images.found[-1] = False
    found = heldout.emotion_by_class(images, prepared, pairs)
    assert list(found) == [name for place, name in enumerate(EMOTIONS) if place in labels[:-1]]
    for name, one in found.items():
        assert one.faces == (labels[:-1] == EMOTIONS.index(name)).sum()
        assert one.agreement.value == (name != EMOTIONS[spoilt])
    images.found[:] = False
    assert heldout.emotion_by_class(images, prepared, pairs) == {}


# --- from a model to files --------------------------------------------------------------------------------------------


class Judges:
    """Faces of any angles and blendshapes in the images that ``sees`` names by their number."""

    names = {role: f"stub {role}" for role in ("pose", "expression", "identity", "emotion", "frechet")}  # noqa: RUF012

    def __init__(self, sees):
        self.sees, self.numbers, self.random = sees, count(), np.random.default_rng(0)

    def features(self, images):
        return self.random.normal(size=(len(images), 4))

    def measure(self, images):
        found = np.array([bool(self.sees(next(self.numbers))) for _ in images])
        return shown(self.random.uniform(-40, 40, (len(images), 3)), self.random.random((len(images), 52)), found)


@pytest.fixture
def measured(prepared, model_folder, monkeypatch, tmp_path):
    """Measures the small model; ``sees`` says which of the measured images show a face, photos coming first."""

    def measure(
        sees=lambda number: True, size=128, pairs=(3, 1), asked=0, labels="pixels", digest="", compares=True, **options
    ):
        emotion = {"name": labels, **({"sha256": digest} if digest else {})}
        about = {"format": 1, "size": size, "recognisers": {"dlib": {"dimension": 128}}, "emotion": emotion}
        (tmp_path / "meta.json").write_text(json.dumps(about))
        data = dataclasses.replace(prepared, images=prepared.images[:, :size, :size], estimator=labels)
        monkeypatch.setattr(session.shards, "load", lambda *_, **__: data)
        monkeypatch.setattr(session, "Judges", lambda *_: Judges(sees))
        monkeypatch.setattr(appearance, "features_known", lambda: compares)
        monkeypatch.setattr(appearance, "by_judge", lambda judge, images, *_: np.full((len(images), 1), 20.0))
        sampling = Settings(steps=1, speed="exact", batch_size=16)
        protocol = heldout.Protocol(*pairs, sampling=sampling, settings=((), ("landmark", "emotion")), words=asked)
        return heldout.evaluate(model_folder, tmp_path, tmp_path / "out", protocol, progress=False, **options)

    return measure


def test_emotions_are_judged_by_the_estimator_of_the_data(measured, tmp_path):
    with pytest.raises(ConfigError, match=r"has emotions from emonet_8, .* give it with --emonet emonet_8\.pth"):
        measured(labels="emonet_8")
    with pytest.raises(ConfigError, match="the project's own estimator; leave --emonet out"):
        measured(labels="pixels", emonet=tmp_path / "emonet_8.pth")
    assert not (tmp_path / "out" / "result.json").exists()


def test_labels_of_another_version_of_the_judge_are_refused(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(heldout, "about_estimator", lambda _: {"name": "pixels", "sha256": "01234567" + "0" * 56})
    measured(digest="01234567" + "0" * 56)
    with pytest.raises(DataError, match=r"another version \(89abcdef\) of .* pixels \(01234567\).*--only emotion"):
        measured(digest="89abcdef" + "0" * 56, overwrite=True)


def strict(path):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(("pairs", "lines"), [((3, 1), 1), ((3, 2), 2)])
@pytest.mark.parametrize("size", [128, 64])
def test_a_model_is_measured_into_files(measured, tmp_path, pairs, lines, size):
    """With fewer pairs than the grid is wide, and with data of another size than the model's."""
    result = measured(pairs=pairs, size=size, device="cpu")
    assert strict(tmp_path / "out" / "result.json") == result.model_dump()
    assert read(tmp_path / "out") == result
    assert result.environment["device"].startswith("CPU") and result.controls is None
    assert result.config["sampling"]["speed"] == "exact" and len(result.key or "") == 16
    assert list(result.settings) == ["identity", "identity+landmark+emotion"]
    for scores in result.settings.values():
        assert scores.images == pairs[0] * pairs[1]
        assert None not in scores.model_dump().values()
    with Image.open(tmp_path / "out" / "grid.png") as file:
        grid = np.asarray(file)
    assert grid.shape == (lines * 128, 4 * 4 * 128, 3)
    assert all(watermark.is_marked(grid[:128, left : left + 128]) for left in (256, 384))
    assert not watermark.is_marked(grid[:128, :128])
    assert grid[:, :256].max() < 34 < grid[:, 256:512].max()  # the photos have shades below 34
    over = -pairs[0] * pairs[1] % 4
    assert (grid[-128:, -over * 4 * 128 :] == 255).all()


def test_emotions_asked_in_words_are_measured_into_files(measured, tmp_path):
    """Three photos and two settings of three images come first; no face is found in one of the images by words."""
    result = measured(lambda number: number != 9 + 5, asked=2)
    record = read(tmp_path / "out").words
    assert record == result.words and result.config["words"] == 2
    assert record.people == 2 and record.estimator == result.estimators["emotion"]
    assert record.estimator == "stub emotion"
    assert list(record.settings) == [words.WORDS_ONLY, words.NEUTRAL_TARGET]
    first, second = record.settings.values()
    assert (first.images, first.face_found, second.face_found) == (16, 15 / 16, 1)
    assert [first.classes[name].faces for name in EMOTIONS] == [2, 2, 2, 2, 2, 1, 2, 2]
    with Image.open(tmp_path / "out" / "words.png") as file:
        assert file.size == ((1 + 2 * 8) * 128, 2 * 128)
        tiles = [np.asarray(file)[:128, left : left + 128] for left in range(0, file.width, 128)]
    assert [watermark.is_marked(tile) for tile in tiles] == [False] + [True] * 16


def test_an_independent_network_reads_the_same_images(measured, tmp_path, monkeypatch):
    """It reads everything as happy: one word of seven, and every target."""
    read_images = []

    def happy(judge, images, cache, progress):
        read_images.append((judge.name, len(images), cache, progress))
        return np.tile(np.eye(7)[1], (len(images), 1))

    monkeypatch.setattr(independent, "open_judge", lambda: Judge("stub net (1234)", 7, None))
    monkeypatch.setattr(independent, "by_judge", happy)
    result = measured(asked=2)
    record = read(tmp_path / "out").independent
    assert record == result.independent and record.missing == ""
    assert record.network == "stub net (1234)" and len(record.sha256) == 64
    assert list(record.words) == [words.WORDS_ONLY, words.NEUTRAL_TARGET]
    for one in record.words.values():
        assert {name: row.read_as_asked.value for name, row in one.classes.items()} == {
            name: float(name == "happy") for name in EMOTIONS if name != "contempt"
        }
        assert one.mean.read_as_asked.value == pytest.approx(1 / 7)
    assert list(record.targets) == list(result.settings)
    assert all(one.faces == 3 and one.agreement.value == 1 for one in record.targets.values())
    assert read_images == [("stub net (1234)", count, tmp_path / "out" / "cache", False) for count in (3, 16, 16, 3, 3)]


def test_without_the_independent_network_the_record_says_so(measured, tmp_path, notes):
    result = measured()
    assert "`facecrafter weights fetch face_expression` brings them" in notes()[0]
    record = read(tmp_path / "out").independent
    assert record == result.independent and record.words == record.targets == {}
    assert record.network == "face-api (9a9840f2)" and "weights are not installed" in record.missing


def test_images_are_compared_with_photos_in_every_setting(measured, tmp_path):
    record = measured(pairs=(6, 3), asked=4).appearance
    assert record == read(tmp_path / "out").appearance
    assert record.photos == 24 and record.network == "stub frechet"
    assert list(record.settings) == [
        "identity",
        "identity+landmark+emotion",
        words.WORDS_ONLY,
        words.NEUTRAL_TARGET,
    ]
    for one in record.settings.values():
        assert 0 < one.frechet_ratio.low <= one.frechet_ratio.value <= one.frechet_ratio.high
        assert [error.value for error in one.skin_error.values()] == [0]  # all photos are of one tone


def test_without_the_network_for_photos_there_is_no_comparison(measured, tmp_path):
    assert measured(compares=False).appearance is None
    assert read(tmp_path / "out").appearance is None


def test_without_people_asked_in_words_there_is_no_record(measured, tmp_path):
    assert measured().words is None
    assert not (tmp_path / "out" / "words.png").exists()


def test_only_the_words_differ_between_the_images_of_a_person(prepared, small_model, monkeypatch):
    given = []
    monkeypatch.setattr(heldout, "_loaded", lambda made: np.zeros((24, 8, 8, 3), np.uint8))
    nobody = shown(np.zeros((24, 3)), np.ones((24, 52)), np.zeros(24, bool))
    stub = SimpleNamespace(
        prepared=prepared,
        portrait=lambda row: Portrait.of(prepared, int(row)),
        make=lambda generator, requests: given.append(requests) or SimpleNamespace(paths=requests),
        measure=lambda paths: nobody,
        judges=Judges,
    )
    asked = words.choose(prepared, 3, seed=0)
    record, images, _ = heldout.in_words(stub, small_model, asked, dataclasses.replace(PROTOCOL, seed=4))
    assert record.settings[words.WORDS_ONLY].mean.auc.value is None  # no face anywhere
    alone, posed = given
    assert images == {words.WORDS_ONLY: alone, words.NEUTRAL_TARGET: posed}  # whose paths are the requests
    assert len(alone) == len(posed) == 3 * 8
    for number, (one, other) in enumerate(zip(alone, posed, strict=True)):
        row, neutral = asked.identity[number // 8], asked.neutral[number // 8]
        expected = Emotion.from_words({EMOTIONS[number % 8]: 1}).vector
        assert one.conditions.keys() == {"emotion"} and other.conditions.keys() == {"landmark", "emotion"}
        for request in (one, other):
            assert request.identity.file == prepared.files[row] and request.seed == 4 + number // 8
            assert np.array_equal(request.conditions["emotion"].emotion.astype(np.float32), expected)
        assert other.conditions["landmark"].file == prepared.files[neutral]


@pytest.mark.parametrize("there", [0, 1])
def test_metrics_over_too_few_faces_are_null(measured, tmp_path, there):
    """Three photos of people, then three images a setting."""
    result = measured(lambda number: number < 3 + there)
    first, second = result.settings.values()
    assert read(tmp_path / "out").settings == result.settings
    assert (tmp_path / "out" / "grid.png").is_file()
    names = {*heldout.IDENTITY_SCORES, *heldout.CONTROL_SCORES}
    assert {name for name in names if getattr(second, name) is None} == names
    assert (first.face_found, second.face_found) == (pytest.approx(there / 3), 0)
    of_one = {"same", *(name for name in heldout.CONTROL_SCORES if "correlation" not in name)}
    assert {name for name in names if getattr(first, name) is not None} == (of_one if there else set())


def test_a_result_is_not_overwritten_unasked(measured, tmp_path, monkeypatch):
    first = measured()
    (tmp_path / "out" / "grid.png").write_text("mine")
    (tmp_path / "out" / "result.json").rename(tmp_path / "result.json")
    with monkeypatch.context() as without, pytest.raises(OutputError, match=r"grid\.png exists already"):
        without.setattr(heldout, "Session", None)
        measured()
    assert (tmp_path / "out" / "grid.png").read_text() == "mine"
    again = measured(overwrite=True)
    assert again.settings.keys() == first.settings.keys()
    Image.open(tmp_path / "out" / "grid.png").close()


def test_a_grid_that_cannot_be_made_costs_no_result(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(heldout, "_grid", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured()
    assert strict(tmp_path / "out" / "result.json")["settings"]


def test_a_device_that_is_not_there_is_told_first(measured, monkeypatch):
    monkeypatch.setattr(heldout, "Session", None)
    with pytest.raises(ConfigError, match="no device 'magic'"):
        measured(device="magic")


def test_the_record_is_of_the_device_that_computed(measured, monkeypatch):
    monkeypatch.setattr(heldout, "usable_device", lambda name: {"auto": "cpu"}[name])
    monkeypatch.setattr(session, "environment", lambda device: {"device": f"of {device}"})
    assert measured().environment["device"] == "of cpu"
