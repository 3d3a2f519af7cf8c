"""Requests of the API to files, and photos to readings: all that needs the model, in the worker's thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import ConfigError
from facecrafter.faces.asked import ANGLES, Asked, Pose, asked_of
from facecrafter.faces.emotion import EMOTIONS, emotion_of
from facecrafter.faces.face import BLENDSHAPES, Face
from facecrafter.faces.photo_file import HeldPhoto, check_faces
from facecrafter.pipelines.images import KEY_IN_NAME, contact_sheet, encoded
from facecrafter.pipelines.moving import seeded
from facecrafter.pipelines.report import best_key, rendered
from facecrafter.pipelines.settings import Settings
from facecrafter.pipelines.sweep import LOOP, STRIP, cells, loop_of, sweep_of
from facecrafter.studio.photos import photo_id
from facecrafter.studio.schema import MOST_PREVIEW_STEPS, Emotions, ImageRequest, ModelView, PhotoView, Reading
from facecrafter.studio.store import Made
from facecrafter.studio.worker import Task

if TYPE_CHECKING:
    from PIL import Image

    from facecrafter.pipelines.generate import FaceCrafter
    from facecrafter.request import Portrait, Request

MOST_MADE = 64  # images for one request, with those that are not kept
READ_SHARE = 0.4  # of an image's work that reading its face back counts as


@dataclass(frozen=True)
class Wish:
    """A request that was checked.

    Attributes:
        request: its photos are ids.
        held: the photos, by id.
        asked: its numbers.
        cells: of a sweep, each image's name and numbers.
    """

    request: ImageRequest
    held: Mapping[str, HeldPhoto]
    asked: Asked | None
    cells: Sequence[tuple[str, Asked]]

    @property
    def images(self) -> int:
        """How many are made."""
        return len(self.cells) or self.request.n

    @property
    def work(self) -> float:
        """What the steps of making them sum up to."""
        return self.images * (1.0 if self.request.preview or self.cells else 1 + READ_SHARE)


def checked(request: ImageRequest, held: Mapping[str, HeldPhoto], model: ModelView) -> Wish:
    """Refuse what cannot be made, as far as no model is needed to know it.

    Args:
        request: its photos are ids.
        held: the photos, by id.
        model: what the API says of the model.

    Raises:
        ConfigError: a number out of its range, an unknown name, or conditions that contradict each other.
    """
    if not request.identity:
        raise ConfigError("give at least one photo of the person")
    if request.loop and len(request.sweep) != 1:
        raise ConfigError("a loop is made of one sweep")
    if request.sweep and request.n > 1:
        raise ConfigError("a sweep itself is how many images there are; leave n out")
    if request.preview and request.sweep:
        raise ConfigError("a sweep has no preview; make the sweep itself")
    if request.preview and (request.n > 1 or request.best_of > 1):
        raise ConfigError(f"a preview is of one image; leave {'n' if request.n > 1 else 'best_of'} out")
    steps = request.steps or int(model.defaults["steps"])
    if request.preview and steps > MOST_PREVIEW_STEPS:
        raise ConfigError(f"a preview has at most {MOST_PREVIEW_STEPS} steps, not {steps}; give fewer")
    if request.best_of > 1 and request.free:
        raise ConfigError("best_of has no effect with free: there is nothing to be close to")
    if request.free and _asks(request):
        raise ConfigError("free has no effect but with identity alone")
    if request.speed is not None and request.speed not in model.speeds:
        raise ConfigError(f"unknown speed '{request.speed}'; there are {', '.join(model.speeds)}")
    settings_of(request)
    emotion_of(request.emotion, request.valence, request.arousal)
    check_faces(request.face, len(request.identity), None, 0)
    pose = None if request.pose is None else Pose(**request.pose.model_dump())
    relative, keep = request.start == "relative", request.start == "keep"
    asked = asked_of(pose, request.expression or None, request.preset, relative, keep, swept=bool(request.sweep))
    swept = cells(asked, [sweep_of(one, relative) for one in request.sweep]) if request.sweep else []
    wish = Wish(request, held, asked, swept)
    if wish.images * request.best_of > MOST_MADE:
        raise ConfigError(
            f"{wish.images} images, each the best of {request.best_of}, are more than {MOST_MADE}; ask for fewer"
        )
    return wish


def _asks(request: ImageRequest) -> bool:
    """Whether it asks for more than the person."""
    names = ("target", "landmarks_from", "emotion_from", "emotion", "valence", "arousal", "pose", "preset")
    return bool(request.expression or request.sweep or request.start != "neutral") or any(
        getattr(request, name) is not None for name in names
    )


def settings_of(request: ImageRequest) -> Settings:
    """How its images are sampled."""
    names = ("identity_scale", "landmark_scale", "emotion_scale", "steps", "scheduler", "speed")
    return Settings(**{name: getattr(request, name) for name in names})


class Maker:
    """Makes files and readings; only one thread may use it at a time.

    Args:
        crafter: the model.
    """

    def __init__(self, crafter: FaceCrafter) -> None:
        self.crafter = crafter

    def make(self, wish: Wish, task: Task) -> tuple[list[Made], list[str]]:
        """The files of a request, and notes on it.

        Raises:
            FaceCrafterError: a photo cannot be read or shows no face, or a setting cannot be used.
            Cancelled: the task is no longer wanted.
        """
        with noted() as notes:
            self.crafter.forget_notes()
            requests = self._requests(wish)
            images = self._images(requests, wish.request.best_of, task)
            if wish.cells:
                return self._sweep(wish, images), notes
            made = []
            for request, image in zip(requests, images, strict=True):
                about: dict[str, Any] = {"seed": request.seed}
                if not wish.request.preview:
                    about["got"] = self._got(np.asarray(image), request.identity)
                    task.step(READ_SHARE)
                made.append(Made(f"{request.seed:05d}.png", "image", encoded(image), about))
        return made, notes

    def look(self, photo: HeldPhoto, task: Task) -> PhotoView:
        """What the faces of a photo express.

        Raises:
            PhotoError: it cannot be read.
            NoFaceError: it shows no face.
            Cancelled: the task is no longer wanted.
        """
        from facecrafter.pipelines.reading import poor

        pixels = photo.pixels()
        with noted():
            # It is kept for the images that are asked for next, and alone in most photos.
            faces, chosen = [self.crafter.face(photo)], 0
            if faces[0].others:
                faces, chosen = self.crafter.faces_in(pixels, photo.path, task.step)
        readings = []
        for face in faces:
            task.step(0)
            readings.append(self._reading(face))
        notes = [f"face {number}: {text}" for number, face in enumerate(faces, 1) for text in poor(face)]
        height, width = pixels.shape[:2]
        return PhotoView(
            photo=photo_id(photo),
            name=photo.path.name,
            width=width,
            height=height,
            faces=readings,
            chosen=chosen + 1,
            notes=notes,
        )

    def aligned(self, photo: HeldPhoto) -> NDArray[np.uint8]:
        """The face of a photo that was read, ``(256, 256, 3)`` uint8 RGB."""
        with noted():
            return self.crafter.face(photo).image

    def _requests(self, wish: Wish) -> list[Request]:
        request, photo = wish.request, lambda one: None if one is None else wish.held[one]
        people = [wish.held[str(one)] for one in request.identity]

        def one(numbers: Asked | None) -> Request:
            return self.crafter.request(
                people,
                photo(request.target),
                photo(request.landmarks_from),
                photo(request.emotion_from),
                request.emotion,
                request.valence,
                request.arousal,
                request.seed,
                settings_of(request),
                request.face,
                request.target_face,
                numbers,
                request.emotion_through,
                request.strict,
                request.free,
            )

        if wish.cells:
            return [one(numbers) for _, numbers in wish.cells]
        first = one(wish.asked)
        return [seeded(first, first.seed + number) for number in range(request.n)]

    def _images(self, requests: Sequence[Request], best_of: int, task: Task) -> list[Image.Image]:
        """In the batches of the command line, so that they are its images to the bit."""
        made: dict[int, Image.Image] = {}
        size = (requests[0].settings or self.crafter.generator.settings).batch_size
        readings: dict[str, Request] = {}
        for first in range(0, len(requests), size):
            batch = []
            for request in requests[first : first + size]:
                alike = replace(request, seed=0)
                if alike.digest not in readings:
                    task.step(0)
                    readings[alike.digest] = self.crafter.read(alike)
                batch.append(replace(readings[alike.digest], seed=request.seed))
            for index, image in rendered(self.crafter, batch, best_of, task.step):
                image.info["facecrafter"]["key"] = best_key(self.crafter.key(requests[first + index]), best_of)
                made[first + index] = image
        return [made[index] for index in range(len(requests))]

    def _sweep(self, wish: Wish, images: Sequence[Image.Image]) -> list[Made]:
        made = []
        for (name, _), image in zip(wish.cells, images, strict=True):
            key = image.info["facecrafter"]["key"][:KEY_IN_NAME]
            about = {"seed": wish.request.seed, "asked": name.replace("_", ", ")}
            made.append(Made(f"{name}_{key}.png", "image", encoded(image), about))
        columns = len(sweep_of(wish.request.sweep[-1], wish.request.start == "relative").values)
        made.append(Made(STRIP, "strip", encoded(contact_sheet(images, columns=columns))))
        if wish.request.loop:
            made.append(Made(LOOP, "loop", loop_of(images)))
        return made

    def _got(self, pixels: NDArray[np.uint8], person: Portrait) -> dict[str, Any] | None:
        """How an image reads, as a report of the command line has it; None where no face is found in it."""
        measurer = self.crafter.measurer
        face = measurer.face(pixels)
        if face is None:
            return None
        identity = {"identity": round(measurer.likeness(person, face), 4), "identity_by": measurer.judge_of(person)}
        return {**self._reading(face).model_dump(), **identity}

    def _reading(self, face: Face) -> Reading:
        emotion = self.crafter.emotion_of(face)
        shares = {name: round(share, 4) for name, share in zip(EMOTIONS, emotion.probabilities, strict=True)}
        return Reading(
            pose={name: round(float(angle), 2) for name, angle in zip(ANGLES, face.angles, strict=True)},
            expression={
                name: round(float(score), 4) for name, score in zip(BLENDSHAPES[1:], face.blendshapes[1:], strict=True)
            },
            emotion=Emotions(
                label=emotion.label,
                valence=round(emotion.valence, 4),
                arousal=round(emotion.arousal, 4),
                probabilities=shares,
            ),
            box=[round(float(edge), 1) for edge in face.box],
        )


@contextmanager
def noted() -> Iterator[list[str]]:
    """What the package notes in this thread, which is its visitor's and goes into no log."""
    notes: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                notes.append(record.getMessage())

    listener, package = Listener(), logging.getLogger("facecrafter")
    package.addHandler(listener)
    try:
        yield notes
    finally:
        package.removeHandler(listener)
