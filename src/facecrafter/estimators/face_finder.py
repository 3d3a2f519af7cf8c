"""Photos to faces: MediaPipe's landmarker, and YuNet as a scout for small and difficult ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.errors import NoFaceError
from facecrafter.estimators._mediapipe import end_quietly, quiet_stderr, to_image
from facecrafter.faces.face import Detection, Face, Pick, align, picked


class FaceFinder:
    """MediaPipe's face landmarker in several passes, each closer, before it reports that there is no face.

    Use it as a context manager, or call :meth:`close`.

    Args:
        max_faces: the most faces of one pass.
        min_confidence: detection threshold in [0, 1].

    Raises:
        WeightsError: the landmarker's file is missing or another one.
    """

    # MediaPipe's own detector shrinks what it sees to 128 px and misses faces below a seventh of that.
    _LONG_SIDE = 1280
    # Scouted at this size, a face of a hundredth of the image still has the 20 px that the scout needs.
    _SCOUT_SIDE = 2560

    def __init__(self, max_faces: int = 8, min_confidence: float = 0.5) -> None:
        with quiet_stderr():
            from mediapipe.tasks.python import BaseOptions, vision

            self._landmarker = vision.FaceLandmarker.create_from_options(
                vision.FaceLandmarkerOptions(
                    base_options=BaseOptions(model_asset_path=str(weights.locate("face_landmarker"))),
                    num_faces=max_faces,
                    min_face_detection_confidence=min_confidence,
                    output_face_blendshapes=True,
                    output_facial_transformation_matrixes=True,
                )
            )
            end_quietly(self._landmarker, self)
            # The delegates announce themselves on first use.
            self._landmarker.detect(to_image(np.zeros((64, 64, 3), np.uint8)))

    def __enter__(self) -> FaceFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the landmarker. Closing twice is fine."""
        self._landmarker.close()

    def find(
        self, photo: NDArray[np.uint8], size: int = 256, choose: Pick = "largest", name: object = "the image"
    ) -> Face:
        """The chosen face of a photo, aligned.

        Args:
            photo: ``(H, W, 3)`` uint8 RGB.
            size: side of the aligned image in pixels.
            choose: the largest face, the one nearest to the photo's centre, that of a number, or the one at a point.
            name: what to call the photo in an error.

        Raises:
            NoFaceError: no face at any size tried, or not the one that is meant.
            ConfigError: ``choose`` is none of these.
        """
        faces = self.find_ordered(photo, name)
        return align(photo, faces[picked(faces, choose, photo, name)], size, len(faces) - 1)

    def find_ordered(self, photo: NDArray[np.uint8], name: object = "the image") -> list[Detection]:
        """Every face of a photo ``(H, W, 3)`` uint8 RGB, the largest first.

        Raises:
            NoFaceError: no face at any size tried; it calls the photo by its ``name``.
        """
        faces = self.find_all(photo)
        if not faces:
            height, width = photo.shape[:2]
            advice = "try a larger, sharper or more frontal image"
            raise NoFaceError(f"no face found in {name} ({width}x{height}); {advice}")
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def find_all(self, photo: NDArray[np.uint8]) -> list[Detection]:
        """Every face of a photo ``(H, W, 3)`` uint8 RGB, from the first pass that finds any.

        The passes: the whole image; the image with a border, for a face that fills it; a close crop wherever a scout
        sees a face, for small faces in large images and difficult ones. Most images need only the first.
        """
        return self._look(photo) or self._look(photo, border=1 / 3) or self._look_closer(photo)

    def _look(self, photo: NDArray[np.uint8], left: int = 0, top: int = 0, border: float = 0.0) -> list[Detection]:
        """Faces of one cut, in pixels of the photo that it was cut from at ``left``, ``top``.

        A ``border`` of that share of the longer side repeats the cut's edge all round.
        """
        height, width = photo.shape[:2]
        long = max(height, width) * (1 + 2 * border)
        resized = _resized(photo, self._LONG_SIDE / long if long > self._LONG_SIDE else max(1.0, 256 / long))
        margin = round(border * max(resized.shape[:2]))
        pixel = np.array([width / resized.shape[1], height / resized.shape[0], width / resized.shape[1]], np.float32)
        if margin:
            resized = np.pad(resized, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        found = self._landmarker.detect(to_image(resized))
        extent = np.array([width, height, width], np.float32) + 2 * margin * pixel
        corner = np.array([left - margin * pixel[0], top - margin * pixel[1], 0], np.float32)
        faces = []
        for points, shapes, pose in zip(
            found.face_landmarks, found.face_blendshapes, found.facial_transformation_matrixes, strict=True
        ):
            flat = np.array([(point.x, point.y, point.z) for point in points], np.float32)
            scores = np.array([shape.score for shape in shapes], np.float32)
            faces.append(Detection(flat * extent + corner, scores, np.asarray(pose, np.float32)))
        return faces

    def _look_closer(self, photo: NDArray[np.uint8]) -> list[Detection]:
        """Faces of the cuts around the places that the scout names, each found once."""
        height, width = photo.shape[:2]
        faces: list[Detection] = []
        for x, y, side in self._scout(photo):
            left, right = max(0, int(x - 1.5 * side)), min(width, int(x + 1.5 * side) + 1)
            top, bottom = max(0, int(y - 1.5 * side)), min(height, int(y + 1.5 * side) + 1)
            for face in self._look(photo[top:bottom, left:right], left, top):
                if not any(_same_place(face, other) for other in faces):
                    faces.append(face)
        return faces

    def _scout(self, photo: NDArray[np.uint8]) -> Iterator[tuple[float, float, float]]:
        """Centre x, centre y and side of every place that may be a face, in pixels of the photo, the surest first."""
        scale = min(1.0, self._SCOUT_SIDE / max(photo.shape[:2]))
        resized = _resized(photo, scale)
        self._yunet.setInputSize((resized.shape[1], resized.shape[0]))
        boxes = self._yunet.detect(np.ascontiguousarray(resized[:, :, ::-1]))[1]
        for x, y, wide, tall in [] if boxes is None else boxes[:, :4].astype(float) / scale:
            yield x + wide / 2, y + tall / 2, max(wide, tall)

    @cached_property
    def _yunet(self) -> Any:
        import cv2

        with quiet_stderr():
            return cv2.FaceDetectorYN.create(str(weights.locate("yunet")), "", (320, 320), score_threshold=0.6)


def _resized(photo: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """An image made larger or smaller, at least one pixel each way."""
    import cv2

    if scale == 1:
        return photo
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
    return np.asarray(cv2.resize(photo, (width, height), interpolation=way), np.uint8)


def _same_place(one: Detection, other: Detection) -> bool:
    """Whether two boxes overlap by more than half of the smaller."""
    a, b = one.box, other.box
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide > 0 and tall > 0 and wide * tall > smaller / 2
