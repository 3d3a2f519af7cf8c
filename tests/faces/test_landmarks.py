"""The landmark image: deterministic, the same at any size, mirrored with its face, drawn as its style says."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facecrafter.faces.face import LEFT_EYE, MOUTH_CORNERS, NOSE_TIP, RIGHT_EYE, Face
from facecrafter.faces.landmarks import DrawingStyle, connections, draw

PARTS = ("tessellation", "oval", "brows", "eyes", "irises", "nose", "lips")


def test_the_same_points_give_the_same_image(face: Face) -> None:
    first = draw(face.points, 256, 128)
    np.testing.assert_array_equal(first, draw(face.points.copy(), 256, 128))
    np.testing.assert_array_equal(first, draw(face.points[:, :2], 256, 128))


@pytest.mark.parametrize("size", [1, 16, 64, 100, 128, 512, 1000])
def test_any_size(face: Face, size: int) -> None:
    image = draw(face.points, 256, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous


@pytest.mark.parametrize("size", [128, 512, 1024])
def test_every_size_is_the_same_drawing(face: Face, size: int) -> None:
    """Reduced to 32 px, drawings of all sizes agree; of a shifted face they would not."""

    def small(image: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX), float)

    reference = small(draw(face.points, 256, 256))
    agreement = np.abs(small(draw(face.points, 256, size)) - reference).mean()
    shifted = np.abs(small(draw(face.points + 8, 256, 256)) - reference).mean()
    assert agreement < shifted / 2


def test_only_the_proportion_of_source_and_points_counts(face: Face) -> None:
    np.testing.assert_array_equal(draw(face.points, 256, 128), draw(face.points * 2, 512, 128))


@pytest.mark.parametrize("size", [128, 512])
def test_a_mirrored_face_gives_the_mirrored_image(face: Face, size: int) -> None:
    """Points mirrored in place keep their numbers, so left and right must share colours: the drawing mirrors too."""
    mirrored = face.points.copy()
    mirrored[:, 0] = 256 - mirrored[:, 0]
    one = draw(face.points, 256, size)[:, ::-1].astype(int)
    two = draw(mirrored, 256, size).astype(int)
    # Lines end on sixteenths of a pixel and their anti-aliasing is not quite symmetric: the edges may differ a little.
    assert np.abs(one - two).mean() < 1.5
    assert np.abs(one - two).mean() < np.abs(one[:, ::-1] - two).mean() / 5


def colour_at(image: NDArray[np.uint8], point: NDArray[np.float32]) -> tuple[int, ...]:
    x, y = (int(value) for value in point[:2])
    return tuple(int(value) for value in image[y, x])


def test_parts_have_the_colours_of_the_style(face: Face) -> None:
    style = DrawingStyle()
    image = draw(face.points * 4, 1024, 1024)
    for part in ("oval", "brows", "eyes", "lips"):
        ends = face.points[connections()[part].ravel()] * 4
        share = np.mean([colour_at(image, point) == getattr(style, part) for point in ends])
        assert share > 0.7, part
    assert image[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_without_colour_is_left_out(face: Face, part: str) -> None:
    whole, without = draw(face.points, 256, 128), draw(face.points, 256, 128, replace(DrawingStyle(), **{part: None}))
    assert (whole != without).any()


def test_without_tessellation_only_contours_are_left(face: Face) -> None:
    bare = draw(face.points, 256, 512, DrawingStyle(tessellation=None))
    cheek = face.points[list((*RIGHT_EYE, *MOUTH_CORNERS))].mean(0)
    x, y = (int(2 * value) for value in cheek[:2])
    patch = np.s_[y - 8 : y + 8, x - 8 : x + 8]
    assert draw(face.points, 256, 512)[patch].any() and not bare[patch].any()


def test_nothing_else_can_be_drawn_than_the_style_names(face: Face) -> None:
    style = DrawingStyle(**dict.fromkeys(PARTS), background=(9, 8, 7))
    assert (draw(face.points, 256, 64, style) == (9, 8, 7)).all()
    assert {field.name for field in fields(DrawingStyle)} == {*PARTS, "width", "supersample", "background"}


def test_wider_lines_cover_more(face: Face) -> None:
    thin, thick = (draw(face.points, 256, 256, DrawingStyle(tessellation=None, width=w)) for w in (1 / 128, 1 / 32))
    assert 2 * (thin > 0).any(2).sum() < (thick > 0).any(2).sum()


def test_points_beyond_the_image_are_cut_off(face: Face) -> None:
    assert not draw(face.points + 1000, 256, 64).any()
    assert draw(face.points + np.array([100, 0, 0]), 256, 64)[:, -1].any()


def test_connections_are_mediapipes() -> None:
    edges = connections()
    assert tuple(edges) == PARTS
    assert {part: len(edges[part]) for part in PARTS} == {
        "tessellation": 1322,
        "oval": 36,
        "brows": 16,
        "eyes": 32,
        "irises": 8,
        "nose": 25,
        "lips": 40,
    }
    assert all(part.min() >= 0 and part.max() < 478 for part in edges.values())
    mesh = edges["tessellation"]
    assert (mesh[:, 0] < mesh[:, 1]).all() and len(np.unique(mesh, axis=0)) == len(mesh)
    assert np.isin([*RIGHT_EYE, *LEFT_EYE], edges["eyes"]).all() and NOSE_TIP in edges["nose"]
