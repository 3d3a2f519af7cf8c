"""Plans: who, which cells, how full, and what is refused."""

from __future__ import annotations

import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.config import check
from facecrafter.datasets import cost
from facecrafter.datasets import plan as plans
from facecrafter.datasets.cells import Cell, Measured, cells_of, missed
from facecrafter.datasets.config import AcceptConfig, PlanConfig
from facecrafter.datasets.identities import choose
from facecrafter.datasets.plan import Plan, allotted, people_path, seed_of, write_plan
from facecrafter.errors import ConfigError, DataError, FaceCrafterError, OutputError
from facecrafter.faces.emotion import Emotion
from facecrafter.faces.face import BLENDSHAPES

Configured = Callable[..., PlanConfig]
Planned = Callable[..., Plan]


def test_a_plan_has_every_person_in_every_cell(planned: Planned) -> None:
    plan = planned()
    table = pq.read_table(plan.path)
    assert plan.images == len(table) == 5 * 4 * 2
    assert set(Counter(zip(table["person"].to_pylist(), table["cell"].to_pylist(), strict=True)).values()) == {2}
    assert len(set(table["id"].to_pylist())) == 40
    first = table.slice(0, 1).to_pylist()[0]
    assert first["yaw"] == -20 and first["emotion"] == "neutral" and first["expression"] == "neutral"
    assert first["seed"] == seed_of(first["id"], 0) == int(first["id"][:15], 16)


def test_rows_are_read_a_shard_at_a_time(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "GROUP", 14)  # two shards a group
    plan = planned()
    assert plan.shards == 6
    rows = [row for shard in range(plan.shards) for row in plan.rows(shard)]
    assert [row.id for row in rows] == pq.read_table(plan.path)["id"].to_pylist()
    assert [len(plan.rows(shard)) for shard in (0, 5)] == [7, 5]
    people = plan.persons([3, 1])
    assert sorted(people) == [1, 3]
    whole = np.load(plan.config.identities[0].embeddings)
    assert np.allclose(people[3].embedding, whole[3], atol=1e-6)


def test_people_take_turns_where_a_cell_has_fewer_images_than_there_are_people() -> None:
    own = np.stack(list(allotted(np.array([3, 5, 7, 2]), 5)))
    assert own.sum(0).tolist() == [3, 5, 7, 2]
    assert sorted(own.sum(1).tolist()) == [3, 3, 3, 4, 4]


def test_fill_counts_for_the_cells_that_it_names(configured: Configured, tmp_path: Path) -> None:
    fill = [{"emotion": ["happy"], "images": 9}, {"emotion": ["happy"], "yaw": [20], "images": 0}]
    written = write_plan(configured(fill=fill), tmp_path / "plan.parquet")
    cells = Plan(written.path).counts
    assert cells == [10, 10, 9, 0]
    assert written.images == 29


def test_ids_follow_from_content(planned: Planned, embeddings: Path) -> None:
    def ids(plan: Plan) -> set[str]:
        return set(pq.read_table(plan.path)["id"].to_pylist())

    usual = ids(planned())
    assert ids(planned("again")) == usual
    assert ids(planned("more", cells={"yaw": [20, -20, 0], "emotion": ["happy", "neutral"]})) > usual
    assert ids(planned("fewer", a_person=1)) < usual
    assert not ids(planned("seed", seed=1)) & usual
    assert not ids(planned("steps", sampling={"steps": 5})) & usual
    assert ids(planned("batch", sampling={"batch_size": 2})) == usual
    np.save(embeddings, np.load(embeddings)[::-1])
    assert ids(planned("order")) == usual


def test_the_same_config_gives_the_same_bytes(planned: Planned) -> None:
    one, other = planned("one"), planned("other")
    assert one.path.read_bytes() == other.path.read_bytes()
    assert people_path(one.path).read_bytes() == people_path(other.path).read_bytes()


