"""How well the emotion estimator reads faces: FER2013's validation images by FER+'s votes, and colour photos of
held-out people.

Three readers are compared on the photos: the network on pixels, the regression on MediaPipe's blendshapes, which is the
baseline, and the sum of their scores. All were trained without the people tested on.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from facecrafter.data.fer2013 import EmotionFaces, read_ferplus, read_photos
from facecrafter.errors import DataError
from facecrafter.estimators.calibration import ENOUGH, Scores, fit_temperature, log_prior
from facecrafter.estimators.emotion import PixelEmotion
from facecrafter.evaluation.emotion_variations import vary
from facecrafter.evaluation.result import RESULT, EmotionResult, Reading, ReadingInUse
from facecrafter.evaluation.result_folder import png
from facecrafter.faces.emotion import CENTRES, EMOTIONS, sharpness
from facecrafter.io import check_free, write_whole
from facecrafter.weights import sha256

BINS = 15
WRONG = "wrong.png"


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., 2017): the mean distance of confidence and accuracy over equal bins."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for place in range(bins):
        inside = places == place
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return float(error)


def halves_calibration_error(scored: Scores) -> float:
    """The calibration error with the temperature of each half of the faces fitted on the other half."""
    probabilities = np.empty_like(scored.scores)
    for half in (0, 1):
        own, other = slice(half, None, 2), slice(1 - half, None, 2)
        fitted = fit_temperature(Scores(scored.scores[other], scored.labels[other], scored.log_prior))
        probabilities[own] = Scores(scored.scores[own], scored.labels[own], scored.log_prior).probabilities(fitted)
    return calibration_error(probabilities, scored.labels)


def confusion(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(8, 8)`` counts: a row is the class that people gave, a column the one that was read."""
    matrix = np.zeros((len(EMOTIONS), len(EMOTIONS)), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def figures(scored: Scores, classes: list[int], in_use: NDArray[np.float64] | None = None) -> Reading:
    """Accuracy, balanced accuracy over some classes (each class's share read rightly, averaged), calibration error and
    confusion matrix.

    Accuracy and calibration are under the set's own prior; balanced accuracy is under one that is even over the classes
    named, as of a reader who cares for all of them alike. With the logarithm of the prior that the estimator has in
    use, ``(8,)``, also what holds under that one.
    """
    prior = log_prior(np.array(classes))
    likely, even = scored.probabilities(), Scores(scored.scores, scored.labels, prior).probabilities()
    recall = [float((even[scored.labels == one].argmax(1) == one).mean()) for one in classes]
    own = [float((likely[scored.labels == one].argmax(1) == one).mean()) for one in classes]
    return Reading(
        faces=len(scored.labels),
        accuracy=float((likely.argmax(1) == scored.labels).mean()),
        balanced_accuracy=float(np.mean(recall)),
        balanced_accuracy_own_prior=float(np.mean(own)),
        classes=[EMOTIONS[one] for one in classes],
        recall={EMOTIONS[one]: value for one, value in zip(classes, recall, strict=True)},
        recall_own_prior={EMOTIONS[one]: value for one, value in zip(classes, own, strict=True)},
        calibration_error=halves_calibration_error(scored),
        confusion=confusion(likely.argmax(1), scored.labels).tolist(),
        confusion_even_prior=confusion(even.argmax(1), scored.labels).tolist(),
        in_use=None if in_use is None else _in_use(Scores(scored.scores, scored.labels, in_use), classes),
    )


def _in_use(scored: Scores, classes: list[int]) -> ReadingInUse:
    """Accuracy, recall, calibration error and confusion matrix under the prior that scores come with."""
    predicted = scored.probabilities().argmax(1)
    recall = {EMOTIONS[one]: float((predicted[scored.labels == one] == one).mean()) for one in classes}
    return ReadingInUse(
        accuracy=float((predicted == scored.labels).mean()),
        balanced_accuracy=float(np.mean(list(recall.values()))),
        recall=recall,
        calibration_error=halves_calibration_error(scored),
        confusion=confusion(predicted, scored.labels).tolist(),
    )


def read_all(estimator: PixelEmotion, faces: EmotionFaces) -> dict[str, NDArray[np.float64]]:
    """The scores ``(N, 8)`` of each reader: ``pixels``; with blendshapes ``blendshapes`` and ``both`` too."""
    batches = range(0, len(faces.labels), estimator.batch)
    pixels = torch.cat([estimator.scores(faces.crops[first : first + estimator.batch]) for first in batches]).double()
    readers = {"pixels": pixels.numpy()}
    if faces.blendshapes is not None:
        readers["blendshapes"] = estimator.network.shape_scores(faces.blendshapes).double().numpy()
        readers["both"] = estimator.network.joint_scores(pixels.float(), faces.blendshapes).double().numpy()
    return readers


def evaluate(
    data: Path,
    fer2013: Path,
    votes: Path,
    labels: Path,
    out: Path,
    path: Path | None = None,
    wrong: int = 10,
    variations: int = 200,
    overwrite: bool = False,
) -> EmotionResult:
    """Measure the estimator; writes ``result.json`` and ``wrong.png`` into a folder.

    Args:
        data: prepared folder of the labelled photos.
        fer2013: its images, a tar or a folder.
        votes: FER+'s, a CSV.
        labels: CSV of image,emotion.
        out: the folder.
        path: the network; the project's own if None.
        wrong: how many of the surest mistakes to show of each set.
        variations: on how many of the photos to measure how much the answer moves when only the image changes.
        overwrite: replace the result that is in the folder.

    Raises:
        DataError: a set that cannot be read.
        WeightsError: a network that cannot be read.
        OutputError: the folder holds a result already, or cannot be written.
    """
    from facecrafter.provenance import environment

    check_free([out / RESULT, out / WRONG], overwrite)
    estimator = PixelEmotion(path) if path else PixelEmotion()
    network = f"{path or 'pixels'} ({sha256(estimator.path)[:8]})"
    made_with, sets = environment("cpu"), {}
    grey, photos = read_ferplus(fer2013, votes), read_photos(data, labels)
    clear = grey.only(grey.clear)
    rows = []
    in_use = estimator.network.prior.double().log().cpu().numpy()
    for name, whole, common in (
        ("fer2013", clear, clear),
        ("fer2013_held_out", clear.only(clear.held_out | ~clear.test), clear),
        ("fer2013_unclear_too", grey, clear),
        ("photos", photos, photos),
        ("photos_held_out", photos.only(photos.held_out | ~photos.test), photos),
    ):
        test = whole.part(test=True)
        if not len(test.labels):
            continue
        prior = log_prior(common.part(test=False).labels)
        readers = {reader: Scores(scores, test.labels, prior) for reader, scores in read_all(estimator, test).items()}
        sets[name] = {reader: figures(scored, _counted(whole), in_use) for reader, scored in readers.items()}
        if whole is common:
            rows.append(_wrong(test, readers.get("both", readers["pixels"]).probabilities(), wrong))
    test = photos.part(test=True)
    result = EmotionResult(
        environment=made_with,
        config={"data": data, "fer2013": fer2013, "votes": votes, "labels": labels, "variations": variations},
        estimator=network,
        sets=sets,
        circumplex=circumplex(estimator, clear.part(test=True)),
        variations=vary(estimator, data, test.files, variations) if variations else {},
        faces_a_second=speed(estimator, test),
    )
    result.write(out)
    write_whole(out / WRONG, png(np.concatenate(rows)))
    return result


def _counted(faces: EmotionFaces) -> list[int]:
    """The classes that there are enough faces of, and some to test on."""
    counts, tested = (np.bincount(one.labels, minlength=len(EMOTIONS)) for one in (faces, faces.part(test=True)))
    classes = [one for one in range(len(EMOTIONS)) if counts[one] >= ENOUGH and tested[one]]
    if not classes:
        raise DataError(f"no emotion has {ENOUGH} labelled faces, {faces.files[0]} among them; give whole sets")
    return classes


def circumplex(estimator: PixelEmotion, faces: EmotionFaces) -> dict[str, dict[str, list[float]]]:
    """Valence and arousal of each class: its centre on the circumplex, and the means over the faces that people put
    into it, of what is derived and of the plain mean of the centres."""
    shares = estimator.probabilities(list(faces.crops))
    plain = shares @ CENTRES
    derived = sharpness(shares)[:, None] * plain
    return {
        EMOTIONS[one]: {
            "centre": CENTRES[one].tolist(),
            "derived": derived[faces.labels == one].mean(0).tolist(),
            "plain": plain[faces.labels == one].mean(0).tolist(),
        }
        for one in np.unique(faces.labels).tolist()
    }


def report(result: EmotionResult) -> list[str]:
    """What :func:`evaluate` found, in lines for a terminal."""
    lines = []
    for name, readers in result.sets.items():
        last = None
        for reader, one in readers.items():
            lines += [
                f"{name}, {reader}: {one.accuracy:.1%} of {one.faces} right, {one.balanced_accuracy:.1%} balanced; "
                f"calibration error {one.calibration_error:.3f}",
                f"  recall: {_percentages(one.recall_own_prior)}",
            ]
            last = one.in_use
            if last:
                lines.append(
                    f"  with the prior in use: {last.accuracy:.1%} right, {last.balanced_accuracy:.1%} balanced; "
                    f"calibration error {last.calibration_error:.3f}; recall: {_percentages(last.recall)}"
                )
        if last:
            lines += _matrix(last.confusion)
    for emotion, places in result.circumplex.items():
        points = "; ".join(f"{kind} {value[0]:+.2f} {value[1]:+.2f}" for kind, value in places.items())
        lines.append(f"valence and arousal of {emotion}: {points}")
    for name, shares in result.variations.items():
        moved = ", ".join(f"{kind.replace('_', ' ')} {value:.3f}" for kind, value in shares.items())
        lines.append(f"{name}: {moved}")
    return lines


def _percentages(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in shares.items())


def _matrix(counts: list[list[int]]) -> list[str]:
    """A confusion matrix with its names; rows are the classes that people gave."""
    head = " " * 10 + "".join(f"{name:>10}" for name in EMOTIONS)
    return [
        head,
        *(f"{name:>10}" + "".join(f"{n:>10}" for n in row) for name, row in zip(EMOTIONS, counts, strict=True)),
    ]


def speed(estimator: PixelEmotion, faces: EmotionFaces, count: int = 1024) -> float:
    """Faces a second from crops and blendshapes to probabilities, in batches."""
    rows = np.resize(np.arange(len(faces.labels)), count)
    crops = list(faces.crops[rows])
    shapes = None if faces.blendshapes is None else faces.blendshapes[rows]
    estimator.probabilities(crops[: estimator.batch])
    start = time.monotonic()
    estimator.probabilities(crops, shapes)
    return count / (time.monotonic() - start)


def _wrong(faces: EmotionFaces, probabilities: NDArray[np.float64], count: int) -> NDArray[np.uint8]:
    """A row of the mistakes that the reader is surest of: the class that people gave above, the one it read below."""
    side, label = 144, 18
    predicted = probabilities.argmax(1)
    sure = np.where(predicted != faces.labels, probabilities.max(1), -1)
    row = Image.new("RGB", (count * side, side + 2 * label), "white")
    pen, font = ImageDraw.Draw(row), ImageFont.load_default(13)
    for place, index in enumerate(np.argsort(-sure, kind="stable")[:count].tolist()):
        if sure[index] < 0:
            break
        x = place * side
        pen.text((x + 4, 1), f"people: {EMOTIONS[faces.labels[index]]}", "black", font)
        row.paste(Image.fromarray(faces.crops[index]).resize((side, side), Image.Resampling.BICUBIC), (x, label))
        pen.text((x + 4, side + label + 1), f"{EMOTIONS[predicted[index]]} {sure[index]:.2f}", "black", font)
    return np.asarray(row)
