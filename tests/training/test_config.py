"""A config is checked whole before anything loads, and what is wrong is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from facecrafter import config as config_file
from facecrafter.baselines import TRAINED
from facecrafter.config import Bearing
from facecrafter.errors import ConfigError
from facecrafter.training.config import Mixture
from facecrafter.training.stages import load, parse, stages
from facecrafter.training.stages.baseline import Kind
from facecrafter.training.trainer import schedule

LANDMARK = "stage: landmark\ndata: d\nrun: r\nstart: s\nsteps: 10\nmixture: {landmark: 1}\n"
AUTOENCODER = "stage: autoencoder\ndata: d\nrun: r\nsteps: 10\n"
BASELINE = "stage: baseline\ndata: d\nrun: r\nstart: s\nsteps: 10\n"
GOOD = "stage: base\ndata: d\nrun: r\nstart: s\nsteps: 10\n"
CONFIGS = Path(__file__).parents[2] / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


TRAINING = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "evaluation")


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_projects_own_configs_are_good(path: Path) -> None:
    config: Any = load(path)
    folder = path.parent.name
    if folder == "rivals":
        assert (config.scale, config.stage, config.baseline) == (path.parents[1].name, "baseline", path.stem)
        return
    if folder == "ablation":
        folder = path.parents[1].name
    stage = {"finish": "base"}.get(path.stem, path.stem.partition("-")[0])
    assert config.stage == stage
    if folder != "emotion":  # the estimator serves both scales
        assert config.scale == folder


@pytest.mark.parametrize("baseline", get_args(Kind))
def test_the_baselines_run_as_the_landmark_stage_does(baseline: str) -> None:
    """Same base, same data, same steps: what may differ is the condition's name in the mixture."""
    ours: Any = load(CONFIGS / "mini" / "ablation" / "landmark.yaml")
    theirs: Any = load(CONFIGS / "mini" / "rivals" / f"{baseline}.yaml")
    free = {"stage", "baseline", "run", "mixture", "fresh_controls"}
    assert ours.model_dump(exclude=free) == theirs.model_dump(exclude=free)
    condition = "identity" if baseline == "ip_adapter" else "landmark"
    assert theirs.mixture == Mixture(**{condition: 1.0})


def test_every_baseline_of_the_config_can_be_trained() -> None:
    assert set(get_args(Kind)) == set(TRAINED)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("", "batch_size", 32),
        ("learning_rate: 3e-4", "learning_rate", 3e-4),  # YAML reads this as text
        ("learning_rate: 1", "learning_rate", 1.0),
        ("snr_gamma: null", "snr_gamma", None),
        ("ema: 0", "ema", 0.0),
        ("mixture: {none: 0.1, identity: 0.3, landmark: 0.3, emotion: 0.3}", "mixture", None),
        ("mixture: {both: 1}", "mixture", Mixture(both=1.0)),
        ("precision: 'no'", "precision", "no"),
        ("batch_size: 8\naccumulate: 4", "accumulate", 4),
    ],
)
def test_good_settings(text: str, name: str, value: Any, tmp_path: Path) -> None:
    config: Any = load(write(tmp_path, GOOD + text))
    if name == "mixture" and value is None:
        assert list(config.mixture.shares.values()) == [0.1, 0.3, 0.3, 0.3, 0.0]
    else:
        assert getattr(config, name) == value