def test_near_people_are_left_out(configured: Configured, embeddings: Path) -> None:
    vectors = np.load(embeddings)
    np.save(embeddings, np.concatenate([vectors, vectors[:1], vectors[1:2] + 0.001]))
    chosen = choose(configured())
    assert (len(chosen.people), chosen.found, chosen.near) == (5, 7, 2)
    assert len(choose(configured(apart=0)).people) == 6  # the same person twice is one person whatever is asked
    with pytest.raises(DataError, match=r"has only 5 people who are 0.025 apart .*2 are too near"):
        choose(configured(identities=[{"embeddings": str(embeddings), "count": 6}]))


def test_nobody_resembles_a_training_person(
    configured: Configured, embeddings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.load(embeddings)
    monkeypatch.setattr("facecrafter.datasets.identities.means", lambda folder, recogniser: vectors[3:4])
    chosen = choose(configured(away_from=["data/training"]))
    assert (len(chosen.people), chosen.resembling) == (4, 1)


def test_people_of_a_prepared_folder(lfw: Path, tmp_path: Path, configured: Configured) -> None:
    from facecrafter.data.prepare import prepare
    from facecrafter.faces.rig import load

    some = tmp_path / "photos"
    for name in ("Aaron_Peirsol", "Abel_Pacheco"):
        shutil.copytree(lfw / name, some / name)
    prepare(some, tmp_path / "prepared", workers=1, progress=False)
    chosen = choose(configured(identities=[{"prepared": str(tmp_path / "prepared"), "count": 2}]))
    assert len(chosen.people) == 2 and {one.source for one in chosen.people} == {"photos"}
    for person in chosen.people:
        assert np.linalg.norm(person.embedding) == pytest.approx(1, abs=1e-5)
        assert np.abs(person.neutral - load().mean).mean() < 0.1  # a face, in the units of the mean one


BAD: list[tuple[dict[str, Any], str]] = [
    ({"images": 3}, "one of both"),
    ({"a_person": None}, "one of both"),
    ({"identities": []}, "identities"),
    ({"identities": [{"count": 3}]}, "give prepared"),
    ({"cells": {"yaw": [60]}}, "yaw must be from -45 to 45 degrees"),
    ({"cells": {"yaw": [float("nan")]}}, "yaw must be from"),
    ({"cells": {"yaw": [0, 0]}}, "named twice"),
    ({"cells": {"yaw": []}}, "cells.yaw"),
    ({"cels": {}}, "did you mean 'cells'"),
    ({"fill": [{"yaw": [5], "images": 2}]}, "the axis yaw has no 5.0"),
    ({"attempts": 0}, "attempts"),
    ({"a_person": 2**62}, "a_person: Input should be less than or equal to 10000000000"),
    ({"a_person": None, "images": 10**30}, "images: Input should be less than"),
    ({"fill": [{"images": 10**30}]}, "fill.0.images: Input should be less than"),
    ({"recogniser": "sface"}, "nothing is measured for 'sface'"),
    ({"cells": {"emotion": [{}]}}, "cells.emotion: an emotion is in words such as happy, or a point"),
    ({"cells": {"emotion": ["happy", {"valence": "x"}]}}, r"a point such as \{valence: 0.5, arousal: 0.3\}, not"),
    ({"cells": {"emotion": [{"valance": 0.5, "arousal": 0}]}}, "cells.emotion: an emotion is in words"),
    ({"cells": {"emotion": [True]}}, "cells.emotion: an emotion is in words .* not True"),
    ({"fill": [{"emotion": [3], "images": 2}]}, "fill.0.emotion: an emotion is in words"),
    ({"accept": {"yaw": -1}}, "accept.yaw"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD)
def test_bad_configs_are_refused(configured: Configured, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        configured(**changes)


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"expression": ["cheekPuff=0.5"]}, "cannot be filled: cheekPuff.* does not read"),
    ({"expression": ["eyeBlink=0.9,eyeWide=0.9"]}, "leave one out"),
    ({"expression": ["jawOpen=2"]}, "from 0 to 1"),
    ({"expression": ["laghing"]}, "there is no preset 'laghing'"),
    ({"emotion": ["hapy"]}, "unknown emotion 'hapy'"),
    ({"emotion": [{"valence": 0.5}]}, "arousal is missing"),
    ({"yaw": [0.0, -0.0]}, "two cells are both 'yaw 0, pitch 0, neutral, free'; leave one out"),
    ({"yaw": [1.0000001, 1.0000002]}, "two cells are both 'yaw 1, pitch 0, neutral, free'"),
    (
        {"emotion": [{"valence": 0.5, "arousal": 0.3}, {"arousal": 0.3, "valence": 0.5}]},
        "two cells are both 'yaw 0, pitch 0, neutral, valence 0.5 arousal 0.3'",
    ),
    ({"emotion": [{"valence": 0.5, "arousal": 0.3}, {"valence": 0.5000001, "arousal": 0.3}]}, "two cells are both"),
    ({"emotion": [{"valence": 0.0, "arousal": 0.3}, {"valence": -0.0, "arousal": 0.3}]}, "two cells are both"),
]


