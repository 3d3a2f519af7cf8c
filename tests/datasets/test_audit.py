"""Audits of sets whose faults are known, their page, and the card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_maker
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.data import shards
from facecrafter.datasets import audit as audits
from facecrafter.datasets import identities, output
from facecrafter.datasets.audit import Audit, audit
from facecrafter.datasets.audit_page import as_html, faults
from facecrafter.datasets.card import card, read_audit
from facecrafter.datasets.plan import Plan
from facecrafter.errors import DataError

Planned = Callable[..., Plan]


@pytest.fixture
def plan(planned: Planned) -> Plan:
    return planned(cells={"yaw": [-20, 20], "expression": ["jawOpen=0.5"], "emotion": ["sad", "happy"]})


@pytest.fixture
def made(plan: Plan, tmp_path: Path) -> Path:
    fake_maker.made(plan, tmp_path / "set")
    return tmp_path / "set"


def changed(out: Path, number: int, change: Callable[[list[tuple[str, dict[str, bytes]]]], None]) -> None:
    """Change the samples of a shard, and the list's digest with them."""
    beside = output.read_list(out, number)
    samples = list(shards.read_shard(shards.shard_path(out, number)))
    change(samples)
    shards.shard_path(out, number).write_bytes(shards.pack(samples))
    beside["sha256"] = output.weights.sha256(shards.shard_path(out, number))
    shards.shard_path(out, number, "json").write_text(json.dumps(beside))


def test_what_is_there_is_counted_and_compared(made: Path, plan: Plan) -> None:
    found = audit(made)
    ids = [row for shard in range(plan.shards) for row in plan.rows(shard)]
    missed = [row for row in ids if row.id.endswith("0")]
    assert (found.images, found.people, found.rejected) == (40 - len(missed), 5, len(missed))
    assert sum(there for there, _ in found.cells.values()) == found.images
    assert {name: gone for name, (_, gone) in found.cells.items()} == {
        cell.name: sum(row.cell == number for row in missed) for number, cell in enumerate(plan.cells)
    }
    yaw = found.followed["yaw"]
    assert yaw.correlation == pytest.approx(1, abs=1e-6) and yaw.slope == pytest.approx(1, abs=1e-6)
    assert yaw.error.value == pytest.approx(0, abs=1e-3)
    assert found.followed["pitch"].correlation is None  # one value is asked for
    assert found.followed["jawOpen"].images == found.images
    assert found.followed["jawOpen"].error.value == pytest.approx(0.25, abs=0.1)  # read at random
    assert found.emotions["happy"].value == 1
    assert found.emotions["sad"].value == 0
    # 128 numbers of noise of 0.02 each: the length of what is added is 0.226.
    assert found.identity == pytest.approx(1 / np.sqrt(1 + 128 * 0.02**2), abs=0.01)
    assert found.within == pytest.approx(1 / (1 + 128 * 0.02**2), abs=0.02)
    assert abs(found.between or 0) < 0.1
    assert found.threshold is None and found.recognised.value is None  # 40 images have too few pairs
    assert (found.identical, found.alike, found.training) == (0, 0, 0)
    assert sum(found.ages.values()) == sum(found.sexes.values()) == sum(found.tones.values()) == 5


def test_a_threshold_is_met_by_as_many_strangers_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(100, 32))
    drawn = []
    for person, centre in enumerate(centres):
        for _ in range(10):
            vector = centre + 0.3 * rng.normal(size=32)
            drawn.append((str(person), (vector / np.linalg.norm(vector)).astype(np.float32)))
    found = audits._distances(drawn, 0)
    vectors = np.stack([vector for _, vector in drawn])
    people = np.array([person for person, _ in drawn])
    cosines = (vectors @ vectors.T)[np.triu_indices(1000, 1)]
    strangers = (people[:, None] != people[None])[np.triu_indices(1000, 1)]
    share = (cosines[strangers] >= found["threshold"]).mean()
    assert 0.5e-4 < share < 2e-4
    assert found["recognised"].value == pytest.approx((cosines[~strangers] >= found["threshold"]).mean(), abs=0.02)
    assert found["pairs"] == strangers.sum()