def test_overrides_replace_the_files_values(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert load(path, {"steps": 3, "run": "other"}).steps == 3
    assert load(path, {"run": "other"}).run == Path("other")
    with pytest.raises(ConfigError, match="steps"):
        load(path, {"steps": 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "learning_rat: 1", "there is no setting 'learning_rat'; did you mean 'learning_rate'?"),
        (GOOD + "batchsize: 8", "there is no setting 'batchsize'; did you mean 'batch_size'?"),
        (GOOD + "xyzzy: 8", "there is no setting 'xyzzy'"),
        (GOOD + "mixture: {landmrk: 1}", "mixture: a mixture has no share 'landmrk'; did you mean 'landmark'?"),
        (
            LANDMARK + "pairs: {emotion_turns: 1}",
            "'pairs.emotion_turns'; did you mean 'pairs.emotion_turn'?",
        ),
        (AUTOENCODER + "loss: {lpip: 1}", "there is no setting 'loss.lpip'; did you mean 'loss.lpips'?"),
        (GOOD + "batch_size: many", "batch_size: Input should be a valid integer"),
        (GOOD + "batch_size: 2.5", "batch_size: Input should be a valid integer"),
        (GOOD + "batch_size: 0", "batch_size: Input should be greater than or equal to 1"),
        (GOOD + "learning_rate: 0", "learning_rate: Input should be greater than 0"),
        (GOOD + "learning_rate: .nan", "learning_rate: Input should be greater than 0"),
        (GOOD + "ema: 1", "ema: Input should be less than 1"),
        (GOOD + "clip: -1", "clip: Input should be greater than 0"),
        (GOOD + "precision: int8", "precision: Input should be 'no', 'bf16' or 'fp16'"),
        (GOOD + "schedule: linear", "schedule: Input should be 'constant' or 'cosine'"),
        (GOOD + "scale: huge", "scale: Input should be 'mini' or 'arc2face'"),
        (GOOD + "pair: 1.5", "pair: Input should be less than or equal to 1"),
        (GOOD + "snr_gamma: 0", "snr_gamma: Input should be greater than 0"),
        (GOOD + "mixture: {none: 0.1, identity: 0.8}", "mixture: the shares of a mixture sum to 0.9, not 1"),
        (GOOD + "mixture: {none: -0.5, identity: 1.5}", "mixture.none: Input should be greater than or equal to 0"),
        (GOOD + "mixture: identity", "mixture: Input should be"),
        (GOOD + "batch_size: 10\naccumulate: 4", "batch_size 10 is not a multiple of accumulate 4"),
        (AUTOENCODER + "loss: {crop: 16}", "loss.crop: Input should be greater than or equal to 32"),
        (GOOD.replace("base", "joint") + "mixture: {both: 1}", "'mixture' is a setting of the base, landmark, "),
        (GOOD.replace("base", "joint") + "joint: {groups: 5}\nbatch_size: 8", "is not a multiple of joint.groups 5"),
        (GOOD.replace("base", "joint") + "joint: {reading: both}", "joint.reading: Input should be 'sum' or 'branch'"),
        (GOOD + "image_loss: {identity: -1}", "image_loss.identity: Input should be greater than or equal to 0"),
        (GOOD + "batch_size: 4\nimage_loss: {lpips: 1}", "image_loss.batch is at most batch_size"),
        (GOOD + "accumulate: 8\nimage_loss: {colours: 1, batch: 6}", "a multiple of accumulate"),
        (GOOD + "image_loss: {colours: 1, learning: 9}", "image_loss.learning is at most image_loss.steps, 8"),
        (
            GOOD.replace("base", "emotion") + "mixture: {emotion: 1}\nimage_loss: {identity: 1}",
            "'image_loss' is a setting of the base stage, not of emotion",
        ),
        (GOOD.replace("base", "joints"), "there is no stage 'joints'; did you mean 'joint'?"),
        (GOOD.replace("base", "[base]"), "there is no stage '['base']'"),
        (GOOD.replace("base", "xyzzy"), "there is no stage 'xyzzy'; there are autoencoder, base, landmark, emotion, "),
        (GOOD.replace("stage: base", ""), "stage: Field required; one of autoencoder, base, landmark, emotion, joint"),
        (LANDMARK + "scaffold: true", "'scaffold' is a setting of the base stage, not of landmark"),
        (LANDMARK + "picture_loss: {}", "'picture_loss' is a setting of the base stage, not of landmark"),
        (AUTOENCODER + "start: s", "'start' is a setting of the base, landmark, emotion, joint, distill, baseline"),
        (GOOD.replace("steps: 10\n", ""), "steps: Field required"),
        (GOOD.replace("steps: 10", "steps: -1"), "steps: Input should be greater than or equal to 1"),
        (GOOD.replace("start: s\n", ""), "start: Field required"),
        (AUTOENCODER + "scale: arc2face", "the arc2face scale brings its own autoencoder"),
        (GOOD.replace("base", "landmark") + "mixture: {landmark: 0.5, emotion: 0.5}", "trains one module alone"),
        (GOOD.replace("base", "landmark") + "mixture: {landmark: 0.5, both: 0.5}", "trains one module alone"),
        (GOOD.replace("base", "emotion") + "mixture: {landmark: 0.5, emotion: 0.5}", "trains one module alone"),
        (GOOD.replace("base", "baseline"), "baseline: Field required"),
        (GOOD + "baseline: controlnet", "'baseline' is a setting of the baseline stage, not of base"),
        (GOOD + "estimator: {}", "'estimator' is a setting of the estimator stage, not of base"),
        (GOOD.replace("base", "estimator"), "estimator: Field required"),
        (
            BASELINE + "baseline: controlnets",
            "baseline: Input should be 'controlnet', 'caphuman'",
        ),
        (
            BASELINE + "baseline: controlnet",
            "the baseline controlnet learns nothing from a mixture",
        ),
        (
            BASELINE + "baseline: caphuman\nmixture: {landmark: 0.5, both: 0.5}",
            "the baseline caphuman has one condition, landmark; its mixture names another",
        ),
        (
            BASELINE + "baseline: ip_adapter\nmixture: {landmark: 1}",
            "the baseline ip_adapter has one condition, identity; its mixture names another",
        ),
        (
            BASELINE + "baseline: ip_adapter\nmixture: {none: 1}",
            "from a mixture without identity",
        ),
        (GOOD.replace("base", "landmark"), "the landmark stage learns nothing from a mixture without landmark"),
        (GOOD.replace("base", "emotion") + "mixture: {identity: 1}", "the emotion stage learns nothing from a mixture"),
        ("", "holds no settings"),
        ("- a\n- b", "holds no settings"),
        ("just words", "holds no settings"),
        ("stage: [unclosed", "is not YAML"),
        ("a: b: c", "is not YAML"),
        (GOOD + "1: 2", "there is no setting '1'"),
    ],
)
def test_bad_configs_are_refused_in_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no config"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="there is no config"):
        load(tmp_path)
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0 an image")
    with pytest.raises(ConfigError, match=r"picture\.yaml"):
        load(path)


