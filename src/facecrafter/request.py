"""From a wish to images: what was read of a face, what one image is asked to be, and what makes images of that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import ConfigError
from facecrafter.faces.asked import Asked
from facecrafter.faces.emotion import Emotion
from facecrafter.faces.face import ALIGNED_SIZE, Pick
from facecrafter.faces.photo_file import PhotoFile, TakenPhoto
from facecrafter.faces.rig import load

if TYPE_CHECKING:
    from facecrafter.data.shards import Prepared
    from facecrafter.pipelines.settings import FilledSettings

Progress = Callable[[float], object]

# Digits of an emotion that count: what is beyond them may differ from one machine's arithmetic to the next.
DECIMALS = 6
# What generators read of a portrait, by what it is asked for. Of a control that is not named here it is everything.
READINGS = {
    "identity": ("image", "points", "embedding"),
    "landmark": ("image", "points", "blendshapes", "angles"),
    "emotion": ("image", "emotion"),
}


def _unread() -> NDArray[Any]:
    return np.empty(0, np.float32)


@dataclass(frozen=True, eq=False)
class Portrait:
    """What was read of one face. An array that was not read is empty.

    A portrait may be no more than its photos: they are read when an image is made from it, so that a run that is
    repeated does not read the photos of images that are there.

    Attributes:
        name: whose photo it is.
        file: the photo's path inside its data set.
        image: ``(S, S, 3)`` uint8 RGB, aligned.
        points: ``(478, 2 or 3)`` float32 landmarks in pixels of an aligned image.
        size: side of that image in pixels.
        blendshapes: ``(52,)`` float32 in [0, 1].
        angles: ``(3,)`` float32 yaw, pitch and roll in degrees.
        embedding: ``(D,)`` float32 of unit length, by the recogniser that conditions the generators.
        emotion: ``(10,)`` valence, arousal, eight probabilities.
        photos: what it is read from, of one person: files, or ``(H, W, 3)`` uint8 RGB.
        face: which face of the photo, where that is not for the generator to choose.
        asked: a pose and an expression by numbers, which the landmarks of the photos are brought to.
    """

    name: str = ""
    file: str = ""
    image: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    points: NDArray[np.float32] = field(default_factory=_unread)
    size: int = ALIGNED_SIZE
    blendshapes: NDArray[np.float32] = field(default_factory=_unread)
    angles: NDArray[np.float32] = field(default_factory=_unread)
    embedding: NDArray[np.float32] = field(default_factory=_unread)
    emotion: NDArray[np.floating] = field(default_factory=_unread)
    photos: tuple[TakenPhoto, ...] = ()
    face: Pick | None = None
    asked: Asked | None = None

    @classmethod
    def of(cls, prepared: Prepared, row: int) -> Portrait:
        """A row of a prepared folder."""
        return cls(
            name=prepared.persons[row],
            file=prepared.files[row],
            image=prepared.images[row],
            points=prepared.points[row],
            size=prepared.images.shape[1],
            blendshapes=prepared.blendshapes[row],
            angles=prepared.angles[row],
            embedding=prepared.identity[row],
            emotion=prepared.emotion[row],
        )

    @property
    def files(self) -> tuple[PhotoFile, ...]:
        """Those of its photos that are files."""
        return tuple(photo for photo in self.photos if isinstance(photo, PhotoFile))

    def content(self, kind: str) -> Any:
        """What an image depends on where this portrait is asked for, for JSON.

        Args:
            kind: ``identity``, or a control's name.
        """
        if self.photos:
            return [photo.sha256 if isinstance(photo, PhotoFile) else _hash_array(photo) for photo in self.photos]
        if kind == "emotion":  # + 0.0: a negative zero is the same emotion
            return [round(number, DECIMALS) + 0.0 for number in self.emotion.tolist()]
        return [_hash_array(getattr(self, name)) for name in _readings(kind)]


def portrait_of(emotion: Emotion) -> Portrait:
    """A portrait that is nothing but an emotion, to all digits: a request's digest is of them."""
    return Portrait(emotion=np.array([emotion.valence, emotion.arousal, *emotion.probabilities]))


def _readings(kind: str) -> tuple[str, ...]:
    every = ("image", "points", "blendshapes", "angles", "embedding", "emotion")
    return READINGS.get(kind, every)


