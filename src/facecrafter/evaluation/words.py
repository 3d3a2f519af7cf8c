"""Emotion asked in words: each of the eight classes of the same held-out people, with and without a neutral target.

A target's photo brings its expression along, so agreement with a target's emotion says little about what words do by
themselves. Here nothing but the words differs between the eight images of a person: identity and seed are the same,
and so, in the second setting, are the landmarks, which come from another person's photo of a neutral face.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.errors import DataError
from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.bootstrap import Interval
from facecrafter.evaluation.metrics import auc
from facecrafter.evaluation.results import RESULT
from facecrafter.faces.emotion import EMOTIONS, Emotion

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


# The condition of each class by its word alone, as `generate --emotion happy` sets it: (8, 10).
VECTORS = np.stack([Emotion.from_words({word: 1.0}).vector for word in EMOTIONS])


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
    photos = _by_person(prepared, rows)
    neutral = _by_person(prepared, rows[prepared.emotion[rows, 2:].argmax(1) == EMOTIONS.index("neutral")])
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


def _by_person(prepared: shards.Prepared, rows: NDArray[np.int64]) -> dict[str, list[int]]:
    """Rows by whose they are."""
    found: dict[str, list[int]] = {}
    for row in rows.tolist():
        found.setdefault(prepared.persons[row], []).append(row)
    return found


def scores(probabilities: Array, people: Sequence[str]) -> dict[str, Any]:
    """What an estimator read in the images, class by class.

    Args:
        probabilities: ``(Q, 8, 8)``: of Q people asked for each class in turn, the probabilities read; a row is NaN
            where no face was found.
        people: Q names.

    Returns:
        ``images`` and ``face_found``; ``classes``, for each the number of ``faces``, the share ``read_as_asked``,
        the ``auc`` of the class's probability in images asked for it against all others, and how often each class
        was ``read``; and ``mean``, over the eight classes. Shares and AUCs are over images with a face and have 95 %
        bootstrap intervals over people; None where no image has a face.
    """
    count = len(EMOTIONS)
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

    def interval(function: Any, labels: Sequence[int]) -> dict[str, float | None]:
        def over(chosen: NDArray[np.int64]) -> float:
            return float(np.mean([function(label, chosen) for label in labels]))

        return _known(bootstrap.statistic(over, whose.tolist()))

    def both(labels: Sequence[int]) -> dict[str, Any]:
        return {"read_as_asked": interval(share, labels), "auc": interval(area, labels)}

    classes = {
        name: {
            "faces": int((asked == label).sum()),
            **both([label]),
            "read": {other: int((read[asked == label] == place).sum()) for place, other in enumerate(EMOTIONS)},
        }
        for label, name in enumerate(EMOTIONS)
    }
    return {
        "pictures": int(found.size),
        "face_found": float(found.mean()),
        "classes": classes,
        "mean": both(range(count)),
    }


def _known(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no NaN."""
    return {
        key: value if value is not None and math.isfinite(value) else None for key, value in asdict(interval).items()
    }


# --- for people -------------------------------------------------------------------------------------------------------


def read(run: Path) -> dict[str, Any] | None:
    """The record in the ``result.json`` of a folder; None where there is no such file, or none of this kind."""
    try:
        result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    record = result.get("words") if isinstance(result, dict) else None
    return record if isinstance(record, dict) else None


def as_markdown(record: Mapping[str, Any]) -> str:
    """A record of ``result.json``'s ``words`` as a Markdown table: a row a class, two columns a setting."""
    settings: Mapping[str, Any] = record["settings"]
    headings = ["asked in words", *(f"{name}: {what}" for name in settings for what in ("read as asked", "AUC"))]
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for word in EMOTIONS:
        lines.append([word, *(cell for one in settings.values() for cell in _cells(one["classes"][word]))])
    lines.append(["mean of the eight", *(cell for one in settings.values() for cell in _cells(one["mean"]))])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    found = ", ".join(f"{100 * one['face_found']:.4g} % ({name})" for name, one in settings.items())
    about = (
        f"{record['people']} held-out people, {len(EMOTIONS)} images each, read by {record['estimator']}; a guess is "
        f"right in {100 * CHANCE:.4g} % and has an AUC of 0.5. In brackets the 95 % bootstrap interval over people. "
        f"A face was found in {found}; shares and AUCs are over these."
    )
    return f"{table}\n\n{about}"


def _cells(scores: Mapping[str, Any]) -> list[str]:
    """The share and the AUC, each with its interval."""
    percent = {key: None if value is None else 100 * value for key, value in scores["read_as_asked"].items()}
    return [_cell(percent, ".0f", " %"), _cell(scores["auc"], ".2f")]


def _cell(interval: Mapping[str, float | None], form: str, unit: str = "") -> str:
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return "none"
    bounds = "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{unit}{bounds}"
