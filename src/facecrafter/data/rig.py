"""Prepared folders to a rig."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facecrafter.data.shards import held_out, load
from facecrafter.data.sources import joined, near_held_out, resized
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
        DataError: not a prepared folder, too few photos in it, or emotions by different estimators.
    """
    folders = [folder, *beside]
    parts = [load(one) for one in folders]
    prepared = joined([resized(part, parts[0].images.shape[1]) for part in parts], [1 / len(parts)] * len(parts))
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
