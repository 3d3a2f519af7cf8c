"""Pairs of several folders, each of which has its share of the inputs, and of people with thousands of images."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from facecrafter.data import pairs
from facecrafter.data.pairs import KINDS, Kind, PairConfig, PairSampler, probabilities
from facecrafter.data.shards import Prepared
from facecrafter.data.sources import joined


def folder(count: int, name: str, seed: int, each: int = 10) -> Prepared:
    """Random images of people with so many each, without pixels."""
    rng = np.random.default_rng(seed)
    emotion = np.concatenate([rng.uniform(-1, 1, (count, 2)), rng.dirichlet(np.ones(8), count)], 1)
    return Prepared(
        images=np.zeros((count, 4, 4, 3), np.uint8),
        points=np.zeros((count, 0, 3), np.float32),
        blendshapes=rng.random((count, 52), np.float32),
        angles=rng.normal(0, 20, (count, 3)).astype(np.float32),
        identity=np.zeros((count, 0), np.float32),
        emotion=emotion.astype(np.float32),
        masks=np.zeros((count, 0, 0), np.uint8),
        persons=[f"{name} {index // each}" for index in range(count)],
        files=[f"{name}-{index}.jpg" for index in range(count)],
    )


PARTS = (folder(300, "real", 0), folder(1200, "made", 1), folder(60, "few", 2))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.75, 0.25), (0.375, 0.125, 0.5)])
def test_each_folder_has_its_share_of_every_batch(shares: tuple[float, ...]) -> None:
    both = joined(PARTS[: len(shares)], shares)
    sampler = PairSampler(both, "landmark")
    assert both.sources is not None
    for step in range(20):
        inputs, identities = sampler.draw(0, step, 32)
        expected = [32 * share for share in shares]
        assert np.bincount(both.sources[inputs.numpy()]).tolist() == expected
        assert np.array_equal(both.sources[identities.numpy()], both.sources[inputs.numpy()])


def test_one_pair_a_batch_is_of_each_folder_as_often_as_its_share_says() -> None:
    both = joined(PARTS[:2], (0.7, 0.3))
    sampler = PairSampler(both, "landmark")
    assert both.sources is not None
    first = [both.sources[int(sampler.draw(0, step, 1)[0])] for step in range(2000)]
    assert np.mean(first) == pytest.approx(0.3, abs=0.05)


def test_images_are_weighed_within_their_folder_and_capped_by_its_share() -> None:
    config = PairConfig(pose_power=1, emotion_power=1, cap=3)
    shares = (0.6, 0.4)
    both = joined(PARTS[:2], shares)
    got = PairSampler(both, "emotion", config).probabilities
    ends: Any = ((0, 300), (300, 1500))
    for part, share, (first, end) in zip(PARTS, shares, ends, strict=False):
        alone = probabilities(part.angles, part.emotion[:, 2:].argmax(1), config)
        np.testing.assert_allclose(got[first:end], share * alone, rtol=1e-12)
        assert got[first:end].max() <= config.cap * share / len(part) * (1 + 1e-9)
    assert got.sum() == pytest.approx(1, abs=1e-12)


def test_a_folder_of_which_nothing_is_kept_leaves_its_share_to_the_others() -> None:
    both = joined(PARTS, (0.5, 0.25, 0.25))
    assert both.sources is not None
    sampler = PairSampler(both, "landmark", keep=both.sources != 1)
    inputs, _ = sampler.draw(0, 0, 30)
    assert int((inputs < 300).sum()) == 20


# --- many images a person ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_partners_are_the_same_however_they_are_kept(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PairConfig(landmark_turn=15, emotion_turn=12)  # some images fit, and some do not
    data = folder(150, "some", 3, each=50)
    numbered = PairSampler(data, kind, config)
    monkeypatch.setattr(pairs, "_NUMBERED", 49)
    packed = PairSampler(data, kind, config)
    counts = set()
    for _ in range(2):  # found, and read again
        for index in range(150):
            expected, got = numbered.partners(index), packed.partners(index)
            assert expected.dtype == got.dtype == np.int32
            assert np.array_equal(expected, got)
            counts.add(len(got))
    assert len(counts) > 10 and max(counts) < 50
    for step in range(5):
        for expected, got in zip(numbered.draw(0, step, 64), packed.draw(0, step, 64), strict=True):
            assert got.dtype == torch.int64
            assert torch.equal(expected, got)


def test_partners_of_people_with_many_images_take_little_memory() -> None:
    """As numbers of 8 bytes those of 2,200 images of one person took 36 MB."""
    sampler = PairSampler(folder(2200, "many", 4, each=2200), "landmark")
    tracemalloc.start()
    try:
        for index in range(sampler.count):
            sampler.partners(index)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 600 * sampler.count
