"""The grid of images that shows how far training is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from facecrafter.data.dataset import TrainingSet
from facecrafter.request import Generator, Portrait, Request, images_of

PEOPLE = 8


def grid(data: TrainingSet, rows: Iterable[tuple[Generator, Iterable[str]]]) -> Tensor:
    """Eight people: their photos, the next person's photos, and images of each person.

    Args:
        data: where the people come from.
        rows: of images: what makes them, and the controls that take the next person's photo for a condition.

    Returns:
        ``(N, 3, S, S)`` in [-1, 1], eight a row.
    """
    people = torch.arange(0, data.count, max(1, data.count // PEOPLE))[:PEOPLE]
    own = [Portrait.of(data.prepared, row) for row in data.rows[people.numpy()].tolist()]
    targets = own[1:] + own[:1]
    shown = [data.images(people).cpu(), data.images(people.roll(-1)).cpu()]
    for generator, controls in rows:
        requests = [
            Request(person, dict.fromkeys(controls, target), seed)
            for seed, (person, target) in enumerate(zip(own, targets, strict=True))
        ]
        shown.append(torch.from_numpy(images_of(generator, requests)).permute(0, 3, 1, 2) / 127.5 - 1)
    return torch.cat(shown)