def test_images_that_are_there_twice_are_counted(made: Path) -> None:
    def double(samples: list[tuple[str, dict[str, bytes]]]) -> None:
        samples[1][1]["png"] = samples[0][1]["png"]

    changed(made, 0, double)
    found = audit(made)
    assert found.identical == 2
    assert any("2 images have the same pixels" in one for one in faults(found))


def test_alike_is_of_one_person_and_cell() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    others: list[Any] = []
    assert not audits._is_alike(others, image)
    assert audits._is_alike(others, np.clip(image.astype(int) + 2, 0, 255).astype(np.uint8))
    assert not audits._is_alike(others, 255 - image)


def test_people_who_resemble_a_training_person_are_named(
    made: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    like = plan.persons([2])[2]
    theirs = ["Ann <b>", "Bob"], np.stack([like.embedding, -like.embedding])
    monkeypatch.setattr(audits, "named_means", lambda folder, recogniser: theirs)
    found = audit(made, Path("training"))
    assert found.training == 2 and found.neighbours.keys() == {one.digest for one in plan.persons(range(5)).values()}
    assert next(iter(found.neighbours)) == like.digest and found.neighbours[like.digest].person == "Ann <b>"
    assert found.nearest[1] == found.neighbours[like.digest].cosine > 0.95 > found.nearest[0]
    assert {one.person for one in found.neighbours.values()} == {"Ann <b>", "Bob"}
    page = as_html(found, made).decode()
    assert "<details>" in page and "Ann &lt;b&gt;" in page and all(person in page for person in found.neighbours)
    assert "Ann" not in card(made, shards.read_meta(made), found, plan)  # which may be published


@pytest.mark.parametrize(("apart", "near"), [(0.08, 1), (0.0001, 0)])
@pytest.mark.parametrize("recogniser", ["dlib", "arcface"])
def test_who_resembles_a_training_person_is_nearer_than_the_plan_allows(
    planned: Planned, arc2face: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recogniser: str,
    apart: float, near: int,
) -> None:  # fmt: skip
    plan = planned("own", **{**(arc2face if recogniser == "arcface" else {}), "apart": apart})
    assert plan.config.recogniser == recogniser
    fake_maker.made(plan, tmp_path / "own")
    like = plan.persons([2])[2]
    monkeypatch.setattr(audits, "named_means", lambda folder, name: (["Ann"], like.embedding[None]))
    found = audit(tmp_path / "own", Path("training"))
    assert found.resembling == [like.digest][:near] and found.apart == apart
    said = f"1 of 5 people resembles a training person, nearer than the plan's {apart:g}."
    assert (said in faults(found)) == bool(near)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (identities.REAL, "Identities: 5 people, 5 of them real people from photos."),
        (identities.NOBODY, "Identities: 5 people, 0 of them real people from photos, 5 who do not exist."),
        (identities.EMBEDDINGS, "0 of them real people from photos, 5 from embeddings, which may be of real people."),
        (None, "Identities: it is unknown whether they are of real people; the set does not say."),
    ],
)
def test_nobody_is_said_not_to_exist_who_does(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, said: str
) -> None:
    monkeypatch.setattr(identities, "EMBEDDINGS", source or identities.EMBEDDINGS)  # what an array's people come from
    plan, out = planned("from"), tmp_path / "from"
    fake_maker.made(plan, out)
    if source is None:  # a set of an earlier version
        meta = json.loads((out / "meta.json").read_text())
        del meta["dataset"]["sources"]
        (out / "meta.json").write_text(json.dumps(meta))
    found = audit(out)
    text, page = card(out, shards.read_meta(out), found, plan), as_html(found, out).decode()
    invented = source == identities.NOBODY
    assert said in text and said in page
    assert any(said in one for one in faults(found)) != invented
    assert ("nobody here is one" in page) == ("nobody here is one" in text) == invented
    assert ("The people of synthetic sources do not exist" in text) == invented


def test_people_of_a_data_set_come_from_where_its_own_do() -> None:
    def source(**meta: Any) -> str:
        return identities._source(meta)

    assert source(photos={}) == "photos" and source(synthesis={}) == "people who do not exist"
    assert source(dataset={"sources": {"photos": 3}}) == "photos"
    assert source(dataset={"sources": {"photos": 3, "embeddings": 2}}) == "another data set"
    assert source(dataset={}) == "another data set"


