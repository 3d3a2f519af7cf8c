"""How images follow poses and blendshapes asked by number, and what an emotion in words gains by moving landmarks.

Held-out people, one photo each. All images of a person have one seed; nothing but the number differs.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facecrafter.data import shards
from facecrafter.data.shards import DAMAGE
from facecrafter.errors import DataError
from facecrafter.evaluation import bootstrap, independent, moved_photos, ways
from facecrafter.evaluation.images import make, write
from facecrafter.evaluation.judges import Judges, JudgesConfig
from facecrafter.evaluation.measurements import Measurements, by_judge, joined, measure
from facecrafter.evaluation.pairs import by_person
from facecrafter.evaluation.record import Interval, Number, Record
from facecrafter.evaluation.result import RESULT, Result
from facecrafter.evaluation.ways import WAYS, WORDS, WaysRead
from facecrafter.faces.asked import ANGLES, Asked, Pose, live, sides_of
from facecrafter.faces.control_words import DOES
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.gain import Gain
from facecrafter.faces.rig import Rig, load
from facecrafter.io import check_free
from facecrafter.pipelines.moving import moved
from facecrafter.provenance import code, environment
from facecrafter.request import Generator, Portrait, Request, portrait_of

# What is asked for, from end to end of each control's useful range.
POSES = {"yaw": (-35, -20, 0, 20, 35), "pitch": (-20, -10, 0, 10, 20), "roll": (-20, 0, 20)}
VALUES = (0.0, 0.4, 0.8)
TARGETS = 4  # photos of other people for each, whose landmarks identity is compared with
CACHE = "cache"  # in the folder of the result

Array = NDArray[np.float64]


class Followed(Record):
    """How images follow one control.

    Attributes:
        asked: the numbers, over the people.
        read: what the judge reads, each the mean over images; the mean of both sides where there are two.
        correlation: of asked and read over all images.
        slope: of read by asked.
        error: mean absolute difference.
        errors: the same at each of the numbers asked.
        cross_talk: how far another live blendshape moves where this one is moved by 1, on average.
        worst: the blendshape that moves most, and how far.
        identity: mean cosine to the person's photo, by the judge.
    """

    asked: list[float]
    read: list[Number]
    correlation: Number
    slope: Number
    error: Number
    errors: list[Number] = Field(default_factory=list)
    cross_talk: Number = None
    worst: str = ""
    identity: Number


class NumbersResult(Result):
    """What ``result.json`` of this evaluation holds.

    Attributes:
        kind: ``controls``.
        people: how many.
        judges: by role.
        rig: its digest.
        face_found: share of all images.
        identity: mean cosine to the person's photo with landmarks by numbers, with its interval over people.
        identity_of_targets: mean cosine with landmarks from other people's photos.
        controls: by name, dead ones left out.
        photos: of the blendshapes among them, the same of the people's photos with their pixels moved as the numbers
            say: what the judge reads where they are followed. Those are left out of which less than half of the photos
            at one of the numbers are whole. Records of earlier versions have none.
        photos_torn: the share of these photos that were left out because they would be torn.
        words: of the emotions that are not neutral, as each network reads them: the judge, and one that had no part in
            training where it is installed.
        words_identity: by what the emotion acts through, the mean cosine to the person's photo.
    """

    kind: Literal["controls"] = "controls"
    people: int
    judges: dict[str, str]
    rig: str
    face_found: float
    identity: Interval = Interval()
    identity_of_targets: Number
    controls: dict[str, Followed]
    photos: dict[str, Followed] = Field(default_factory=dict)
    photos_torn: Number = None
    words: list[WaysRead]
    words_identity: dict[str, Interval]


@dataclass(frozen=True)
class Trial:
    """One image: of whom, of which control or way of words, what is asked, and how."""

    person: int
    name: str
    value: float
    request: Request


def evaluate(
    generator: Generator,
    prepared: shards.Prepared,
    out: Path,
    people: int,
    seed: int = 0,
    overwrite: bool = False,
    gain: Gain | None = None,
    device: str = "cpu",
    settings: Mapping[str, object] = MappingProxyType({}),
) -> NumbersResult:
    """Measure a generator and write ``result.json``.

    Landmarks, images and what is read in them are kept in ``out/cache``, person by person: a run that was stopped goes
    on, and one of more people makes what is new.

    Args:
        generator: whose condition the identities of ``prepared`` are.
        prepared: photos, some of held-out people.
        out: where the result goes.
        people: how many at most; fewer are the first of more.
        seed: of the choice, and of the images.
        overwrite: replace the result that is there; the cache stays.
        gain: how far the generator turns heads.
        device: the kind of device that it computes on.
        settings: how it samples, for the result.

    Raises:
        DataError: nobody is held out, or only one person.
        OutputError: ``out`` holds a result already, or cannot be written.
    """
    from tqdm import tqdm

    check_free([out / RESULT], overwrite)
    made_with, cache = environment(device), out / CACHE  # before hours go by in which files may change
    rig, rows = load(), _chosen(prepared, people, seed)
    judges = Judges(JudgesConfig(), frechet=False)
    own = judges.measure(prepared.images[rows]).identity
    trials: list[Trial] = []
    parts: list[Measurements] = []
    alike: list[Array] = []
    photos: list[Trial] = []
    photo_parts: list[Measurements] = []
    others: list[Array] = []
    other = independent.open_judge()
    for person in tqdm(range(len(rows)), desc="people"):
        some = list(_trials(prepared, person, rows, Shapes(rig, cache, gain), seed))
        made = make(generator, [trial.request for trial in some], cache, progress=False, device=device)
        parts.append(measure(judges, made.paths, cache, progress=False))
        alike.append(parts[-1].identity @ own[person])
        if other is not None:
            paths = [path for trial, path in zip(some, made.paths, strict=True) if trial.name in WAYS]
            others.append(by_judge(other, paths, cache, progress=False))
        trials += some
        references = dict(_references(some, rig, generator.size))
        photos += references
        if references:
            photo_parts.append(measure(judges, list(references.values()), cache, progress=False))
    shown, shapes = joined(parts), [trial for trial in trials if trial.name in DOES]
    places = [place for place, trial in enumerate(trials) if trial.name in WAYS]
    networks: list[tuple[str, Sequence[str], Array]] = [(judges.names["emotion"], EMOTIONS, shown.emotion[places, 2:])]
    if other is not None:
        networks.append((other.name, independent.classes(), np.concatenate(others)))
    asked = [trials[place] for place in places]
    worded = (
        [one.name for one in asked],
        [EMOTIONS[int(one.value)] for one in asked],
        [str(one.person) for one in asked],
    )
    result = NumbersResult(
        environment=made_with,
        config={
            "people": len(rows),
            "seed": seed,
            "model": generator.name,
            "key": generator.key,
            "settings": dict(settings),
            "gain": gain and gain.content(),
        },
        judges={role: judges.names[role] for role in ("pose", "expression", "identity", "emotion")},
        rig=rig.digest,
        **_measured(trials, shown, np.concatenate(alike), rig),
        photos=_of_photos(photos, joined(photo_parts), own, rig) if photos else {},
        photos_torn=1 - len(photos) / len(shapes) if shapes else None,
        words=[ways.read(*network, *worded) for network in networks],
    )
    result.write(out)
    return result


def _measured(trials: Sequence[Trial], shown: Measurements, alike: Array, rig: Rig) -> dict[str, Any]:
    """The numbers of a result.

    Args:
        trials: all images.
        shown: what the judges read in them.
        alike: cosines to the photo of the image's person.
        rig: for which blendshapes are live.
    """
    names = [trial.name for trial in trials]
    controls = [name for name in dict.fromkeys(names) if name in ANGLES or name in DOES]
    whose = [str(trial.person) for trial in trials]

    def identity(chosen: Sequence[bool]) -> Interval:
        places = np.flatnonzero(np.array(chosen) & np.isfinite(alike))  # in both, the image and the photo, is a face
        return bootstrap.statistic(lambda some: float(alike[places][some].mean()), [whose[one] for one in places])

    return {
        "people": len(set(whose)),
        "face_found": float(shown.found.mean()),
        "identity": identity([name in controls for name in names]),
        "identity_of_targets": identity([name == "target" for name in names]).value,
        "controls": {name: _followed(name, trials, shown, alike, rig) for name in controls},
        "words_identity": {way: identity([name == way for name in names]) for way in WAYS},
    }


@dataclass(frozen=True)
class Shapes:
    """Landmarks by numbers, each worked out once.

    Attributes:
        rig: how they are moved.
        cache: the folder of what is there.
        gain: how far the generator turns heads.
    """

    rig: Rig
    cache: Path
    gain: Gain | None = None

    def of(self, points: NDArray[np.float32], asked: Asked) -> NDArray[np.float32]:
        """A face ``(478, 3)`` with what is asked for, ``(478, 3)``.

        Raises:
            OutputError: the cache cannot be written.
        """
        asked = replace(asked, gain=self.gain)
        content = json.dumps([asked.content(), self.rig.digest, code("faces")], sort_keys=True).encode()
        name = hashlib.sha256(content + np.ascontiguousarray(points).tobytes()).hexdigest()[:32]
        path = self.cache / "landmarks" / f"{name}.npy"
        try:
            return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, *DAMAGE):
            found, packed = moved([points], asked, self.rig).points, io.BytesIO()
            np.save(packed, found)
            write(path, packed.getvalue())
            return found


def _references(trials: Sequence[Trial], rig: Rig, size: int) -> Iterator[tuple[Trial, NDArray[np.uint8]]]:
    """The photo of a person in place of the generator's images, for those trials that ask for an expression alone."""
    shapes = [trial for trial in trials if trial.name in DOES]
    asked = [Asked(expression=dict.fromkeys(sides_of(trial.name), trial.value)) for trial in shapes]
    images = moved_photos.moved(shapes[0].request.identity, asked, rig, size) if shapes else []
    yield from ((trial, image) for trial, image in zip(shapes, images, strict=True) if image is not None)


