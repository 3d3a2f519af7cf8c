"""Aligned face to face mask: inside the landmark oval, and on the person where a person mask is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facecrafter.faces.face import Face


def oval_polygon() -> NDArray[np.int32]:
    """The landmark numbers of the face oval, in order around it."""
    from facecrafter.faces.landmarks import connections

    following = dict(connections()["oval"].tolist())
    rollout = [next(iter(following))]
    while len(rollout) < len(following):
        rollout.append(following[rollout[-1]])
    return np.array(rollout, np.int32)


def face_mask(face: Face, size: int | None = None, person: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The face's share of every place of a grid.

    Args:
        face: an aligned face.
        size: places a side; the image's own size if None.
        person: the person's share of every pixel of ``face.image``, from
            :class:`facecrafter.estimators.person.PersonSegmenter`; it takes away what the oval covers beside a turned
            head. None leaves the oval whole.

    Returns:
        ``(size, size)`` float32 in [0, 1], rows from the top. An attention grid of ``size`` squared places takes it
        flattened; for the paper's binary mask :func:`facecrafter.training.losses.attention_disentanglement` counts
        means of at least one half as face.

    Raises:
        ValueError: ``person`` is of another size than ``face.image``.
    """
    import cv2

    side = len(face.image)
    drawn = np.zeros((side, side), np.uint8)
    outline = np.round(face.points[oval_polygon(), :2] * 16 - 8).astype(np.int32)
    cv2.fillPoly(drawn, [outline], 255, cv2.LINE_AA, 4)
    mask = (drawn / 255).astype(np.float32)
    if person is not None:
        if person.shape != mask.shape:
            raise ValueError(f"the person mask is {person.shape}, the face's image {mask.shape}; segment face.image")
        mask = mask * person
    return mask if size is None or size == side else resize_mask(mask, size)


def resize_mask(mask: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """A mask ``(H, H)`` as the mean over each place of a ``(size, size)`` grid."""
    import cv2

    way = cv2.INTER_AREA if size < len(mask) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(mask, (size, size), interpolation=way), np.float32)
