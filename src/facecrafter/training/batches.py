"""Everything random in a training step, as a pure function of seed and step.

A run that is stopped and resumed, or spread over several processes, gets the batches of one uninterrupted
process: nothing has a state that must be saved. Two things depend on how many processes there are: which samples of a
batch make finished images, with their noise, and by rounding how many whole images the autoencoder gets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from facecrafter.controls import CONTROLS, together

_GOLDEN = (5**0.5 - 1) / 2


class Samples(Protocol):
    """The part of :class:`facecrafter.data.dataset.TrainingSet` that a draw of samples needs.

    Attributes:
        count: of samples; number ``i + count`` is sample ``i`` in a mirror.
        by_source: the numbers of each source's samples.
        shares: of the sources in a batch.
    """

    count: int
    by_source: list[Tensor]

    @property
    def shares(self) -> Sequence[float]: ...  # noqa: D102


@dataclass(frozen=True)
class Draw:
    """The random part of one batch of ``B`` samples.

    Attributes:
        indices: which samples, ``(B,)``.
        timesteps: ``(B,)`` int64 in [0, 1000).
        noise: standard normal, the shape of the latents.
        dropped: ``(B,)`` bool, samples without identity.
        weights: of each control, ``(B,)``, the coefficients of Eq. 1, 0 or 1.
        swap, pick: see :meth:`facecrafter.data.dataset.TrainingSet.identities`.
        identity_noise: standard normal, ``(B, D)``.
    """

    indices: Tensor
    timesteps: Tensor
    noise: Tensor
    dropped: Tensor
    weights: dict[str, Tensor]
    swap: Tensor
    pick: Tensor
    identity_noise: Tensor

    def part(self, index: int, parts: int) -> Draw:
        """An even share of the batch, for one process or one accumulated step."""
        size = len(self.indices) // parts
        window = slice(index * size, (index + 1) * size)
        own = {name: value[window] for name, value in vars(self).items() if name != "weights"}
        return Draw(**own, weights={name: weight[window] for name, weight in self.weights.items()})


CPU = torch.device("cpu")


def generator(seed: int, *path: int, device: torch.device = CPU) -> torch.Generator:
    """A generator for one place in a run; neighbouring places are unrelated. Another device's draws other numbers."""
    state = seed & 0xFFFFFFFF
    for step in path:
        state = (state * 6364136223846793005 + step * 1442695040888963407 + 1) & 0x7FFFFFFFFFFFFFFF
        state ^= state >> 29
    return torch.Generator(device).manual_seed(state)


def batch_indices(seed: int, step: int, batch: int, count: int, device: torch.device = CPU) -> Tensor:
    """Sample numbers of a step, ``(batch,)``: every epoch is a new permutation, and batches run on across epochs."""
    return _run_on(seed, step * batch, (step + 1) * batch, count, device)


