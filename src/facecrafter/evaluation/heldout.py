"""How well a model does what it is asked, on people it was not trained on.

The judge of identity is another network than the condition (SFace, where dlib's conditions), and every estimator is
named in the result.
"""

from __future__ import annotations

import json
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
from facecrafter.environment import environment
from facecrafter.errors import DataError, NoFaceError
from facecrafter.evaluation.results import RESULT, png
from facecrafter.files import check_free, write_whole
from facecrafter.perception import landmarks
from facecrafter.perception.emotion import EMOTIONS, estimator
from facecrafter.perception.face import ALIGNED_SIZE, Face, FaceFinder
from facecrafter.perception.identity import Recogniser, recogniser
from facecrafter.sampling.pipeline import Settings, usable_device
from facecrafter.sampling.sampler import Sampler, pixels

GRID = "grid.png"
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
        sampling: how pictures are made.
        seed: chooses people and targets, and starts the pictures' seeds.
        bfloat16: let the networks compute in bfloat16, which is faster on most machines and not what `generate` does.
        settings: the conditions beside identity; the first is the one the others are compared with.
    """

    identities: int = 100
    targets: int = 5
    sampling: Settings = Settings(batch_size=16)  # noqa: RUF009 - frozen
    seed: int = 0
    bfloat16: bool = False
    settings: tuple[tuple[str, ...], ...] = ((), ("landmark",), ("landmark", "emotion"))


@dataclass(frozen=True)
class Pairs:
    """Rows of a prepared folder: whose identity, and whose pose, for each of the P pictures."""

    identity: NDArray[np.int64]
    target: NDArray[np.int64]


def choose_pairs(prepared: shards.Prepared, protocol: Protocol) -> Pairs:
    """People kept out of training, each with targets spread over yaw.

    Targets are photos of other people kept out, drawn evenly from the quantiles of yaw, so that turned heads are not
    outnumbered by frontal ones. Within a quantile the person is drawn first and then the photo, so that nobody counts
    for more because there are more photos of them. Where a quantile holds only the person's own photos, all are taken.

    Raises:
        DataError: fewer people kept out than asked for.
    """
    random = np.random.default_rng(protocol.seed)
    rows = np.flatnonzero(shards.held_out(prepared.persons))
    people: dict[str, list[int]] = {}
    for row in rows.tolist():
        people.setdefault(prepared.persons[row], []).append(row)
    if len(people) < max(2, protocol.identities):
        raise DataError(f"{protocol.identities} people kept out are asked for, and the folder has {len(people)}")
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
    """One picture a pair under some of the conditions ``landmark`` and ``emotion``; also the seconds a picture took."""
    from tqdm import tqdm

    size = prepared.images.shape[1]
    controls, sampling = sampler.model.controls, protocol.sampling.filled(sampler.model.scale)
    unet: Any = sampler.model.unet
    device: torch.device = unet.device
    made, start = [], time.monotonic()
    count = len(pairs.identity)
    asked = "+".join(["identity", *conditions])
    for first in tqdm(range(0, count, sampling.batch_size), desc=asked, disable=not progress):
        part = slice(first, first + sampling.batch_size)
        targets = pairs.target[part]
        drawn = None
        if "landmark" in conditions:
            assert controls is not None
            drawn = torch.from_numpy(
                landmarks.drawn(list(prepared.points[targets]), size, controls.config.landmark_size)
            ).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=protocol.bfloat16):
            pictures = sampler.generate(
                torch.from_numpy(prepared.identity[pairs.identity[part]]).to(device),
                drawn,
                torch.from_numpy(prepared.emotion[targets]).to(device) if "emotion" in conditions else None,
                sampling.guidance,
                sampling.steps,
                list(range(protocol.seed + first, protocol.seed + first + len(targets))),
                sampling.scheduler,
                speed=sampling.speed,
            )
        made.append(pixels(pictures))
    return np.concatenate(made), (time.monotonic() - start) / count


def look(pictures: NDArray[np.uint8]) -> list[Face | None]:
    """The face of each picture ``(P, S, S, 3)``, None where none is found."""
    faces: list[Face | None] = []
    with FaceFinder() as finder:
        for picture in pictures:
            try:
                faces.append(finder.find(picture, ALIGNED_SIZE, "centre"))
            except NoFaceError:
                faces.append(None)
    return faces


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """The chance that a score of the first kind is above one of the second, ties counting half."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left")
    upto = np.searchsorted(order, positive, "right")
    return float(((below + upto) / 2).mean() / len(negative))


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