def without(*names: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Settings without one of theirs, or with others in the data set's part."""

    def change(meta: dict[str, Any]) -> None:
        *places, last = names or ("nothing",)
        for place in places:
            meta = meta[place]
        meta.pop(last, None)
        meta.get("dataset", {}).update(changes)

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("shard_size"), without("landmarks"), without("landmarks", "sha256"), without("emotion", "sha256"),
        without("recognisers", "dlib", "sha256"), without("dataset", "plan"), without("dataset", "apart"),
        without("dataset", "gain"), without("dataset", "images"), without(images="x"), without(images=0),
        without(apart=3), without(apart="near"), without(model=3),
        without(sources={"photos": "x"}), without(sources=3), lambda meta: meta.update(shard_size=0),
        lambda meta: meta.update(dataset={}), lambda meta: meta.update(dataset=[]), lambda meta: meta.update(format=7),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["audit", "card"])
def test_damaged_settings_are_named(made: Path, command: str, change: Callable[[dict[str, Any]], None]) -> None:
    meta = json.loads((made / "meta.json").read_text())
    change(meta)
    (made / "meta.json").write_text(json.dumps(meta))
    done = CliRunner().invoke(app, ["dataset", command, str(made)])
    assert isinstance(done.exception, SystemExit) and done.exit_code == 1
    assert "meta.json is damaged, or of another version; make the set again in a new folder" in done.output.replace(
        "\n", " "
    )


@pytest.mark.parametrize("command", ["audit", "card"])
def test_a_folder_that_is_no_data_set_is_told_how_to_make_one(tmp_path: Path, command: str) -> None:
    out = tmp_path / "a set"
    done = CliRunner().invoke(app, ["dataset", command, str(out)])
    assert done.exit_code == 1 and f"facecrafter dataset make PLAN '{out}'" in done.output.replace("\n", " ")


def test_a_set_without_an_image_is_not_audited(planned: Planned, tmp_path: Path, monkeypatch: Any) -> None:
    plan = planned("one", a_person=1)
    rows = plan.rows
    monkeypatch.setattr(plan, "rows", lambda shard: [replace(row, id=row.id[:-1] + "0") for row in rows(shard)])
    with pytest.raises(DataError, match="not one of 20 images"):
        fake_maker.made(plan, tmp_path / "none")
    with pytest.raises(DataError, match="has no image to audit: all 20 missed their cell; widen accept"):
        audit(tmp_path / "none")


@pytest.mark.parametrize("damage", ["bit", "sample", "index", "cut", "prepared", "list"])
def test_what_cannot_be_audited_is_named(made: Path, damage: str) -> None:
    tar = shards.shard_path(made, 1)
    reason = "shard-00001.* is damaged or missing; delete it and run 'dataset make' again"
    if damage == "bit":
        tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    elif damage == "list":
        shards.shard_path(made, 1, "json").write_text("{}")
    elif damage == "sample":
        changed(made, 1, lambda samples: samples[0][1].update(npz=b"no arrays"))
        reason = "the sample .* of .*shard-00001.tar is damaged"
    elif damage == "index":
        (made / "index.parquet").unlink()
        reason = "is not finished"
    elif damage == "cut":
        (made / "index.parquet").write_bytes((made / "index.parquet").read_bytes()[:-9])
        reason = "index.parquet is damaged; run 'dataset make' on the folder again"
    else:
        meta = json.loads((made / "meta.json").read_text())
        del meta["dataset"]
        (made / "meta.json").write_text(json.dumps(meta))
        reason = "is a prepared folder and no data set"
    with pytest.raises(DataError, match=reason):
        audit(made)