def _of_photos(trials: Sequence[Trial], shown: Measurements, own: Array, rig: Rig) -> dict[str, Followed]:
    """How moved photos follow each blendshape.

    Args:
        trials: what each photo was moved for.
        shown: what the judges read in them.
        own: embeddings of the people's photos as they were.
        rig: for which blendshapes are live.
    """
    alike = np.sum(shown.identity * own[[trial.person for trial in trials]], axis=1)
    people, counts = len(own), Counter((trial.name, trial.value) for trial in trials)
    names = dict.fromkeys(trial.name for trial in trials)
    whole = [name for name in names if min(counts[name, value] for value in VALUES) >= people / 2]
    return {name: _followed(name, trials, shown, alike, rig) for name in whole}


def _chosen(prepared: shards.Prepared, people: int, seed: int) -> NDArray[np.int64]:
    """A photo each of some held-out people."""
    random, held = np.random.default_rng(seed), np.flatnonzero(shards.held_out(prepared.persons))
    photos = by_person(prepared, held)
    if len(photos) < 2:
        raise DataError(
            f"controls are measured on 2 held-out people or more, and there are {len(photos)}; prepare photos of more"
        )
    return np.array([random.choice(photos[name]) for name in random.permutation(sorted(photos))[:people]])


def _trials(
    prepared: shards.Prepared, person: int, rows: NDArray[np.int64], shapes: Shapes, seed: int
) -> Iterator[Trial]:
    """All images that are asked of one of the people, who is the ``person``-th of the rows."""
    own = Portrait.of(prepared, int(rows[person]))

    def trial(name: str, value: float, asked: Asked | None, **others: Portrait) -> Trial:
        given = dict(others)
        if asked is not None:
            given["landmark"] = Portrait(points=shapes.of(own.points, asked))
        return Trial(person, name, value, Request(own, given, seed))

    for name, degrees in POSES.items():
        for angle in degrees:
            yield trial(name, angle, Asked(Pose(**{name: angle})))
    for name in live(shapes.rig):
        for value in VALUES:
            yield trial(name, value, Asked(expression=dict.fromkeys(sides_of(name), value)))
    for number, word in enumerate(WORDS, 1):
        emotion = Emotion.from_words({word: 1.0})
        for way in WAYS:
            asked = None if way == "module" else Asked(emotion=emotion)
            module = {} if way == "landmarks" else {"emotion": portrait_of(emotion)}
            yield trial(way, number, asked, **module)
    others = np.roll(rows, -person)[1:]
    for other in others[:TARGETS]:
        yield trial("target", 0, None, landmark=Portrait.of(prepared, int(other)))