def control_scores(faces: list[Face | None], prepared: shards.Prepared, pairs: Pairs) -> dict[str, float | None]:
    """How far outputs are from their targets: yaw and pitch in degrees, blendshapes, and emotion. None over no faces,
    and for a correlation with what does not vary.
    """
    seen = [index for index, face in enumerate(faces) if face]
    found = [face for face in faces if face]
    if not found:
        return dict.fromkeys(CONTROL_SCORES)
    targets = pairs.target[seen]
    angles = np.array([face.angles for face in found])
    wanted = prepared.angles[targets]
    shapes = np.array([face.blendshapes for face in found])
    perceived = estimator().estimate(found)
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
) -> dict[str, Any]:
    """Measure a model on the people kept out and write ``result.json`` and ``grid.png`` into ``out``.

    Args:
        model_folder: a model folder.
        data: a prepared folder that holds people kept out of training.
        out: where the result goes.
        protocol: what to generate.
        progress: show bars.
        controls: a controls file to use in place of the model's own.
        device: where the model computes: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the best there is.
        overwrite: replace the result that is in ``out``.

    Returns:
        What ``result.json`` holds.

    Raises:
        DataError: too few people kept out.
        CheckpointError: the model cannot be loaded, or the controls do not fit it.
        ConfigError: there is no such device, or the protocol's sampling cannot be used.
        OutputError: ``out`` holds a result already, or cannot be written.
    """
    from facecrafter.model.published import load_folder

    check_free([out / RESULT, out / GRID], overwrite)
    device = usable_device(device)
    model = load_folder(model_folder, controls).to(device)
    prepared = shards.load(data, recogniser=model.scale.recogniser)
    pairs = choose_pairs(prepared, protocol)
    sampler = Sampler(model)
    judge = recogniser("dlib" if model.scale.recogniser != "dlib" else "sface")
    sources = look(prepared.images[pairs.identity])
    result: dict[str, Any] = {
        "environment": environment(device),
        "model": model_folder.name,
        "controls": str(controls) if controls else None,
        "protocol": {**vars(protocol), "sampling": vars(protocol.sampling.filled(model.scale))},
        "estimators": {
            "condition": model.scale.recogniser,
            "judge": judge.name,
            "pose and expression": "MediaPipe face landmarker",
            "emotion": estimator().name,
        },
        "settings": {},
    }
    columns = [prepared.images[pairs.identity], prepared.images[pairs.target]]
    for conditions in protocol.settings if model.controls else ((),):
        pictures, seconds = generate(sampler, prepared, pairs, protocol, conditions, progress)
        faces = look(pictures)
        result["settings"]["+".join(["identity", *conditions])] = {
            "pictures": len(pictures),
            "face_found": float(np.mean([face is not None for face in faces])),
            "seconds_a_picture": seconds,
            **identity_scores(faces, sources, pairs, judge),
            **control_scores(faces, prepared, pairs),
        }
        columns.append(pictures)
    write_whole(out / RESULT, (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
    write_whole(out / GRID, png(_grid(columns)))
    return result


def _grid(columns: list[NDArray[np.uint8]], pairs: int = 64, across: int = 4) -> NDArray[np.uint8]:
    """Evenly chosen pairs, ``across`` of them side by side: identity, target, then a picture a setting. Photos take the
    pictures' size, and what is left of the last row is white.
    """
    count, size = len(columns[0]), columns[-1].shape[1]
    chosen = np.linspace(0, count - 1, min(pairs, count)).astype(int)
    strips = [np.concatenate([_resized(column[row], size) for column in columns], axis=1) for row in chosen]
    strips += [np.full_like(strips[0], 255)] * (-len(strips) % across)
    lines = [np.concatenate(strips[first : first + across], axis=1) for first in range(0, len(strips), across)]
    return np.concatenate(lines)


def _resized(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
