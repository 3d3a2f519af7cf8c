"""A photo in, images out: perception, model and sampler behind one class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import ConfigError
from facecrafter.faces.asked import Asked, Numbers, Pose, acting_through, asked_of, doubts
from facecrafter.faces.emotion import Emotion, emotion_of
from facecrafter.faces.face import Choice, Pick
from facecrafter.faces.followed import Following, measured, unfollowed
from facecrafter.faces.gain import Gain
from facecrafter.faces.gain import load as load_gain
from facecrafter.faces.landmarks import check_landmarks, is_landmarks
from facecrafter.faces.photo_file import Photo, check_faces, photos_of, taken
from facecrafter.faces.rig import load
from facecrafter.pipelines.devices import check_bfloat16, usable_device
from facecrafter.pipelines.generator import FaceCrafterGenerator
from facecrafter.pipelines.images import signed
from facecrafter.pipelines.moving import moved, seeded, with_drawn
from facecrafter.pipelines.reading import PhotoReader
from facecrafter.pipelines.report import Measurer, best_key, rendered
from facecrafter.pipelines.settings import Settings, ineffective
from facecrafter.request import Portrait, Progress, Request, check_seeds, portrait_of

if TYPE_CHECKING:
    from facecrafter.models.checkpoint import FaceModel

Identity = Photo | Sequence[Photo] | NDArray[np.float32]


class FaceCrafter(PhotoReader):
    """Generates faces of a person from photos.

    Args:
        model: a whole model; see :meth:`from_pretrained` for the usual way.
        name: what the images' metadata calls it.
        choose: which of several faces in a photo is meant.
        arcface: the path of ``arcface.onnx``, which the arc2face scale needs.
        emonet: EmoNet's file, for a model that learned emotions from it.
        gain: how far it turns heads; None where that was not measured.

    Attributes:
        generator: makes images of requests whose photos have been read, without metadata and watermark.
        following: how well it was measured to follow each control by numbers; of the shipped model alone.

    Raises:
        ConfigError: the model learned emotions from another estimator than the given one.
        WeightsError: EmoNet's file cannot be used.
    """

    def __init__(
        self,
        model: FaceModel,
        name: str = "",
        choose: Choice = "largest",
        arcface: Path | None = None,
        emonet: Path | None = None,
        gain: Gain | None = None,
    ) -> None:
        learned = None if model.controls is None else model.controls.config.emotion_estimator
        super().__init__(model.scale.recogniser, learned, choose, arcface, emonet)
        self.model, self.name, self.gain = model, name or model.scale.name, gain
        self.following: Mapping[str, Following] = {}
        self.generator = FaceCrafterGenerator(model, self.name)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "mini",
        device: str = "auto",
        controls: str | os.PathLike[str] | None = None,
        choose: Choice = "largest",
        weights: str | os.PathLike[str] | None = None,
        bfloat16: bool = False,
        emonet: str | os.PathLike[str] | None = None,
    ) -> FaceCrafter:
        """Load a model.

        Args:
            model: ``mini``, which comes with the package, ``arc2face``, or a folder that training wrote. A folder of
                the arc2face scale also holds the recogniser's file, ``arcface.onnx``, unless ``weights`` has it.
            device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the best there is.
            controls: a controls file to use in place of the model's own.
            choose: which of several faces in a photo is meant, the ``largest`` or the one nearest to the ``centre``.
            weights: the folder of Arc2Face's published files (docs/arc2face.md), for ``arc2face``.
            bfloat16: compute in bfloat16, which takes half the memory and mostly less time, and is a little less exact.
            emonet: EmoNet's file, which a model that learned emotions from it needs to read a photo's emotion.

        Raises:
            CheckpointError: the model is missing, it or its gain is damaged, or the controls do not fit it.
            ConfigError: there is no such device, it does not compute in bfloat16, or the model and ``weights`` or
                ``emonet`` do not belong together.
            WeightsError: EmoNet's file cannot be used.
        """
        import torch

        from facecrafter.models.pretrained import folder_of, open_model

        published, place = None if weights is None else Path(weights), usable_device(device)
        if place.startswith("meta"):
            raise ConfigError("the device 'meta' computes nothing; try cpu, or leave it out")
        if bfloat16:
            check_bfloat16(place)
        loaded, arcface = open_model(model, published, None if controls is None else Path(controls))
        precision = torch.bfloat16 if bfloat16 else torch.float32
        placed = loaded.to(place, precision, memory_format=torch.channels_last)
        # Other controls follow otherwise.
        gain = load_gain(folder_of(model, published)) if controls is None else None
        reads = None if emonet is None else Path(emonet)
        crafter = cls(placed, _model_name(Path(model)), choose, arcface, reads, gain)
        crafter.following = measured() if str(model) == "mini" and controls is None else {}
        return crafter

    @cached_property
    def digest(self) -> str:
        """What tells this model from every other: 16 digits of a hash of its weights as they are computed with."""
        from facecrafter.models.checkpoint import digest

        return digest(self.model.modules.values(), {"scale": self.model.scale.name})

    def key(self, request: Request) -> str:
        """What tells a request's image from every other: 16 digits of a hash of the request, the model in its
        precision, and which face of a photo is meant.
        """
        emotion = request.conditions.get("emotion")
        read_by = f" {self._estimator.name}" if self._emonet is not None and emotion and emotion.photos else ""
        content = f"{request.digest} {self.digest} {self.choose!s}{read_by}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def request(
        self,
        identity: Identity,
        target: Photo | None = None,
        landmarks_from: Photo | NDArray[np.float32] | None = None,
        emotion_from: Photo | None = None,
        emotion: Emotion | Mapping[str, float] | str | None = None,
        valence: float | None = None,
        arousal: float | None = None,
        seed: int = 0,
        settings: Settings = Settings(),
        face: Pick | None = None,
        target_face: Pick | None = None,
        asked: Asked | None = None,
        emotion_through: str | None = None,
        strict: bool = False,
        free: bool = True,
    ) -> Request:
        """A request to this model; no face is read yet. The arguments are those of :meth:`generate`, and ``asked`` is
        what :func:`facecrafter.faces.asked.asked_of` makes of its numbers.

        Without conditions it is the identity alone, as tables and evaluations ask for it, unless ``free`` is False.

        Raises:
            PhotoError: a photo that is no file that can be read.
            ConfigError: a value out of its range, a condition given twice, or one that the model has no control for.
        """
        from facecrafter.sampling.sampler import check_conditions

        feeling = emotion_of(emotion, valence, arousal)
        if feeling is not None and emotion_from is not None:
            raise ConfigError("an emotion is given as a photo and also in words or numbers; give it one way")
        if target is not None and landmarks_from is not None and not (feeling is None and emotion_from is None):
            self._note("the target has no effect: its landmarks and its emotion are both replaced")
        person = _identity(identity, face)
        through = acting_through(
            emotion_through, feeling, asked is None and not (target is None and landmarks_from is None)
        )
        if through != "module":
            asked = replace(asked or Asked(), emotion=feeling)
        whole = None if target is None else Portrait(photos=(taken(target),), face=target_face)
        shape = whole
        if is_landmarks(landmarks_from):
            check_landmarks(landmarks_from)
            shape = Portrait(points=landmarks_from)
        elif landmarks_from is not None:
            shape = Portrait(photos=(taken(cast(Photo, landmarks_from)),), face=target_face)
        mood = whole
        if feeling is not None:
            mood = portrait_of(feeling) if through != "landmarks" else None
        elif emotion_from is not None:
            mood = Portrait(photos=(taken(emotion_from),), face=target_face)
        targets = [one.photos[0] for one in (shape, mood) if one and one.photos]
        check_faces(None, 0, target_face, len({getattr(one, "sha256", id(one)) for one in targets}))
        described: dict[str, str] = {}
        if asked is not None:
            shape, described = self._by_numbers_of(shape or person, asked, strict, feeling)
        conditions = {name: one for name, one in (("landmark", shape), ("emotion", mood)) if one is not None}
        check_conditions(self.model, conditions)
        alone = not conditions
        if alone:
            described["pose and expression"] = "left to the model"
        request = Request(person, conditions, seed, settings.filled(self.model.scale), described)
        if alone and not free and self.model.controls is not None:
            request = with_drawn(request)
        for text in ineffective(settings, request.conditions, self.model.scale):
            self._note(text)
        return request

    def _by_numbers_of(
        self, face: Portrait, asked: Asked, strict: bool, emotion: Emotion | None
    ) -> tuple[Portrait, dict[str, str]]:
        """Landmarks by numbers of a face: of its photos, which are read later, or of its landmarks; where it has
        neither, of the mean face. With them, what to say of what is not read later.

        Raises:
            ConfigError: with ``strict``, something that will not be followed.
        """
        asked = replace(asked, gain=self.gain)
        for text in (*doubts(asked, load(), emotion), *unfollowed(asked, self.following, self.name)):
            if strict:
                raise ConfigError(f"{text}; leave it out, or ask without strict")
            self._note(text)
        if face.photos:
            return Portrait(photos=face.photos, face=face.face, asked=asked), {}
        found = moved([face.points] if face.points.size else [], asked, load())
        source = "landmarks" if face.points.size else "the mean face"
        words = {"landmarks": f"{source}, by numbers", **found.described()}
        return found.portrait(), words

    def conditions(
        self,
        identity: Identity,
        target: Photo | None = None,
        landmarks_from: Photo | NDArray[np.float32] | None = None,
        emotion_from: Photo | None = None,
        emotion: Emotion | Mapping[str, float] | str | None = None,
        **others: Any,
    ) -> Request:
        """What :meth:`request` gives, with its photos read."""
        return self.read(self.request(identity, target, landmarks_from, emotion_from, emotion, **others))

    def generate(
        self,
        identity: Photo | Sequence[Photo] | NDArray[np.float32],
        target: Photo | None = None,
        *,
        landmarks_from: Photo | NDArray[np.float32] | None = None,
        emotion_from: Photo | None = None,
        emotion: Emotion | Mapping[str, float] | str | None = None,
        valence: float | None = None,
        arousal: float | None = None,
        identity_scale: float | None = None,
        landmark_scale: float | None = None,
        emotion_scale: float | None = None,
        n: int = 4,
        seed: int = 0,
        steps: int | None = None,
        scheduler: str | None = None,
        batch_size: int = 8,
        speed: str | None = None,
        progress: Progress | None = None,
        face: Pick | None = None,
        target_face: Pick | None = None,
        pose: Pose | Mapping[str, float] | None = None,
        expression: Numbers | None = None,
        preset: str | None = None,
        relative: bool = False,
        keep_expression: bool = False,
        presets: str | os.PathLike[str] | None = None,
        emotion_through: str | None = None,
        strict: bool = False,
        free: bool = False,
        best_of: int = 1,
        report: bool = False,
    ) -> list[Image.Image]:
        """Images of a person. Photos are paths, PIL images, or ``(H, W, 3)`` uint8 RGB.

        Args:
            identity: one photo, a list of photos of one person, a folder of them, or an embedding ``(D,)`` from
                :meth:`person`.
            target: a photo whose pose, expression and emotion to take; each of the next three replaces its part.
            landmarks_from: a photo whose pose and expression to take, or landmarks ``(478, 2 or 3)`` in pixels of a
                256 px aligned image, say ``crafter.face(photo).points``.
            emotion_from: a photo whose emotion to take.
            emotion: one in words, ``{"happy": 0.8, "surprise": 0.2}`` or ``"happy:0.8,surprise:0.2"``; what is missing
                to 1 is neutral.
            valence, arousal: an emotion as a point of the plane, each in [-1, 1]; both are needed.
            identity_scale, landmark_scale, emotion_scale, steps, scheduler, batch_size, speed: see :class:`Settings`.
            n: how many.
            seed: of the first; the others follow it.
            progress: called with the number of images' worth of work done, after every step.
            face, target_face: which of several faces in the photo of the identity, and in that of the target, as
                :meth:`face` takes it; only where it is one photo.
            pose: where the head looks; straight ahead where only an expression is asked for. Of ``{"pitch": 10}`` the
                other angles are the preset's, or 0.
            expression: blendshapes in [0, 1], ``{"jawOpen": 0.6, "mouthSmile": 0.5}`` or ``"jawOpen=0.6"``, on the
                person's own neutral face; a name without its side means both.
            preset: a pose and an expression by name; ``presets`` is a YAML file of more.
            relative: add pose and expression to the photo's own.
            keep_expression: start from the photo's own expression, and replace what is named.
            emotion_through: what an emotion in words or as a point moves: ``landmarks``, the emotion ``module``'s
                tokens, or ``both``.
            strict: refuse what would not be followed, in place of a note.
            free: leave pose and expression to the model where nothing but the identity is given. Otherwise each seed
                draws those of a photo of the training, for the person's own face: the images are better so.
            best_of: make so many of each image, and keep the one that is closest to what was asked, among those that
                are no less like the person than the first.
            report: measure each image; ``image.info["facecrafter"]["report"]`` has what was asked, what the landmarks
                have of it (``rig``), what the image shows (``got``), and its identity to the photo.

        Returns:
            ``n`` images, invisibly marked; ``image.info["facecrafter"]`` says how each was made, and
            :func:`facecrafter.pipelines.images.save` writes that into its file.

        Raises:
            PhotoError, NoFaceError: a photo that cannot be read or shows no face.
            ConfigError: a value out of its range, or a condition given twice.
        """
        check_seeds(seed, n)
        settings = Settings(identity_scale, landmark_scale, emotion_scale, steps, scheduler, batch_size, speed)
        first = self.request(
            identity,
            target,
            landmarks_from,
            emotion_from,
            emotion,
            valence=valence,
            arousal=arousal,
            settings=settings,
            face=face,
            target_face=target_face,
            asked=asked_of(
                pose, expression, preset, relative, keep_expression, None if presets is None else Path(presets)
            ),
            emotion_through=emotion_through,
            strict=strict,
            free=free,
        )
        if free and first.conditions:
            raise ConfigError("free has no effect where a pose, an expression or an emotion is asked; leave it out")
        asked_for = [seeded(first, seed + number) for number in range(n)]
        requests = [self.read(one) for one in asked_for]
        made = dict(rendered(self, requests, best_of, progress))
        for index, image in made.items():
            image.info["facecrafter"]["key"] = best_key(self.key(asked_for[index]), best_of)
            if report:
                measured = self.measurer.report(requests[index], np.asarray(image))
                image.info["facecrafter"]["report"] = measured.data()
        return [made[index] for index in range(n)]

    def render(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> Iterator[tuple[int, Image.Image]]:
        """Images of requests whose photos have been read, marked and with how they were made.

        Args:
            requests: from :meth:`conditions` or :meth:`read`.
            progress: see :meth:`generate`.

        Yields:
            The number of a request and its image, as each batch is done.

        Raises:
            ConfigError: see :meth:`facecrafter.pipelines.generator.FaceCrafterGenerator.generate`.
        """
        precision = str(self.model.unet.dtype).removeprefix("torch.")
        for index, image in self.generator.generate(requests, progress):
            yield index, signed(image, self._made(requests[index], precision))

    @cached_property
    def measurer(self) -> Measurer:
        """Measures its images."""
        return Measurer(self)

    def _made(self, request: Request, precision: str) -> dict[str, Any]:
        """How an image was made."""
        settings = (request.settings or self.generator.settings).described()
        made: dict[str, Any] = {"model": self.name, "scale": self.model.scale.name, **request.described}
        return {**made, **settings, "precision": precision, "seed": request.seed}


def _identity(identity: Identity, face: Pick | None) -> Portrait:
    """An identity given in any way."""
    if isinstance(identity, np.ndarray) and identity.ndim == 1:
        check_faces(face, 0, None, 0)
        length = float(np.linalg.norm(identity))
        if not 0 < length < np.inf:
            raise ConfigError("the identity embedding has no direction: it is zero or not finite")
        return Portrait(embedding=np.asarray(identity / length, np.float32))
    photos = photos_of(cast(Sequence[Photo], identity if isinstance(identity, list | tuple) else [identity]))
    check_faces(face, len(photos), None, 0)
    return Portrait(photos=photos, face=face)


def _model_name(folder: Path) -> str:
    """What metadata call a model: its folder, and that of the run, all of which call their result ``model``."""
    own = folder.name
    return f"{folder.parent.name}/{own}" if own == "model" and folder.parent.name else own
