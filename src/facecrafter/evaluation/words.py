"""Emotion asked in words: each of the eight classes of the same held-out people, with and without a neutral target.

A target's photo brings its expression along, so agreement with a target's emotion says little about what words do by
themselves. Here nothing but the words differs between the eight images of a person: identity and seed are the same,
and so, in the second setting, are the landmarks, which come from another person's photo of a neutral face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.errors import DataError, counted
from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.emotion_records import IndependentResult, WordClass, WordMean, WordScores, WordsResult
from facecrafter.evaluation.metrics import auc
from facecrafter.evaluation.pairs import by_person
from facecrafter.evaluation.record import Interval
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.request import portrait_of

Array = NDArray[np.float64]

WORDS_ONLY, NEUTRAL_TARGET = "words only", "words with a neutral target"
CHANCE = 1 / len(EMOTIONS)


@dataclass(frozen=True)
class WordRequests:
    """Rows of a prepared folder: one a person, Q people.

    Attributes:
        identity: whose photo gives the identity.
        neutral: whose photo, of another person and a neutral face, gives the landmarks of the second setting.
    """

    identity: NDArray[np.int64]
    neutral: NDArray[np.int64]


# The condition of each class by its word alone, as `generate --emotion happy` sets it.
WORDS = tuple(portrait_of(Emotion.from_words({word: 1.0})) for word in EMOTIONS)


def choose(prepared: shards.Prepared, people: int, seed: int) -> WordRequests:
    """Held-out people, one photo each, and for each a neutral photo of somebody else.

    The photos count as neutral by the emotion that they were prepared with. The person is drawn first and then the
    photo.

    Args:
        prepared: the photos.
        people: how many at most; all held-out people where there are fewer.
        seed: of the choice.

    Raises:
        DataError: nobody is held out, or no two of them have a neutral photo.
    """
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(shards.held_out(prepared.persons))
    photos = by_person(prepared, rows)
    neutral = by_person(prepared, rows[prepared.emotion[rows, 2:].argmax(1) == EMOTIONS.index("neutral")])
    if len(neutral) < 2:
        raise DataError(
            f"{len(neutral)} of the {len(photos)} held-out people have a photo with a neutral face, and asking for "
            "emotions in words needs 2; prepare more photos, or leave it out with --words 0"
        )
    chosen = random.permutation(sorted(photos))[:people].tolist()
    identity, target = [], []
    for person in chosen:
        identity.append(int(random.choice(photos[person])))
        other = random.choice(sorted(name for name in neutral if name != person))
        target.append(int(random.choice(neutral[other])))
    return WordRequests(np.array(identity), np.array(target))


def scores(probabilities: Array, people: Sequence[str], classes: Sequence[str] = EMOTIONS) -> WordScores:
    """What an estimator read in the images, class by class.

    Args:
        probabilities: ``(Q, C, C)``: of Q people asked for each class in turn, the probabilities read; a row is NaN
            where no face was found.
        people: Q names.
        classes: C names.

    Returns:
        An AUC is of the class's probability in images asked for it against all others. Shares and AUCs are over
        images with a face and have 95 % bootstrap intervals over people; None where no image has a face. A class that
        only one person has a face in has no interval. That of a mean is over the resamplings with a face in every
        class.
    """
    count = len(classes)
    asked = np.tile(np.arange(count), len(people))
    whose = np.repeat(np.asarray(people, dtype=str), count)
    rows = probabilities.reshape(-1, count)
    found = np.isfinite(rows).all(1)
    asked, whose, rows = asked[found], whose[found], rows[found]
    read = rows.argmax(1)

    def share(label: int, chosen: NDArray[np.int64]) -> float:
        of_class = chosen[asked[chosen] == label]
        return float((read[of_class] == label).mean()) if len(of_class) else math.nan

    def area(label: int, chosen: NDArray[np.int64]) -> float:
        mine = asked[chosen] == label
        likely = rows[chosen, label]
        return auc(likely[mine], likely[~mine]) if mine.any() and not mine.all() else math.nan

    def interval(function: Callable[[int, NDArray[np.int64]], float], labels: Sequence[int]) -> Interval:
        def over(chosen: NDArray[np.int64]) -> float:
            return float(np.mean([function(label, chosen) for label in labels]))

        own = [asked == labels[0]] if len(labels) == 1 else []
        return bootstrap.statistic(over, whose.tolist(), parts=own)

    by_class = {
        name: WordClass(
            faces=int((asked == label).sum()),
            read_as_asked=interval(share, [label]),
            auc=interval(area, [label]),
            read={other: int((read[asked == label] == place).sum()) for place, other in enumerate(classes)},
        )
        for label, name in enumerate(classes)
    }
    mean = WordMean(read_as_asked=interval(share, range(count)), auc=interval(area, range(count)))
    return WordScores(images=int(found.size), face_found=float(found.mean()), classes=by_class, mean=mean)


# --- for people -------------------------------------------------------------------------------------------------------


def as_markdown(result: WordsResult, independent: IndependentResult | None = None) -> str:
    """A Markdown table: a row a class, two columns a setting, and a third where an independent network read it too."""
    settings, others = result.settings, independent.words if independent else {}
    headings, lines = ["asked in words"], [[word] for word in EMOTIONS]
    mean = ["mean of the eight"]
    for name, one in settings.items():
        headings += [f"{name}: {what}" for what in ("read as asked", "AUC")]
        for line in lines:
            line += _cells(one.classes[line[0]])
        mean += _cells(one.mean)
        if name in others:
            headings.append(f"{name}: read as asked by the independent network")
            for line in lines:
                known = others[name].classes.get(line[0])
                line.append(share_cell(known.read_as_asked) if known else "not known to it")
            mean.append(f"{share_cell(others[name].mean.read_as_asked)} of the {len(others[name].classes)}")
    rule = ["---", *["---:"] * (len(headings) - 1)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [headings, rule, *lines, mean])
    return "\n\n".join([table, _about(result, independent, "[" in table)])


def _about(result: WordsResult, independent: IndependentResult | None, intervals: bool) -> str:
    """What the table is of; ``intervals`` says whether it has any, which one person has not."""
    found = ", ".join(f"{100 * one.face_found:.4g} % ({name})" for name, one in result.settings.items())
    people = counted(result.people, "held-out person", "held-out people")
    brackets = "In brackets the 95 % bootstrap interval over people. " if intervals else ""
    about = (
        f"{people}, {len(EMOTIONS)} images each, read by {result.estimator}; a guess is "
        f"right in {100 * CHANCE:.4g} % and has an AUC of 0.5. {brackets}"
        f"A face was found in {found}; shares and AUCs are over these."
    )
    if independent is None or not independent.words:
        return about
    count = len(next(iter(independent.words.values())).classes)
    return (
        f"{about} The independent network is {independent.network}, which had no part in training or labels; it knows "
        f"{count} of the classes, and a guess among them is right in {100 / count:.3g} %."
    )


def _cells(scores: WordMean) -> list[str]:
    """The share in percent and the AUC, each with its interval."""
    return [share_cell(scores.read_as_asked), cell(scores.auc, ".2f")]


def share_cell(interval: Interval) -> str:
    """A share in percent with its interval."""
    return cell(interval, ".0f", 100, " %")


def cell(interval: Interval, form: str, factor: float = 1, unit: str = "") -> str:
    """A number with its interval, both by ``factor`` and in a format; ``none`` where it is not known."""
    if interval.value is None:
        return "none"
    bounds = ""
    if interval.low is not None and interval.high is not None:
        bounds = f" [{factor * interval.low:{form}}, {factor * interval.high:{form}}]"
    return f"{factor * interval.value:{form}}{unit}{bounds}"
