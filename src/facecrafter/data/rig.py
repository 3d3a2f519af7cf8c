"""Prepared folders to a rig."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facecrafter.data.shards import held_out, load, read_meta
from facecrafter.data.sources import joined, near_held_out
from facecrafter.errors import DataError
from facecrafter.estimators.blendshapes import network
from facecrafter.faces import rig_fit
from facecrafter.faces.rig import Rig
from facecrafter.provenance import PACKAGE, commit
from facecrafter.weights import WEIGHTS


def fit_rig(folder: Path, beside: Sequence[Path] = ()) -> Rig:
    """Fit a rig on the people of prepared folders that training sees; held-out people stay so.

    Args:
        folder: real photos; what identity alone draws comes from these.
        beside: more folders, of people who show what few of these do. People of theirs who are as like a held-out
            person as two photos of one person are left out.

    Raises:
        DataError: not a prepared folder, one whose photos a rig has moved, too few photos in it, emotions by different
            estimators, or no recogniser whose embeddings all folders have.
    """
    folders = [folder, *beside]
    for one in folders:
        if "warped" in read_meta(one):
            raise DataError(f"{one} is of photos that a rig has moved, from which none can be fitted; leave it out")
    recogniser = _shared_recogniser(folders)
    parts = [load(one, recogniser) for one in folders]
    size = parts[0].images.shape[1]  # no image is looked at, so only the landmarks are scaled
    scaled = [replace(part, points=part.points * np.float32(size / part.images.shape[1])) for part in parts]
    prepared = joined(scaled, [1 / len(parts)] * len(parts))
    rows = ~held_out(prepared.persons) & ~near_held_out(prepared)
    described = " and ".join(
        f"{one.resolve().name}, a folder of {len(part)} prepared photos"
        for one, part in zip(folders, parts, strict=True)
    )
    about = {
        "commit": commit(PACKAGE),
        "data": f"{described}, less held-out people",
        "emotions by": prepared.estimator,
        "landmarks by": f"{WEIGHTS['face_landmarker'].source}, sha256 {WEIGHTS['face_landmarker'].sha256}",
    }
    return rig_fit.fit(
        prepared.points[rows],
        prepared.blendshapes[rows],
        prepared.angles[rows],
        prepared.emotion[rows],
        [person for person, kept in zip(prepared.persons, rows, strict=True) if kept],
        about,
        None if prepared.sources is None else prepared.sources[rows] == 0,
        network().scores,
    )


def _shared_recogniser(folders: Sequence[Path]) -> str:
    """The first recogniser of the first folder that all have: embeddings of two cannot be compared.

    Raises:
        DataError: there is none.
    """
    known = [read_meta(one)["recognisers"] for one in folders]
    shared = next((name for name in known[0] if all(name in names for names in known)), None)
    if shared is None:
        named = ", ".join(f"{one} has {' and '.join(names)}" for one, names in zip(folders, known, strict=True))
        raise DataError(
            f"the folders have no recogniser in common ({named}); prepare one again with the --recogniser of the other"
        )
    return str(shared)
