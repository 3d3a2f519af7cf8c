"""Does a made set help? A small recogniser, trained on photos, on as many made images, and on both.

It is trained from nothing for as many steps each, and tells people of Labeled Faces in the Wild apart who are held out
of all training: pairs of their photos, the area under the curve, with intervals over people. The photos of the training
people are those that the generator learned from too, so that a made set can add nothing that these do not have but
balance, and people.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.data.shards import Prepared, held_out
from facecrafter.datasets.config import APART
from facecrafter.errors import ConfigError, DataError
from facecrafter.estimators.identity import unit
from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.record import Interval, Record
from facecrafter.io import write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[np.float64]
Images = NDArray[np.uint8]

ARMS = ("photos", "made", "both")
SIDE = 64  # pixels of the images that it reads
WIDTHS = (32, 64, 128, 128)  # channels of its blocks, each of which halves the side
EMBEDDING = 64
SCALE = 16.0  # of the cosines in the softmax over people
BATCH, RATE, DECAY = 64, 1e-3, 0.05
PAIRS = 5  # of one held-out person, at most; as many of two people


class Comparison(Record):
    """What ``experiment.json`` holds.

    Attributes:
        images, steps, seed: of each of the first two arms; of the training.
        people: that each arm is trained on.
        resembling: people of the set who resemble a held-out person; they are left out.
        pairs: of one person, and as many of two.
        auc: area under the curve by arm, with an interval over held-out people.
        differences: from training on photos, paired.
    """

    images: int
    steps: int
    seed: int
    people: dict[str, int]
    resembling: int
    pairs: int
    auc: dict[str, Interval]
    differences: dict[str, Interval]


@dataclass(frozen=True)
class Pairs:
    """Pairs of held-out photos.

    Attributes:
        rows: ``(P, 2)`` of the photos.
        same: ``(P,)`` whether they show one person.
        people: whose pair it is: of two people the first one's.
    """

    rows: NDArray[np.int64]
    same: NDArray[np.bool_]
    people: list[str]


def compare(
    photos: Prepared, made: Prepared, out: Path, images: int | None = None, steps: int = 1500, seed: int = 0
) -> Comparison:
    """Train and compare. Cosines of an arm that is done are kept in the folder, and a stopped run goes on after them.

    Args:
        photos: prepared photos, some of held-out people, with embeddings by dlib.
        made: a data set, with embeddings by dlib.
        out: the folder of the result.
        images: how many of each; as many as both have if None.
        steps: of the training of each arm.
        seed: of the draws and of the training.

    Raises:
        ConfigError: fewer images than are asked for.
        DataError: no held-out person has two photos, or the images of a set show one person.
    """
    held = held_out(photos.persons)
    train = np.flatnonzero(~held)
    apart, resembling = _apart(made, photos, held)
    most = min(len(train), len(apart))
    count = most if images is None else images
    if not 2 <= count <= most:
        raise ConfigError(f"there are {most} images of either kind, and {count} cannot be taken; give --images {most}")
    rng = np.random.default_rng(seed)
    of_photos = _whole_people([photos.persons[row] for row in train], count, rng)
    of_made = _whole_people([made.persons[row] for row in apart], count, rng)
    drawn = {"photos": train[of_photos], "made": apart[of_made]}
    pairs = pairs_of(photos, np.flatnonzero(held), rng)
    scores, people = {}, {}
    for arm in ARMS:
        parts = [
            (source, drawn[name]) for name, source in (("photos", photos), ("made", made)) if arm in (name, "both")
        ]
        names = [f"{number} {source.persons[row]}" for number, (source, rows) in enumerate(parts) for row in rows]
        people[arm] = len(set(names))
        if people[arm] < 2:
            raise DataError(f"the images of '{arm}' show one person; a recogniser needs several")
        small = np.concatenate([shrunk(source.images, rows) for source, rows in parts])
        key = _key(small, names, pairs, steps, seed)
        scores[arm] = stored(out / f"{arm}-{key}.npy")
        if scores[arm] is None:
            scores[arm] = _cosines(train_on(small, names, steps, seed, arm), photos, pairs)
            store(out / f"{arm}-{key}.npy", scores[arm])
    return Comparison(
        images=count,
        steps=steps,
        seed=seed,
        people=people,
        resembling=resembling,
        pairs=int(pairs.same.sum()),
        auc={arm: _auc(scores[arm], pairs) for arm in ARMS},
        differences={arm: _auc(scores[arm], pairs, scores["photos"]) for arm in ARMS[1:]},
    )


def _apart(made: Prepared, photos: Prepared, held: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Rows of a set whose people do not resemble a held-out person, by :data:`facecrafter.datasets.config.APART`, and
    how many people do: a set may be made of photos, which are those of the test too."""
    people, own = _mean_embeddings(made, np.arange(len(made)))
    others = _mean_embeddings(photos, np.flatnonzero(held))[1]
    near = {people[place] for place in np.flatnonzero((own @ others.T > 1 - APART["dlib"]).any(1))}
    rows = [row for row, person in enumerate(made.persons) if person not in near]
    return np.array(rows, np.int64), len(near)


