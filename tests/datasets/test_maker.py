"""The maker with the shipped model: what is asked for is conditioned on, and what is labelled is in the image."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data.prepare.reader import Accepted, Rejected
from facecrafter.datasets import maker as makers
from facecrafter.datasets.basis import Basis
from facecrafter.datasets.cells import Cell
from facecrafter.datasets.maker import Job, Maker, Recipe, open_crafter
from facecrafter.datasets.plan import Plan, seed_of
from facecrafter.errors import ConfigError, DataError
from facecrafter.faces.gain import Gain
from facecrafter.faces.rig import Rig, load
from facecrafter.pipelines import watermark
from facecrafter.pipelines.images import STATEMENT, signed
from facecrafter.pipelines.moving import moved
from facecrafter.request import Request

Planned = Callable[..., Plan]


def job(plan: Plan, shard: int = 0) -> Job:
    rows = plan.rows(shard)
    return Job(shard, tuple(rows), plan.persons([row.person for row in rows]))


@pytest.fixture(scope="module")
def mini() -> Any:
    """The shipped model; its threads are given back."""
    import torch

    from facecrafter import FaceCrafter

    threads = torch.get_num_threads()
    yield FaceCrafter.from_pretrained("mini", "cpu")
    torch.set_num_threads(threads)


@pytest.fixture
def make(mini: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Plan], Maker]]:
    """A maker of a plan, whose model is loaded already."""
    monkeypatch.setattr(makers, "open_crafter", lambda config, device: mini)
    open_makers: list[Maker] = []

    def made(plan: Plan) -> Maker:
        open_makers.append(Maker(Recipe(plan.config, tuple(plan.cells), "cpu", Basis.of(mini))))
        return open_makers[-1]

    yield made
    for maker in open_makers:
        maker.close()


def test_images_are_labelled_with_what_they_show(
    planned: Planned, make: Callable[[Plan], Maker], astronaut: Any
) -> None:
    plan = planned(
        cells={"yaw": [-20, 20], "expression": ["jawOpen=0.6"], "emotion": ["free"]},
        a_person=1,
        shard_size=2,
        sampling={"batch_size": 2},
        accept={"yaw": 18, "pitch": 25},
    )
    maker = make(plan)
    results = maker.read(job(plan))
    assert [one.row.key if isinstance(one, Accepted) else one.file for one in results] == [r.id for r in plan.rows(0)]
    accepted = [one for one in results if isinstance(one, Accepted)]
    assert len(accepted) == 2, results
    for one, row in zip(accepted, plan.rows(0), strict=True):
        about = json.loads(one.parts["json"])
        cell = plan.cells[row.cell]
        assert about["asked"]["blendshapes"] == {"jawOpen": 0.6} and about["asked"]["yaw"] == cell.yaw
        assert about["asked"]["seed"] == seed_of(row.id, about["asked"]["attempt"])
        assert abs(one.row.yaw - cell.yaw) <= 18 and np.sign(one.row.yaw) == np.sign(cell.yaw)
        with Image.open(io.BytesIO(one.parts["png"])) as image:
            assert image.info["Description"] == STATEMENT and cell.name in image.info["facecrafter"]
            assert watermark.detect(np.asarray(image)).marked
            assert image.size == (128, 128)
        with np.load(io.BytesIO(one.parts["npz"])) as arrays:
            points, person = arrays["points"], plan.persons([row.person])[row.person]
            assert points[:, 0].min() > 0 and points[:, 0].max() < 128  # in pixels of the stored image
            assert arrays["identity_dlib"] @ person.embedding == pytest.approx(about["likeness"], abs=1e-6)
            assert arrays["identity_sface"].shape == (128,) and arrays["mask"].shape == (64, 64)
            assert arrays["blendshapes"][25] > 0.1  # an open jaw


def test_a_persons_keys_and_values_are_computed_once(
    planned: Planned, make: Callable[[Plan], Maker], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(a_person=2, shard_size=4, cells={"emotion": ["free"]}, sampling={"batch_size": 2, "steps": 1})
    maker, read = make(plan), []
    monkeypatch.setattr(maker.crafter, "generator", open_crafter(plan.config, "cpu").generator)
    encoder = maker.crafter.generator.model.encoder
    encode = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda rows: read.append(len(rows)) or encode(rows))
    maker.read(job(plan))
    assert read == [1] * len({row.person for row in plan.rows(0)}) and len(plan.rows(0)) == 4


@dataclass
class Posed:
    """A model that shows no face until an attempt, and then the one photo it has.

    Attributes:
        photo: a face.
        digest: of its weights.
        gain: how far it turns heads.
        arcface: its recogniser's file, which it does without.
        shows: whether an image of a seed shows it.
        batches: the seeds of every batch.
    """

    photo: NDArray[np.uint8]
    shows: Callable[[int], bool]
    model: Any
    batches: list[list[int]] = dataclasses.field(default_factory=list)
    digest: str = "posed"
    gain: Gain | None = None
    arcface: None = None

    def render(self, requests: list[Request]) -> Iterator[tuple[int, Image.Image]]:
        self.batches.append([one.seed for one in requests])
        for place, one in enumerate(requests):
            yield place, signed(self.photo if self.shows(one.seed) else np.zeros_like(self.photo), {})


@pytest.fixture
def posed(face: Any, mini: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Maker, Posed]]]:
    """A maker of such a model."""
    open_makers: list[Maker] = []

    def made(plan: Plan, shows: Callable[[int], bool], gain: Gain | None = None) -> tuple[Maker, Posed]:
        model = Posed(face.resized(128).image, shows, mini.model, gain=gain)
        monkeypatch.setattr(makers, "open_crafter", lambda config, device: model)
        open_makers.append(Maker(Recipe(plan.config, tuple(plan.cells), "cpu", Basis.of(model))))
        return open_makers[-1], model

    yield made
    for maker in open_makers:
        maker.close()


def test_what_misses_is_made_again_with_another_seed_and_then_listed(
    planned: Planned, posed: Callable[..., tuple[Maker, Posed]]
) -> None:
    plan = planned(
        cells={"yaw": [0], "emotion": ["free"]}, a_person=1, attempts=3, sampling={"batch_size": 3},
        accept={"yaw": 40, "pitch": 40},
    )  # fmt: skip
    rows = plan.rows(0)
    first, second = rows[0].id, rows[1].id
    never = {seed_of(first, attempt) for attempt in range(3)}
    maker, model = posed(plan, lambda seed: seed not in {*never, seed_of(second, 0)})
    results = maker.read(job(plan))
    assert isinstance(results[0], Rejected)
    assert (results[0].file, results[0].reason) == (first, f"{plan.cells[0].name}: no face found")
    attempts = [json.loads(one.parts["json"])["asked"]["attempt"] for one in results if isinstance(one, Accepted)]
    assert attempts == [1, 0, 0, 0]
    again = [seed_of(first, 1), seed_of(second, 1)]
    made = [seed for batch in model.batches for seed in batch]
    assert made == [*(row.seed for row in rows), *again, seed_of(first, 2)]
    assert max(map(len, model.batches)) == 3


def test_images_with_and_without_an_emotion_are_sampled_apart(
    planned: Planned, posed: Callable[..., tuple[Maker, Posed]]
) -> None:
    plan = planned(cells={"emotion": ["free", "happy"]}, a_person=1, shard_size=4, accept={"yaw": 40, "pitch": 40})
    maker, model = posed(plan, lambda seed: True)
    maker.read(job(plan))
    free = {row.seed for row in plan.rows(0) if plan.cells[row.cell].target_emotion is None}
    assert [set(batch) <= free or not set(batch) & free for batch in model.batches] == [True, True]


def test_an_expression_is_solved_for_once_a_neutral_face(
    planned: Planned, posed: Callable[..., tuple[Maker, Posed]], monkeypatch: pytest.MonkeyPatch
) -> None:
    solved, real = [], Rig.expressed
    monkeypatch.setattr(Rig, "expressed", lambda self, *given: (solved.append(1), real(self, *given))[1])
    plan = planned(cells={"yaw": [-20, 0, 20], "expression": ["neutral", "jawOpen=0.5"]}, a_person=1, shard_size=6)
    maker, _ = posed(plan, lambda seed: True)
    first = plan.persons([0])[0]
    points = [maker.points(cell, first) for cell in plan.cells]
    assert len(solved) == 2
    assert np.abs(points[0] - points[1]).max() > 3  # pixels
    maker.points(plan.cells[0], first)  # an image that is made again
    maker.points(plan.cells[0], plan.persons([1])[1])  # of an array too: the mean face
    assert len(solved) == 2
    wider = dataclasses.replace(first, neutral=first.neutral * np.float32(1.01))
    assert np.array_equal(maker.points(plan.cells[3], first), points[3])
    assert not np.array_equal(maker.points(plan.cells[3], wider), points[3])
    assert len(solved) == 3


def test_landmarks_are_turned_by_the_gain_as_for_every_request(
    planned: Planned, posed: Callable[..., tuple[Maker, Posed]]
) -> None:
    plan = planned(cells={"yaw": [-20, 20], "pitch": [10]}, a_person=1)
    gain = Gain({"yaw": ((-40.0, -20.0), (0.0, 0.0), (40.0, 20.0)), "pitch": ((-20.0, -12.0), (20.0, 12.0))})
    plain, _ = posed(plan, lambda seed: True)
    maker, _ = posed(plan, lambda seed: True, gain)
    person = plan.persons([0])[0]
    for cell in plan.cells:
        further = dataclasses.replace(cell, yaw=2 * cell.yaw, pitch=16.67)
        assert np.array_equal(maker.points(cell, person), plain.points(further, person))
        asked = dataclasses.replace(cell.asked("both"), gain=gain)
        turned = moved([], asked, load()).pose  # as `generate` turns them
        assert (turned.yaw, turned.pitch) == (2 * cell.yaw, 16.67)


def test_heads_show_the_angle_of_their_cell(planned: Planned, make: Callable[[Plan], Maker], mini: Any) -> None:
    """With the shipped model, which shows 15 degrees where landmarks are turned by 20."""
    plan = planned(cells={"yaw": [-20, 20]}, a_person=1, accept={"yaw": 40, "pitch": 40}, shard_size=10)
    assert mini.gain is not None
    results = [one for one in make(plan).read(job(plan)) if isinstance(one, Accepted)]
    asked = [json.loads(one.parts["json"])["asked"]["yaw"] for one in results]
    shown = [one.row.yaw * np.sign(yaw) for one, yaw in zip(results, asked, strict=True)]
    assert len(results) == 10 and 17.5 < np.mean(shown) < 23


def test_emotions_that_do_not_act_through_landmarks_share_a_face(
    planned: Planned, posed: Callable[..., tuple[Maker, Posed]], monkeypatch: pytest.MonkeyPatch
) -> None:
    solved, real = [], Rig.expressed
    monkeypatch.setattr(Rig, "expressed", lambda self, *given: (solved.append(1), real(self, *given))[1])
    cells = {"expression": ["jawOpen=0.5"], "emotion": ["free", "happy", "sad"]}
    for through, faces in (("module", 1), ("landmarks", 3)):
        plan = planned(through, cells=cells, a_person=1, emotion_through=through)
        maker, _ = posed(plan, lambda seed: True)
        solved.clear()
        points = {maker.points(cell, plan.persons([0])[0]).tobytes() for cell in plan.cells}
        assert len(solved) == len(points) == faces


def test_only_some_faces_are_kept(
    planned: Planned, posed: Callable[..., tuple[Maker, Posed]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(makers, "HELD", 2)
    plan = planned(cells={"expression": ["neutral", "jawOpen=0.2", "jawOpen=0.4"]}, a_person=1, shard_size=6)
    maker, _ = posed(plan, lambda seed: True)
    first = plan.persons([0])[0]
    points = [maker.points(cell, first) for cell in plan.cells]
    assert len(maker.faces) == 2
    assert np.array_equal(maker.points(plan.cells[0], first), points[0])


def test_other_weights_and_other_recognisers_are_refused(
    planned: Planned, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned()
    with monkeypatch.context() as patched:
        patched.setattr(makers, "open_crafter", lambda config, device: mini)
        reasons = {"weights": "other weights of the model 'mini'", "gain": "another gain", "rig": "another rig"}
        for name, reason in reasons.items():
            others = dataclasses.replace(Basis.of(mini), **{name: "others"})
            with pytest.raises(DataError, match=f"a worker has {reason}"):
                Maker(Recipe(plan.config, tuple(plan.cells), "cpu", others))
    monkeypatch.setattr("facecrafter.FaceCrafter.from_pretrained", lambda *given, **named: mini)
    with pytest.raises(ConfigError, match="reads embeddings by dlib, and the plan has sface's"):
        open_crafter(plan.config.model_copy(update={"recogniser": "sface"}), "cpu")


def test_a_cell_asks_for_its_numbers() -> None:
    cell = Cell(20, -5, "jawOpen=0.5", "free", {"jawOpen": 0.5}, None, None)
    asked = cell.asked("both")
    assert asked.pose is not None and (asked.pose.yaw, asked.pose.pitch) == (20, -5)
    assert asked.expression == {"jawOpen": 0.5} and asked.emotion is None
    assert Cell.read(json.loads(json.dumps(dataclasses.asdict(cell)))) == cell