@dataclass(frozen=True, eq=False)
class Request:
    """One image: an identity, conditions, and how and from which noise it is made.

    Attributes:
        identity: who.
        conditions: by the control's name, whose pose and expression (``landmark``) or emotion (``emotion``) it takes; a
            control that is not named leaves its part free.
        seed: of the starting noise, in [0, 2^63).
        settings: the scales of Eq. 6 and how to sample; None for the generator's own. The batch size is no part of what
            an image is.
        described: where identity and conditions came from, in words, for the image's metadata.

    Raises:
        ConfigError: the seed is out of range.
    """

    identity: Portrait
    conditions: Mapping[str, Portrait] = field(default_factory=dict)
    seed: int = 0
    settings: FilledSettings | None = None
    described: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_seeds(self.seed)
        object.__setattr__(self, "seed", int(self.seed))  # of NumPy it would not be JSON

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def files(self) -> tuple[PhotoFile, ...]:
        """Every photo file that it depends on."""
        return tuple(file for one in (self.identity, *self.conditions.values()) for file in one.files)

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits of a hash of its content: equal digests ask for the same image, wherever photos lie.

        A request of photos is known by the photos, and stays so when they are read; another one by what was read.
        """
        settings = self.settings and self.settings.described()
        if any(one.photos for one in (self.identity, *self.conditions.values())):
            return _hash({**self._conditions, "settings": settings, "seed": self.seed})
        key = hashlib.sha256(str(self.seed).encode())
        controls = [name for name in READINGS if name != "identity"]
        controls += sorted(self.conditions.keys() - set(controls))
        for kind, portrait in (("identity", self.identity), *((name, self.conditions.get(name)) for name in controls)):
            for name in _readings(kind) if portrait else ("nothing",):
                value = np.ascontiguousarray(getattr(portrait, name, ()))
                key.update(f"{name} {value.dtype} {value.shape}".encode())
                key.update(value.tobytes())
        if settings:
            key.update(json.dumps(settings, sort_keys=True).encode())
        return key.hexdigest()

    def own_seed(self, first: int, occurrence: int = 0) -> int:
        """The seed that follows from the identity and the conditions, in [0, 2^32).

        It does not depend on where in a table a request stands, nor on the settings, so that the same face can be
        compared at several scales.

        Args:
            first: another number gives all requests other seeds.
            occurrence: tells requests for the same identity and conditions apart, from 0.
        """
        return int(_hash({**self._conditions, "first": first, "occurrence": occurrence})[:8], 16)

    @property
    def _conditions(self) -> dict[str, Any]:
        """The content of identity and conditions. Its keys are those that images of earlier versions are known by."""
        content: dict[str, Any] = {"landmarks from": None, "emotion from": None, "emotion": None}
        for kind, portrait in self.conditions.items():
            own = portrait.content(kind)
            if portrait.photos:
                content["landmarks from" if kind == "landmark" else f"{kind} from"] = own[0]
            else:
                content[kind] = own
            if portrait.asked is not None and portrait.photos:
                content[f"{kind} asked"] = {**portrait.asked.content(), "of": own, "rig": load().digest}
            if portrait.face is not None:
                content["target face"] = portrait.face
        if self.identity.face is not None:
            content["face"] = self.identity.face
        return {**content, "identity": self.identity.content("identity")}


class Generator(Protocol):
    """Makes images of requests: the project's model, a baseline, or a folder of images that were made elsewhere."""

    @property
    def name(self) -> str:
        """What a table calls it."""
        ...

    @property
    def extra_parameters(self) -> int:
        """How many it has beside the base model that generates a person."""
        ...

    @property
    def key(self) -> str:
        """A digest of the weights and settings; images made under one key are the same."""
        ...

    @property
    def size(self) -> int:
        """Side of its images in pixels."""
        ...

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Make images, in batches of the generator's own choosing. What it cannot read of a request it ignores.

        Args:
            requests: whose portraits have been read.
            progress: called with the number of images' worth of work done.

        Yields:
            The number of a request and its image ``(S, S, 3)`` uint8 RGB, each once and in any order. An image depends
            on its own request, not on its neighbours.

        Raises:
            FaceCrafterError: one sentence on what is missing.
        """
        ...


def images_of(generator: Generator, requests: Sequence[Request], progress: Progress | None = None) -> NDArray[np.uint8]:
    """All images of some requests in their order, ``(B, S, S, 3)`` uint8 RGB."""
    images = np.empty((len(requests), generator.size, generator.size, 3), np.uint8)
    for index, image in generator.generate(requests, progress):
        images[index] = image
    return images


def batches(requests: Sequence[Request], size: int, kind: Callable[[Request], Hashable]) -> Iterator[list[int]]:
    """The numbers of requests in batches of at most ``size``, in each of which all are of one kind."""
    kinds: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        kinds.setdefault(kind(request), []).append(index)
    for alike in kinds.values():
        yield from (alike[first : first + size] for first in range(0, len(alike), size))


def check_seeds(first: int, count: int = 1) -> None:
    """Refuse what cannot be the seeds of ``count`` images, from ``first`` on.

    Raises:
        ConfigError: no images, or a seed that is negative or above 2^63 - 1.
    """
    if not _is_whole(count) or count < 1:
        raise ConfigError(f"the number of images must be a whole number of at least 1, not {count!r}")
    if not _is_whole(first):
        raise ConfigError(f"a seed must be a whole number from 0 to 2^63 - 1, not {first!r}")
    for seed in (first, first + count - 1):
        if not 0 <= seed < 2**63:
            raise ConfigError(f"a seed must be between 0 and 2^63 - 1, not {seed}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_array(array: NDArray[Any]) -> str:
    value = np.ascontiguousarray(array)
    return hashlib.sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes()).hexdigest()
