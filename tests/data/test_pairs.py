"""Training pairs: each obeys its bounds, rare images come more often, and a draw is a function of seed and step."""

from __future__ import annotations

import errno
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from facecrafter.data import pairs
from facecrafter.data.pairs import KINDS, Kind, PairConfig, PairSampler, Partners, probabilities
from facecrafter.data.shards import Prepared
from facecrafter.errors import ConfigError, DataError, OutputError

# Bounds that about a third of the made-up pairs keep, and all images as likely.
BOUNDS = PairConfig(
    landmark_turn=15,
    landmark_expression=0.8,
    emotion_turn=12,
    emotion_expression=0.9,
    emotion_feeling=0.8,
    pose_power=0,
    emotion_power=0,
)


def made_up(persons: list[str], seed: int = 0) -> Prepared:
    """Random images of some people, without pixels; every third expresses nothing of its own."""
    rng, count = np.random.default_rng(seed), len(persons)
    blendshapes = rng.random((count, 52), np.float32) * 0.4
    emotion = np.concatenate([rng.uniform(-1, 1, (count, 2)), rng.dirichlet(np.ones(8), count)], 1).astype(np.float32)
    blendshapes[::3], emotion[::3] = blendshapes[0], emotion[0]
    return Prepared(
        images=np.zeros((count, 0, 0, 3), np.uint8),
        points=np.zeros((count, 0, 3), np.float32),
        blendshapes=blendshapes,
        angles=(rng.normal(0, 1, (count, 3)) * [20, 12, 30]).astype(np.float32),
        identity=np.zeros((count, 0), np.float32),
        emotion=emotion,
        masks=np.zeros((count, 0, 0), np.uint8),
        persons=persons,
        files=[f"{index}.jpg" for index in range(count)],
    )


def mixed_people(seed: int = 0) -> Prepared:
    """Two hundred images in no order: of one person 60, of others few, of thirty one each."""
    persons = ["Many"] * 60 + [f"Some{index % 40}" for index in range(110)] + [f"One{index}" for index in range(30)]
    np.random.default_rng(seed).shuffle(persons)
    return made_up(persons, seed)


def is_pair(data: Prepared, kind: Kind, config: PairConfig, one: int, other: int) -> bool:
    """The definition, number by number."""
    if one == other or data.persons[one] != data.persons[other]:
        return False
    turn = max(abs(float(data.angles[one, axis]) - float(data.angles[other, axis])) for axis in (0, 1))
    apart = math.dist(data.blendshapes[one].tolist(), data.blendshapes[other].tolist())
    if kind == "landmark":
        return turn >= config.landmark_turn and apart >= config.landmark_expression
    feeling = math.dist(data.emotion[one, :2].tolist(), data.emotion[other, :2].tolist())
    classes = [int(np.argmax(data.emotion[index, 2:])) for index in (one, other)]
    differs = classes[0] != classes[1] or apart >= config.emotion_expression or feeling >= config.emotion_feeling
    return turn <= config.emotion_turn and differs


def expected_partners(data: Prepared, kind: Kind, config: PairConfig) -> list[list[int]]:
    everyone = range(len(data))
    return [[other for other in everyone if is_pair(data, kind, config, one, other)] or [one] for one in everyone]


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_drawn_pair_obeys_the_bounds(kind: Kind) -> None:
    data = mixed_people()
    sampler = PairSampler(data, kind, BOUNDS)
    alone = expected_partners(data, kind, BOUNDS)
    pairs_seen = self_pairs = 0
    for step in range(20):
        inputs, identities = sampler.draw(3, step, 32)
        assert inputs.shape == identities.shape == (32,)
        assert inputs.dtype == identities.dtype == torch.int64
        for one, other in zip(inputs.tolist(), identities.tolist(), strict=True):
            if one == other:
                assert alone[one] == [one]
                self_pairs += 1
            else:
                assert is_pair(data, kind, BOUNDS, one, other)
                pairs_seen += 1
    assert pairs_seen > 100
    assert self_pairs > 100


