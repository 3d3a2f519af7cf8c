"""One person who does not exist, in up to twelve images: plain, with each emotion, turned, and with a face pulled.

An edit goes as far as its target or as the recognisers still know the person, whichever comes first. What an image is
labelled with is measured on it, as on a photo; what was asked for is kept beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from facecrafter.data.prepare.reader import Accepted, Rejected, Result, accepted
from facecrafter.data.prepare.stopping import check_leaving
from facecrafter.data.synthesis.directions import EDITED_STYLES, Directions
from facecrafter.data.synthesis.generator import STYLES, FaceGenerator
from facecrafter.data.synthesis.readings import Array, Reader, Reading
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.skin import typology_angle

TRUNCATION = (0.7, 0.85)  # drawn for each person: fewer artefacts and fewer children than without
# Of so many draws the one is taken whose skin is nearest in lightness to a level drawn evenly from dark to light, in
# standard deviations; the generator's own people are light for the most part.
CANDIDATES, LIGHTNESS = 6, (-2.6, 1.4)
# Least apparent age of a plain and of an edited image, by the regression described in docs/data.md; an expression moves
# it, and the person has been found old enough by then.
LEAST_AGE, LEAST_AGE_EDITED = 22.0, 19.0
FRONTAL = (14.0, 12.0)  # largest yaw and pitch of a plain image, in degrees; edits begin there
# An edited image is kept where both recognisers know the person of the plain one. Two people have 0.01 to 0.2 by SFace;
# by dlib see estimators.identity.SAME_PERSON.
LEAST_SFACE, LEAST_DLIB = 0.45, 0.90
LEAST_IMAGES = 4  # of a person; who has fewer is left out
TRIES = 3  # images that may be made for one edit

# How far a person is brought to a neutral face before anything else. Most of the generator's people smile, and from a
# smile to rage is so far that little of the person is left.
CALM = (0.4, 1.2)

# Where readings go, in standard deviations of those of people as they come; see Ekman & Friesen (1978), "Facial Action
# Coding System", for what moves in an emotion.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {
        "smile": -1, "happy": -1, "neutral": 1.5, "jawOpen": -0.5, "browDown": 0, "squint": -0.3, "upperLipUp": -0.6,
    },
    "happy": {"smile": 1.6, "happy": 1.6, "squint": 0.9, "jawOpen": 0.6, "upperLipUp": 1.2, "eyeBlink": 0.5},
    "sad": {
        "smile": -1.6, "happy": -2, "sad": 3, "browInnerUp": 1.8, "mouthFrown": 1.5, "mouthShrug": 1.5,
        "jawOpen": -0.5, "eyeBlink": 0.8, "upperLipUp": -0.6,
    },
    "surprise": {
        "smile": -0.6, "happy": -1, "surprise": 3, "jawOpen": 2.5, "browOuterUp": 2, "browInnerUp": 1.5, "eyeWide": 2.5,
        "squint": -1.5, "browDown": -0.6,
    },
    "fear": {
        "smile": -1.8, "happy": -3.5, "fear": 3, "browInnerUp": 2.2, "eyeWide": 2.5, "mouthStretch": 1.5,
        "lowerLipDown": 1.2, "upperLipUp": -0.5, "jawOpen": 1.2, "squint": -1, "surprise": 1,
    },
    "disgust": {
        "smile": -2.5, "happy": -4, "disgust": 3.5, "noseSneer": 2.5, "upperLipUp": 1.2, "browDown": 1.8, "squint": 1.2,
        "mouthShrug": 0.8, "jawOpen": 0.2,
    },
    "anger": {
        "smile": -2.5, "happy": -3.7, "anger": 4, "browDown": 3, "noseSneer": 1, "lowerLipDown": 1.5, "jawOpen": 1.5,
        "browInnerUp": -0.6, "eyeWide": 1, "squint": 0.2,
    },
    "contempt": {
        "smile": -0.5, "happy": -1.5, "contempt": 4, "oneSidedSmile": 2.5, "mouthPress": 1.5, "jawOpen": -0.5,
        "upperLipUp": -0.5, "browDown": 0.3, "squint": 0,
    },
}  # fmt: skip
# Rage with closed lips, which every other person has in place of a shout.
GLARE = {
    "smile": -2, "happy": -2.5, "anger": 4, "browDown": 3, "mouthPress": 2, "jawOpen": -0.5, "upperLipUp": -0.7,
    "lowerLipDown": -0.6, "browInnerUp": -0.6, "squint": 0.5,
}  # fmt: skip
# The strength that is tried first.
STRENGTHS = {
    "neutral": 1.1, "happy": 1.0, "sad": 0.6, "surprise": 1.5, "fear": 0.85, "disgust": 0.6, "anger": 0.7,
    "contempt": 0.75,
}  # fmt: skip
# How likely the emotion is to be by the estimator, of eight that are as common as each other, before the strength is
# enough: drawn evenly, so that there are faint and strong ones.
ENOUGH = (0.45, 0.8)
# What a face pulled at random may have, and where its readings may go.
PULLED = {
    "smile": (-1.2, 1.6), "jawOpen": (-0.5, 4), "browDown": (-0.8, 3), "browInnerUp": (-0.5, 3),
    "browOuterUp": (-0.6, 3),
    "eyeBlink": (-1.5, 5), "eyeWide": (-0.5, 3), "squint": (-2, 1.5), "mouthFrown": (-0.5, 3), "mouthPress": (-1, 3),
    "mouthPucker": (-0.5, 3), "upperLipUp": (-0.7, 2.5), "lowerLipDown": (-0.6, 3), "mouthStretch": (-0.7, 3),
    "mouthShrug": (-0.6, 3), "noseSneer": (-0.5, 3), "oneSidedSmile": (-3, 3), "gazeRight": (-2.5, 2.5),
    "gazeUp": (-2.5, 2.5),
}  # fmt: skip
TURNED = ((15.0, 45.0), (-22.0, 22.0))  # yaw to either side and pitch of turned images, in degrees
SWAY = (8.0, 5.0)  # standard deviations of yaw and pitch of an image with an emotion, so that none goes with a pose


@dataclass(frozen=True)
class Recipe:
    """What everyone of a folder is made with.

    Attributes:
        seed: person ``i`` depends on this and on ``i``.
        size: side of the stored images in pixels.
    """

    seed: int = 0
    size: int = 256


@dataclass(frozen=True)
class Edit:
    """One image that is asked for.

    Attributes:
        name: an emotion, ``turned`` or ``pulled``.
        targets: see :meth:`Directions.move`.
        strength: the first that is tried.
        pose: yaw and pitch in degrees.
        emotion: which is to be read off it; None where that does not matter.
        enough: how likely that emotion is to be.
    """

    name: str
    targets: Mapping[str, float]
    strength: float
    pose: tuple[float, float]
    emotion: str | None = None
    enough: float = 0.0


@dataclass(frozen=True)
class Made:
    """One image and how it came about.

    Attributes:
        edit: what was asked for; None for the plain image.
        strength: that it was made with.
        reading: what was read off it.
        sface, dlib: cosines to the plain image.
        age: apparent, in years.
    """

    edit: Edit | None
    strength: float
    reading: Reading
    sface: float
    dlib: float
    age: float

    @property
    def usable(self) -> bool:
        """Whether both recognisers know the person, who is no child by the apparent age."""
        return self.sface >= LEAST_SFACE and self.dlib >= LEAST_DLIB and self.age >= LEAST_AGE_EDITED


class Maker:
    """Makes people, one at a time.

    Args:
        recipe: see :class:`Recipe`.
        directions: see :class:`Directions`.

    Raises:
        WeightsError: the generator's or an estimator's file is missing or another one.
    """

    def __init__(self, recipe: Recipe, directions: Directions) -> None:
        self.recipe, self.directions = recipe, directions
        self.generator, self.reader = FaceGenerator(), Reader()

    def close(self) -> None:
        """Free the landmark network."""
        self.reader.close()

    def read(self, number: int) -> list[Result]:
        """The rows and files of a person's images, and the edits of which no image could be kept."""
        check_leaving()
        random = np.random.default_rng([self.recipe.seed, number])
        name = f"synthetic-{self.recipe.seed}-{number:07d}"
        style = self.style(random)
        plain = self.image(style)
        refused = self.refusal(plain)
        if plain is None or refused:
            return [Rejected(name, refused)]
        kept, lost = [Made(None, 0.0, plain, 1.0, 1.0, self.directions.apparent_age(plain))], []
        for edit in edits(random):
            check_leaving()
            made = self.edited(style, edit, plain)
            if made is None:
                lost.append(Rejected(f"{name}/{edit.name}", "at no strength is it the same person, and no child"))
            else:
                kept.append(made)
        if len(kept) < LEAST_IMAGES:
            return [Rejected(name, f"only {len(kept)} images show the same person")]
        return [*(self.accepted(number, place, name, made) for place, made in enumerate(kept)), *lost]

    def style(self, random: np.random.Generator) -> Array:
        """The w of a person, turned to the front and calmed."""
        truncation = float(random.uniform(*TRUNCATION))
        seeds = [int(seed) for seed in random.integers(0, 2**62, CANDIDATES)]
        level = float(random.uniform(*LIGHTNESS))
        candidates = self.generator.people(seeds, truncation).double().numpy()
        distances = [abs(float(self.directions.predict(one, ["lightness"])[0]) - level) for one in candidates]
        chosen = candidates[int(np.argmin(distances))]
        calm = float(random.uniform(*CALM))
        return np.asarray(chosen + self.directions.move(chosen, EXPRESSIONS["neutral"], calm))

    def refusal(self, plain: Reading | None) -> str:
        """Why there is to be nobody of this plain image; empty where there may be."""
        if plain is None:
            return "no face found"
        if self.directions.apparent_age(plain) < LEAST_AGE:
            return f"apparent age below {LEAST_AGE:g}"
        if any(abs(angle) > limit for angle, limit in zip(plain.face.angles, FRONTAL, strict=False)):
            return "not near-frontal"
        return ""

    def edited(self, style: Array, edit: Edit, plain: Reading) -> Made | None:
        """The image of an edit with the most of what was asked for, and is usable."""
        best: Made | None = None
        strength, known, unknown = edit.strength, 0.0, np.inf
        for _ in range(TRIES):
            made = self.made(style, edit, strength, plain)
            if made is not None and made.usable:
                known = strength
                if best is None or likelihood(made) >= likelihood(best):
                    best = made
                if edit.emotion is None or likelihood(made) >= edit.enough:
                    break
                strength = min(1.35 * strength, (strength + unknown) / 2)
            else:
                unknown = strength
                strength = (known + strength) / 2 if known else 0.7 * strength
        return best

    def made(self, style: Array, edit: Edit, strength: float, plain: Reading) -> Made | None:
        """The image of an edit of a person's w, and how it compares with the ``plain`` one; None without a face."""
        yaw, pitch = edit.pose
        if edit.emotion is None:  # a pose gives way too
            yaw, pitch = strength * yaw, strength * pitch
        change = self.directions.move(style, edit.targets, strength, (yaw, pitch), edit.emotion)
        reading = self.image(style, change)
        if reading is None:
            return None
        sface, dlib = float(reading.sface @ plain.sface), float(reading.dlib @ plain.dlib)
        return Made(edit, strength, reading, sface, dlib, self.directions.apparent_age(reading))

    def image(self, style: Array, change: Array | float = 0.0) -> Reading | None:
        """What is read off the image of w ``(512,)`` and a change of it in the first styles; None without a face."""
        styles = np.repeat(style[None], STYLES, axis=0)
        styles[:EDITED_STYLES] += change
        image = self.generator.images(torch.from_numpy(styles[None]).float())[0].numpy()
        return self.reader.read(image)

    def accepted(self, number: int, place: int, person: str, made: Made) -> Accepted:
        """The row and the files of a person's image, at its ``place`` among them."""
        reading, face = made.reading, made.reading.face
        name = made.edit.name if made.edit else "plain"
        stored = face.resized(self.recipe.size)
        embeddings = {"dlib": reading.dlib, "sface": reading.sface}
        key, file = f"{number:07d}-{place:02d}", f"{person}/{place:02d}-{name}.png"
        synthesis = {
            "key": key,
            "asked": name,
            "strength": made.strength,
            "sface": made.sface,
            "dlib": made.dlib,
            "likeliest": EMOTIONS[int(np.argmax(reading.scores))],
            "age": made.age,
            "skin": typology_angle(face.image, face.points),
        }
        return accepted(key, person, file, face, stored, embeddings, reading.emotion, {"synthesis": synthesis})


