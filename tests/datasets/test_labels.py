"""Labels of an image: of that image alone, to the bit, whatever else is read with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.datasets.labels import TOGETHER, Labeller, Reading
from facecrafter.faces.face import Face

RECOGNISERS = ("dlib", "sface")


@pytest.fixture(scope="module")
def labeller() -> Iterator[Labeller]:
    """One thread, as a maker computes; the threads are given back."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Labeller(RECOGNISERS)
    yield made
    made.close()
    torch.set_num_threads(threads)


@pytest.fixture
def image(face: Face) -> NDArray[np.uint8]:
    return face.resized(128).image


def content(reading: Reading | None) -> Any:
    """All of it, to compare to the bit."""
    if reading is None:
        return None
    stored = reading.stored
    arrays = [stored.image, stored.points, stored.blendshapes, stored.pose, reading.emotion.vector]
    arrays += [reading.embeddings[name] for name in RECOGNISERS]
    return [array.tobytes() for array in arrays], stored.box, stored.others, reading.angles


def test_labels_do_not_depend_on_the_other_images_of_a_batch(labeller: Labeller, image: NDArray[np.uint8]) -> None:
    mirrored, darker = image[:, ::-1].copy(), (image * 0.6).astype(np.uint8)
    nothing = np.zeros_like(image)
    (alone,) = labeller.read([image])
    assert alone is not None
    expected = content(alone)
    batches = [
        [image, mirrored],
        [nothing, darker, image, mirrored],
        [darker] * (TOGETHER - 1) + [image],
        [mirrored] * TOGETHER + [image],  # in the second call
    ]
    for batch in batches:
        readings = labeller.read(batch)
        assert len(readings) == len(batch)
        place = next(index for index, one in enumerate(batch) if one is image)
        assert content(readings[place]) == expected
        assert [one is None for one in readings] == [one is nothing for one in batch]
    other = content(labeller.read([darker])[0])
    assert all(one != two for one, two in zip(expected[0][4:], other[0][4:], strict=True))


def test_each_image_has_its_own_labels(labeller: Labeller, image: NDArray[np.uint8]) -> None:
    nothing = np.zeros_like(image)
    darker = (image * 0.6).astype(np.uint8)
    readings = labeller.read([nothing, image, nothing, darker])
    single = [labeller.read([one])[0] for one in (image, darker)]
    assert readings[0] is None and readings[2] is None
    assert [content(readings[1]), content(readings[3])] == [content(one) for one in single]
    assert labeller.read([]) == [] and labeller.read([nothing]) == [None]
