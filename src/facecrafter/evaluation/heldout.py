"""How well a model does what it is asked, on people it was not trained on: a preset of Table 1.

Images, measurements, judges and bootstrap are the tables'. The choice of the pairs and the printed table are this
module's own, and so is what images are compared with: the readings of the targets that the model was given. The judge
of identity is another network than the condition (SFace, where dlib's conditions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data import shards
from facecrafter.data.prepare.folder import about_estimator
from facecrafter.errors import DataError
from facecrafter.estimators.emotion_estimator import estimator_for
from facecrafter.evaluation import appearance, independent, words
from facecrafter.evaluation.config import ControlConfig, MethodConfig
from facecrafter.evaluation.emotion_records import ClassAgreement, WordsResult
from facecrafter.evaluation.generators import check_emotions
from facecrafter.evaluation.images import Made
from facecrafter.evaluation.judges import JudgesConfig
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.metrics import auc, class_agreement
from facecrafter.evaluation.pairs import Pairs, by_person
from facecrafter.evaluation.result import RESULT, AppearanceResult, HeldoutResult, Setting
from facecrafter.evaluation.result_folder import png
from facecrafter.evaluation.session import Session
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import load_photo
from facecrafter.io import check_free, command, write_whole
from facecrafter.models.checkpoint import FaceModel
from facecrafter.pipelines.devices import usable_device
from facecrafter.pipelines.generator import FaceCrafterGenerator
from facecrafter.pipelines.settings import Settings
from facecrafter.pipelines.watermark import mark
from facecrafter.request import Request

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
        seed: chooses people and targets, and starts the images' seeds.
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
    people = by_person(prepared, rows)
    if len(people) < max(2, protocol.identities):
        raise DataError(
            f"{protocol.identities} held-out people are asked for, two at least, and the folder has {len(people)}; "
            "lower --identities, or prepare photos of more people"
        )
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
    return {name: theirs for name, theirs in by_person(prepared, rows).items() if name != person}


def identity_scores(
    measured: Measurements, sources: Measurements, identity: NDArray[np.int64]
) -> dict[str, float | None]:
    """Cosine of images to their own person and to the other people, and the AUC between the two; None where there is
    no face, or no other person, to compare.

    Args:
        measured: what the images show, one a pair.
        sources: what the photos of the identities show, one a pair.
        identity: ``(P,)``, whose photo each is of.
    """
    rows = np.flatnonzero(measured.found & sources.found)
    if not len(rows):
        return dict.fromkeys(IDENTITY_SCORES)
    _, first, place = np.unique(identity[rows], return_index=True, return_inverse=True)
    scores = measured.identity[rows] @ sources.identity[rows[first]].T
    same = scores[np.arange(len(rows)), place]
    other = scores[place[:, None] != np.arange(len(first))]
    return {
        "same": float(same.mean()),
        "other": float(other.mean()) if len(other) else None,
        "auc": auc(same, other) if len(other) else None,
    }


def control_scores(
    measured: Measurements, prepared: shards.Prepared, target: NDArray[np.int64]
) -> dict[str, float | None]:
    """How far images are from their targets: yaw and pitch in degrees, blendshapes, and emotion. None over no faces,
    and for a correlation with what does not vary.

    Args:
        measured: what the images show, one a pair.
        prepared: the photos, with what was read of them.
        target: ``(P,)``, the rows of the targets.
    """
    rows = np.flatnonzero(measured.found)
    if not len(rows):
        return dict.fromkeys(CONTROL_SCORES)
    target, measured = target[rows], measured.rows(rows)
    angles, wanted = np.degrees(measured.pose), prepared.angles[target]
    emotion = prepared.emotion[target]

    def rmse(one: NDArray[np.float64], other: NDArray[np.float32]) -> float:
        return float(np.sqrt(np.square(one - other).mean()))

    return {
        "yaw_error": float(np.abs(angles[:, 0] - wanted[:, 0]).mean()),
        "yaw_correlation": _correlation(angles[:, 0], wanted[:, 0]),
        "pitch_error": float(np.abs(angles[:, 1] - wanted[:, 1]).mean()),
        "pitch_correlation": _correlation(angles[:, 1], wanted[:, 1]),
        "blendshape_rmse": rmse(measured.expression, prepared.blendshapes[target]),
        "emotion_agreement": float((measured.emotion[:, 2:].argmax(1) == emotion[:, 2:].argmax(1)).mean()),
        "valence_rmse": rmse(measured.emotion[:, 0], emotion[:, 0]),
        "arousal_rmse": rmse(measured.emotion[:, 1], emotion[:, 1]),
    }


def emotion_by_class(measured: Measurements, prepared: shards.Prepared, pairs: Pairs) -> dict[str, ClassAgreement]:
    """The share of ``emotion_agreement`` for each class of the targets; the interval is over the people asked."""
    rows = np.flatnonzero(measured.found)
    wanted = prepared.emotion[pairs.target[rows], 2:].argmax(1)
    agree = measured.emotion[rows, 2:].argmax(1) == wanted
    return class_agreement(agree, wanted, [prepared.persons[row] for row in pairs.identity[rows]], EMOTIONS)


def _correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float | None:
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
        DataError: too few held-out people, or their emotions are labelled by another version of the judge.
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
    condition, labels = model.scale.recogniser, shards.read_meta(data)["emotion"]
    judge = about_estimator(estimator_for(labels["name"], emonet, f"{data} has emotions from"))
    if labels.get("sha256", judge["sha256"]) != judge["sha256"]:  # the two would be compared
        renewed = command("data", "prepare", data, "--only", "emotion")
        raise DataError(
            f"the emotions of {data} are by another version ({labels['sha256'][:8]}) of the estimator that judges, "
            f"{judge['name']} ({judge['sha256'][:8]}); read them again with: {renewed}"
        )
    check_emotions(str(model_folder), model, labels["name"])
    sampling = protocol.sampling.filled(model.scale)
    compares = appearance.features_known()
    session = Session(_preset(model_folder, data, out, protocol, condition, emonet), progress, device, compares)
    prepared, pairs = session.prepared, choose_pairs(session.prepared, protocol)
    asked = words.choose(prepared, protocol.words, protocol.seed) if protocol.words and model.controls else None
    another = independent.open_judge()
    sources = session.measure(prepared.images[pairs.identity])
    settings: dict[str, Setting] = {}
    driven: dict[str, list[Path]] = {}
    worded: dict[str, list[Path]] = {}
    columns = [prepared.images[pairs.identity], prepared.images[pairs.target]]
    for conditions in protocol.settings if model.controls else ((),):
        requests = [
            Request(session.portrait(one), dict.fromkeys(conditions, session.portrait(other)), protocol.seed + number)
            for number, (one, other) in enumerate(zip(pairs.identity, pairs.target, strict=True))
        ]
        name = "+".join(["identity", *conditions])
        made = _made(session, model, name, protocol.sampling, requests)
        measured, driven[name] = session.measure(made.paths), made.paths
        settings[name] = Setting(
            images=len(requests),
            face_found=float(measured.found.mean()),
            seconds_an_image=made.seconds,
            **identity_scores(measured, sources, pairs.identity),
            **control_scores(measured, prepared, pairs.target),
            emotion_by_class=emotion_by_class(measured, prepared, pairs),
        )
        columns.append(_loaded(made))
    by_words = sheet = None
    if asked is not None:
        by_words, worded, sheet = in_words(session, model, asked, protocol)
    people = [] if asked is None else [prepared.persons[row] for row in asked.identity]
    names = session.judges.names
    result = HeldoutResult(
        environment=session.made_with,
        config={
            "data": data,
            **vars(protocol),
            "sampling": {**sampling.described(), "batch_size": sampling.batch_size},
        },
        model=model_folder.name,
        key=FaceCrafterGenerator(model, settings=protocol.sampling).key,
        controls=str(controls) if controls else None,
        estimators={
            "condition": condition,
            "judge": names["identity"],
            "pose and expression": names["pose"],
            "emotion": names["emotion"],
        },
        settings=settings,
        words=by_words,
        independent=independent.read(session, another, pairs, driven, people, worded),
        appearance=_appearance(session, pairs, driven, asked, worded) if compares else None,
    )
    result.write(out)
    write_whole(out / GRID, png(_grid(columns)))
    if sheet is not None:
        write_whole(out / WORDS_GRID, png(_grid(sheet, photos=1, pairs=WORDS_SHOWN, across=1)))
    return result


def _appearance(
    session: Session,
    pairs: Pairs,
    driven: dict[str, list[Path]],
    asked: words.WordRequests | None,
    worded: dict[str, list[Path]],
) -> AppearanceResult:
    """What all images look like beside photos; those asked in words are eight a person."""
    made = {name: (images, pairs.identity.tolist()) for name, images in driven.items()}
    if asked is not None:
        whose = np.repeat(asked.identity, len(EMOTIONS)).tolist()
        made |= {name: (images, whose) for name, images in worded.items()}
    sources = sorted({row for _, rows in made.values() for row in rows})
    return appearance.measure(session, session.prepared.images[sources], sources, made)


def _preset(
    model: Path, data: Path, out: Path, protocol: Protocol, condition: str, emonet: Path | None
) -> ControlConfig:
    """Table 1's config of one method, without what this evaluation leaves out."""
    judges = JudgesConfig(
        identity="dlib" if condition != "dlib" else "sface",
        emotion="facecrafter" if emonet is None else "emonet",
        emonet_file=emonet,
    )
    return ControlConfig(
        data=data,
        out=out,
        methods=(MethodConfig(name=model.name, model=model),),
        judges=judges,
        condition=condition,  # type: ignore[arg-type]
        identities=protocol.identities,
        targets=protocol.targets,
        pool=protocol.targets,
        leakage=0,
        curve=0,
        seed=protocol.seed,
        batch_size=protocol.sampling.batch_size,
        bfloat16=protocol.bfloat16,
    )


