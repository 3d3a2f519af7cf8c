"""What no condition asks for: whether images look like photos, and whether skin has the photo's tone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.evaluation import bootstrap, frechet
from facecrafter.evaluation.judges import DetectedFace, Judge
from facecrafter.evaluation.measurements import Array, Images, by_judge
from facecrafter.evaluation.pairs import held_out_photos
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.result import Appearance, AppearanceResult
from facecrafter.evaluation.session import Session
from facecrafter.evaluation.words import cell
from facecrafter.faces import skin

MOST_PHOTOS = 600
THIRDS = ("darkest third", "middle third", "lightest third")

log = logging.getLogger(__name__)


def features_known() -> bool:
    """Whether there are features for a Frechet distance; a note says how to get them."""
    if weights.find("lpips_alexnet"):
        return True
    log.warning("images are not compared with photos as a whole, for that network is not installed; "
                "`facecrafter weights fetch lpips_alexnet` brings it")  # fmt: skip
    return False


def measure(
    session: Session, sources: Images, photos: Sequence[int], made: Mapping[str, tuple[Images, Sequence[int]]]
) -> AppearanceResult:
    """Compare images with photos of held-out people.

    Args:
        session: opened with a Frechet distance.
        sources: the photos of the people that are asked for.
        photos: their rows in the prepared folder.
        made: by setting, P images, and the row of the photo that each is of.
    """
    prepared, cache, progress = session.prepared, session.config.cache_folder, session.progress
    real, persons = held_out_photos(prepared, MOST_PHOTOS)
    seen, seed = session.features(real), session.config.seed
    splits = list(frechet.halves(persons, seed)) if len(set(persons)) >= frechet.LEAST else []
    judge = Judge("typology angle", 1, _angles)
    own = by_judge(judge, sources, cache, progress)[:, 0]
    angle_of = dict(zip(photos, own, strict=True))
    settings = {}
    for name, (images, rows) in made.items():
        whose = [prepared.persons[row] for row in rows]
        shown, wanted = by_judge(judge, images, cache, progress)[:, 0], np.array([angle_of[row] for row in rows])
        settings[name] = Appearance(
            frechet_ratio=frechet.ratio(
                frechet.distances(session.features(images), whose, seen, persons, splits, seed)
            ),
            skin_error=skin_errors(shown, wanted, whose),
        )
    angles = by_judge(judge, real, cache, progress)[:, 0]
    one, other = neighbours(persons)
    return AppearanceResult(
        photos=len(real),
        network=session.judges.names["frechet"],
        another_photo=skin_errors(angles[other], angles[one], [persons[row] for row in one]),
        settings=settings,
    )


def neighbours(persons: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each photo of those who have two or more, its row and that of the person's next photo, the first one's after
    the last one's."""
    rows: dict[str, list[int]] = {}
    for row, person in enumerate(persons):
        rows.setdefault(person, []).append(row)
    found = [
        (one, other)
        for own in rows.values()
        if len(own) > 1
        for one, other in zip(own, [*own[1:], own[0]], strict=True)
    ]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def skin_errors(shown: Array, wanted: Array, people: Sequence[str]) -> dict[str, Interval]:
    """How far the typology angle of images is from that of their people's photos, in degrees, by thirds of these.

    Args:
        shown: ``(P,)`` degrees; NaN without a face or colour, and left out.
        wanted: ``(P,)`` of the photo that each image is of, likewise.
        people: whose images they are.
    """
    rows = np.flatnonzero(np.isfinite(shown) & np.isfinite(wanted))
    if not len(rows):
        return {}
    ends = np.quantile(np.unique(wanted[rows]), [1 / 3, 2 / 3])
    third = np.searchsorted(ends, wanted[rows], side="right")
    errors = {}
    for place, name in enumerate(THIRDS):
        here = rows[third == place]
        if len(here):
            errors[name] = bootstrap.mean(np.abs(shown - wanted)[here], [people[row] for row in here])
    return errors


def as_markdown(result: AppearanceResult) -> str:
    """The result as a table."""
    rows = [
        f"| | Frechet ratio | {' | '.join(f'skin, {name}' for name in THIRDS)} |",
        "| --- |" + " ---: |" * (1 + len(THIRDS)),
    ]
    yardstick = Appearance(frechet_ratio=Interval(1.0), skin_error=result.another_photo)
    for name, one in {"another photo of the person": yardstick, **result.settings}.items():
        errors = [cell(one.skin_error.get(third, Interval()), ".1f", unit="°") for third in THIRDS]
        rows.append(f"| {name} | {cell(one.frechet_ratio, '.1f')} | {' | '.join(errors)} |")
    return "\n".join(rows)


def _angles(faces: Sequence[DetectedFace]) -> NDArray[np.float64]:
    angles = [skin.typology_angle(one.face.image, one.face.points) for one in faces]
    return np.array(angles, np.float64).reshape(-1, 1)
