"""Which images train a module together: an input, and the identity image of the same person (Sec. 3.2).

The landmark module sees pairs whose pose and expression differ, the emotion module pairs whose expression differs while
the pose stays. The paper gives no bounds, so those of :class:`PairConfig` are ours. Inputs of rare poses and rare
emotions are drawn more often than they come.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from facecrafter.config import Strict
from facecrafter.data.shards import Prepared
from facecrafter.errors import ConfigError, DataError, OutputError
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.io import write_whole

Kind = Literal["landmark", "emotion"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Comparisons of two images that are made at once; each takes 52 numbers, a few times over.
_AT_ONCE = 2**17

# Partners of images of a person with so many at most are kept as numbers, 4 kB an image at most. Of a person with more
# they are kept as a bit for each of the person's images: 32 times smaller, and a moment longer to read.
_NUMBERED = 1024


class PairConfig(Strict):
    """What makes a pair, and how rare images are favoured.

    A turn is the larger difference of yaw and pitch in degrees. Roll does not count: alignment takes it out of the
    image. A blendshape distance is Euclidean over all 52 numbers; photos of one person are usually 0.6 to 1.8 apart.
    """

    landmark_turn: float = Field(default=10.0, ge=0)  # least turn between the images of a landmark pair
    landmark_expression: float = Field(default=0.8, ge=0)  # and their least blendshape distance
    emotion_turn: float = Field(default=8.0, ge=0)  # greatest turn between the images of an emotion pair
    # The expression of an emotion pair differs by class, or at least by one of these:
    emotion_expression: float = Field(default=1.0, ge=0)  # blendshape distance
    emotion_feeling: float = Field(default=0.3, ge=0)  # distance of valence and arousal
    bin: float = Field(default=15.0, gt=0, le=180)  # side in degrees of the bins of yaw and pitch, one of them around 0
    pose_power: float = Field(default=0.5, ge=0, le=1)  # 0 draws poses as they come, 1 all bins equally often
    emotion_power: float = Field(default=0.5, ge=0, le=1)  # the same for the emotion classes
    cap: float = Field(default=8.0, ge=1)  # an image is drawn at most so many times as often as without weights


@dataclass(frozen=True)
class Partners:
    """Who finds a partner for one kind of pair.

    Attributes:
        people: people in the set.
        paired_people: those with at least one pair of two images.
        images: images in the set.
        self_pairs: images that have no partner and pair with themselves.
    """

    people: int
    paired_people: int
    images: int
    self_pairs: int


class PairSampler:
    """Draws pairs of one kind. It has no state: a draw is a function of seed and step.

    An image without a partner pairs with itself.

    Args:
        prepared: a prepared folder's content, of ``N`` images.
        kind: ``landmark`` or ``emotion``.
        config: the bounds and weights.
        keep: ``(N,)`` bool, which images to use; None for all. Numbers count the kept images alone, as in
            :class:`facecrafter.data.dataset.TrainingSet`.

    Attributes:
        count: images in use.
        paired: ``(count,)`` bool, which images have a partner.
        probabilities: ``(count,)``, how likely each image is an input; they sum to 1, and those of each of several
            folders to its share of a batch.

    Raises:
        DataError: no image is kept, or not one has a partner.
        ConfigError: an unknown kind.
    """

    def __init__(
        self,
        prepared: Prepared,
        kind: Kind,
        config: PairConfig = PairConfig(),
        keep: NDArray[np.bool_] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"there are no '{kind}' pairs, only {' and '.join(KINDS)} pairs")
        chosen = np.arange(len(prepared)) if keep is None else np.flatnonzero(keep)
        if len(chosen) == 0:
            raise DataError("no sample is left to pair; prepare more photos, or keep nobody out")
        self.kind, self.config, self.count = kind, config, len(chosen)
        self._angles = prepared.angles[chosen, :2]
        self._blendshapes = prepared.blendshapes[chosen]
        self._feelings = prepared.emotion[chosen, :2]
        self._classes = prepared.emotion[chosen, 2:].argmax(1)
        self._sort_by_person([prepared.persons[index] for index in chosen])
        self.paired = self._find_paired(kind)
        if not self.paired.any():
            raise DataError(self._no_pairs())
        self.probabilities = self._probabilities(prepared, chosen)
        self._cumulated = np.cumsum(self.probabilities)
        self._partners: dict[int, NDArray[Any]] = {}  # of images drawn before, see _kept

    def draw(self, seed: int, step: int, batch: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """The pairs of one step, or one process's even part of them.

        Inputs are spread evenly over the set, one from each of ``batch`` equally likely stretches of it, so a batch
        seldom holds an image twice, and of several folders each has its share of it to within two images. The identity
        image is any partner, all equally likely.

        Args:
            seed, step: where in the run.
            batch: pairs a step, over all processes; a multiple of ``parts``.
            part, parts: which of how many.

        Returns:
            Numbers of the inputs and of their identity images, each ``(batch / parts,)`` int64 in [0, count). The
            mirrored twin of an image has its number plus ``count``.
        """
        source = np.random.default_rng([seed & 0xFFFFFFFF, KINDS.index(self.kind), step])
        places = (source.permutation(batch) + source.random(batch)) / batch
        picks = source.random(batch)
        size = batch // parts
        window = slice(part * size, (part + 1) * size)
        inputs = np.searchsorted(self._cumulated, places[window], side="right").clip(max=self.count - 1)
        identities = np.empty_like(inputs)
        for number, (index, pick) in enumerate(zip(inputs, picks[window], strict=True)):
            partners = self.partners(int(index))
            identities[number] = partners[int(pick * len(partners))]
        return torch.from_numpy(inputs), torch.from_numpy(identities)

    def partners(self, index: int) -> NDArray[np.int32]:
        """All images that may stand for the identity of image ``index``, in order; itself if there is no other."""
        kept = self._partners.get(index)
        if kept is None:
            kept = self._partners[index] = self._kept(index)
            kept.flags.writeable = False
        if kept.dtype == np.int32:
            return kept
        members = self._members(index)
        return members[np.unpackbits(kept, count=len(members)).view(np.bool_)].astype(np.int32)

    def _kept(self, index: int) -> NDArray[Any]:
        """The partners of an image as they are kept: their numbers, int32, or one bit for each of the person's images,
        packed in uint8."""
        if not self.paired[index]:
            return np.array([index], np.int32)
        members = self._members(index)
        fits = self._fits(self.kind, np.array(index), members)
        return members[fits].astype(np.int32) if len(members) <= _NUMBERED else np.packbits(fits)

    def _members(self, index: int) -> NDArray[np.int64]:
        """All images of the person that an image shows, in order."""
        person = self._person[index]
        return self._order[self._start[person] : self._start[person] + self._size[person]]

    def counts(self, kind: Kind | None = None) -> Partners:
        """How many people and images have partners, for this sampler's kind of pair or the other."""
        paired = self.paired if kind in (None, self.kind) else self._find_paired(kind)
        return Partners(len(self._size), len(np.unique(self._person[paired])), self.count, int((~paired).sum()))

    def report(self, path: Path, overwrite: bool = False) -> None:
        """Write an image of what is drawn: yaw, pitch and emotion before and after weighting, and who has a partner.

        Args:
            path: a PNG; its folder is made if it is not there.
            overwrite: replace a file of that name.

        Raises:
            OutputError: the file exists, or cannot be written.
        """
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; choose another place for the report, or overwrite it")
        write_whole(path, self._drawing())

    def _probabilities(self, prepared: Prepared, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """How likely each of the ``chosen`` images ``(count,)`` is an input, ``(count,)``.

        Of several folders each has its share, within which its own images are weighed against each other; the share of
        one without images goes to the others in proportion.
        """
        if prepared.sources is None:
            return probabilities(self._angles, self._classes, self.config)
        made, sources = np.zeros(len(chosen)), prepared.sources[chosen]
        for source in np.unique(sources):
            own = sources == source
            made[own] = prepared.shares[source] * probabilities(self._angles[own], self._classes[own], self.config)
        return made / made.sum()

    # --- people and partners ------------------------------------------------------------------------------------------

    def _sort_by_person(self, persons: list[str]) -> None:
        """Number the people, and list the images person by person.

        ``_order`` holds the images, those of person ``p`` from ``_start[p]`` on, ``_size[p]`` of them. ``_person``
        and ``_place`` say where in it an image is, and ``_stride`` how to walk through a person's images.
        """
        numbers: dict[str, int] = {}
        self._person = np.array([numbers.setdefault(person, len(numbers)) for person in persons])
        self._order = np.argsort(self._person, kind="stable")
        self._size = np.bincount(self._person)
        self._start = np.cumsum(self._size) - self._size
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(self.count) - self._start[self._person[self._order]]
        sizes, which = np.unique(self._size, return_inverse=True)
        self._stride = np.array([_stride(int(size)) for size in sizes])[which]

    def _fits(self, kind: Kind, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether images of the same people form pairs; the two sides broadcast."""
        config = self.config
        turn = np.abs(self._angles[one] - self._angles[other]).max(-1)
        fits = (turn >= config.landmark_turn) if kind == "landmark" else (turn <= config.emotion_turn)
        fits &= one != other
        one, other = (side[fits] for side in np.broadcast_arrays(one, other))
        expression = np.linalg.norm(self._blendshapes[one] - self._blendshapes[other], axis=-1)
        if kind == "landmark":
            differs = expression >= config.landmark_expression
        else:
            feeling = np.linalg.norm(self._feelings[one] - self._feelings[other], axis=-1)
            differs = (expression >= config.emotion_expression) | (feeling >= config.emotion_feeling)
            differs |= self._classes[one] != self._classes[other]
        fits[fits] = differs
        return fits

    def _find_paired(self, kind: Kind) -> NDArray[np.bool_]:
        """Which images have a partner, ``(count,)``.

        All people are walked through at once: every image is compared with its person's others, one after another,
        until one fits. Most need a few steps, so this costs far less than all pairs. As fewer are left, each takes more
        steps at once.
        """
        found = np.zeros(self.count, np.bool_)
        left = np.flatnonzero(self._size[self._person] > 1)
        step = 1
        while len(left):
            steps = np.arange(step, step + max(1, _AT_ONCE // len(left)))
            person = self._person[left, None]
            place = (self._place[left, None] + steps * self._stride[person]) % self._size[person]
            found[left] = self._fits(kind, left[:, None], self._order[self._start[person] + place]).any(1)
            step += len(steps)
            left = left[~found[left] & (self._size[self._person[left]] > step)]
        return found

    def _no_pairs(self) -> str:
        config = self.config
        if self.kind == "landmark":
            bounds = (
                f"turned by at least {config.landmark_turn:g} degrees and {config.landmark_expression:g} apart in "
                "blendshapes"
            )
            out = "lower landmark_turn or landmark_expression"
        else:
            bounds = (
                f"turned by at most {config.emotion_turn:g} degrees, of different emotion classes or at least "
                f"{config.emotion_expression:g} apart in blendshapes or {config.emotion_feeling:g} in valence-arousal"
            )
            out = "raise emotion_turn, or lower emotion_expression or emotion_feeling"
        return (
            f"among {self.count} images of {len(self._size)} people are no two of one person that make a {self.kind} "
            f"pair ({bounds}); {out}, or prepare more images a person"
        )

    # --- the report ---------------------------------------------------------------------------------------------------

    def _drawing(self) -> bytes:
        """The report as PNG."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure((11, 8), layout="constrained")
        (yaw, pitch), (classes, partners) = figure.subplots(2, 2)
        shares = {"as they come": np.full(self.count, 1 / self.count), "as drawn": self.probabilities}
        edges = np.arange(-90, 91, 5)
        for column, (axes, name) in enumerate(((yaw, "yaw"), (pitch, "pitch"))):
            for (label, weights), filled in zip(shares.items(), (True, False), strict=True):
                heights = np.histogram(self._angles[:, column].clip(-90, 90), edges, weights=weights)[0] * 100
                axes.stairs(heights, edges, fill=filled, label=label, linewidth=2, alpha=0.5 if filled else 1)
            axes.set(title=name, xlabel="degrees", ylabel="% of inputs")
            axes.legend()
        places = np.arange(len(EMOTIONS))
        for shift, (label, weights) in zip((-0.2, 0.2), shares.items(), strict=True):
            heights = np.bincount(self._classes, weights, len(EMOTIONS)) * 100
            bars = classes.bar(places + shift, heights, 0.4, label=label, alpha=0.5 if shift < 0 else 1)
            classes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=7)
        classes.set_xticks(places, EMOTIONS, rotation=30)
        classes.set(title="emotion class", ylabel="% of inputs")
        classes.legend()
        counts = {kind: self.counts(kind) for kind in KINDS}
        one = counts[self.kind]
        groups = {
            "people with\na partner": [count.paired_people for count in counts.values()],
            "images with\na partner": [count.images - count.self_pairs for count in counts.values()],
            "self-pairs": [count.self_pairs for count in counts.values()],
        }
        for number, kind in enumerate(KINDS):
            heights = np.array([values[number] for values in groups.values()])
            bars = partners.bar(np.arange(len(groups)) + (number - 0.5) * 0.4, heights, 0.4, label=f"{kind} pairs")
            partners.bar_label(bars, fontsize=8)
        partners.set_xticks(np.arange(len(groups)), list(groups))
        partners.set_title(f"of {one.people} people and {one.images} images")
        partners.legend()
        alone = self.probabilities[~self.paired].sum()
        figure.suptitle(f"{self.kind} pairs: {alone:.1%} of the draws are self-pairs")
        content = io.BytesIO()
        FigureCanvasAgg(figure).print_png(content)
        return content.getvalue()


def probabilities(
    angles: NDArray[np.float32], classes: NDArray[np.int64], config: PairConfig = PairConfig()
) -> NDArray[np.float64]:
    """How likely each image is drawn.

    An image weighs the inverse of how many share its bin of yaw and pitch, to a power, times the same for its emotion
    class. With one power 1 and the other 0, all bins (or classes) that have images are equally likely; with both 1
    that holds as far as pose and emotion are independent. No image exceeds ``config.cap`` times its plain share; what
    is cut goes to the others in proportion.

    Args:
        angles: ``(N, 2 or more)`` yaw and pitch in degrees.
        classes: ``(N,)`` emotion classes.
        config: the powers, bins and cap.

    Returns:
        ``(N,)``, summing to 1.
    """
    bins = np.floor(np.clip(angles[:, :2], -90, 90) / config.bin + 0.5).astype(np.int64)
    across = bins[:, 0] * (2 * np.abs(bins[:, 1]).max() + 1) + bins[:, 1]
    weights = _rarity(across, config.pose_power) * _rarity(classes, config.emotion_power)
    return _capped(weights, config.cap / len(weights))


def _rarity(bins: NDArray[np.int64], power: float) -> NDArray[np.float64]:
    """How many share an entry's bin, to the power of ``-power``."""
    _, which, counts = np.unique(bins, return_inverse=True, return_counts=True)
    return (counts.astype(np.float64) ** -power)[which]


def _capped(weights: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """Weights on such a scale that they sum to 1 when none counts for more than ``limit``, which is at least 1 / N."""
    falling = np.sort(weights)[::-1]
    rest = np.cumsum(falling[::-1])[::-1]
    # If the k largest are at the limit, the others share what is left; the first k that holds is the right one.
    scales = (1 - np.arange(len(weights)) * limit) / rest
    first = int(np.argmax(scales * falling <= limit * (1 + 1e-9)))
    return np.minimum(weights * scales[first], limit)


def _stride(size: int) -> int:
    """A step that leads through all of ``size`` places in a circle, soon to all regions of it: near the golden section.

    Neighbours are often frames of one video, which are no pairs.
    """
    stride = max(1, round(size * 0.618))
    while math.gcd(stride, size) != 1:
        stride += 1
    return stride