@pytest.mark.parametrize(("axes", "reason"), IMPOSSIBLE)
def test_impossible_cells_are_refused(configured: Configured, axes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FaceCrafterError, match=reason):
        cells_of(configured(cells=axes))


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"sampling": {"identity_scale": 99}}, "sampling: the identity scale must be from -20 to 20, not 99"),
    ({"sampling": {"emotion_scale": float("nan")}}, "sampling: the emotion scale must be from -20 to 20, not nan"),
    ({"sampling": {"steps": 2000}}, "sampling: steps must be from 1 to 1000"),
    ({"sampling": {"steps": 61}}, "sampling: the solvers cannot cut the 1000 timesteps into 61; take 62"),
    ({"sampling": {"scheduler": "ddm"}}, "sampling: unknown scheduler 'ddm'; there are dpm"),
    ({"sampling": {"speed": "fast"}}, "sampling: unknown speed 'fast'; there are exact"),
    ({"model": "minni"}, "model: there is no model 'minni'; name mini, or the folder"),
    ({"recogniser": "sface", "apart": 0.1}, "recogniser: the model mini reads embeddings by dlib, not sface; leave"),
    ({"presets": "/nope.yaml"}, "the presets cannot be read: there is no config /nope.yaml"),
]


@pytest.mark.parametrize(("changes", "reason"), UNUSABLE)
def test_what_no_image_could_be_made_with_is_refused_by_the_plan(
    configured: Configured, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        write_plan(configured(**changes), tmp_path / "plan.parquet")
    assert not list(tmp_path.glob("*.parquet*"))


def test_no_images_at_all_are_refused(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cell is to hold an image"):
        write_plan(configured(fill=[{"images": 0}]), tmp_path / "plan.parquet")
    assert not (tmp_path / "plan.parquet").exists()


@pytest.mark.parametrize("changes", [{"images": 10**10, "a_person": None}, {"a_person": 10**9}])
def test_more_images_than_any_plan_may_have_are_refused(
    configured: Configured, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"the plan asks for [24]0,000,000,000 images, and may for 10,000,000,000;"):
        write_plan(configured(**changes), tmp_path / "plan.parquet")
    assert not list(tmp_path.glob("*.parquet*"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all" * 10])
def test_what_is_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="there is no plan"):
        Plan(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(DataError, match="is no plan of this version, or damaged"):
        Plan(tmp_path / "bad.parquet")


def test_a_changed_byte_of_a_plan_is_named(planned: Planned) -> None:
    plan = planned()
    content = bytearray(plan.path.read_bytes())
    content[content.index(plan.rows(0)[1].id.encode())] = 0xFF
    plan.path.write_bytes(content)
    with pytest.raises(DataError, match=r"plan.parquet is damaged; write it again with 'dataset plan'"):
        Plan(plan.path).rows(0)


def test_a_changed_digit_of_a_plan_is_found_too(planned: Planned) -> None:
    plan = planned()
    content = bytearray(plan.path.read_bytes())
    place = content.index(plan.rows(0)[1].id.encode())
    content[place] = ord("a") if content[place] != ord("a") else ord("b")
    plan.path.write_bytes(content)
    with pytest.raises(DataError, match=r"plan.parquet is damaged"):
        Plan(plan.path).rows(0)


def test_identities_that_cannot_be_read_are_named(planned: Planned) -> None:
    plan = planned()
    people_path(plan.path).unlink()
    people_path(plan.path).mkdir()
    with pytest.raises(DataError, match=r"people.parquet is missing, cannot be read, or has not the identities of"):
        Plan(plan.path)


def test_a_plan_below_a_file_is_refused(configured: Configured, embeddings: Path) -> None:
    with pytest.raises(OutputError, match=r"could not be written \(.*people.npy is a file\); .*choose another folder"):
        write_plan(configured(), embeddings / "plan.parquet")


def test_missing_embeddings_are_named(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file of embeddings .*none.npy"):
        choose(configured(identities=[{"embeddings": str(tmp_path / "none.npy")}]))


@pytest.mark.parametrize("name", ["set.yaml", "people.npy", "link.parquet"])
def test_a_plan_does_not_replace_what_it_is_made_of(embeddings: Path, tmp_path: Path, name: str) -> None:
    config = tmp_path / "set.yaml"
    config.write_text(f"identities: [{{embeddings: {embeddings}}}]\nimages: 3\n")
    (tmp_path / "link.parquet").symlink_to(config)
    before = config.read_bytes(), embeddings.read_bytes()
    done = CliRunner().invoke(app, ["dataset", "plan", str(config), str(tmp_path / name), "--overwrite"])
    assert done.exit_code == 1 and "is an input of the plan and would be replaced" in done.output.replace("\n", " ")
    assert (config.read_bytes(), embeddings.read_bytes()) == before


def test_other_identities_are_refused(planned: Planned) -> None:
    plan = planned()
    people_path(plan.path).write_bytes(people_path(planned("other", seed=2, a_person=1).path).read_bytes() + b" ")
    with pytest.raises(DataError, match="has not the identities of"):
        Plan(plan.path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.zeros((2, 128), np.float32), "row 0 of .* has no direction"),
        (np.zeros(128, np.float32), "is no array of embeddings"),
        (np.zeros((2, 3), np.int64), "is no array of embeddings"),
    ],
)
def test_bad_embeddings_are_refused(
    configured: Configured, embeddings: Path, content: np.ndarray[Any, Any], reason: str
) -> None:
    np.save(embeddings, content)
    with pytest.raises(DataError, match=reason):
        choose(configured())


def test_embeddings_by_another_recogniser_are_refused(configured: Configured, embeddings: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.eye(3, 512, dtype=np.float32))
    both = [{"embeddings": str(embeddings)}, {"embeddings": str(tmp_path / "wide.npy")}]
    with pytest.raises(DataError, match=r"wide.npy has embeddings of 512 numbers, and the model reads those of dlib"):
        choose(configured(identities=both))


@pytest.mark.parametrize("people", [5, 1])
def test_memory_does_not_grow_with_the_images(
    configured: Configured, embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, people: int
) -> None:
    monkeypatch.setattr(plans, "GROUP", 512)

    def peak(images: int) -> int:
        identities = [{"embeddings": str(embeddings), "count": people}]
        config = configured(identities=identities, images=images, shard_size=64, a_person=None)
        tracemalloc.start()
        write_plan(config, tmp_path / f"{images}.parquet")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)  # imports
    few, many = peak(500), peak(4000)
    assert many - few < 4000 * 4 * 24  # a third of what the ids of all rows would take


def measured(**changes: Any) -> Measured:
    usual = {"angles": (20.0, 0.0, 0.0), "blendshapes": np.zeros(52, np.float32), "likeness": 0.9}
    return Measured(**{**usual, "emotion": Emotion.from_words({"happy": 0.9}), **changes})


@pytest.mark.parametrize(
    ("accept", "found", "reason"),
    [
        ({}, {}, ""),
        ({}, {"angles": (3.0, 0.0, 0.0)}, "yaw 3 in place of 20 degrees"),
        ({"yaw": None}, {"angles": (3.0, 0.0, 0.0)}, ""),
        ({"pitch": 5}, {"angles": (20.0, 6.0, 0.0)}, "pitch 6 in place of 0 degrees"),
        ({"expression": 0.3}, {}, "jawOpen 0.00 in place of 0.5"),
        ({"emotion": True}, {}, ""),
        ({"emotion": True}, {"emotion": Emotion.from_words({"sad": 1})}, "sad in place of happy"),
        ({"valence": 0.1}, {"emotion": Emotion.from_words({"sad": 1})}, "valence -0.63 in place of 0.81"),
        ({"identity": 0.95}, {}, "only 0.90 alike"),
    ],
)
def test_what_misses_its_cell(accept: dict[str, Any], found: dict[str, Any], reason: str) -> None:
    happy = Emotion.from_words({"happy": 1})
    about = (happy.valence, happy.arousal, happy.probabilities)
    cell = Cell(20, 0, "jawOpen=0.5", "happy", {"jawOpen": 0.5}, *about)
    assert "jawOpen" in BLENDSHAPES
    assert missed(cell, AcceptConfig(**accept), measured(**found)).startswith(reason)
    assert bool(missed(cell, AcceptConfig(**accept), measured(**found))) == bool(reason)


def test_the_cost_is_of_the_rate_that_is_given(configured: Configured) -> None:
    assert list(cost.lines(configured(), 36_000, 4, 5, 10.0)) == [
        "36,000 images of 5 people in 4 cells, 5,143 shards",
        "1 worker: 60 minutes, 3 hours where all are made 3 times (10 images a second, the given rate)",
        "10 workers: 6.01 minutes, 18 minutes where all are made 3 times",  # 515 shards of 7 images the last one
        "100 workers: 36 seconds, 109 seconds where all are made 3 times",
        "disk: about 1.44 GiB",
    ]
    assert "not known for this model" in " ".join(cost.lines(configured(model="arc2face", apart=0.3), 10, 4, 5))
    assert "not known in bfloat16" in " ".join(cost.lines(configured(bfloat16=True), 10, 4, 5))


def test_a_tiny_plan_has_a_cost_too(configured: Configured) -> None:
    first, one, shared, disk = cost.lines(configured(attempts=2), 1, 1, 1)
    assert first == "1 image of 1 person in 1 cell, 1 shard"
    assert one.startswith(f"1 worker: a second or two ({cost.RATE:g} images a second, measured with mini")
    assert shared == "no more than 1 worker can share it: a shard is made by one"
    assert disk == "disk: about 42 KiB"
    found = list(cost.lines(configured(attempts=1), 70 * 7, 1, 1, 0.1))
    assert found[1:4] == [
        "1 worker: 81.7 minutes (0.1 images a second, the given rate)",
        "10 workers: 8.17 minutes",
        "no more than 70 workers can share it: a shard is made by one",
    ]


@pytest.mark.parametrize("rate", ["nan", "inf", "-inf", "0", "-1", "1e-9"])
def test_a_rate_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, embeddings: Path, rate: str) -> None:
    config = tmp_path / "set.yaml"
    config.write_text(f"identities: [{{embeddings: {embeddings}}}]\nimages: 3\n")
    done = CliRunner().invoke(app, ["dataset", "plan", str(config), "--rate", rate])
    assert done.exit_code != 0 and "--rate" in done.output
    assert not (tmp_path / "set.parquet").exists()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "a second or two"),
        (5, "5 seconds"),
        (119, "119 seconds"),
        (600, "10 minutes"),
        (7200, "2 hours"),
        (3e5, "3.47 days"),
        (4e8, "4,630 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert cost.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(12, "12 bytes"), (43_000, "42 KiB"), (2**20, "1 MiB"), (4.3e11, "400 GiB"), (4.3e12, "4,000 GiB")],
)
def test_sizes(count: float, words: str) -> None:
    assert cost.size(count) == words


def test_a_plan_by_command(embeddings: Path, tmp_path: Path) -> None:
    config = tmp_path / "a set.yaml"
    config.write_text(f"identities: [{{embeddings: {embeddings}}}]\nimages: 3\n")
    done = CliRunner().invoke(app, ["dataset", "plan", str(config)])
    assert done.exit_code == 0 and "3 images of 5 people in 1 cell, 1 shard" in done.output
    assert f"make it with: facecrafter dataset make '{tmp_path / 'a set.parquet'}' OUT\n" in done.output
    again = CliRunner().invoke(app, ["dataset", "plan", str(config)])
    assert again.exit_code == 1 and "exists already" in again.output
    assert check(config, {"identities": [{"embeddings": str(embeddings)}], "images": 3}, PlanConfig).images == 3
