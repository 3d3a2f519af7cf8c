"""How well a model does what it is asked, on people it was not trained on.

The judge of identity is another network than the condition (SFace, where dlib's conditions), and every estimator is
named in the result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data import shards
from facecrafter.errors import DataError, NoFaceError
from facecrafter.estimators.emotion_estimator import EmotionEstimator, estimator, estimator_for
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.identity import Recogniser, recogniser
from facecrafter.evaluation import bootstrap, words
from facecrafter.evaluation.generators import check_emotions
from facecrafter.evaluation.metrics import auc
from facecrafter.evaluation.result import RESULT, ClassAgreement, HeldoutResult, Setting, WordsResult
from facecrafter.evaluation.result_folder import png
from facecrafter.faces import landmarks
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import ALIGNED_SIZE, Face
from facecrafter.io import check_free, write_whole
from facecrafter.pipelines.devices import usable_device
from facecrafter.pipelines.settings import Settings
from facecrafter.pipelines.watermark import mark
from facecrafter.provenance import environment
from facecrafter.sampling.sampler import Sampler, pixels
from facecrafter.weights import sha256

GRID, WORDS_GRID = "grid.png", "words.png"
WORDS_SHOWN = 16  # people in the second grid
IDENTITY_SCORES = ("same", "other", "auc")
CONTROL_SCORES = (
    "yaw_error",
    "yaw_correlation",
    "pitch_error",
    "pitch_correlation",
    "blendshape_rmse",
    "emotion_agreement",
    "valence_rmse",
    "arousal_rmse",
)


@dataclass(frozen=True)
class Protocol:
    """What is generated.

    Attributes:
        identities: how many people, one photo each.
        targets: photos of other people whose pose, expression and emotion each is asked to take.
        sampling: how images are made.
        seed: chooses people and targets, and starts the pictures' seeds.
        bfloat16: let the networks compute in bfloat16, which is faster on most machines and not what `generate` does.
        settings: the conditions beside identity; the first is the one the others are compared with.
        words: how many people are asked for each emotion in words, see :mod:`facecrafter.evaluation.words`; fewer
            where fewer are held out, and 0 leaves it out.
    """

    identities: int = 100
    targets: int = 5
    sampling: Settings = Settings(batch_size=16)  # noqa: RUF009 - frozen
    seed: int = 0
    bfloat16: bool = False
    settings: tuple[tuple[str, ...], ...] = ((), ("landmark",), ("landmark", "emotion"))
    words: int = 60


@dataclass(frozen=True)
class Pairs:
    """Rows of a prepared folder: whose identity, and whose pose, for each of the P images."""

    identity: NDArray[np.int64]
    target: NDArray[np.int64]


def choose_pairs(prepared: shards.Prepared, protocol: Protocol) -> Pairs:
    """People held out of training, each with targets spread over yaw.

    Targets are photos of other held-out people, drawn evenly from the quantiles of yaw, so that turned heads are not
    outnumbered by frontal ones. Within a quantile the person is drawn first and then the photo, so that nobody counts
    for more because there are more photos of them. Where a quantile holds only the person's own photos, all are taken.

    Raises:
        DataError: fewer held-out people than asked for.
    """
    random = np.random.default_rng(protocol.seed)
    rows = np.flatnonzero(shards.held_out(prepared.persons))
    people: dict[str, list[int]] = {}
    for row in rows.tolist():
        people.setdefault(prepared.persons[row], []).append(row)
    if len(people) < max(2, protocol.identities):
        raise DataError(f"{protocol.identities} held-out people are asked for, and the folder has {len(people)}")
    chosen = random.permutation(sorted(people))[: protocol.identities]
    by_yaw = rows[np.argsort(prepared.angles[rows, 0], kind="stable")]
    strata = np.array_split(by_yaw, protocol.targets)
    identity, target = [], []
    for person in chosen.tolist():
        source = int(random.choice(people[person]))
        for stratum in strata:
            others = _others(prepared, stratum, person) or _others(prepared, rows, person)
            identity.append(source)
            target.append(int(random.choice(others[random.choice(sorted(others))])))
    return Pairs(np.array(identity), np.array(target))


def _others(prepared: shards.Prepared, rows: NDArray[np.int64], person: str) -> dict[str, list[int]]:
    """Rows of everybody else, by person."""
    found: dict[str, list[int]] = {}
    for row in rows.tolist():
        if prepared.persons[row] != person:
            found.setdefault(prepared.persons[row], []).append(row)
    return found


def generate(
    sampler: Sampler,
    prepared: shards.Prepared,
    pairs: Pairs,
    protocol: Protocol,
    conditions: Sequence[str],
    progress: bool = True,
) -> tuple[NDArray[np.uint8], float]:
    """One image a pair under some of the conditions ``landmark`` and ``emotion``; also the seconds an image took."""
    start, count = time.monotonic(), len(pairs.identity)
    images = _painted(
        sampler,
        prepared,
        pairs.identity,
        pairs.target if "landmark" in conditions else None,
        prepared.emotion[pairs.target] if "emotion" in conditions else None,
        range(protocol.seed, protocol.seed + count),
        protocol,
        "+".join(["identity", *conditions]) if progress else None,
    )
    return images, (time.monotonic() - start) / count


def _painted(
    sampler: Sampler,
    prepared: shards.Prepared,
    identity: NDArray[np.int64],
    target: NDArray[np.int64] | None,
    emotion: NDArray[np.float32] | None,
    seeds: Sequence[int],
    protocol: Protocol,
    title: str | None,
) -> NDArray[np.uint8]:
    """Images ``(P, S, S, 3)``, in batches.

    Args:
        sampler: makes them.
        prepared: the photos.
        identity: rows ``(P,)`` of the photos that give the identity.
        target: rows ``(P,)`` of those that give the landmarks, or None.
        emotion: conditions ``(P, 10)``, or None.
        seeds: P.
        protocol: says how.
        title: of the bar; None for no bar.
    """
    from tqdm import tqdm

    controls, sampling = sampler.model.controls, protocol.sampling.filled(sampler.model.scale)
    unet: Any = sampler.model.unet
    device: torch.device = unet.device
    made = []
    for first in tqdm(range(0, len(identity), sampling.batch_size), desc=title, disable=title is None):
        part = slice(first, first + sampling.batch_size)
        drawn = None
        if target is not None:
            assert controls is not None
            points, size = list(prepared.points[target[part]]), prepared.images.shape[1]
            drawn = torch.from_numpy(landmarks.drawn(points, size, controls.config.landmark_size)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=protocol.bfloat16):
            images = sampler.generate(
                torch.from_numpy(prepared.identity[identity[part]]).to(device),
                drawn,
                torch.from_numpy(emotion[part]).to(device) if emotion is not None else None,
                sampling.guidance,
                sampling.steps,
                list(seeds[part]),
                sampling.scheduler,
                speed=sampling.speed,
            )
        made.append(pixels(images))
    return np.concatenate(made)


def look(images: NDArray[np.uint8]) -> list[Face | None]:
    """The face of each image ``(P, S, S, 3)``, None where none is found."""
    faces: list[Face | None] = []
    with FaceFinder() as finder:
        for image in images:
            try:
                faces.append(finder.find(image, ALIGNED_SIZE, "centre"))
            except NoFaceError:
                faces.append(None)
    return faces


def identity_scores(
    faces: list[Face | None], sources: list[Face | None], pairs: Pairs, network: Recogniser
) -> dict[str, float | None]:
    """Cosine of outputs to their own person and to the other people, and the AUC between the two; None where there is
    no face, or no other person, to compare.

    Args:
        faces: of the outputs, one a pair.
        sources: of the identity photos, one a pair.
        pairs: the pairs.
        network: the judge.
    """
    seen = [index for index, (face, source) in enumerate(zip(faces, sources, strict=True)) if face and source]
    if not seen:
        return dict.fromkeys(IDENTITY_SCORES)
    out = network.embed([face for index in seen if (face := faces[index])])
    people, place = np.unique(pairs.identity[seen], return_inverse=True)
    first = [int(np.flatnonzero(place == index)[0]) for index in range(len(people))]
    own = network.embed([source for index in first if (source := sources[seen[index]])])
    scores = out @ own.T
    same = scores[np.arange(len(seen)), place]
    other = scores[place[:, None] != np.arange(len(people))]
    return {
        "same": float(same.mean()),
        "other": float(other.mean()) if len(other) else None,
        "auc": auc(np.asarray(same, np.float64), np.asarray(other, np.float64)) if len(other) else None,
    }


def control_scores(
    faces: list[Face | None], prepared: shards.Prepared, pairs: Pairs, emotions: EmotionEstimator | None = None
) -> dict[str, float | None]:
    """How far outputs are from their targets: yaw and pitch in degrees, blendshapes, and emotion. None over no faces,
    and for a correlation with what does not vary. Emotions are read with the given estimator, or the project's own.
    """
    seen = [index for index, face in enumerate(faces) if face]
    found = [face for face in faces if face]
    if not found:
        return dict.fromkeys(CONTROL_SCORES)
    targets = pairs.target[seen]
    angles = np.array([face.angles for face in found])
    wanted = prepared.angles[targets]
    shapes = np.array([face.blendshapes for face in found])
    perceived = (emotions or estimator()).estimate(found)
    asked = prepared.emotion[targets]
    scores: dict[str, float | None] = {}
    for axis, name in enumerate(("yaw", "pitch")):
        scores[f"{name}_error"] = float(np.abs(angles[:, axis] - wanted[:, axis]).mean())
        scores[f"{name}_correlation"] = _correlation(angles[:, axis], wanted[:, axis])
    scores["blendshape_rmse"] = float(np.sqrt(((shapes - prepared.blendshapes[targets]) ** 2).mean()))
    labels = [EMOTIONS[index] for index in asked[:, 2:].argmax(1)]
    scores["emotion_agreement"] = float(
        np.mean([emotion.label == label for emotion, label in zip(perceived, labels, strict=True)])
    )
    scores["valence_rmse"] = float(
        np.sqrt(np.mean([(e.valence - v) ** 2 for e, v in zip(perceived, asked[:, 0], strict=True)]))
    )
    scores["arousal_rmse"] = float(
        np.sqrt(np.mean([(e.arousal - a) ** 2 for e, a in zip(perceived, asked[:, 1], strict=True)]))
    )
    return scores


def emotion_by_class(
    faces: list[Face | None], prepared: shards.Prepared, pairs: Pairs, emotions: EmotionEstimator | None = None
) -> dict[str, ClassAgreement]:
    """The share of ``emotion_agreement`` for each class of the targets, since most photos are neutral or happy.

    Returns:
        Each class that a target has; the interval is a bootstrap over the people asked.
    """
    rows = [index for index, face in enumerate(faces) if face]
    asked = prepared.emotion[pairs.target[rows], 2:].argmax(1)
    found = [face for face in faces if face]
    read = [EMOTIONS.index(emotion.label) for emotion in (emotions or estimator()).estimate(found)]
    agree = asked == np.array(read, np.int64)
    people = np.array([prepared.persons[row] for row in pairs.identity[rows]], dtype=str)
    return {
        EMOTIONS[label]: ClassAgreement(
            faces=int((asked == label).sum()),
            agreement=bootstrap.mean(agree[asked == label], people[asked == label].tolist()),
        )
        for label in np.unique(asked).tolist()
    }


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """Pearson's; None where the values of one side are all the same."""
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else None


