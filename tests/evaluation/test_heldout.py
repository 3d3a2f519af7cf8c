"""The held-out protocol: which pairs, and each score against a case whose answer is known."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import ConfigError, DataError, NoFaceError, OutputError
from facecrafter.evaluation import heldout, words
from facecrafter.evaluation.result import read
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.faces.face import Face, head_angles
from facecrafter.pipelines import watermark
from facecrafter.pipelines.settings import Settings


def pose(yaw: float, pitch: float) -> np.ndarray:
    """A 4x4 pose that looks so many degrees to the right and up."""
    y, p = np.radians([yaw, pitch])
    forward = np.array([np.sin(y) * np.cos(p), np.sin(p), np.cos(y) * np.cos(p)])
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    return matrix


class Moved:
    """An estimator that reads the first blendshapes as classes."""

    name = "moved"
    path = Path(__file__)

    def estimate(self, faces):
        return [Emotion.from_probabilities(one.blendshapes[:8] / one.blendshapes[:8].sum()) for one in faces]


@pytest.fixture(autouse=True)
def moved(monkeypatch):
    monkeypatch.setattr(heldout, "estimator", Moved)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    random = np.random.default_rng(0)
    names = [f"person {number}" for number in range(600)]
    people = [name for name, out in zip(names, held_out(names), strict=True) if out][:12] + names[:5]
    persons = [name for name in people for _ in range(2)]
    count = len(persons)
    shapes = random.random((count, 52)).astype(np.float32)
    poses = [pose(*random.uniform(-40, 40, 2)) for _ in range(count)]
    return Prepared(
        images=np.zeros((count, 128, 128, 3), np.uint8),
        points=np.zeros((count, 478, 3), np.float32),
        blendshapes=shapes,
        angles=np.array([head_angles(one) for one in poses], np.float32),
        identity=np.zeros((count, 128), np.float32),
        emotion=np.stack([e.vector for e in Moved().estimate([face(shape, np.eye(4)) for shape in shapes])]),
        masks=np.zeros((count, 64, 64), np.uint8),
        persons=persons,
        files=[f"{number}.jpg" for number in range(count)],
    )


def face(shapes: np.ndarray, matrix: np.ndarray) -> Face:
    return Face(np.zeros((8, 8, 3), np.uint8), np.zeros((478, 3), np.float32), shapes, matrix, (0, 0, 8, 8))


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
    faces = []
    for target in pairs.target:
        yaw, pitch, _ = prepared.angles[target]
        faces.append(face(prepared.blendshapes[target], pose(float(yaw), float(pitch))))
    scores = heldout.control_scores(faces, prepared, pairs)
    for name in ("yaw_error", "pitch_error", "blendshape_rmse", "valence_rmse", "arousal_rmse"):
        assert scores[name] == pytest.approx(0, abs=1e-3), name
    assert scores["yaw_correlation"] == pytest.approx(1)
    assert scores["emotion_agreement"] == 1


def test_a_known_error_is_measured_and_missing_faces_are_left_out(prepared):
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    faces: list[Face | None] = []
    for target in pairs.target:
        yaw, pitch, _ = prepared.angles[target]
        faces.append(face(prepared.blendshapes[target] + 0.1, pose(float(yaw) + 5, float(pitch))))
    faces[4] = None
    scores = heldout.control_scores(faces, prepared, pairs)
    assert scores["yaw_error"] == pytest.approx(5, abs=1e-2)
    assert scores["blendshape_rmse"] == pytest.approx(0.1, abs=1e-4)


def test_agreement_is_counted_by_the_targets_class(prepared):
    """Outputs that show the target's blendshapes agree; those of the first class are given another's."""
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    labels = prepared.emotion[pairs.target, 2:].argmax(1)
    spoilt = int(labels[0])
    other = prepared.blendshapes[pairs.target[labels != spoilt][0]]
    faces: list[Face | None] = [
        face(other if label == spoilt else prepared.blendshapes[target], np.eye(4))
        for target, label in zip(pairs.target, labels, strict=True)
    ]
    faces[-1] = None
    found = heldout.emotion_by_class(faces, prepared, pairs)
    assert list(found) == [name for place, name in enumerate(EMOTIONS) if place in labels[:-1]]
    for name, one in found.items():
        assert one.faces == (labels[:-1] == EMOTIONS.index(name)).sum()
        assert one.agreement.value == (name != EMOTIONS[spoilt])
    assert heldout.emotion_by_class([None] * 18, prepared, pairs) == {}


# --- from a model to files --------------------------------------------------------------------------------------------


class Judge:
    """Knows people by their blendshapes."""

    name = "judge"

    def embed(self, faces):
        shapes = np.array([one.blendshapes[:8] for one in faces])
        return shapes / np.linalg.norm(shapes, axis=1, keepdims=True)


@pytest.fixture
def measured(prepared, model_folder, monkeypatch, tmp_path):
    """Measures the small model; ``sees`` says which of the images looked at show a face, photos coming first."""

    def measure(sees=lambda number: True, size=128, pairs=(3, 1), asked=0, labels=None, **options):
        numbers, random = count(), np.random.default_rng(0)

        def find(*_):
            if not sees(next(numbers)):
                raise NoFaceError("nobody")
            return face(random.random(52).astype(np.float32), pose(*random.uniform(-40, 40, 2)))

        images = np.full((len(prepared.persons), size, size, 3), 90, np.uint8)
        data = dataclasses.replace(prepared, images=images, estimator=labels)
        monkeypatch.setattr(heldout.shards, "load", lambda *_, **__: data)
        monkeypatch.setattr(heldout, "recogniser", lambda _: Judge())
        monkeypatch.setattr(heldout, "FaceFinder", lambda: nullcontext(SimpleNamespace(find=find)))
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
    assert result.config["sampling"]["speed"] == "exact"
    assert list(result.settings) == ["identity", "identity+landmark+emotion"]
    for scores in result.settings.values():
        assert scores.images == pairs[0] * pairs[1]
        assert None not in scores.model_dump().values()
    with Image.open(tmp_path / "out" / "grid.png") as file:
        grid = np.asarray(file)
    assert grid.shape == (lines * 128, 4 * 4 * 128, 3)
    assert all(watermark.is_marked(grid[:128, left : left + 128]) for left in (256, 384))
    assert not watermark.is_marked(grid[:128, :128])
    assert (grid[:, :256] == 90).all() and (grid[:, 256:512] != 90).any()
    over = -pairs[0] * pairs[1] % 4
    assert (grid[-128:, -over * 4 * 128 :] == 255).all()


def test_emotions_asked_in_words_are_measured_into_files(measured, tmp_path):
    """Three photos and two settings of three images come first; no face is found in one of the images by words."""
    result = measured(lambda number: number != 9 + 5, asked=2)
    record = read(tmp_path / "out").words
    assert record == result.words and result.config["words"] == 2
    assert record.people == 2 and record.estimator == result.estimators["emotion"]
    assert record.estimator == f"moved ({heldout.sha256(Moved.path)[:8]})"
    assert list(record.settings) == [words.WORDS_ONLY, words.NEUTRAL_TARGET]
    first, second = record.settings.values()
    assert (first.images, first.face_found, second.face_found) == (16, 15 / 16, 1)
    assert [first.classes[name].faces for name in EMOTIONS] == [2, 2, 2, 2, 2, 1, 2, 2]
    with Image.open(tmp_path / "out" / "words.png") as file:
        assert file.size == ((1 + 2 * 8) * 128, 2 * 128)
        tiles = [np.asarray(file)[:128, left : left + 128] for left in range(0, file.width, 128)]
    assert [watermark.is_marked(tile) for tile in tiles] == [False] + [True] * 16


def test_without_people_asked_in_words_there_is_no_record(measured, tmp_path):
    assert measured().words is None
    assert not (tmp_path / "out" / "words.png").exists()


def test_only_the_words_differ_between_the_images_of_a_person(prepared, small_model, monkeypatch):
    given = []

    def paint(identity, drawn, emotion, guidance, steps, seeds, *_, **__):
        lines = [None] * len(seeds) if drawn is None else drawn
        given.extend(zip(identity[:, 0].tolist(), lines, emotion, seeds, strict=True))
        return torch.zeros(len(seeds), 3, 8, 8)

    data = dataclasses.replace(prepared, identity=np.arange(len(prepared.persons), dtype=np.float32)[:, None])
    points = np.random.default_rng(0).uniform(30, 90, prepared.points.shape).astype(np.float32)
    data = dataclasses.replace(data, points=points)
    monkeypatch.setattr(heldout, "look", lambda images: [None] * len(images))
    asked = words.choose(data, 3, seed=0)
    protocol = dataclasses.replace(PROTOCOL, seed=4)
    record, _ = heldout.in_words(SimpleNamespace(model=small_model, generate=paint), data, asked, protocol, False)
    assert record.settings[words.WORDS_ONLY].mean.auc.value is None  # no face anywhere
    assert len(given) == 2 * 3 * 8
    size = small_model.controls.config.landmark_size
    for number, row in enumerate(asked.identity):
        alone, posed = given[8 * number : 8 * number + 8], given[24 + 8 * number : 32 + 8 * number]
        assert {(one[0], one[3]) for one in alone + posed} == {(float(row), 4 + number)}
        for name, one, other in zip(EMOTIONS, alone, posed, strict=True):
            expected = torch.from_numpy(Emotion.from_words({name: 1}).vector)
            assert torch.equal(one[2], expected) and torch.equal(other[2], expected)
            assert one[1] is None
            wanted = heldout.landmarks.drawn([points[asked.neutral[number]]], 128, size)[0]
            assert np.array_equal(other[1].numpy(), wanted)


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
        without.setattr(heldout, "Sampler", None)
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
    monkeypatch.setattr(heldout, "Sampler", None)
    with pytest.raises(ConfigError, match="no device 'magic'"):
        measured(device="magic")


def test_the_record_is_of_the_device_that_computed(measured, monkeypatch):
    monkeypatch.setattr(heldout, "usable_device", lambda name: {"auto": "cpu"}[name])
    monkeypatch.setattr(heldout, "environment", lambda device: {"device": f"of {device}"})
    assert measured().environment["device"] == "of cpu"


def test_conditions_go_where_the_model_is(prepared, small_model, monkeypatch):
    given, computed = [], []

    def paint(identity, drawn, emotion, guidance, steps, seeds, *_, **__):
        given.append({identity.device.type, drawn.device.type, emotion.device.type})
        return torch.zeros(len(seeds), 3, 8, 8)

    def autocast(device, *_, **__):
        computed.append(device)
        return nullcontext()

    model = dataclasses.replace(small_model, unet=SimpleNamespace(device=torch.device("meta")))
    monkeypatch.setattr(torch, "autocast", autocast)
    pairs = heldout.choose_pairs(prepared, PROTOCOL)
    sampler = SimpleNamespace(model=model, generate=paint)
    heldout.generate(sampler, prepared, pairs, PROTOCOL, ("landmark", "emotion"), progress=False)
    assert given == [{"meta"}] * 2 and computed == ["meta"] * 2