def _followed(name: str, trials: Sequence[Trial], shown: Measurements, alike: Array, rig: Rig) -> Followed:
    places = np.array([place for place, one in enumerate(trials) if one.name == name and shown.found[place]], np.int64)
    asked = np.array([trials[place].value for place in places])
    every = [float(value) for value in POSES.get(name, VALUES)]
    if len(set(asked)) < 2:
        return Followed(asked=every, read=[], correlation=None, slope=None, error=None, identity=None)
    scores = shown.expression[places]
    if name in ANGLES:
        read = np.degrees(shown.pose[places, list(ANGLES).index(name)])
    else:
        sides = [BLENDSHAPES.index(side) for side in sides_of(name)]
        read = scores[:, sides].mean(1)
    found = Followed(
        asked=every,
        read=[_mean(read[asked == value]) for value in every],
        correlation=float(np.corrcoef(asked, read)[0, 1]) if np.ptp(read) > 1e-6 else None,
        slope=float(np.polyfit(asked, read, 1)[0]),
        error=float(np.abs(read - asked).mean()),
        errors=[_mean(np.abs(read - asked)[asked == value]) for value in every],
        identity=_mean(alike[places]),
    )
    if name in ANGLES:
        return found
    others = [number for number in np.flatnonzero(rig.live) if number not in sides]
    slopes = np.abs(np.polyfit(asked, scores[:, others], 1)[0])
    worst = f"{BLENDSHAPES[others[int(slopes.argmax())]]} {slopes.max():.2f}"
    return found.model_copy(update={"cross_talk": float(slopes.mean()), "worst": worst})