def evaluate(
    model_folder: Path,
    data: Path,
    out: Path,
    protocol: Protocol = Protocol(),
    progress: bool = True,
    controls: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    emonet: Path | None = None,
) -> HeldoutResult:
    """Measure a model on held-out people and write ``result.json``, ``grid.png`` and ``words.png`` into ``out``.

    Args:
        model_folder: a model folder.
        data: a prepared folder that holds held-out people.
        out: where the result goes.
        protocol: what to generate.
        progress: show bars.
        controls: a controls file to use in place of the model's own.
        device: where the model computes: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the best there is.
        overwrite: replace the result that is in ``out``.
        emonet: EmoNet's file, which the judge of emotion needs where the data's emotions are EmoNet's.

    Returns:
        What ``result.json`` holds.

    Raises:
        DataError: too few held-out people.
        CheckpointError: the model cannot be loaded, or the controls do not fit it.
        ConfigError: there is no such device, the protocol's sampling cannot be used, or the data's emotions are from
            another estimator than the judge, or than the model learned from.
        WeightsError: EmoNet's file cannot be used.
        OutputError: ``out`` holds a result already, or cannot be written.
    """
    from facecrafter.models.pretrained import load_folder

    check_free([out / RESULT, out / GRID, out / WORDS_GRID], overwrite)
    device = usable_device(device)
    model = load_folder(model_folder, controls).to(device)
    prepared = shards.load(data, recogniser=model.scale.recogniser)
    emotions = estimator_for(prepared.estimator, emonet, f"{data} has emotions from") if prepared.estimator else None
    check_emotions(str(model_folder), model, prepared.estimator)
    pairs = choose_pairs(prepared, protocol)
    asked = words.choose(prepared, protocol.words, protocol.seed) if protocol.words and model.controls else None
    sampler = Sampler(model)
    judge = recogniser("dlib" if model.scale.recogniser != "dlib" else "sface")
    sources = look(prepared.images[pairs.identity])
    made_with = environment(device)
    settings: dict[str, Setting] = {}
    columns = [prepared.images[pairs.identity], prepared.images[pairs.target]]
    for conditions in protocol.settings if model.controls else ((),):
        images, seconds = generate(sampler, prepared, pairs, protocol, conditions, progress)
        faces = look(images)
        settings["+".join(["identity", *conditions])] = Setting(
            images=len(images),
            face_found=float(np.mean([face is not None for face in faces])),
            seconds_an_image=seconds,
            **identity_scores(faces, sources, pairs, judge),
            **control_scores(faces, prepared, pairs, emotions),
            emotion_by_class=emotion_by_class(faces, prepared, pairs, emotions),
        )
        columns.append(images)
    by_words = sheet = None
    if asked is not None:
        by_words, sheet = in_words(sampler, prepared, asked, protocol, progress, emotions)
    result = HeldoutResult(
        environment=made_with,
        config={"data": data, **vars(protocol), "sampling": vars(protocol.sampling.filled(model.scale))},
        model=model_folder.name,
        controls=str(controls) if controls else None,
        estimators={
            "condition": model.scale.recogniser,
            "judge": judge.name,
            "pose and expression": "MediaPipe face landmarker",
            "emotion": _named(emotions or estimator()),
        },
        settings=settings,
        words=by_words,
    )
    result.write(out)
    write_whole(out / GRID, png(_grid(columns)))
    if sheet is not None:
        write_whole(out / WORDS_GRID, png(_grid(sheet, photos=1, pairs=WORDS_SHOWN, across=1)))
    return result