def edits(random: np.random.Generator) -> list[Edit]:
    """What a person is asked for beside the plain image: eight emotions, two turned heads, a face pulled at random."""
    asked = []
    for emotion, targets in EXPRESSIONS.items():
        pose = _swayed(random)
        if emotion == "anger" and random.random() < 0.5:
            targets = GLARE
        enough = float(random.uniform(*ENOUGH))
        asked.append(Edit(emotion, targets, STRENGTHS[emotion], pose, emotion, enough))
    side = 1 if random.random() < 0.5 else -1
    for sign in (side, -side):
        yaw, pitch = (float(random.uniform(*span)) for span in TURNED)
        asked.append(Edit("turned", {}, 1.0, (sign * yaw, pitch)))
    names = random.choice(list(PULLED), 4, replace=False)
    targets = {str(name): float(random.uniform(*PULLED[name])) for name in names}
    return [*asked, Edit("pulled", targets, 1.0, _swayed(random))]


def _swayed(random: np.random.Generator) -> tuple[float, float]:
    yaw, pitch = random.normal(0, SWAY)
    return float(yaw), float(pitch)


def likelihood(made: Made) -> float:
    """How likely the emotion asked for is, of eight that are as common as each other; 1 where none was."""
    if made.edit is None or made.edit.emotion is None:
        return 1.0
    shares = np.exp(made.reading.scores - made.reading.scores.max())
    return float(shares[EMOTIONS.index(made.edit.emotion)] / shares.sum())