def _mean(values: NDArray[Any]) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values.astype(float)).any() else None


def as_markdown(result: NumbersResult | Mapping[str, Any]) -> str:
    """Two Markdown tables: a row a control, and a row an emotion."""
    found = result if isinstance(result, NumbersResult) else NumbersResult.model_validate(result)
    lines = ["| control | asked | read | r | slope | error | cross-talk | moves most | identity |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: | --- | ---: |")
    if found.photos:
        lines = [f"{lines[0]} moved photos: r | slope | cross-talk |", f"{lines[1]} ---: | ---: | ---: |"]
    for name, one in found.controls.items():
        small = ".0f" if name in ANGLES else ".2f"
        cells = [", ".join(format(value, "g") for value in one.asked), ", ".join(_cell(v, small) for v in one.read)]
        cells += [_cell(one.correlation), _cell(one.slope), _cell(one.error, ".1f" if name in ANGLES else ".2f")]
        cells += [_cell(one.cross_talk, ".3f") if one.worst else "", one.worst, _cell(one.identity)]
        if photo := found.photos.get(name):
            cells += [_cell(photo.correlation), _cell(photo.slope), _cell(photo.cross_talk, ".3f")]
        elif found.photos:
            cells += [""] * 3
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *ways.as_markdown(found.words, found.words_identity), ""]
    of_targets = _cell(found.identity_of_targets)
    lines.append(
        f"{found.people} held-out people, one seed; a face was found in {found.face_found:.1%} of the images. "
        f"Identity: cosine to the person's photo; with the landmarks of other people's photos it is {of_targets}."
    )
    if found.photos:
        torn = f"{found.photos_torn:.0%}" if found.photos_torn is not None else "some"
        lines[-1] += f" Moved photos: the people's own, their pixels moved as the numbers say; {torn} would be torn."
    return "\n".join(lines)


def _cell(value: float | None, form: str = ".2f") -> str:
    return "none" if value is None else format(value, form)
