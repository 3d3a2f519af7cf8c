"""A change of w for an emotion, learned by gradients through the generator.

Regressions know an emotion as far as the generator's people show it, and of fear, contempt and rage they show next to
nothing. So what those directions lack is learned: one change for all people, which makes the emotion estimator read the
emotion off their images while a recogniser still knows them. It is 512 numbers for thousands of images; to fool the
estimator by noise, as images that are optimised one by one do, it would take more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from facecrafter.data.synthesis.directions import EDITED_STYLES, KEPT, POSE, Directions
from facecrafter.data.synthesis.generator import SIZES, STYLES, WIDTH
from facecrafter.data.synthesis.people import EXPRESSIONS, Maker
from facecrafter.data.synthesis.readings import Array
from facecrafter.estimators.differentiable import differentiable
from facecrafter.estimators.emotion import SIZE, crop_frame
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import ALIGNED_SIZE

# What regressions do not reach. The others are read off three of four images without.
LEARNED = ("fear", "contempt", "anger", "disgust", "sad")
PEOPLE, STEPS, BATCH = 40, 40, 4
RATE = 0.05  # of Adam, in units of w
STRENGTHS = (0.6, 1.2)  # drawn for each image, so that the change serves faint and strong expressions
ENOUGH = 0.62  # SFace cosine to the plain image above which identity costs nothing
IDENTITY, SHORT = 6.0, 0.003  # weights of what is missing to that cosine, and of the change's squared length
CAP = 6.0  # of an image's cross-entropy: images that are far from the emotion do not outweigh the rest
JITTER = (0.06, 0.03)  # of the crop's side and middle, as shares of the side, so that no pixel counts by itself

_SIDE = SIZES[0]
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Person:
    """Somebody to learn on.

    Attributes:
        style: w ``(512,)`` of the plain image.
        points: its landmarks ``(478, 2)`` in pixels of the generator's 512 px image. That image is framed as FFHQ's
            are, and so as faces are aligned here, within a few pixels.
        sface: its embedding ``(128,)``.
    """

    style: Array
    points: Array
    sface: NDArray[np.float32]


Shown = Callable[[Iterator[int], int], Iterator[int]]


def _plain(items: Iterator[int], total: int) -> Iterator[int]:
    return items


def somebody(maker: Maker, count: int, seed: int = 0) -> list[Person]:
    """People whose plain images are not refused."""
    found: list[Person] = []
    number = 0
    while len(found) < count:
        style = maker.style(np.random.default_rng([seed, number]))
        plain = maker.image(style)
        number += 1
        if plain is not None and not maker.refusal(plain):
            points = plain.face.points[:, :2].astype(np.float64) * (_SIDE / ALIGNED_SIZE)
            found.append(Person(style, points, plain.sface))
    return found


def learn(
    maker: Maker,
    emotion: str,
    people: Sequence[Person],
    steps: Iterable[object] = range(STEPS),
    seed: int = 0,
) -> Array:
    """The change of w ``(512,)`` that an emotion needs beside :meth:`Directions.move` at strength 1.

    Args:
        maker: makes the images; of its directions the linear part is used.
        emotion: one of :data:`EMOTIONS`.
        people: to learn on.
        steps: of Adam, on :data:`BATCH` people each.
        seed: of the draws.
    """
    directions, random = maker.directions, np.random.default_rng(seed)
    recogniser, crop = differentiable("sface")
    network, place = maker.reader.estimator.network, EMOTIONS.index(emotion)
    linear = np.stack([directions.move(one.style, EXPRESSIONS[emotion]) for one in people])
    keeping = _keeping(directions)
    learned = torch.zeros(WIDTH, requires_grad=True)
    optimiser = torch.optim.Adam([learned], RATE, betas=(0.9, 0.95))
    for _ in steps:
        chosen = random.choice(len(people), BATCH, replace=len(people) < BATCH)
        batch = [people[index] for index in chosen]
        strength = torch.from_numpy(random.uniform(*STRENGTHS, (BATCH, 1))).float()
        change = keeping @ learned
        images = _images(maker, batch, strength * (torch.from_numpy(linear[chosen]).float() + change))
        grids = torch.from_numpy(np.stack([crop_grid(one.points, random.normal(size=3)) for one in batch]))
        crops = emotion_crops(images, grids)
        scores = (network(crops) + network(crops.flip(3))) / 2
        faces = torch.from_numpy(np.stack([crop.grid(crop.points(_flat(one.points)), _SIDE) for one in batch]))
        embeddings = recogniser(crop.cut((images + 1) * 127.5, faces))
        known = (embeddings * torch.from_numpy(np.stack([one.sface for one in batch]))).sum(1)
        optimiser.zero_grad()
        loss(scores, place, known, change).backward()
        optimiser.step()
    return np.asarray((keeping @ learned).detach().double().numpy())


def with_learned(maker: Maker, directions: Directions, steps: int = STEPS, progress: Shown = _plain) -> Directions:
    """Directions whose learned changes are learned again, for each of :data:`LEARNED`.

    Args:
        maker: makes the images, from now on with these directions.
        directions: whose linear part is kept.
        steps: an emotion.
        progress: shows a count of all steps.
    """
    maker.directions = directions
    people = somebody(maker, PEOPLE)
    count = len(LEARNED) * steps
    ahead = iter(progress(iter(range(count)), count))
    learned = {emotion: learn(maker, emotion, people, islice(ahead, steps)) for emotion in LEARNED}
    about = {**directions.about, "learned": {"people": PEOPLE, "steps": steps, "batch": BATCH, "rate": RATE}}
    return replace(directions, learned=learned, about=about)


def loss(scores: Tensor, place: int, cosines: Tensor, change: Tensor) -> Tensor:
    """Cross-entropy of the emotion among eight that are equally common, what is missing to the person, and length.

    Args:
        scores: of the emotions ``(B, 8)``, without a prior.
        place: of the emotion that is wanted.
        cosines: to the plain images, ``(B,)``.
        change: ``(512,)``.
    """
    surprise = -torch.log_softmax(scores, dim=1)[:, place]
    return (surprise.clamp(max=CAP) + IDENTITY * F.relu(ENOUGH - cosines)).mean() + SHORT * change @ change


def crop_grid(points: Array, jitter: Sequence[float] | Array = (0.0, 0.0, 0.0)) -> NDArray[np.float32]:
    """Where :func:`facecrafter.estimators.emotion.tight_crop` reads an image, as the ``(2, 3)`` matrix for
    :func:`torch.nn.functional.affine_grid`.

    Args:
        points: ``(478, 2)`` in pixels of a 512 px image.
        jitter: of the side, and of the middle's x and y, in units of :data:`JITTER`.
    """
    middle, side = crop_frame(points)
    side *= 1 + JITTER[0] * jitter[0]
    middle = middle + JITTER[1] * side * np.asarray(jitter[1:])
    x, y = 2 * middle / _SIDE - 1
    return np.array([[side / _SIDE, 0, x], [0, side / _SIDE, y]], np.float32)


def emotion_crops(images: Tensor, grids: Tensor) -> Tensor:
    """What the emotion estimator reads of images ``(B, 3, 512, 512)`` in [-1, 1]: ``(B, 1, 48, 48)`` in [0, 1]."""
    grey = (images * images.new_tensor(_GREY)[None, :, None, None]).sum(1, keepdim=True)
    times = 6  # a face of 288 px is about what the generator's images have
    shape = [len(images), 1, times * SIZE, times * SIZE]
    grid = F.affine_grid(grids, shape, align_corners=False)
    crops = F.grid_sample(grey, grid, padding_mode="border", align_corners=False)
    return (F.avg_pool2d(crops, times) + 1) / 2


def _images(maker: Maker, people: Sequence[Person], changes: Tensor) -> Tensor:
    styles = torch.from_numpy(np.stack([one.style for one in people])).float()[:, None].expand(-1, STYLES, -1)
    moved = torch.cat([styles[:, :EDITED_STYLES] + changes[:, None], styles[:, EDITED_STYLES:]], dim=1)
    images: Tensor = maker.generator.synthesis(moved, _SIDE)
    return images.clamp(-1, 1)


def _keeping(directions: Directions) -> Tensor:
    """The projection ``(512, 512)`` of a change of w on what moves neither pose, skin, beard, glasses, age nor sex."""
    rows = torch.from_numpy(directions.readers[[directions.names.index(name) for name in (*POSE, *KEPT)]]).float()
    return torch.eye(WIDTH) - rows.T @ torch.linalg.solve(rows @ rows.T, rows)


def _flat(points: Array) -> NDArray[np.float32]:
    return np.pad(points, ((0, 0), (0, 1))).astype(np.float32)