def _mean_embeddings(prepared: Prepared, rows: NDArray[np.int64]) -> tuple[list[str], NDArray[np.float32]]:
    """The people of some rows, and their mean embeddings ``(N, D)`` of unit length."""
    people, groups = np.unique([prepared.persons[row] for row in rows], return_inverse=True)
    sums = np.zeros((len(people), prepared.identity.shape[1]), np.float32)
    np.add.at(sums, groups, prepared.identity[rows])
    return people.tolist(), unit(sums)


def _whole_people(persons: Sequence[str], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of people in a drawn order, those with several images first, all images of each."""
    rows: dict[str, list[int]] = {}
    for row, person in enumerate(persons):
        rows.setdefault(person, []).append(row)
    names = sorted(rows)
    order = [names[place] for place in rng.permutation(len(names))]
    order.sort(key=lambda name: len(rows[name]) < 2)  # keeps the drawn order within each kind
    return np.array([row for name in order for row in rows[name]][:count], np.int64)


def pairs_of(photos: Prepared, rows: NDArray[np.int64], rng: np.random.Generator) -> Pairs:
    """Pairs of one held-out person, :data:`PAIRS` at most of each, and as many of two.

    Raises:
        DataError: nobody has two photos, or there is only one person.
    """
    own: dict[str, list[int]] = {}
    for row in rows.tolist():
        own.setdefault(photos.persons[row], []).append(row)
    same, others = [], []
    for name, some in sorted(own.items()):
        every = [(one, other) for place, one in enumerate(some) for other in some[place + 1 :]]
        same += [(name, *every[place]) for place in rng.permutation(len(every))[:PAIRS]]
    strangers = {name: rows[[photos.persons[row] != name for row in rows.tolist()]] for name, *_ in same}
    if not same or not all(map(len, strangers.values())):
        raise DataError("a recogniser is tested on held-out people, one of them with two photos, and there are none")
    for name, one, _ in same:
        others.append((name, one, int(rng.choice(strangers[name]))))
    both = [*same, *others]
    truth = np.arange(len(both)) < len(same)
    return Pairs(np.array([pair[1:] for pair in both], np.int64), truth, [name for name, *_ in both])


def shrunk(images: Images, rows: NDArray[np.int64]) -> Images:
    """Some images at :data:`SIDE` pixels."""
    import cv2

    size = (SIDE, SIDE)
    return np.stack([cv2.resize(np.asarray(images[row]), size, interpolation=cv2.INTER_AREA) for row in rows])


def network() -> nn.Module:
    """Images ``(B, 3, 64, 64)`` in [-1, 1] to embeddings ``(B, 64)``."""
    from torch import nn

    layers: list[nn.Module] = []
    for before, width in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True):
        layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
        layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.SiLU()]
    side = SIDE // 2 ** len(WIDTHS)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTHS[-1] * side**2, EMBEDDING))


def train_on(small: Images, names: Sequence[str], steps: int, seed: int, title: str) -> nn.Module:
    """A recogniser of people, trained from nothing."""
    labels = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return fitted(small, labels, int(labels.max()) + 1, steps, seed, title)[0]


def fitted(
    small: Images, labels: NDArray[np.int64], classes: int, steps: int, seed: int, title: str
) -> tuple[nn.Module, Tensor]:
    """A network trained from nothing: softmax over cosines to a vector a class.

    Args:
        small: images ``(N, 64, 64, 3)``.
        labels: ``(N,)``.
        classes: how many there are.
        steps, seed: of the training.
        title: of the progress bar.

    Returns:
        The network, and the vectors of the classes ``(classes, 64)``.
    """
    import torch
    from torch.nn import functional as F
    from tqdm import tqdm

    torch.manual_seed(seed)
    whose = torch.from_numpy(labels)
    model, centres = network(), torch.nn.Parameter(torch.randn(classes, EMBEDDING))
    optimiser = torch.optim.AdamW([*model.parameters(), centres], RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(2, steps))
    for rows, flips in tqdm(_batches(len(small), steps, seed), desc=title, total=steps):
        stack = tensor(small[rows])
        stack = torch.where(torch.from_numpy(flips)[:, None, None, None], stack.flip(3), stack)
        cosines = F.normalize(model(stack), dim=1) @ F.normalize(centres, dim=1).T
        loss = F.cross_entropy(SCALE * cosines, whose[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval(), centres.detach()


def _batches(count: int, steps: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Rows of each step, and which are mirrored."""
    rng = np.random.default_rng([seed, count])
    for _ in range(steps):
        yield rng.integers(0, count, BATCH), rng.random(BATCH) < 0.5


def tensor(small: Images) -> Tensor:
    """Images ``(N, S, S, 3)`` uint8 as the network reads them, ``(N, 3, S, S)`` in [-1, 1]."""
    import torch

    return torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1


def _cosines(model: nn.Module, photos: Prepared, pairs: Pairs) -> Array:
    """``(P,)`` of each pair."""
    import torch
    from torch.nn import functional as F

    rows = np.unique(pairs.rows)
    with torch.inference_mode():
        blocks = [model(tensor(shrunk(photos.images, part))) for part in np.array_split(rows, -(-len(rows) // 256))]
        vectors = F.normalize(torch.cat(blocks), dim=1).double().numpy()
    one, other = np.searchsorted(rows, pairs.rows).T
    return np.asarray(np.einsum("nd,nd->n", vectors[one], vectors[other]))


def area(scores: Array, same: NDArray[np.bool_]) -> float:
    """The area under the curve: how often a pair of one person scores higher than one of two; ties count half."""
    from scipy.stats import rankdata

    ranks, count = rankdata(scores), int(same.sum())
    if not 0 < count < len(same):
        return float("nan")
    return float((ranks[same].sum() - count * (count + 1) / 2) / (count * (len(same) - count)))


def _auc(scores: Array, pairs: Pairs, against: Array | None = None) -> Interval:
    def of(rows: NDArray[np.int64]) -> float:
        own = area(scores[rows], pairs.same[rows])
        return own if against is None else own - area(against[rows], pairs.same[rows])

    return bootstrap.statistic(of, pairs.people)


def _key(small: Images, names: Sequence[str], pairs: Pairs, steps: int, seed: int) -> str:
    """What the cosines of an arm depend on."""
    key = hashlib.sha256(np.ascontiguousarray(small).tobytes())
    key.update(json.dumps([list(names), pairs.rows.tolist(), steps, seed]).encode())
    return key.hexdigest()[:12]


def store(path: Path, array: NDArray[Any]) -> None:
    """Keep the result of an arm."""
    content = io.BytesIO()
    np.save(content, array)
    write_whole(path, content.getvalue())


def stored(path: Path) -> Any:
    """The result of an arm that was done; None where it was not."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def lines(found: Comparison) -> Iterator[str]:
    """The result in words."""
    if found.resembling:
        yield f"people of the set who resemble a held-out person, left out: {found.resembling}"
    yield f"{found.pairs} pairs of one held-out person and as many of two; {found.steps} steps of {BATCH} images each"
    for arm in ARMS:
        images = found.images * (2 if arm == "both" else 1)
        line = f"{arm}: AUC {shown(found.auc[arm])} ({images} images of {found.people[arm]} people)"
        if arm in found.differences:
            line += f", from photos {shown(found.differences[arm], '+')}"
        yield line


def shown(value: Interval, sign: str = "") -> str:
    """A number with its interval."""
    numbers = ["-" if one is None else f"{one:{sign}.3f}" for one in (value.value, value.low, value.high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"
