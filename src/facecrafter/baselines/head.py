"""Landmarks to images of a head in three dimensions: normals, depth and shading.

CapHuman renders a FLAME mesh. FLAME is given to registered users only, so here MediaPipe's 478 points and its
tessellation take the mesh's place: the face without skull, ears and neck, with open eyes and mouth.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CHANNELS = 5
# Where the light comes from, in the normals' own axes: in front, and a little above.
LIGHT = np.array([0.0, 0.5, 1.0]) / np.hypot(0.5, 1.0)


@lru_cache(maxsize=1)
def triangles() -> NDArray[np.int64]:
    """MediaPipe's tessellation, ``(852, 3)`` landmark numbers, counter-clockwise in a frontal face's image."""
    from mediapipe.tasks.python.vision import FaceLandmarksConnections as Mesh

    # The edges of one triangle follow each other, each beginning where the one before ends.
    return np.array([edge.start for edge in Mesh.FACE_LANDMARKS_TESSELATION], np.int64).reshape(-1, 3)


def draw(points: NDArray[np.float32], source_size: float, size: int) -> NDArray[np.float32]:
    """A face's head maps.

    Args:
        points: ``(478, 3)`` landmarks in pixels of an aligned image: x right, y down, z away from the viewer.
        source_size: side of that image.
        size: side of the maps.

    Returns:
        ``(5, size, size)``, zero where there is no face: the unit normal (to the image's right, up, to the viewer),
        depth about the face's mean (larger is nearer, in quarters of the side), and Lambertian shading in [0, 1].
    """
    mesh = triangles()
    scaled = points.astype(np.float64) * (size / source_size)
    number, weights = rasterise(scaled, mesh, size)
    visible = number >= 0
    depth = (scaled[:, 2].mean() - scaled[:, 2]) / (size / 4)
    values = np.column_stack([vertex_normals(scaled, mesh), depth])
    shown = np.einsum("pc,pcv->pv", weights[visible], values[mesh[number[visible]]])
    shown[:, :3] /= np.maximum(np.linalg.norm(shown[:, :3], axis=1, keepdims=True), 1e-9)
    maps = np.zeros((CHANNELS, size, size), np.float32)
    maps[:4, visible] = shown.T
    maps[4, visible] = (shown[:, :3] @ LIGHT).clip(min=0)
    return maps


def mirrored(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Head maps ``(..., 5, S, S)`` as a mirror shows them: left and right exchanged, normals too."""
    turned = maps[..., ::-1].copy()
    turned[..., 0, :, :] *= -1
    return turned


def vertex_normals(points: NDArray[np.float64], mesh: NDArray[np.int64]) -> NDArray[np.float64]:
    """Unit normals ``(V, 3)`` (to the right, up, to the viewer): the mean over a point's triangles, by their area."""
    corners = points[mesh]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = np.zeros_like(points)
    for corner in range(3):
        np.add.at(sums, mesh[:, corner], across)
    sums *= [1, -1, -1]
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)


def rasterise(
    points: NDArray[np.float64], mesh: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which triangle is visible at every pixel's centre, viewed from far away: an exact z-buffer.

    Args:
        points: ``(V, 3)`` in pixels of the result, z away from the viewer.
        mesh: ``(T, 3)`` triangles.
        size: side of the result.

    Returns:
        ``(size, size)`` numbers of triangles, -1 for none, and ``(size, size, 3)`` the weights of its corners.
    """
    corners = points[mesh]
    flat = corners[..., :2]
    area = _cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    low = np.ceil(flat.min(1) - 0.5).clip(0, size).astype(np.int64)
    high = (np.floor(flat.max(1) - 0.5) + 1).clip(0, size).astype(np.int64)
    extent = np.where(area[:, None] != 0, np.maximum(high - low, 0), 0)
    # Every pixel of every triangle's bounding box, one after the other.
    counts = extent.prod(1)
    owner = np.repeat(np.arange(len(mesh)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    across, down = place % extent[owner, 0] + low[owner, 0], place // extent[owner, 0] + low[owner, 1]
    centre = np.column_stack([across, down]) + 0.5
    a, b, c = (flat[owner, corner] - centre for corner in range(3))
    weights = np.column_stack([_cross(b, c), _cross(c, a), _cross(a, b)]) / area[owner, None]
    inside = (weights >= 0).all(1)
    owner, weights, pixel = owner[inside], weights[inside], (down * size + across)[inside]
    depth = (weights * corners[owner, :, 2]).sum(1)
    order = np.lexsort((depth, pixel))
    filled, nearest = np.unique(pixel[order], return_index=True)
    number, shares = np.full(size * size, -1, np.int64), np.zeros((size * size, 3))
    number[filled], shares[filled] = owner[order[nearest]], weights[order[nearest]]
    return number.reshape(size, size), shares.reshape(size, size, 3)


def _cross(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
