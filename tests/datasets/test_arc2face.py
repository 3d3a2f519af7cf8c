"""Data sets of models of the arc2face scale: what a plan needs, and a set of a tiny model from the plan to its card."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_arc2face import TINY, publish, tiny_autoencoder, write_recogniser
from tiny_maker import TinyMaker
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.data import shards
from facecrafter.datasets import config as configs
from facecrafter.datasets import engines, make, speed
from facecrafter.datasets.basis import Basis
from facecrafter.datasets.config import PlanConfig
from facecrafter.datasets.identities import choose
from facecrafter.datasets.maker import Job, Recipe, open_crafter
from facecrafter.datasets.plan import Plan, write_plan
from facecrafter.errors import ConfigError, DataError, FaceCrafterError, WeightsError
from facecrafter.estimators.identity import DIMENSIONS
from facecrafter.models import scales
from facecrafter.models.checkpoint import FaceModel, save_model, save_part

Configured = Callable[..., PlanConfig]


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """The arc2face scale is the tiny one, and threads are given back."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales.SCALES, "arc2face", TINY)
        patch.setattr(scales, "build_autoencoder", tiny_autoencoder)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def built(tiny: None) -> FaceModel:
    torch.manual_seed(0)
    model = FaceModel(TINY, scales.build_unet(TINY), scales.build_encoder(TINY), tiny_autoencoder(TINY))
    model.controls = scales.build_controls(TINY, model.unet)
    return model


