"""Everything random in a training step, as a pure function of seed and step.

A run that is stopped and resumed, or spread over several processes, sees what one uninterrupted process would have
seen: nothing has a state that must be saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from facecrafter.controls import CONTROLS, together

_GOLDEN = (5**0.5 - 1) / 2


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


def generator(seed: int, *path: int) -> torch.Generator:
    """A generator for one place in a run; neighbouring places are unrelated."""
    state = seed & 0xFFFFFFFF
    for step in path:
        state = (state * 6364136223846793005 + step * 1442695040888963407 + 1) & 0x7FFFFFFFFFFFFFFF
        state ^= state >> 29
    return torch.Generator().manual_seed(state)


def batch_indices(seed: int, step: int, batch: int, count: int) -> Tensor:
    """Sample numbers of a step, ``(batch,)``: every epoch is a new permutation, and batches run on across epochs."""
    positions = torch.arange(step * batch, (step + 1) * batch)
    epochs, places = positions // count, positions % count
    chosen = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        now = epochs == epoch
        chosen[now] = torch.randperm(count, generator=generator(seed, 0, epoch))[places[now]]
    return chosen


def draw(
    seed: int,
    step: int,
    batch: int,
    count: int,
    latent: torch.Size,
    embedding: int,
    shares: Mapping[str, float],
    pair: float,
) -> Draw:
    """The random part of one step.

    Args:
        seed, step: where in the run.
        batch: samples in the batch, over all processes.
        count: samples in the set.
        latent: shape of one sample's latents.
        embedding: length of an identity embedding.
        shares: of ``none`` and of what is given together, see :func:`facecrafter.controls.together`, in that order.
        pair: chance that the identity comes from another photo.
    """
    source = generator(seed, 1, step)
    kind = _spread(tuple(shares.values()), batch, source)
    return Draw(
        indices=batch_indices(seed, step, batch, count),
        timesteps=_stratified(batch, source),
        noise=torch.randn(batch, *latent, generator=source),
        dropped=_is_one_of(kind, [name == "none" for name in shares]),
        weights={
            control: _is_one_of(kind, [control in name.split("+") for name in shares]).float() for control in CONTROLS
        },
        swap=torch.rand(batch, generator=source) < pair,
        pick=torch.rand(batch, generator=source),
        identity_noise=torch.randn(batch, embedding, generator=source),
    )


def draw_joint(
    seed: int,
    step: int,
    batch: int,
    count: int,
    latent: torch.Size,
    embedding: int,
    controls: Sequence[str],
    groups: int,
    drop: float,
    pair: float,
) -> Draw:
    """The random part of one joint step: Intra-Batch Mixed Conditioning (Sec. 3.2).

    ``groups`` data points are each replicated ``batch / groups`` times, replicas side by side. Each replica gets
    identity alone or with some of the controls, every combination with equal chance, and noise and timestep of its
    own. Replicas share the photo that says who they are.

    Args:
        controls: those that learn; the paper's are landmarks and emotion, and its combinations four.
        groups: data points in the batch; 1 is the paper's.
        drop: chance that a replica has no condition at all, so that guidance keeps its starting point.
        seed, step, batch, count, latent, embedding, pair: see :func:`draw`.
    """
    given = together(controls)
    shares = {"none": drop, **dict.fromkeys(given, (1 - drop) / len(given))}
    mixed = draw(seed, step, batch, count, latent, embedding, shares, pair)
    first = torch.arange(groups).repeat_interleave(batch // groups)
    return replace(
        mixed,
        indices=batch_indices(seed, step, groups, count)[first],
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
    shares = (torch.arange(batch) + torch.rand(batch, generator=source)) / batch
    return (shares * 1000).long().clamp(max=999)[torch.randperm(batch, generator=source)]