def _made(session: Session, model: FaceModel, name: str, sampling: Settings, requests: Sequence[Request]) -> Made:
    """Images of some requests, which are all of the same conditions."""
    return session.make(FaceCrafterGenerator(model, name, tuple(requests[0].conditions), sampling), requests)


def _loaded(made: Made) -> NDArray[np.uint8]:
    return np.stack([load_photo(path) for path in made.paths])


def in_words(
    session: Session, model: FaceModel, asked: words.WordRequests, protocol: Protocol
) -> tuple[WordsResult, dict[str, list[Path]], list[NDArray[np.uint8]]]:
    """Each of the eight emotions asked of people in words, without and with the landmarks of a neutral photo.

    Returns:
        What was measured; the images of each setting, a person's eight together; and the columns of a grid: the photo,
        and the eight images of each setting.
    """
    prepared, count = session.prepared, len(asked.identity)
    people = [prepared.persons[row] for row in asked.identity]
    settings, paths = {}, {}
    columns = [prepared.images[asked.identity]]
    for name, neutral in ((words.WORDS_ONLY, False), (words.NEUTRAL_TARGET, True)):
        requests = []
        for number, (one, other) in enumerate(zip(asked.identity, asked.neutral, strict=True)):
            first = Request(session.portrait(one), {"landmark": session.portrait(other)} if neutral else {})
            requests += [
                replace(first, conditions={**first.conditions, "emotion": word}, seed=protocol.seed + number)
                for word in words.WORDS
            ]
        made = _made(session, model, name, protocol.sampling, requests)
        paths[name] = made.paths
        read = session.measure(made.paths).emotion[:, 2:]
        settings[name] = words.scores(read.reshape(count, len(EMOTIONS), -1), people)
        images = _loaded(made)
        columns += list(images.reshape(count, len(EMOTIONS), *images.shape[1:]).swapaxes(0, 1))
    return WordsResult(people=count, estimator=session.judges.names["emotion"], settings=settings), paths, columns


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