def test_a_config_cannot_be_changed() -> None:
    config = parse(Path("run.yaml"), {"stage": "base", "data": "d", "run": "r", "start": "s", "steps": 1})
    with pytest.raises(ValidationError):
        config.steps = 2


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(kind: str) -> None:
    config = parse(Path("run.yaml"), {**yaml.safe_load(GOOD), "steps": 100, "warmup": 10, "schedule": kind})
    factors = [schedule(config, step) for step in range(100)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:10] == sorted(factors[:10])
    assert factors[0] == pytest.approx(0.1, abs=0.001)
    if kind == "constant":
        assert factors[10:] == [1.0] * 90
    else:
        assert factors[10:] == sorted(factors[10:], reverse=True)
        assert factors[50] == pytest.approx(0.51)
        assert 0.02 <= factors[99] < 0.021


def test_every_path_says_what_it_means_for_a_run_that_goes_on() -> None:
    def paths(model: type[BaseModel]) -> Iterator[tuple[str, bool]]:
        for name, field in model.model_fields.items():
            if "Path" in str(field.annotation):
                yield name, any(isinstance(one, Bearing) for one in field.metadata)
            for inner in config_file._models(field.annotation):
                yield from paths(inner)

    found = {name: kept for stage in stages().values() for name, kept in paths(stage)}
    assert found == dict.fromkeys(
        ("data", "run", "start", "expression_net", "fer2013", "votes", "labels", "arcface"), True
    )
