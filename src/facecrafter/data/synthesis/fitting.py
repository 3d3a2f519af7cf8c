"""Making a file of directions, and measuring how far each of them goes before the person is lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facecrafter.data.synthesis import directions
from facecrafter.data.synthesis.directions import Directions, Linear, embedding, fit_linear, samples_of
from facecrafter.data.synthesis.people import EXPRESSIONS, PULLED, SWAY, Edit, Maker, likelihood
from facecrafter.data.synthesis.readings import MEASURES, Array, Reader, Reading
from facecrafter.errors import DataError, NoFaceError, PhotoError
from facecrafter.faces.face import load_photo

TRUNCATION = 0.85  # of the people that directions are fitted to
ROUNDS = 2  # of edited people, each moved along what was fitted before
LONGEST = 16.0  # change of w of an edited person in fitting; beyond it there is hardly a face
AGES = (2, 85)  # youngest and oldest that the regression of age is fitted to; children must be among them to be found
MARGIN = 60  # pixels that are added around UTKFace's tight crops, so that the landmarker finds them
AGED = re.compile(r"(\d+)_([01])_")  # how UTKFace's names begin: age and sex
PENALTY = 3e-4  # of the regressions of age and sex
STEPS = (0.5, 1.0, 1.5, 2.0)  # strengths that :func:`reach` tries


def aged(folder: Path, reader: Reader, most: int, seed: int = 0) -> tuple[Linear, Linear]:
    """Regressions of age and sex on embeddings, from photos whose names say both (UTKFace: ``AGE_SEX_RACE_....jpg``).

    Args:
        folder: of the photos, at any depth.
        reader: of faces.
        most: photos to take, a third of them of people under 18.
        seed: of the choice.

    Raises:
        DataError: fewer than a hundred faces.
    """
    files = [(int(match[1]), int(match[2]), path) for path in sorted(folder.rglob("*.jpg"))
             if (match := AGED.match(path.name)) and AGES[0] <= int(match[1]) <= AGES[1]]  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(files))
    mixed = [files[place] for place in order]
    young = [one for one in mixed if one[0] < 18][: most // 3]
    chosen = young + [one for one in mixed if one[0] >= 18][: most - len(young)]
    rows = []
    for age, sex, path in chosen:
        try:
            photo = load_photo(path)
        except (PhotoError, NoFaceError):
            continue
        reading = reader.read(np.pad(photo, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge"))
        if reading is not None:
            rows.append((age, sex, embedding(reading)))
    if len(rows) < 100:
        raise DataError(f"{folder} has {len(rows)} faces with an age in their name; give UTKFace, or leave --ages out")
    ages, sexes, embeddings = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    age = fit_linear(embeddings, np.log(ages + directions.YOUNGEST), PENALTY)
    return age, fit_linear(embeddings, sexes, PENALTY)


def make(
    maker: Maker, age: Linear, sex: Linear, plain: int = 1900, edited: int = 2600, seed: int = 0,
    progress: Callable[[Iterator[int], int], Iterator[int]] = lambda items, total: items,
) -> Directions:  # fmt: skip
    """Fit directions to people as they come, then twice more to people moved along what was fitted so far.

    The first fit knows expressions only as people wear them for photos, where rage is rare and never without a smile
    nearby; the edited people part them.

    Args:
        maker: makes the images; its own directions are not used.
        age, sex: regressions, see :func:`aged`.
        plain, edited: how many people to read, unedited and edited.
        seed: of all draws.
        progress: shows a count.
    """
    random = np.random.default_rng(seed)
    about = {"plain": plain, "edited": edited, "truncation": TRUNCATION, "seed": seed}
    styles: list[Array] = []
    readings: list[Reading] = []

    def keep(style: Array, change: Array | float = 0.0) -> None:
        reading = maker.image(style, change)
        if reading is not None:
            styles.append(style + change)
            readings.append(reading)

    def person() -> Array:
        return np.asarray(maker.generator.people([int(random.integers(2**62))], TRUNCATION)[0].double().numpy())

    for _ in progress(iter(range(plain)), plain):
        keep(person())
    count = len(styles)
    fitted = directions.fit(samples_of(styles, readings), count, age, sex, about)
    for _ in range(ROUNDS):
        for _ in progress(iter(range(edited // ROUNDS)), edited // ROUNDS):
            style = person()
            keep(style, _explored(style, fitted, random))
        fitted = directions.fit(samples_of(styles, readings), count, age, sex, about)
    return fitted


def _explored(style: Array, fitted: Directions, random: np.random.Generator) -> Array:
    """A change of w at random: parts of an expression, with some of what a face can be pulled to, and a pose."""
    strength = float(random.uniform(0.3, 1.4))
    expression = list(EXPRESSIONS.values())[int(random.integers(len(EXPRESSIONS)))]
    targets = {
        name: strength * value + 0.5 * float(random.normal())
        for name, value in expression.items()
        if random.random() < 0.75
    }
    for name in random.choice(list(PULLED), 3, replace=False):
        targets[str(name)] = targets.get(str(name), 0.0) + 1.2 * float(random.normal())
    pose = random.normal(0, 2 * np.array(SWAY)) if random.random() < 0.5 else np.zeros(2)
    change = fitted.move(style, targets, 1.0, pose.tolist())
    return np.asarray(change * min(1.0, LONGEST / float(np.linalg.norm(change))))


@dataclass(frozen=True)
class Reach:
    """What an edit does to people at one strength.

    Attributes:
        name: a measure moved alone, or an expression.
        strength: times the edit's targets: of a measure three standard deviations, or 30 and 15 degrees of yaw, pitch.
        change: of the measure in its own unit; of an emotion its likelihood among eight that are equally common.
        sface: mean cosine to the unedited image.
        usable: share of people who are still known.
    """

    name: str
    strength: float
    change: float
    sface: float
    usable: float


def reach(maker: Maker, people: int = 12) -> Iterator[Reach]:
    """How far each direction goes.

    Args:
        maker: makes the images, with the directions to measure.
        people: how many, of those who are not refused.
    """
    bases = []
    for number in range(20 * people):
        style = maker.style(np.random.default_rng([maker.recipe.seed, number]))
        plain = maker.image(style)
        if plain is not None and not maker.refusal(plain):
            bases.append((style, plain))
        if len(bases) == people:
            break
    for edit in _alone():
        for strength in STEPS:
            made = [maker.made(style, edit, strength, plain) for style, plain in bases]
            found = [(one, plain) for one, (_, plain) in zip(made, bases, strict=True) if one is not None]
            if edit.emotion:
                changes = [likelihood(one) for one, _ in found]
            else:
                measure = MEASURES[edit.name.removesuffix(" -")]
                changes = [measure(one.reading) - measure(plain) for one, plain in found]
            sface = float(np.mean([one.sface for one, _ in found])) if found else 0.0
            usable = sum(one.usable for one, _ in found) / max(len(bases), 1)
            yield Reach(edit.name, strength, float(np.mean(changes)) if found else float("nan"), sface, usable)


def _alone() -> Iterator[Edit]:
    for name, pose in (("yaw", (30, 0)), ("yaw -", (-30, 0)), ("pitch", (0, 15)), ("pitch -", (0, -15))):
        yield Edit(name, {}, 1.0, pose)
    for name in PULLED:
        yield Edit(name, {name: 3.0}, 1.0, (0.0, 0.0))
    for name, targets in EXPRESSIONS.items():
        yield Edit(name, targets, 1.0, (0.0, 0.0), name)
