"""Photos to portraits: which face is meant, who it is, and what it expresses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import NoFaceError, PhotoError
from facecrafter.estimators.emotion_estimator import EmotionEstimator, estimator_for
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.identity import SAME_PERSON, Recogniser, people_in, recogniser
from facecrafter.faces.emotion import Emotion, describe
from facecrafter.faces.face import (
    ALIGNED_SIZE,
    MOST_FACES,
    Choice,
    Detection,
    Face,
    Pick,
    align,
    check_pick,
    picked,
)
from facecrafter.faces.photo_file import Photo, PhotoFile, TakenPhoto, check_faces, photos_of, taken
from facecrafter.faces.rig import load
from facecrafter.pipelines.moving import moved
from facecrafter.request import Portrait, Progress, Request, portrait_of

log = logging.getLogger(__name__)
Kept = TypeVar("Kept")
Which = Callable[[object], str]  # says which of several faces is used, of a photo by the given name

KEPT_FACES = 64
KEPT_PEOPLE = 4  # whose photos are read once for all images of a request, which may have landmarks of their own

# A photo of a person has its limits: beyond this turn to either side half of the face is hidden; and the recognisers'
# crops are 112 and 150 px, so that a face of less than 60 px is enlarged about twice.
POOR_YAW, POOR_SIZE = 45.0, 60.0  # degrees, pixels of the longer side of its box
# Two faces are about equally large where the smaller has at least this share of the larger one's area: 90 % of its
# height and width, which another expression makes up for.
EQUAL_SIZE = 0.8
NAMED_PHOTOS = 5  # in metadata and notes


class PhotoReader:
    """Reads what a model's conditions are made of.

    Args:
        recogniser: the name of the one whose embeddings the model reads.
        estimator: the name of the one whose emotions it learned; None where it does not say.
        choose: which of several faces in a photo is meant.
        arcface: the path of ``arcface.onnx``, where that is the recogniser.
        emonet: EmoNet's file, for a model that learned emotions from it.

    Attributes:
        recogniser_name: of the recogniser.
        arcface: the path of ``arcface.onnx``, which may be missing where that is not the recogniser.

    Raises:
        ConfigError: the model learned emotions from another estimator than the given one.
        WeightsError: EmoNet's file cannot be used.
    """

    def __init__(
        self, recogniser: str, estimator: str | None, choose: Choice, arcface: Path | None, emonet: Path | None
    ) -> None:
        check_pick(choose)
        self.choose, self.arcface, self._emonet = choose, arcface, emonet
        self.recogniser_name, self._estimator_name = recogniser, estimator
        if emonet is not None:
            self._estimator  # noqa: B018 - a wrong file is named before anything is made
        # What is kept has its notes with it: who reads a photo again may be another user.
        self._faces: dict[tuple[str, Pick], tuple[Face, Which | None]] = {}
        self._people: dict[str, tuple[list[tuple[TakenPhoto, Face]], list[str]]] = {}
        self._embeddings: dict[str, tuple[NDArray[np.float32], list[str]]] = {}
        self._noted: set[str] = set()
        self._hearing: list[list[str]] = []

    def _note(self, text: str) -> None:
        """Log what the user should know, once: a table of pairs would repeat it in every row."""
        for heard in self._hearing:
            heard.append(text)
        if text not in self._noted:
            self._noted.add(text)
            log.warning(text)

    @contextmanager
    def _heard(self) -> Iterator[list[str]]:
        """The notes that are given meanwhile, also those that were given before."""
        heard: list[str] = []
        self._hearing.append(heard)
        try:
            yield heard
        finally:
            self._hearing.pop()

    @cached_property
    def _finder(self) -> FaceFinder:
        return FaceFinder(MOST_FACES)

    @cached_property
    def _recogniser(self) -> Recogniser:
        return recogniser(self.recogniser_name, self.arcface)

    @cached_property
    def _estimator(self) -> EmotionEstimator:
        return estimator_for(self._estimator_name, self._emonet)

    def face(self, photo: Photo, pick: Pick | None = None) -> Face:
        """The aligned face of a photo, 256 px a side. A note says where it is, if the photo shows several.

        Args:
            photo: a path, a PIL image, or ``(H, W, 3)`` uint8 RGB.
            pick: which of several faces, in place of the choice that this object was made with: its number, from 1 for
                the largest on, or a point in it, x and y in pixels of the photo.

        Raises:
            PhotoError: it is not an image.
            NoFaceError: it shows no face, or not the one that is picked.
            ConfigError: ``pick`` is none of these.
        """
        pick = self.choose if pick is None else pick
        pixels = taken(photo)
        if isinstance(pixels, PhotoFile):
            return self._kept_face(pixels, pick)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise PhotoError(f"a photo must be (H, W, 3) uint8 RGB, not {pixels.shape} {pixels.dtype}")
        face, which = self._find(pixels, "the image", pick)
        if which is not None:
            self._note(which("the image"))
        return face

    def _kept_face(self, photo: PhotoFile, pick: Pick) -> Face:
        """A table of pairs names the same files over and over, so the last ones are kept, by their content."""
        key = photo.sha256, pick
        if key not in self._faces:
            pixels = photo.pixels()
            photo.check_unchanged()
            found = self._find(pixels, photo.path, pick)
            while len(self._faces) >= KEPT_FACES:
                self._faces.pop(next(iter(self._faces)))
            self._faces[key] = found
        face, which = self._faces[key]
        if which is not None:
            self._note(which(photo.path))
        return face

    def forget_notes(self) -> None:
        """Let notes be given again that were: what comes now is another user's."""
        self._noted.clear()

    def _find(self, photo: NDArray[np.uint8], name: object, pick: Pick) -> tuple[Face, Which | None]:
        """The face that is meant, and what says which one it is where there are several."""
        found = self._finder.find_ordered(photo, name)
        index = picked(found, pick, photo, name)
        which = partial(which_face, found, index, pick) if len(found) > 1 else None
        return align(photo, found[index], ALIGNED_SIZE, len(found) - 1), which

    def person(self, *photos: Photo, face: Pick | None = None) -> NDArray[np.float32]:
        """The identity of one person: the embeddings of several photos, averaged and brought to unit length, ``(D,)``.

        A folder stands for the photos in it. Of several photos those that cannot be read or show no face are left out,
        with a note. Notes also say where a photo is a poor one of a person, and where several look like several people.

        Args:
            photos: of the person.
            face: which face of the photo, as :meth:`face` takes it.

        Raises:
            ConfigError: no photo is given, or a face is picked in several.
            PhotoError, NoFaceError: as :meth:`face`, where no photo is left.
        """
        single = photos_of(photos)
        check_faces(face, len(single), None, 0)
        return self._person(single, face)[0]

    def read(self, request: Request) -> Request:
        """The same request with its photos read, and described by them.

        Raises:
            PhotoError, NoFaceError: a photo that cannot be read, shows no face, or has changed since the request.
        """
        identity = request.identity
        described = {"identity": "an embedding", **request.described}
        if identity.photos:
            embedding, names = self._person(identity.photos, identity.face)
            identity, described["identity"] = replace(identity, embedding=embedding), listed(names)
        conditions = {}
        for control, portrait in request.conditions.items():
            if portrait.asked is not None and portrait.photos:
                conditions[control], words = self._by_numbers(portrait)
                described |= words
                continue
            conditions[control] = portrait if not portrait.photos else self._portrait(portrait, control == "emotion")
            name = _name(portrait.photos[0]) if portrait.photos else control + "s"
            if control != "emotion":
                described.setdefault("landmarks" if control == "landmark" else control, name)
                continue
            if portrait.photos:
                described["emotion from"] = name
            valence, arousal, *shares = conditions[control].emotion.tolist()
            described["emotion"] = describe(Emotion(valence, arousal, tuple(shares)))
        for file in request.files:
            file.check_unchanged()
        return replace(request, identity=identity, conditions=conditions, described=described)

    def _portrait(self, portrait: Portrait, emotion: bool) -> Portrait:
        """A portrait of one photo, read; its emotion only where that is asked for."""
        face = self.face(portrait.photos[0], portrait.face)
        return replace(
            portrait,
            image=face.image,
            points=face.points,
            blendshapes=face.blendshapes,
            angles=np.array(face.angles, np.float32),
            emotion=portrait_of(self.emotion_of(face)).emotion if emotion else portrait.emotion,
        )

    def _by_numbers(self, portrait: Portrait) -> tuple[Portrait, dict[str, str]]:
        """A portrait whose landmarks are asked for by numbers, read, and what to say of it."""
        assert portrait.asked is not None
        used = self._readable(portrait.photos, portrait.face)
        found = moved([face.points for _, face in used], portrait.asked, load())
        source = listed([_name(photo) for photo, _ in used])
        return found.portrait(portrait), {"landmarks": f"{source}, by numbers", **found.described()}

    def faces_of(self, portrait: Portrait) -> list[Face]:
        """The faces in a portrait's photos, which are read only once; none where it has no photos.

        Raises:
            PhotoError, NoFaceError: as :meth:`person`.
        """
        return [face for _, face in self._readable(portrait.photos, portrait.face)]

    def embedding(self, face: Face) -> NDArray[np.float32]:
        """The embedding of a face, ``(D,)`` of unit length, by the recogniser that conditions the model."""
        return self._recogniser.embed([face])[0]

    def emotion_of(self, face: Face) -> Emotion:
        """The emotion of a face, by the estimator that the model learned from."""
        return self._estimator.estimate([face])[0]

    def _person(self, photos: Sequence[TakenPhoto], face: Pick | None) -> tuple[NDArray[np.float32], list[str]]:
        """What :meth:`person` gives, and the names of the photos that were used."""
        used = self._readable(photos, face)
        names = [_name(photo) for photo, _ in used]
        key = _key(photos, face)
        if key not in self._embeddings:
            with self._heard() as notes:
                embedding = self._embedding(used, names)
            _keep(self._embeddings, key, (embedding, notes))
            return embedding, names
        embedding, notes = self._embeddings[key]
        for text in notes:
            self._note(text)
        return embedding, names

    def _embedding(self, used: Sequence[tuple[TakenPhoto, Face]], names: Sequence[str]) -> NDArray[np.float32]:
        """The mean embedding of a person's photos, ``(D,)``; notes say what is wrong with them."""
        for photo, found in used:
            if reasons := poor(found):
                name = photo.path if isinstance(photo, PhotoFile) else "the image"
                self._note(f"{name} is a poor photo of a person: {' and '.join(reasons)}")
        embeddings = self._recogniser.embed([found for _, found in used])
        self._note_people(names, embeddings)
        mean = embeddings.mean(0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)

    def _note_people(self, names: Sequence[str], embeddings: NDArray[np.float32]) -> None:
        """Say where photos that are to be averaged look like several people, by ``(N, D)`` embeddings."""
        alike = SAME_PERSON.get(self._recogniser.name)
        if alike is None:  # not measured
            return
        people = people_in(embeddings, alike)
        counts = np.bincount(people)
        if len(counts) == 1:
            return
        others = people != counts.argmax()
        likeness = float((embeddings[others] @ embeddings[~others].T).mean())
        self._note(
            f"the photos of the identity look like {len(counts)} people: {listed(np.array(names)[others])} and "
            f"{listed(np.array(names)[~others])} are {likeness:.2f} alike to the recogniser, photos of one person "
            f"{alike:.2f} or more; their average is nobody"
        )

    def _readable(self, photos: Sequence[TakenPhoto], pick: Pick | None) -> list[tuple[TakenPhoto, Face]]:
        """The photos of a person in which a face was found; a note names the others.

        Raises:
            PhotoError, NoFaceError: there is one photo and it has no face, or there are several and none has.
        """
        key = _key(photos, pick)
        if key in self._people:
            faces, notes = self._people[key]
            for text in notes:
                self._note(text)
            return faces
        faces = []
        with self._heard() as notes:
            for number, photo in enumerate(photos, 1):
                try:
                    faces.append((photo, self.face(photo, pick)))
                except (PhotoError, NoFaceError) as error:
                    if isinstance(photo, PhotoFile):
                        photo.check_unchanged()  # what is left out is known by the content that it had
                    if not faces and number == len(photos):
                        raise
                    self._note(f"{error}; it is left out")
        _keep(self._people, key, (faces, notes))
        return faces

    def faces_in(self, photo: NDArray[np.uint8], name: object, progress: Progress) -> tuple[list[Face], int]:
        """Every face of a photo, the largest first, and the index of the one that is meant where none is picked.

        Args:
            photo: ``(H, W, 3)`` uint8 RGB.
            name: what to call it in an error.
            progress: called with 0 before each face, where it may raise an error to end this.

        Raises:
            NoFaceError: it shows no face.
        """
        found = self._finder.find_ordered(photo, name)
        faces = []
        for one in found:
            progress(0)
            faces.append(align(photo, one, ALIGNED_SIZE, len(found) - 1))
        return faces, picked(found, self.choose, photo, name)