def in_words(
    sampler: Sampler,
    prepared: shards.Prepared,
    asked: words.WordRequests,
    protocol: Protocol,
    progress: bool = True,
    emotions: EmotionEstimator | None = None,
) -> tuple[WordsResult, list[NDArray[np.uint8]]]:
    """Each of the eight emotions asked of people in words, without and with the landmarks of a neutral photo; read with
    the given estimator, or the project's own.

    Returns:
        What was measured, and the columns of a grid: the photo, and the eight images of each setting.
    """
    network, count = emotions or estimator(), len(asked.identity)
    people = [prepared.persons[row] for row in asked.identity]
    settings = {}
    columns = [prepared.images[asked.identity]]
    for name, target in ((words.WORDS_ONLY, None), (words.NEUTRAL_TARGET, asked.neutral)):
        images = _painted(
            sampler,
            prepared,
            np.repeat(asked.identity, len(EMOTIONS)),
            np.repeat(target, len(EMOTIONS)) if target is not None else None,
            np.tile(words.VECTORS, (count, 1)),
            np.repeat(np.arange(protocol.seed, protocol.seed + count), len(EMOTIONS)).tolist(),
            protocol,
            name if progress else None,
        )
        faces = look(images)
        read = np.full((len(faces), len(EMOTIONS)), np.nan)
        found = [index for index, face in enumerate(faces) if face]
        if found:
            read[found] = [e.probabilities for e in network.estimate([face for face in faces if face])]
        settings[name] = words.scores(read.reshape(count, len(EMOTIONS), -1), people)
        columns += list(images.reshape(count, len(EMOTIONS), *images.shape[1:]).swapaxes(0, 1))
    return WordsResult(people=count, estimator=_named(network), settings=settings), columns


def _named(network: EmotionEstimator) -> str:
    """An estimator's name with the first digits of its weights' hash, so that results of two are never confused."""
    return f"{network.name} ({sha256(network.path)[:8]})"


def _grid(columns: list[NDArray[np.uint8]], photos: int = 2, pairs: int = 64, across: int = 4) -> NDArray[np.uint8]:
    """Evenly chosen pairs, ``across`` of them side by side: columns of photos, then of generated images, which get the
    watermark here. Photos take their size, and what is left of the last row is white.
    """
    count, size = len(columns[0]), columns[-1].shape[1]
    chosen = np.linspace(0, count - 1, min(pairs, count)).astype(int)
    strips = [
        np.concatenate(
            [_resized(column[row], size) for column in columns[:photos]]
            + [mark(column[row]) for column in columns[photos:]],
            axis=1,
        )
        for row in chosen
    ]
    strips += [np.full_like(strips[0], 255)] * (-len(strips) % across)
    lines = [np.concatenate(strips[first : first + across], axis=1) for first in range(0, len(strips), across)]
    return np.concatenate(lines)


def _resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
