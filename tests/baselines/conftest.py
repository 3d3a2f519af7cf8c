"""People for the baselines to look at."""

from __future__ import annotations

import numpy as np
import pytest

from facecrafter.faces import landmarks
from facecrafter.faces.face import Face
from facecrafter.request import Portrait, Request


@pytest.fixture(scope="session")
def people(face: Face) -> list[Portrait]:
    """Four people at 128 px: one face turned four ways, and made-up identities and expressions."""
    rng = np.random.default_rng(1)
    small = face.resized(128)
    made = []
    for number, yaw in enumerate((0.0, 20.0, -20.0, 10.0)):
        embedding = rng.normal(size=128).astype(np.float32)
        made.append(
            Portrait(
                name=f"P{number}",
                file=f"P{number}/{number}.jpg",
                image=small.image,
                points=landmarks.turn(small.points, yaw, size=128),
                size=128,
                blendshapes=rng.random(52, np.float32),
                angles=np.array([yaw, 0, 0], np.float32),
                embedding=embedding / np.linalg.norm(embedding),
                emotion=np.zeros(10, np.float32),
            )
        )
    return made


@pytest.fixture(scope="session")
def requests(people: list[Portrait]) -> list[Request]:
    """Three images with a target and, between them, one without."""
    return [
        Request(people[0], {"landmark": people[1]}, 5),
        Request(people[1], seed=6),
        Request(people[2], {"landmark": people[3]}, 2**40),
        Request(people[0], {"landmark": people[2], "emotion": people[2]}, 5),
    ]
