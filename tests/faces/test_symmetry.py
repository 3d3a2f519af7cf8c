"""What a mirror does to landmarks, angles and blendshapes, against MediaPipe on a mirrored photo."""

from __future__ import annotations

import numpy as np

from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces import symmetry
from facecrafter.faces.face import BLENDSHAPES, Face
from facecrafter.faces.landmarks import connections


def test_mirrored_blendshapes_exchange_left_and_right() -> None:
    values = np.arange(52, dtype=np.float32)
    turned = symmetry.blendshapes(values[None])[0]
    for left, right in (("eyeBlinkLeft", "eyeBlinkRight"), ("mouthLeft", "mouthRight"), ("jawLeft", "jawRight")):
        assert turned[BLENDSHAPES.index(left)] == BLENDSHAPES.index(right)
        assert turned[BLENDSHAPES.index(right)] == BLENDSHAPES.index(left)
    assert turned[BLENDSHAPES.index("jawOpen")] == BLENDSHAPES.index("jawOpen")
    np.testing.assert_array_equal(np.sort(turned), values)
    np.testing.assert_array_equal(symmetry.blendshapes(turned), values)


def test_the_mirror_maps_the_mesh_onto_itself() -> None:
    table = np.array(symmetry.LANDMARKS)
    assert (table[table] == np.arange(478)).all()
    for part, edges in connections().items():
        own = {tuple(sorted(edge)) for edge in edges.tolist()}
        lost = own - {tuple(sorted(edge)) for edge in table[edges].tolist()}
        assert len(lost) == (6 if part == "tessellation" else 0), part  # six quads have their diagonal the other way


def test_the_mirror_of_a_face_is_what_mediapipe_sees_in_the_mirror(face: Face, finder: FaceFinder) -> None:
    twin = finder.find(np.ascontiguousarray(face.image[:, ::-1]), 256)
    straight = finder.find(face.image, 256)
    np.testing.assert_allclose(np.array(straight.angles) * symmetry.ANGLES, twin.angles, atol=3)
    expected = straight.points[list(symmetry.LANDMARKS), :2] * (-1, 1) + (256, 0)
    apart = np.linalg.norm(expected - twin.points[:, :2], axis=1)
    assert apart.mean() < 3
    # It is nearer to this than to any table with two neighbours exchanged would be.
    assert apart.max() < 10