@pytest.fixture(scope="module")
def whole(built: FaceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published files with controls."""
    folder = tmp_path_factory.mktemp("published")
    publish(built, folder)
    assert built.controls is not None
    save_part(built.controls, folder / "controls.safetensors", "controls", "arc2face")
    return folder


@pytest.fixture
def weights(whole: Path, arc2face: dict[str, Any]) -> Path:
    """A copy to change, where the plan's config has its weights."""
    return Path(shutil.copytree(whole, arc2face["weights"], dirs_exist_ok=True))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are makers of this process, which take turns; what makes one travels to it as to another process."""

    @contextmanager
    def workers(maker: Callable[[], Any], count: int, ray: str | None = None) -> Iterator[engines.Submit]:
        crew = [pickle.loads(pickle.dumps(maker))() for _ in range(count)]
        turns = iter(range(10**6))

        def submit(job: Job) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(crew[next(turns) % count].read(job))
            return future

        yield submit
        for one in crew:
            one.close()

    monkeypatch.setattr(engines, "engine", workers)
    monkeypatch.setattr(engines, "processes", workers)
    monkeypatch.setattr(make, "Maker", TinyMaker)
    monkeypatch.setattr(speed, "Maker", TinyMaker)


SMALL: dict[str, Any] = {
    "cells": {"yaw": [0, 5]},
    "a_person": 1,
    "shard_size": 4,
    "accept": {"yaw": 40, "pitch": 40},
    "sampling": {"steps": 2, "batch_size": 2},
}


def facecrafter(*words: object) -> str:
    """What a command says that succeeds."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_a_set_from_the_plan_to_its_card(arc2face: dict[str, Any], weights: Path, here: None, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**arc2face, **SMALL}))
    assert "10 images of 5 people in 2 cells, 3 shards" in facecrafter("dataset", "plan", tmp_path / "plan.yaml")
    path, one, two = tmp_path / "plan.parquet", tmp_path / "one", tmp_path / "two"
    facecrafter("dataset", "make", path, one, "--workers", 1)
    facecrafter("dataset", "make", path, two, "--workers", 2)
    assert content(one) == content(two)

    plan, digest = Plan(path), hashlib.sha256((weights / "arcface.onnx").read_bytes()).hexdigest()
    assert plan.config.recogniser == "arcface"
    meta = shards.read_meta(one)
    assert list(meta["recognisers"]) == ["arcface", "dlib", "sface"] and meta["size"] == TINY.size
    assert meta["recognisers"]["arcface"] == {"dimension": 512, "sha256": digest}
    people = {person.digest: person.embedding for person in plan.persons(range(5)).values()}
    for _, parts in shards.read_shard(shards.shard_path(one, 0)):
        about = json.loads(parts["json"])
        with np.load(io.BytesIO(parts["npz"])) as arrays:
            seen = arrays["identity_arcface"]
        assert seen.shape == (512,)
        assert seen @ people[about["person"]] == pytest.approx(about["likeness"], abs=1e-6)
    for name, width in (("arcface", 512), ("dlib", 128)):  # to train on, and for `dataset experiment`
        assert shards.load(one, name).identity.shape == (10, width)

    facecrafter("dataset", "audit", one, "--training", two)
    audited = json.loads((one / "audit.json").read_text())
    assert audited["training"] == 5 and len(audited["resembling"]) == 5 and sum(audited["ages"].values()) == 5
    facecrafter("dataset", "card", one, "--plan", path)
    text = (one / "README.md").read_text()
    assert f"arcface, sha256 {digest[:16]}, MIT by its repository" in text and "CreativeML OpenRAIL-M" in text
    assert "weights: weights\n" in text and str(tmp_path) not in text and "shipped model" not in text

    found = speed.measure(path, images=2, workers=())
    assert {"arcface", "dlib", "sface"} < set(found.parts)
    again = {**arc2face, **SMALL, "identities": [{"prepared": str(one)}], "apart": 0}
    assert {person.embedding.shape for person in choose(PlanConfig(**again)).people} == {(512,)}


def test_another_recognisers_file_is_refused(
    configured: Configured, arc2face: dict[str, Any], weights: Path, here: None, tmp_path: Path
) -> None:
    plan = Plan(write_plan(configured(**arc2face, **SMALL), tmp_path / "plan.parquet").path)
    crafter = open_crafter(plan.config, "cpu")
    basis = Basis.of(crafter)
    assert basis.recogniser == hashlib.sha256((weights / "arcface.onnx").read_bytes()).hexdigest()
    make.make(plan.path, tmp_path / "set", workers=1, progress=False)
    shards.shard_path(tmp_path / "set", 1).unlink()
    write_recogniser(weights / "arcface.onnx", seed=1)
    with pytest.raises(DataError, match=r"set was begun with another arcface.onnx for the model 'arc2face'; make"):
        make.make(plan.path, tmp_path / "set", workers=1, progress=False)
    with pytest.raises(DataError, match=r"a worker has another arcface.onnx for the model 'arc2face'; give all"):
        TinyMaker(Recipe(plan.config, tuple(plan.cells), "cpu", basis))
    crafter.arcface.unlink()
    with pytest.raises(WeightsError, match=r"there is no ArcFace file .*arcface.onnx"):
        Basis.of(crafter)


def test_a_model_without_controls_is_refused(
    configured: Configured, arc2face: dict[str, Any], weights: Path, here: None, tmp_path: Path
) -> None:
    (weights / "controls.safetensors").unlink()
    with pytest.raises(ConfigError, match="the model arc2face has no controls, without which no pose can be asked for"):
        open_crafter(configured(**arc2face), "cpu")


def test_images_are_computed_in_bfloat16_where_the_plan_says_so(
    configured: Configured, arc2face: dict[str, Any], weights: Path
) -> None:
    crafters = [open_crafter(configured(**arc2face, bfloat16=half), "cpu") for half in (False, True)]
    assert [one.model.unet.dtype for one in crafters] == [torch.float32, torch.bfloat16]
    assert Basis.of(crafters[0]).weights != Basis.of(crafters[1]).weights


def test_a_trained_model_has_the_file_in_its_folder_or_beside_it(
    configured: Configured, arc2face: dict[str, Any], built: FaceModel, weights: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    save_model(built, model)
    beside = configured(**{**arc2face, "model": str(model)})
    shutil.copy(weights / "arcface.onnx", model)
    within = configured(**{**arc2face, "model": str(model), "weights": None})
    for config in (beside, within):
        write_plan(config, tmp_path / "plan.parquet")
        assert config.recognisers == ("arcface", "dlib", "sface")
    paths = [open_crafter(config, "cpu").arcface for config in (beside, within)]
    assert paths == [weights / "arcface.onnx", model / "arcface.onnx"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"apart": None}, "apart: nothing is measured for 'arcface'; give it"),
    ({"weights": None}, "model: arc2face needs the folder of its files; give weights"),
    ({"weights": "/nowhere"}, "weights: there is no folder /nowhere; name that of Arc2Face's files"),
    ({"weights": "EMPTY"}, "weights: EMPTY holds no arcface.onnx, by which images are labelled; put it there, or give"),
    ({"model": "TRAINED", "weights": None}, "model: TRAINED holds no arcface.onnx, by which images are labelled; put"),
    ({"model": "EMPTY"}, "model: EMPTY holds no model that can be read; name mini, or the folder of a model"),
    ({"recogniser": "dlib"}, "recogniser: the model arc2face reads embeddings by arcface, not dlib; leave recogniser"),
    (
        {"model": "TRAINED", "recogniser": "dlib"},
        "recogniser: the model TRAINED reads embeddings by arcface, not dlib; leave recogniser out",
    ),
    ({"model": "mini"}, "weights: the model mini reads no published weights; leave weights out"),
    (
        {"model": "mini", "recogniser": "arcface"},
        "recogniser: the model mini reads embeddings by dlib, not arcface; leave recogniser out",
    ),
    (
        {"identities": [{"embeddings": "NARROW"}]},
        "NARROW has embeddings of 128 numbers, and the model reads those of arcface, which have 512; write one of",
    ),
]


@pytest.mark.parametrize(("changes", "reason"), BAD)
def test_what_no_image_could_be_made_with_is_refused_by_the_plan(
    configured: Configured, arc2face: dict[str, Any], built: FaceModel, embeddings: Path, tmp_path: Path,
    changes: dict[str, Any], reason: str,
) -> None:  # fmt: skip
    places = {"EMPTY": tmp_path / "empty", "TRAINED": tmp_path / "trained", "NARROW": embeddings}
    places["EMPTY"].mkdir()
    places["TRAINED"].mkdir()
    save_part(built.unet, places["TRAINED"] / "unet.safetensors", "unet", "arc2face")

    def placed(text: str) -> str:
        return re.sub("|".join(places), lambda name: str(places[name[0]]), text)

    with pytest.raises(FaceCrafterError, match=re.escape(placed(reason))):
        write_plan(configured(**{**arc2face, **json.loads(placed(json.dumps(changes)))}), tmp_path / "plan.parquet")
    assert not (tmp_path / "plan.parquet").exists()


def test_a_plan_knows_whose_embeddings_each_scale_reads() -> None:
    assert {name: scale.recogniser for name, scale in scales.SCALES.items()} == configs.READS
    assert all(DIMENSIONS[scale.recogniser] == scale.embedding for scale in scales.SCALES.values())
