"""A prepared folder to a rig."""

from __future__ import annotations

from pathlib import Path

from facecrafter.data.shards import held_out, load
from facecrafter.faces import rig_fit
from facecrafter.faces.rig import Rig
from facecrafter.provenance import PACKAGE, commit
from facecrafter.weights import WEIGHTS


def fit_rig(folder: Path) -> Rig:
    """Fit a rig on the people of a prepared folder that training sees; held-out people stay so.

    Raises:
        DataError: not a prepared folder, or too few photos in it.
    """
    prepared = load(folder)
    rows = ~held_out(prepared.persons)
    about = {
        "commit": commit(PACKAGE),
        "data": f"{folder.resolve().name}, a folder of {len(prepared)} prepared photos, less its held-out people",
        "emotions by": prepared.estimator,
        "landmarks by": f"{WEIGHTS['face_landmarker'].source}, sha256 {WEIGHTS['face_landmarker'].sha256}",
    }
    persons = [person for person, kept in zip(prepared.persons, rows, strict=True) if kept]
    return rig_fit.fit(
        prepared.points[rows], prepared.blendshapes[rows], prepared.angles[rows], prepared.emotion[rows], persons, about
    )