def _run_on(seed: int, first: int, end: int, count: int, device: torch.device) -> Tensor:
    """The numbers at places ``first`` to ``end - 1`` of all epochs one after another, ``(end - first,)``."""
    epochs = range(first // count, (end - 1) // count + 1) if first < end else ()
    parts = [
        _permutation(seed, epoch, count, device)[max(first - epoch * count, 0) : end - epoch * count]
        for epoch in epochs
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=device)


@lru_cache(maxsize=8)  # neighbouring steps are of one epoch, and of each source of the samples
def _permutation(seed: int, epoch: int, count: int, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=generator(seed, 0, epoch, device=device), device=device)


def sample_indices(data: Samples, seed: int, step: int, batch: int, device: torch.device = CPU) -> Tensor:
    """Numbers of a step's samples, ``(batch,)``, mirrored twins among them. Of several sources each has its share of
    every batch, and epochs of its own. Where a share is no whole number of samples, so that a step rounds it, the next
    steps make up for it.

    Args:
        data: the samples.
        seed, step: where in the run.
        batch: samples a step.
        device: where they are drawn; another device draws others.
    """
    if len(data.by_source) == 1:
        return batch_indices(seed, step, batch, 2 * data.count, device)
    parts = []
    shares = [share * (len(rows) > 0) for share, rows in zip(data.shares, data.by_source, strict=True)]
    before, after = divided(batch * step, shares), divided(batch * (step + 1), shares)
    for source, (rows, first, end) in enumerate(zip(data.by_source, before, after, strict=True)):
        if first < end:
            places = _run_on(seed + source, first, end, 2 * len(rows), device)
            parts.append(rows.to(device)[places % len(rows)] + data.count * (places >= len(rows)))
    return torch.cat(parts)[torch.randperm(batch, generator=generator(seed, 6, step, device=device), device=device)]


def divided(count: int, shares: Sequence[float]) -> list[int]:
    """A count in whole parts by their shares, of which at least one is not 0. Each in turn is rounded, half up, from
    what those before it leave, so that no part of a larger count is smaller."""
    parts: list[int] = []
    for place, share in enumerate(shares):
        rest = sum(shares[place:])
        parts.append(math.floor((count - sum(parts)) * share / rest + 0.5) if rest else 0)
    return parts


def draw(
    seed: int,
    step: int,
    batch: int,
    data: Samples,
    latent: torch.Size,
    embedding: int,
    shares: Mapping[str, float],
    pair: float,
    device: torch.device = CPU,
) -> Draw:
    """The random part of one step.

    Args:
        seed, step: where in the run.
        batch: samples in the batch, over all processes.
        data: the samples.
        latent: shape of one sample's latents.
        embedding: length of an identity embedding.
        shares: of ``none`` and of what is given together, see :func:`facecrafter.controls.together`, in that order.
        pair: chance that the identity comes from another photo.
        device: where it is drawn. On another device than the CPU the numbers are others; which sample has which
            conditions is on the CPU all the same, and alike in every batch, so that no shape changes from step to step.
    """
    source = generator(seed, 1, step, device=device)
    kind = _spread(tuple(shares.values()), batch, source if device.type == "cpu" else generator(seed))
    return Draw(
        indices=sample_indices(data, seed, step, batch, device),
        timesteps=_stratified(batch, source),
        noise=torch.randn(batch, *latent, generator=source, device=device),
        dropped=_is_one_of(kind, [name == "none" for name in shares]),
        weights={
            control: _is_one_of(kind, [control in name.split("+") for name in shares]).float() for control in CONTROLS
        },
        swap=torch.rand(batch, generator=source, device=device) < pair,
        pick=torch.rand(batch, generator=source, device=device),
        identity_noise=torch.randn(batch, embedding, generator=source, device=device),
    )


def draw_joint(
    seed: int,
    step: int,
    batch: int,
    data: Samples,
    latent: torch.Size,
    embedding: int,
    controls: Sequence[str],
    groups: int,
    drop: float,
    pair: float,
    device: torch.device = CPU,
) -> Draw:
    """The random part of one joint step: Intra-Batch Mixed Conditioning (Sec. 3.2).

    ``groups`` data points are each replicated ``batch / groups`` times, replicas side by side. Each replica gets
    identity alone or with some of the controls, every combination with equal chance, and noise and timestep of its
    own. Replicas share the photo that says who they are.

    Args:
        controls: those that learn; the paper's are landmarks and emotion, and its combinations four.
        groups: data points in the batch; 1 is the paper's.
        drop: chance that a replica has no condition at all, so that guidance keeps its starting point.
        seed, step, batch, data, latent, embedding, pair, device: see :func:`draw`.
    """
    given = together(controls)
    shares = {"none": drop, **dict.fromkeys(given, (1 - drop) / len(given))}
    mixed = draw(seed, step, batch, data, latent, embedding, shares, pair, device)
    first = torch.arange(groups, device=device).repeat_interleave(batch // groups)
    return replace(
        mixed,
        indices=sample_indices(data, seed, step, groups, device)[first],
        swap=mixed.swap[first],
        pick=mixed.pick[first],
        identity_noise=mixed.identity_noise[first],
    )


def _spread(shares: tuple[float, ...], batch: int, source: torch.Generator) -> Tensor:
    """Which of several kinds each sample is, ``(batch,)`` int64, each as often as its share says. Steps of the golden
    section from a random start keep every run of neighbours near its shares too, so the parts of a batch, and what is
    computed for one kind alone, hardly change in size."""
    places = (torch.rand((), generator=source, dtype=torch.float64) + torch.arange(batch) * _GOLDEN) % 1
    ends = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(ends, places * ends[-1], right=True).clamp(max=len(shares) - 1)


def _is_one_of(kind: Tensor, kinds: list[bool]) -> Tensor:
    """Whether each number of a kind ``(B,)`` is of those that are true, ``(B,)`` bool."""
    return torch.tensor(kinds)[kind]


def _stratified(batch: int, source: torch.Generator) -> Tensor:
    """Timesteps spread evenly over [0, 1000), one a stratum, in random order, for a steadier mean loss."""
    device = source.device
    shares = (torch.arange(batch, device=device) + torch.rand(batch, generator=source, device=device)) / batch
    order = torch.randperm(batch, generator=source, device=device)
    return (shares * 1000).long().clamp(max=999)[order]
