"""Everything random in a training step, as a pure function of seed and step.

A run that is stopped and resumed, or spread over several processes, sees what one uninterrupted process would have
seen: nothing has a state that must be saved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from facecrafter.training.config import Mixture

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Draw:
    """The random part of one batch of ``B`` samples.

    Attributes:
        indices: which samples, ``(B,)``.
        timesteps: ``(B,)`` int64 in [0, 1000).
        noise: standard normal, the shape of the latents.
        dropped: ``(B,)`` bool, samples without identity.
        landmark, emotion: ``(B,)``, the coefficients of Eq. 1, 0 or 1.
        swap, pick: see :meth:`facecrafter.data.dataset.TrainingSet.identities`.
        identity_noise: standard normal, ``(B, D)``.
    """

    indices: Tensor
    timesteps: Tensor
    noise: Tensor
    dropped: Tensor
    landmark: Tensor
    emotion: Tensor
    swap: Tensor
    pick: Tensor
    identity_noise: Tensor

    def part(self, index: int, parts: int) -> Draw:
        """An even share of the batch, for one process or one accumulated step."""
        size = len(self.indices) // parts
        window = slice(index * size, (index + 1) * size)
        return Draw(**{name: value[window] for name, value in vars(self).items()})


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
    seed: int, step: int, batch: int, count: int, latent: torch.Size, embedding: int, mixture: Mixture, pair: float
) -> Draw:
    """The random part of one step.

    Args:
        seed, step: where in the run.
        batch: samples in the batch, over all processes.
        count: samples in the set.
        latent: shape of one sample's latents.
        embedding: length of an identity embedding.
        mixture: shares of the condition combinations.
        pair: chance that the identity comes from another photo.
    """
    source = generator(seed, 1, step)
    kind = _spread(mixture.shares, batch, source)
    return Draw(
        indices=batch_indices(seed, step, batch, count),
        timesteps=_stratified(batch, source),
        noise=torch.randn(batch, *latent, generator=source),
        dropped=kind == 0,
        landmark=((kind == 2) | (kind == 4)).float(),
        emotion=((kind == 3) | (kind == 4)).float(),
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
    groups: int,
    drop: float,
    pair: float,
) -> Draw:
    """The random part of one joint step: Intra-Batch Mixed Conditioning (Sec. 3.2).

    ``groups`` data points are each replicated ``batch / groups`` times, replicas side by side; each replica gets one
    of ID, ID+LMK, ID+EMO and ID+LMK+EMO with equal chance, and noise and timestep of its own. Replicas share the photo
    that says who they are.

    Args:
        groups: data points in the batch; 1 is the paper's.
        drop: chance that a replica has no condition at all, so that guidance keeps its starting point.
        seed, step, batch, count, latent, embedding, pair: see :func:`draw`.
    """
    mixture = Mixture(none=drop, **dict.fromkeys(("identity", "landmark", "emotion", "both"), (1 - drop) / 4))
    mixed = draw(seed, step, batch, count, latent, embedding, mixture, pair)
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


def _stratified(batch: int, source: torch.Generator) -> Tensor:
    """Timesteps spread evenly over [0, 1000), one a stratum, in random order, for a steadier mean loss."""
    shares = (torch.arange(batch) + torch.rand(batch, generator=source)) / batch
    return (shares * 1000).long().clamp(max=999)[torch.randperm(batch, generator=source)]
