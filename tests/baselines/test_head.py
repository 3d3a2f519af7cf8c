"""Head maps: the rasteriser against a plain loop, and what a real face looks like in them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.baselines import head
from facecrafter.faces import landmarks
from facecrafter.faces.face import NOSE_TIP, Face


def plain(points: NDArray[np.float64], mesh: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Every pixel asks every triangle."""
    number = np.full((size, size), -1)
    for row in range(size):
        for column in range(size):
            nearest = np.inf
            for index, (a, b, c) in enumerate(points[mesh]):
                edges = np.array([b[:2] - a[:2], c[:2] - a[:2]]).T
                if abs(np.linalg.det(edges)) < 1e-12:
                    continue
                u, v = np.linalg.solve(edges, np.array([column + 0.5, row + 0.5]) - a[:2])
                depth = a[2] + u * (b[2] - a[2]) + v * (c[2] - a[2])
                if min(u, v, 1 - u - v) >= 0 and depth < nearest:
                    nearest, number[row, column] = depth, index
    return number


def test_the_rasteriser_is_a_plain_loop_over_pixels_and_triangles() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 20, (12, 3))  # some of it lies outside
    mesh = np.array([rng.choice(12, 3, replace=False) for _ in range(14)])
    mesh[3] = mesh[3, [0, 1, 1]]  # no area
    number, weights = head.rasterise(points, mesh, 16)
    np.testing.assert_array_equal(number, plain(points, mesh, 16))
    assert len(np.unique(number)) > 5
    seen = number >= 0
    rows, columns = np.nonzero(seen)
    places = np.einsum("pc,pcd->pd", weights[seen], points[mesh[number[seen]]])
    np.testing.assert_allclose(places[:, :2], np.column_stack([columns, rows]) + 0.5, atol=1e-9)


def test_the_tessellation_is_wound_one_way() -> None:
    mesh = head.triangles()
    assert mesh.shape == (852, 3)
    directed = {(int(a), int(b)) for t in mesh for a, b in zip(t, np.roll(t, -1), strict=True)}
    assert len(directed) == 3 * len(mesh)
    undirected = {tuple(edge) for edge in landmarks.connections()["tessellation"].tolist()}
    assert {(min(edge), max(edge)) for edge in directed} == undirected


def test_a_face_looks_at_the_viewer(face: Face) -> None:
    maps = head.draw(face.points, 256, 128)
    assert maps.shape == (head.CHANNELS, 128, 128)
    assert maps.dtype == np.float32
    seen = maps[:3].any(0)
    assert 0.15 < seen.mean() < 0.6
    np.testing.assert_allclose(np.linalg.norm(maps[:3, seen], axis=0), 1, atol=1e-4)
    assert (maps[2, seen] > 0).mean() > 0.95
    assert (maps[:, ~seen] == 0).all()
    column, row = (face.points[NOSE_TIP, :2] / 2).astype(int)
    assert maps[3, row, column] > np.quantile(maps[3, seen], 0.95)
    assert maps[4].min() >= 0 and 0.8 < maps[4].max() <= 1
    # The sides of the face look to their own sides, its top up and its chin down.
    rows, columns = np.nonzero(seen)
    right, left = columns > np.quantile(columns, 0.9), columns < np.quantile(columns, 0.1)
    top, chin = rows < np.quantile(rows, 0.1), rows > np.quantile(rows, 0.95)
    across, up = maps[0, rows, columns], maps[1, rows, columns]
    assert across[right].mean() > 0.3 and across[left].mean() < -0.3
    assert up[top].mean() > 0.1 > -0.1 > up[chin].mean()


@pytest.mark.parametrize("yaw", [-30.0, 30.0])
def test_a_turned_head_turns_its_normals(yaw: float, face: Face) -> None:
    straight, turned = (
        head.vertex_normals(landmarks.turn(face.points, angle).astype(np.float64), head.triangles()).mean(0)
        for angle in (0.0, yaw)
    )
    angles = [np.degrees(np.arctan2(across, forward)) for across, _, forward in (straight, turned)]
    assert angles[1] - angles[0] == pytest.approx(yaw, abs=3)


def test_a_mirror_exchanges_left_and_right(face: Face) -> None:
    maps = head.draw(face.points, 256, 64)
    turned = head.mirrored(maps[None])[0]
    seen = face.points * [-1, 1, 1] + [256, 0, 0]
    other = head.draw(seen.astype(np.float32), 256, 64)
    both = other[:3].any(0) & turned[:3].any(0)
    assert both.sum() > 0.98 * turned[:3].any(0).sum()
    np.testing.assert_allclose(other[3, both], turned[3, both], atol=1e-3)
    # Mirrored points are wound the other way, so their normals look inside.
    np.testing.assert_allclose(other[:3, both], -turned[:3, both], atol=1e-2)
    np.testing.assert_array_equal(head.mirrored(turned), maps)