def _key(photos: Sequence[TakenPhoto], pick: Pick | None) -> str:
    """What tells some photos of a person from others: their content and their names."""
    content = Portrait(photos=tuple(photos)).content("identity")
    return f"{content} {[str(getattr(photo, 'path', '')) for photo in photos]} {pick}"


def _keep(known: dict[str, Kept], key: str, value: Kept) -> None:
    """Add to what is kept of the last people."""
    while len(known) >= KEPT_PEOPLE:
        known.pop(next(iter(known)))
    known[key] = value


def which_face(found: Sequence[Detection], index: int, pick: Pick, name: object) -> str:
    """Which of several faces is used, in a sentence.

    Args:
        found: the faces, the largest first.
        index: of the one that is used.
        pick: how it was picked.
        name: what to call the photo.
    """
    why = {"largest": ", the largest,", "centre": ", the nearest to the centre,"}.get(str(pick), "")
    used = f"{name} shows {len(found)} faces; number {index + 1}{why} at {found[index].middle} is used"
    if not isinstance(pick, str):
        return used
    if pick == "largest" and found[1].area >= EQUAL_SIZE * found[0].area:
        used += f", and number 2 at {found[1].middle} is about as large"
    return f"{used}; --face or --face-at picks another, in a target --target-face or --target-face-at"


def poor(face: Face) -> list[str]:
    """Why a face says little of a person's identity; empty where it is good enough."""
    yaw, left, top, right, bottom = abs(face.angles[0]), *face.box
    side = max(right - left, bottom - top)
    reasons = []
    if yaw > POOR_YAW:
        reasons.append(f"the head is turned {yaw:.0f} degrees to the side (more than {POOR_YAW:g})")
    if side < POOR_SIZE:
        reasons.append(f"the face is {side:.0f} px large (less than {POOR_SIZE:g})")
    return reasons


def listed(names: Sequence[str]) -> str:
    """Names in a row, the first few of many."""
    more = len(names) - NAMED_PHOTOS
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:NAMED_PHOTOS])} and {more} more"


def _name(photo: TakenPhoto) -> str:
    """What to call a photo in metadata: the file's name without its folders, which are nobody's business."""
    return photo.path.name if isinstance(photo, PhotoFile) else "an image"
