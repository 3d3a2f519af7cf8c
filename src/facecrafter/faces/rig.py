"""The rig: pose and 52 blendshapes by numbers to the 478 landmarks of a person's own face.

Blendshapes move the points of the straightened face linearly. Where MediaPipe's own network reads the moved points, a
few steps of Broyden's method (1965) bring its scores to those asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import CheckpointError
from facecrafter.faces.canonical import Straightened, straightened, turned
from facecrafter.faces.face import ALIGNED_SIZE, BLENDSHAPES
from facecrafter.faces.landmarks import turn
from facecrafter.io import command, write_whole
from facecrafter.weights import ASSETS

SHIPPED = ASSETS / "rig.npz"
FORMAT = "facecrafter-rig-1"
# A blendshape that MediaPipe scores below this in 999 of 1,000 photos is one that it hardly reads at all.
DEAD = 0.15
# Broyden's method: steps, the damping of a step, and the step of a difference for the slopes it starts with. On 60
# pairs of photos the scores' RMSE is .0071 after 8 steps (.0081 after 6, .0068 after 10). Two Jacobians of the face
# itself, in its place, take four times as long and come to .0092.
STEPS, DAMPING, DIFFERENCE = 8, 0.05, 0.05
SOLVER = "Broyden"  # a part of every rig's digest
MOST_CHANGE = 0.75  # that the steps make to any one blendshape

Points = NDArray[np.floating]
Scores = NDArray[np.floating]
# MediaPipe's network: points (B, 478, 2 or 3) to scores (B, 52).
Reader = Callable[[Points], Scores]


@dataclass(frozen=True)
class Rig:
    """A fitted rig; see :mod:`facecrafter.faces.rig_fit`.

    Attributes:
        mean: ``(478, 3)`` the mean face, straightened.
        offsets: ``(52, 478, 3)`` what a blendshape of 1 moves, in units of the mean face.
        neutral: ``(52,)`` the scores of a neutral face.
        emotions: ``(8, 52)`` what a decided emotion adds to them, in the order of
            :data:`facecrafter.faces.emotion.EMOTIONS`.
        reach: ``(52,)`` the highest score in 999 of 1,000 photos.
        angles: ``(2, 2)`` of yaw and of pitch, slope and offset in degrees: from what MediaPipe reads to what the
            points are turned by.
        usual: ``(N, 54)`` yaw, pitch and scores of photos, to draw from.
        about: what it was fitted on, for JSON.
        slopes: ``(52, 52)``, by how much MediaPipe's scores (rows) change with each blendshape, on average of some
            photos; None: they are worked out for every face.
    """

    mean: NDArray[np.float64]
    offsets: NDArray[np.float64]
    neutral: NDArray[np.float64]
    emotions: NDArray[np.float64]
    reach: NDArray[np.float64]
    angles: NDArray[np.float64]
    usual: NDArray[np.float64]
    about: Mapping[str, Any] = field(default_factory=dict)
    slopes: NDArray[np.float64] | None = None

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Which blendshapes MediaPipe reads at all, ``(52,)``."""
        return self.reach >= DEAD

    @cached_property
    def digest(self) -> str:
        """What tells this rig from every other: 16 digits of a hash of what it moves, and of how numbers are met."""
        content = b"".join(np.asarray(getattr(self, name), kind).tobytes() for name, kind in ARRAYS.items())
        if self.slopes is not None:
            content += np.asarray(self.slopes, np.float16).tobytes()
        return hashlib.sha256(content + SOLVER.encode()).hexdigest()[:16]

    def straightened(self, points: Sequence[Points]) -> Straightened:
        """Faces ``(478, 3)`` each without their poses, which are given as MediaPipe reads them."""
        found = straightened(np.stack(points), self.mean)
        (yaw, yaw_offset), (pitch, pitch_offset) = self.angles
        return Straightened(found.points, (found.yaw - yaw_offset) / yaw, (found.pitch - pitch_offset) / pitch)

    def neutral_face(self, points: Points, scores: Scores) -> NDArray[np.float64]:
        """The neutral face ``(478, 3)`` of a person: the mean over some photos, each without its own expression.

        Args:
            points: ``(B, 478, 3)`` straightened.
            scores: ``(B, 52)`` of these photos.
        """
        return np.asarray((points + self.moved(self.neutral - scores)).mean(0), np.float64)

    def moved(self, change: Scores) -> NDArray[np.float64]:
        """What a change of blendshapes ``(..., 52)`` moves, ``(..., 478, 3)``."""
        return np.asarray(np.tensordot(change, self.offsets, 1), np.float64)

    def expressed(
        self, points: Points, wanted: Scores, now: Scores, read: Reader | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A straightened face with other blendshapes.

        Args:
            points: ``(478, 3)`` straightened.
            wanted: ``(52,)`` the scores to reach, in [0, 1].
            now: ``(52,)`` its scores.
            read: MediaPipe's network; the rig is linear without it.

        Returns:
            The points ``(478, 3)``, and their scores ``(52,)`` as ``read`` has them, or as they were wanted.
        """
        start = np.asarray(wanted, np.float64) - now
        if read is None or not np.abs(start).max() > 0:
            return np.asarray(points + self.moved(start)), np.asarray(wanted, np.float64)
        rows, change = np.flatnonzero(self.live), start.copy()
        whole = slopes_of(points + self.moved(start), self.offsets, read) if self.slopes is None else self.slopes
        slopes = whole[np.ix_(rows, rows)]
        best, reached, least = points, now, np.inf
        step, before = np.zeros(len(rows)), np.zeros(len(rows))
        for _ in range(STEPS + 1):
            face = points + self.moved(change)
            scores = read(face[None])[0]
            missing = (wanted - scores)[rows]
            if (error := float(missing @ missing)) < least:
                best, reached, least = face, scores, error
            if (length := float(step @ step)) > 0:  # what the last step changed corrects the slopes along it
                slopes = slopes + np.outer(before - missing - slopes @ step, step) / length
            solved = np.linalg.solve(slopes.T @ slopes + DAMPING * np.eye(len(rows)), slopes.T @ missing)
            moved = np.clip(change[rows] + solved, start[rows] - MOST_CHANGE, start[rows] + MOST_CHANGE)
            step, before, change[rows] = moved - change[rows], missing, moved
        return np.asarray(best), np.asarray(reached, np.float64)

    def posed(
        self, points: Points, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0, size: float = ALIGNED_SIZE
    ) -> NDArray[np.float32]:
        """A straightened face ``(478, 3)`` in a pose, on the FFHQ template, ``(478, 3)`` in pixels.

        Args:
            points: straightened.
            yaw: degrees to the image's right, as MediaPipe reads them.
            pitch: degrees up.
            roll: degrees counter-clockwise in the image. The template has none, so that the aligned face is turned
                about the image's middle.
            size: side of the aligned image in pixels.
        """
        (yaw_slope, yaw_offset), (pitch_slope, pitch_offset) = self.angles
        head = turned(points, yaw_slope * yaw + yaw_offset, pitch_slope * pitch + pitch_offset)
        placed = turn(np.asarray(head, np.float32), size=size)  # by nothing: onto the template
        if roll:
            cosine, sine = np.cos(np.radians(roll)), np.sin(np.radians(roll))
            placed[:, :2] = (placed[:, :2] - size / 2) @ np.array([[cosine, -sine], [sine, cosine]]) + size / 2
        return placed

    def emotion(self, probabilities: Sequence[float] | Scores) -> NDArray[np.float64]:
        """What a distribution over the eight classes adds to a neutral face's scores, ``(52,)``."""
        return np.asarray(np.asarray(probabilities, np.float64) @ self.emotions, np.float64)

    def save(self, path: Path) -> None:
        """Write the rig, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        small = {name: np.asarray(getattr(self, name), kind) for name, kind in ARRAYS.items()}
        if self.slopes is not None:
            small["slopes"] = np.asarray(self.slopes, np.float16)
        packed = io.BytesIO()
        np.savez_compressed(packed, **small, about=np.array(json.dumps({"format": FORMAT, **self.about})))  # type: ignore[arg-type]
        write_whole(path, packed.getvalue())


# What is stored, and how exactly: a thousandth of a blendshape, and a ten-thousandth of a face.
ARRAYS: dict[str, type[np.floating]] = {
    "mean": np.float32,
    "offsets": np.float16,
    "neutral": np.float32,
    "emotions": np.float32,
    "reach": np.float32,
    "angles": np.float32,
    "usual": np.float16,
}
_SHAPES = {"mean": (478, 3), "offsets": (52, 478, 3), "neutral": (52,), "emotions": (8, 52), "reach": (52,)}
_SHAPES |= {"angles": (2, 2), "slopes": (52, 52)}


def slopes_of(points: Points, offsets: NDArray[np.float64], read: Reader) -> NDArray[np.float64]:
    """By how much the scores (rows) of a straightened face ``(478, 3)`` change with each blendshape, ``(52, 52)``."""
    scores = np.asarray(read(np.concatenate([points[None], points + DIFFERENCE * offsets])), np.float64)
    return np.asarray((scores[1:] - scores[0]).T / DIFFERENCE)


@cache
def load(path: Path = SHIPPED) -> Rig:
    """Read a rig that :meth:`Rig.save` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            arrays = {name: stored[name].astype(np.float64) for name in ARRAYS}
            if "slopes" in stored:
                arrays["slopes"] = stored["slopes"].astype(np.float64)
        if about["format"] != FORMAT:
            raise ValueError("another format")
        if any(arrays[name].shape != shape for name, shape in _SHAPES.items() if name in arrays):
            raise ValueError("an array has another shape")
        if arrays["usual"].shape[1:] != (2 + len(BLENDSHAPES),) or not all(
            np.isfinite(one).all() for one in arrays.values()
        ):
            raise ValueError("an array cannot be used")
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no rig {path}; fit one with: {command('controls', 'fit', 'DATA', path)}"
        ) from None
    except Exception:  # damaged files raise whatever their reader meets
        raise CheckpointError(
            f"the rig {path} is damaged; fit it again with: {command('controls', 'fit', 'DATA', path)}"
        ) from None
    return Rig(**arrays, about=about)