@pytest.mark.parametrize("at_once", [1, 700, 2**17])
@pytest.mark.parametrize("kind", KINDS)
def test_partners_are_those_of_a_plain_loop(kind: Kind, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_AT_ONCE", at_once)
    data = mixed_people(1)
    sampler = PairSampler(data, kind, BOUNDS)
    expected = expected_partners(data, kind, BOUNDS)
    assert [sampler.partners(index).tolist() for index in range(len(data))] == expected
    paired = [partners != [index] for index, partners in enumerate(expected)]
    assert sampler.paired.tolist() == paired
    people = {person for person, has in zip(data.persons, paired, strict=True) if has}
    assert sampler.counts() == Partners(71, len(people), 200, paired.count(False))
    assert 30 < paired.count(False) < 170  # the thirty who are alone, and some who are not
    other = next(name for name in KINDS if name != kind)
    assert sampler.counts(other) == PairSampler(data, other, BOUNDS).counts()


def test_a_lone_pair_in_a_crowd_is_found() -> None:
    """All images of a person are the same but one; the walk has to go all the way round."""
    data = made_up(["Ann"] * 301)
    data.angles[:], data.blendshapes[:], data.emotion[:] = 0, 0, 0
    data.angles[150, 1], data.blendshapes[150] = 20, 0.5
    sampler = PairSampler(data, "landmark")
    assert sampler.paired.all()
    assert sampler.partners(7).tolist() == [150]
    assert sampler.partners(150).tolist() == [index for index in range(301) if index != 150]


@pytest.mark.parametrize("size", [*range(1, 70), 720, 1009])
def test_the_rollout_passes_everybody_once(size: int) -> None:
    assert len({step * pairs._stride(size) % size for step in range(size)}) == size


def test_every_partner_is_drawn_as_often() -> None:
    data = mixed_people(2)
    sampler = PairSampler(data, "landmark", BOUNDS)
    index = int(np.argmax([len(sampler.partners(one)) for one in range(200)]))
    partners = sampler.partners(index).tolist()
    got = []
    for step in range(600):
        inputs, identities = sampler.draw(0, step, 200)
        got += identities[inputs == index].tolist()
    assert len(got) == pytest.approx(600, abs=60)
    assert set(got) == set(partners)
    expected = len(got) / len(partners)
    chi_square = sum((got.count(partner) - expected) ** 2 / expected for partner in partners)
    assert chi_square < len(partners) - 1 + 5 * math.sqrt(2 * len(partners))


def test_roll_makes_no_pair_and_parts_none() -> None:
    """Images are aligned upright."""
    data = made_up(["Ann", "Ann", "Ann"])
    data.blendshapes[:] = np.array([[0.0], [0.5], [1.0]], np.float32)
    data.angles[:] = [[0, 0, 0], [0, 0, 40], [30, 0, 0]]
    assert PairSampler(data, "landmark").partners(0).tolist() == [2]
    assert PairSampler(data, "emotion").partners(0).tolist() == [1]


@pytest.mark.parametrize(
    ("change", "value", "paired"),
    [
        ("class", 0.0, True),
        ("class", 7.0, True),
        ("class", 9.0, False),
        ("feeling", 0.2, False),
        ("feeling", 0.4, True),
        ("expression", 0.9, False),
        ("expression", 1.1, True),
    ],
)
def test_an_emotion_pair_differs_in_one_of_three_ways(change: str, value: float, paired: bool) -> None:
    data = made_up(["Ann", "Ann", "Bob", "Bob"])
    data.angles[:], data.blendshapes[:], data.emotion[:] = 0, 0, 0
    data.emotion[3, 5] = 1  # Bob makes a pair, so there is one
    if change == "class":
        data.emotion[1, 4] = 1
        data.angles[1, 1] = -value
    elif change == "feeling":
        data.emotion[1, 1] = value
    else:
        data.blendshapes[1, 7] = value
    assert PairSampler(data, "emotion").paired.tolist() == [paired, paired, True, True]


def test_the_few_made_up_samples(prepared: Prepared) -> None:
    """Ann is 0, 1, 5; Bob 2, 4, 6; Ida 3 and Cid 7 have one photo, which pairs with itself."""
    sampler = PairSampler(prepared, "landmark")
    counts = sampler.counts()
    assert (counts.people, counts.images) == (4, 8)
    assert counts.self_pairs == sum(sampler.partners(index).tolist() == [index] for index in range(8)) >= 2
    inputs, identities = sampler.draw(0, 0, 64)
    for person, members in (("Ann", {0, 1, 5}), ("Bob", {2, 4, 6}), ("Ida", {3}), ("Cid", {7})):
        mine = torch.tensor([prepared.persons[index] == person for index in inputs.tolist()])
        assert mine.any()
        assert set(identities[mine].tolist()) <= members


def test_only_what_is_kept_is_paired_and_numbered() -> None:
    data = mixed_people(3)
    keep = np.array([person != "Many" for person in data.persons])
    sampler = PairSampler(data, "emotion", BOUNDS, keep)
    kept = np.flatnonzero(keep)
    assert sampler.count == len(kept) == 140
    for index in range(140):
        partners = kept[sampler.partners(index)].tolist()
        assert partners == (
            [other for other in kept if is_pair(data, "emotion", BOUNDS, kept[index], other)] or [kept[index]]
        )


# --- draws ------------------------------------------------------------------------------------------------------------


def test_a_draw_is_a_function_of_seed_step_and_kind() -> None:
    data = mixed_people()
    draws = {
        (kind, seed, step): PairSampler(data, kind, BOUNDS).draw(seed, step, 16)
        for kind in KINDS
        for seed in (0, 1, -1)
        for step in (0, 1, 2, 100_000)
    }
    again = PairSampler(data, "emotion", BOUNDS)
    for step in (100_000, 0, 2, 1):  # in any order, from one object
        for got, expected in zip(again.draw(1, step, 16), draws["emotion", 1, step], strict=True):
            assert torch.equal(got, expected)
    assert len({tuple(inputs.tolist()) for inputs, _ in draws.values()}) == len(draws)


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_the_parts_of_a_draw_are_the_whole(parts: int) -> None:
    sampler = PairSampler(mixed_people(), "landmark", BOUNDS)
    whole = sampler.draw(5, 9, 24)
    shares = [sampler.draw(5, 9, 24, part, parts) for part in range(parts)]
    for number in (0, 1):
        assert all(len(share[number]) == 24 // parts for share in shares)
        assert torch.equal(torch.cat([share[number] for share in shares]), whole[number])


def test_a_batch_as_large_as_the_set_holds_every_image_once() -> None:
    sampler = PairSampler(mixed_people(), "landmark", BOUNDS)
    inputs, _ = sampler.draw(0, 0, 200)
    assert len(set(inputs.tolist())) > 195  # all, but for rounding at the borders
    assert inputs.tolist() != sorted(inputs.tolist())


# --- weights ----------------------------------------------------------------------------------------------------------


def expected_probabilities(
    angles: NDArray[np.float32], classes: NDArray[np.int64], config: PairConfig
) -> NDArray[np.float64]:
    """The definition in plain loops, the cap by cutting and sharing out until nothing is above it."""
    bins = [
        tuple(math.floor(max(-90.0, min(90.0, float(angle))) / config.bin + 0.5) for angle in row[:2]) for row in angles
    ]
    labels = classes.tolist()
    weights = [
        bins.count(place) ** -config.pose_power * labels.count(label) ** -config.emotion_power
        for place, label in zip(bins, labels, strict=True)
    ]
    limit = config.cap / len(weights)
    at_limit: set[int] = set()
    while True:
        free = sum(weight for index, weight in enumerate(weights) if index not in at_limit)
        left = 1 - limit * len(at_limit)
        shares = [limit if index in at_limit else weight * left / free for index, weight in enumerate(weights)]
        above = {index for index, share in enumerate(shares) if share > limit * (1 + 1e-9)}
        if not above:
            return np.array(shares)
        at_limit |= above


@pytest.mark.parametrize(
    "config",
    [
        PairConfig(),
        PairConfig(pose_power=1, emotion_power=1, cap=3),
        PairConfig(pose_power=0.3, emotion_power=0.8, cap=1.5, bin=7),
        PairConfig(pose_power=1, emotion_power=0, cap=1000, bin=180),
    ],
)
def test_weights_are_those_of_a_plain_loop(config: PairConfig) -> None:
    data = mixed_people()
    classes = data.emotion[:, 2:].argmax(1)
    got = probabilities(data.angles, classes, config)
    np.testing.assert_allclose(got, expected_probabilities(data.angles, classes, config), rtol=1e-9)
    assert got.sum() == pytest.approx(1, abs=1e-9)
    assert got.max() <= config.cap / 200 * (1 + 1e-9)
    assert np.array_equal(PairSampler(data, "landmark", config).probabilities, got)


@pytest.mark.parametrize("config", [PairConfig(pose_power=0, emotion_power=0), PairConfig(cap=1)])
def test_without_powers_or_with_the_lowest_cap_all_are_equal(config: PairConfig) -> None:
    data = mixed_people()
    got = probabilities(data.angles, data.emotion[:, 2:].argmax(1), config)
    np.testing.assert_allclose(got, 1 / 200, rtol=1e-9)


@pytest.mark.parametrize("by", ["pose", "emotion"])
def test_power_one_is_uniform_over_bins(by: str) -> None:
    data = mixed_people()
    classes = data.emotion[:, 2:].argmax(1)
    config = PairConfig(pose_power=by == "pose", emotion_power=by == "emotion", cap=200)
    got = probabilities(data.angles, classes, config)
    bins = classes if by == "emotion" else np.floor(data.angles[:, :2] / 15 + 0.5) @ [100, 1]
    totals = [got[bins == one].sum() for one in np.unique(bins)]
    np.testing.assert_allclose(totals, 1 / len(totals), rtol=1e-9)
    assert len(totals) > 5


def test_yaw_and_pitch_bins_are_not_mixed_up() -> None:
    """Bins (0, 1), (1, 0), (1, -1) and (0, -1) are four."""
    angles = np.array([[0, 15], [15, 0], [15, -15], [0, -15], [0, -15]], np.float32)
    got = probabilities(angles, np.zeros(5, np.int64), PairConfig(pose_power=1, emotion_power=0))
    np.testing.assert_allclose(got, [1 / 4, 1 / 4, 1 / 4, 1 / 8, 1 / 8])


def test_a_rare_bin_is_seen_more_often_by_the_computed_factor() -> None:
    data = made_up([f"Person{index // 4}" for index in range(2000)])
    data.angles[:, :2] = 0
    rare = np.arange(0, 2000, 50)
    data.angles[rare, 0] = 60
    data.emotion[:, 2:] = np.eye(8)[0]
    # 40 of 2000: at power 0.5 they weigh sqrt(1960 / 40) = 7 times as much as one of the others.
    config = PairConfig(pose_power=0.5, emotion_power=0, cap=20)
    sampler = PairSampler(data, "landmark", config)
    share = 40 * 7 / (40 * 7 + 1960)
    assert sampler.probabilities[rare].sum() == pytest.approx(share)
    drawn = np.concatenate([sampler.draw(0, step, 100)[0].numpy() for step in range(100)])
    seen = np.isin(drawn, rare).mean()
    assert seen == pytest.approx(share, rel=0.03)
    assert seen / 0.02 == pytest.approx(6.25, rel=0.03)
    plain = PairSampler(data, "landmark", config.model_copy(update={"pose_power": 0.0}))
    drawn = np.concatenate([plain.draw(0, step, 100)[0].numpy() for step in range(100)])
    assert np.isin(drawn, rare).mean() == pytest.approx(0.02, rel=0.03)


# --- what is refused --------------------------------------------------------------------------------------------------

NO_PAIRS = {
    "landmark": "landmark pair .*at least 10 degrees and 0.8 apart in blendshapes.*lower landmark_turn",
    "emotion": "emotion pair .*at most 8 degrees.*at least 1 apart.*or 0.3 in valence.*raise emotion_turn",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("persons", [["Ann", "Bob", "Cid"], ["Ann", "Ann", "Ann"]])
def test_a_set_without_one_pair_is_refused(kind: Kind, persons: list[str]) -> None:
    data = made_up(persons)
    data.angles[:], data.blendshapes[:], data.emotion[:] = 0, 0, data.emotion[0]
    with pytest.raises(DataError, match=NO_PAIRS[kind]) as caught:
        PairSampler(data, kind)
    assert f"among 3 images of {len(set(persons))} people" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_and_unknown_kinds_are_refused(prepared: Prepared) -> None:
    with pytest.raises(DataError, match="no sample is left to pair"):
        PairSampler(prepared, "landmark", keep=np.zeros(8, np.bool_))
    with pytest.raises(ConfigError, match="no 'pose' pairs, only landmark and emotion"):
        PairSampler(prepared, "pose")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        ("landmark_turn", -1),
        ("landmark_turn", "far"),
        ("emotion_feeling", -0.1),
        ("bin", 0),
        ("bin", 200),
        ("cap", 0.9),
        ("pose_power", 1.1),
        ("emotion_power", -0.1),
        ("turn", 5),
    ],
)
def test_a_config_keeps_its_ranges_and_names(bad: tuple[str, float | str]) -> None:
    with pytest.raises(ValidationError, match=bad[0]):
        PairConfig(**{bad[0]: bad[1]})  # type: ignore[arg-type]


# --- the report, and speed --------------------------------------------------------------------------------------------


def test_the_report_is_a_image_of_this_sampler(tmp_path: Path) -> None:
    data = mixed_people()
    path = tmp_path / "new" / "pairs.png"
    PairSampler(data, "landmark", BOUNDS).report(path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1100, 800)
        plain = np.asarray(image.convert("RGB")).astype(int)
    assert plain.std() > 20
    PairSampler(data, "landmark", BOUNDS.model_copy(update={"pose_power": 1.0})).report(tmp_path / "weighted.png")
    with Image.open(tmp_path / "weighted.png") as image:
        changed = np.abs(np.asarray(image.convert("RGB")).astype(int) - plain).max(2) > 0
    assert changed[:400].any()  # the drawn poses differ
    assert not list(tmp_path.rglob("*.partial"))


def test_a_report_overwrites_nothing_unasked_and_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = PairSampler(mixed_people(), "emotion", BOUNDS)
    path = tmp_path / "pairs.png"
    path.write_text("mine")
    with pytest.raises(OutputError, match=r"pairs\.png exists already"):
        sampler.report(path)
    assert path.read_text() == "mine"
    sampler.report(path, overwrite=True)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="could not be written"):
        sampler.report(path / "inside.png")

    def full(place: Path, data: bytes) -> int:
        place.open("wb").write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"other.png could not be written \(no space left on device\)"):
        sampler.report(tmp_path / "other.png")
    assert [found.name for found in tmp_path.iterdir()] == ["pairs.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_images_take_a_moment(kind: Kind) -> None:
    """A set as large as LFW, and a person of it with a fifth of all images."""
    rng = np.random.default_rng(0)
    persons = ["Many"] * 2500 + [f"Person{number}" for number in rng.integers(0, 5000, 10_000)]
    data = made_up(persons)
    start = time.monotonic()
    sampler = PairSampler(data, kind)
    for step in range(20):
        sampler.draw(0, step, 32)
    assert time.monotonic() - start < 2