def test_the_page_and_the_card_by_command(made: Path, plan: Plan, planned: Planned) -> None:
    done = CliRunner().invoke(app, ["dataset", "card", str(made)])
    assert done.exit_code == 1 and "there is no audit" in done.output
    done = CliRunner().invoke(app, ["dataset", "audit", str(made)])
    assert done.exit_code == 0, done.output
    page = (made / "audit.html").read_text()
    assert "<h1>Audit of a data set</h1>" in page and "yaw -20, pitch 0, jawOpen=0.5, sad" in page
    assert page.count("<img") == 24 and "http" not in page.replace("http-equiv", "")
    refused = CliRunner().invoke(app, ["dataset", "audit", str(made), "--seed", "-1", "--overwrite"])
    assert refused.exit_code == 2 and "--seed" in refused.output
    again = CliRunner().invoke(app, ["dataset", "audit", str(made)])
    assert again.exit_code == 1 and "exists already" in again.output

    found = read_audit(made / "audit.json")
    assert found == audit(made)
    done = CliRunner().invoke(app, ["dataset", "card", str(made), "--plan", str(plan.path)])
    assert done.exit_code == 0, done.output
    text = (made / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header)["size_categories"] == ["n<1K"]
    assert yaml.safe_load(header)["configs"] == [{"config_name": "default", "data_files": "shard-*.tar"}]
    assert f"{found.images} images of 5 people" in body and "Nobody was compared with the training people" in body
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe["a_person"] == 2 and recipe["identities"] == [{"embeddings": "people.npy"}]
    assert str(made.parent) not in text
    other = planned("other", seed=3)
    refused = CliRunner().invoke(app, ["dataset", "card", str(made), "--plan", str(other.path), "--overwrite"])
    assert refused.exit_code == 1 and "is not the plan" in refused.output


def test_commands_to_copy_are_quoted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"facecrafter dataset audit '{tmp_path / 'a set'}'$"):
        read_audit(tmp_path / "a set" / "audit.json")
    (tmp_path / "audit.json").write_text("{")
    with pytest.raises(DataError, match=f"facecrafter dataset audit {tmp_path} --overwrite$"):
        read_audit(tmp_path / "audit.json")


def test_the_card_of_another_set_is_refused(made: Path, plan: Plan) -> None:
    found = audit(made)
    meta = shards.read_meta(made)
    assert card(made, meta, found, plan)
    for name in ("plan", "weights", "gain"):
        other = {**meta, "dataset": {**meta["dataset"], name: "another"}}
        with pytest.raises(DataError, match=r"is of another set than is there now; make it again with: .*--overwrite"):
            card(made, other, found, None)
    (made / "index.parquet").write_bytes(b"another")
    with pytest.raises(DataError, match="is of another set"):
        card(made, meta, found, plan)


def test_datasets_reads_a_folder_with_its_card(made: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets")
    (made / "README.md").write_text(card(made, shards.read_meta(made), audit(made), plan))
    read = list(datasets.load_dataset(str(made), split="train", streaming=True))
    assert [one["__key__"] for one in read] == [
        row.id for shard in range(plan.shards) for row in plan.rows(shard) if not row.id.endswith("0")
    ]
    assert read[0]["png"].size == (64, 64) and read[0]["json"]["asked"]["yaw"] == -20


def test_emotions_count_however_the_plan_words_them(planned: Planned, tmp_path: Path) -> None:
    words = ["joyful", "happy: 0.7", "angry", {"valence": 0.5, "arousal": 0.3}, "free"]
    plan = planned(cells={"emotion": words}, a_person=4)
    fake_maker.made(plan, tmp_path / "set")
    found = audit(tmp_path / "set")
    shares = {"happy: 0.7": 1, "joyful": 1, "angry": 0}  # all are read as happy
    assert {name: one.value for name, one in found.emotions.items()} == shares
    assert found.rejected and found.cells.keys() == {cell.name for cell in plan.cells}


def test_a_card_names_no_place_of_this_machine(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("open: {jawOpen: 0.6}")
    plan = planned(cells={"expression": ["open"]}, away_from=[], presets=str(tmp_path / "own.yaml"))
    fake_maker.made(plan, tmp_path / "set")
    text = card(tmp_path / "set", shards.read_meta(tmp_path / "set"), audit(tmp_path / "set"), plan)
    assert "presets: own.yaml" in text and str(tmp_path) not in text


def test_an_audit_without_pairs_has_a_page(made: Path, planned: Planned, tmp_path: Path) -> None:
    plan = planned("one", a_person=1, cells={}, identities=[{"embeddings": str(tmp_path / "people.npy"), "count": 1}])
    shutil.rmtree(made)
    if plan.rows(0)[0].id.endswith("0"):
        pytest.fail("the made-up image misses its cell; change the plan")
    fake_maker.made(plan, made)
    found = audit(made)
    assert (found.images, found.within, found.between) == (1, None, None)
    assert b"Too few pairs" in as_html(found, made)
    assert "n<1K" in card(made, shards.read_meta(made), found, None)
    assert Audit.model_validate_json(found.model_dump_json()) == found
