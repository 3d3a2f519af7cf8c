"""A learned change makes the emotion likelier, leaves pose and person alone, and reads what the estimators read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from facecrafter.data.synthesis import directions, learning
from facecrafter.data.synthesis.directions import KEPT, POSE
from facecrafter.data.synthesis.learning import Person, crop_grid, emotion_crops, learn, loss, with_learned
from facecrafter.data.synthesis.readings import Reader
from facecrafter.estimators.emotion import PixelEmotion, tight_crop
from facecrafter.faces.emotion import EMOTIONS


@pytest.fixture(scope="module")
def person(astronaut: NDArray[np.uint8]) -> tuple[Person, Tensor]:
    """Somebody, and their image ``(1, 3, 512, 512)`` in [-1, 1]."""
    with Reader() as reader:
        found = reader.read(astronaut)
    assert found is not None
    image = torch.from_numpy(found.face.image.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    style = directions.load().average
    return Person(style, 2.0 * found.face.points[:, :2], found.sface), F.interpolate(image, (512, 512), mode="bilinear")


def maker(image: Tensor) -> Any:
    """A generator whose images are the person's under a smooth pattern that depends on the edited styles alone."""
    ways = torch.randn(512, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.02

    def synthesis(styles: Tensor, size: int) -> Tensor:
        change = styles[:, : directions.EDITED_STYLES].mean(1) - styles[:, directions.EDITED_STYLES :].mean(1)
        pattern = torch.einsum("bw,wij->bij", change, ways)
        return image + F.interpolate(pattern[:, None], (size, size), mode="bilinear")

    shipped = SimpleNamespace(estimator=PixelEmotion())
    return SimpleNamespace(directions=directions.load(), reader=shipped, generator=SimpleNamespace(synthesis=synthesis))


def test_the_crop_is_the_estimators_own(person: tuple[Person, Tensor]) -> None:
    one, image = person
    pixels = ((image[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    expected = tight_crop(pixels, np.pad(one.points, ((0, 0), (0, 1))).astype(np.float32))
    found = emotion_crops(image, torch.from_numpy(crop_grid(one.points)[None]))[0, 0].numpy() * 255
    assert np.abs(found - expected).mean() < 2


def test_the_loss_is_a_plain_loop_of_it() -> None:
    scores, cosines = torch.tensor([[2.0, *[0.0] * 7], [-9.0, *[3.0] * 7]]), torch.tensor([0.5, 0.9])
    total = 0.0
    for row, cosine in zip(scores.tolist(), cosines.tolist(), strict=True):
        likelihood = np.exp(row[0]) / np.exp(row).sum()
        total += min(-np.log(likelihood), learning.CAP) + learning.IDENTITY * max(0.0, learning.ENOUGH - cosine)
    expected = total / 2 + learning.SHORT * 512 * 0.04
    assert loss(scores, 0, cosines, torch.full((512,), 0.2)).item() == pytest.approx(expected, rel=1e-5)


def test_a_learned_change_shows_the_emotion_and_keeps_the_rest(person: tuple[Person, Tensor]) -> None:
    one, image = person
    made = maker(image)
    change = learn(made, "fear", [one], range(12))
    readers = made.directions.readers[[made.directions.names.index(name) for name in (*POSE, *KEPT)]]
    np.testing.assert_allclose(readers @ change, 0, atol=1e-4 * np.linalg.norm(change))
    linear = made.directions.move(one.style, learning.EXPRESSIONS["fear"])

    def likelihood(moved: NDArray[np.float64]) -> float:
        images = learning._images(made, [one], torch.from_numpy(moved[None]).float())
        crops = emotion_crops(images, torch.from_numpy(crop_grid(one.points)[None]))
        with torch.no_grad():
            return float(torch.softmax(made.reader.estimator.network(crops), 1)[0, EMOTIONS.index("fear")])

    assert likelihood(linear + change) > 2 * likelihood(linear)


def test_the_same_seed_learns_the_same_change(person: tuple[Person, Tensor]) -> None:
    one, image = person
    first, again = (learn(maker(image), "anger", [one], range(2)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != learn(maker(image), "anger", [one], range(2), seed=1))


def test_every_emotion_has_its_steps(person: tuple[Person, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    one, image = person
    counted: list[str] = []

    def counting(maker: Any, emotion: str, people: Any, steps: Any) -> NDArray[np.float64]:
        counted.extend(emotion for _ in steps)
        return np.full(512, len(counted), np.float64)

    monkeypatch.setattr(learning, "learn", counting)
    monkeypatch.setattr(learning, "somebody", lambda maker, count: [one] * count)
    found = with_learned(maker(image), directions.load(), steps=3)
    assert counted == [emotion for emotion in learning.LEARNED for _ in range(3)]
    assert tuple(found.learned) == learning.LEARNED
    assert found.about["learned"]["steps"] == 3
