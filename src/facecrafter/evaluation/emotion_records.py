"""What a result has of emotions: of targets' photos, asked in words, and as an independent network reads them."""

from __future__ import annotations

from pydantic import Field

from facecrafter.evaluation.record import Interval, Record, Text


class ClassAgreement(Record):
    """Of the targets of one emotion: how many faces, and the share of them that were read as it."""

    faces: int
    agreement: Interval


class WordMean(Record):
    """The share of images read as asked, and the AUC of the class's probability."""

    read_as_asked: Interval
    auc: Interval


class WordClass(WordMean):
    """One emotion asked in words: over how many faces, and how often each class was read."""

    faces: int
    read: dict[str, int]


class WordScores(Record):
    """The eight emotions asked in words, and their mean."""

    images: int
    face_found: float
    classes: dict[str, WordClass]
    mean: WordMean


class WordsResult(Record):
    """Emotion asked of some people in words, setting by setting."""

    people: int
    estimator: Text
    settings: dict[Text, WordScores]


class TargetsRead(Record):
    """Images that were given a target's photo: over how many faces, and the share of them in which a network reads the
    class that it reads in the target's photo; in all, and by that class."""

    faces: int
    agreement: Interval
    by_class: dict[str, ClassAgreement]


class IndependentResult(Record):
    """What a network reads that had no part in training or labels, setting by setting.

    Attributes:
        network: its name, with the first digits of its digest.
        sha256: of its published weights.
        missing: why it read nothing; empty where it did.
        words: the emotions that it knows, asked in words, against the others that it knows.
        targets: of images that were given a target's photo.
    """

    network: Text
    sha256: str
    missing: Text = ""
    words: dict[Text, WordScores] = Field(default_factory=dict)
    targets: dict[Text, TargetsRead] = Field(default_factory=dict)
