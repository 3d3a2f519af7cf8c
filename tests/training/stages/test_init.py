"""A config is checked whole before anything loads, and what is wrong is named."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from facecrafter import config as config_file
from facecrafter import training
from facecrafter.baselines import TRAINED
from facecrafter.config import Bearing
from facecrafter.controls import CONTROLS
from facecrafter.errors import ConfigError
from facecrafter.training.config import Mixture
from facecrafter.training.stages import RENAMED, load, parse, stages
from facecrafter.training.stages.baseline import Kind

LANDMARK = "stage: landmark\ndata: d\nrun: r\nstart: s\nsteps: 10\nmixture: {landmark: 1}\n"
AUTOENCODER = "stage: autoencoder\ndata: d\nrun: r\nsteps: 10\n"
BASELINE = "stage: baseline\ndata: d\nrun: r\nstart: s\nsteps: 10\n"
GOOD = "stage: base\ndata: d\nrun: r\nstart: s\nsteps: 10\n"
SOURCE = Path(training.__file__).parent
CONFIGS = Path(__file__).parents[3] / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


TRAINING = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name != "evaluation" and path.stem not in ("recipe", "study")
)


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_projects_own_configs_are_good(path: Path) -> None:
    config: Any = load(path)
    folder = path.parent.name
    if folder == "baselines":
        assert (config.scale, config.stage, config.baseline) == (path.parents[1].name, "baseline", path.stem)
        return
    if folder == "ablation":
        folder = path.parents[1].name
    stage = {"finish": "base", "words": "base", "reader": "estimator"}.get(path.stem, path.stem.partition("-")[0])
    assert config.stage == stage
    if folder != "emotion":  # the estimator serves both scales
        assert config.scale == folder


@pytest.mark.parametrize("baseline", get_args(Kind))
def test_the_baselines_run_as_the_landmark_stage_does(baseline: str) -> None:
    """Same base, same data, same steps: what may differ is the condition's name in the mixture."""
    ours: Any = load(CONFIGS / "mini" / "ablation" / "landmark.yaml")
    theirs: Any = load(CONFIGS / "mini" / "baselines" / f"{baseline}.yaml")
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
        (GOOD.replace("stage: base", ""), "stage is missing; give one of autoencoder, base, landmark, emotion, joint"),
        (LANDMARK + "scaffold: true", "'scaffold' is a setting of the base stage, not of landmark"),
        (LANDMARK + "picture_loss: {}", "'picture_loss' is a setting of the base stage, not of landmark"),
        (AUTOENCODER + "start: s", "'start' is a setting of the base, landmark, emotion, joint, distill, baseline"),
        (GOOD.replace("steps: 10\n", ""), "steps is missing; give it"),
        (GOOD.replace("steps: 10", "steps: -1"), "steps: Input should be greater than or equal to 1"),
        (GOOD.replace("start: s\n", ""), "start is missing; give it"),
        (AUTOENCODER + "scale: arc2face", "the arc2face scale brings its own autoencoder"),
        (GOOD.replace("base", "landmark") + "mixture: {landmark: 0.5, emotion: 0.5}", "trains one module alone"),
        (GOOD.replace("base", "landmark") + "mixture: {landmark: 0.5, both: 0.5}", "trains one module alone"),
        (GOOD.replace("base", "emotion") + "mixture: {landmark: 0.5, emotion: 0.5}", "trains one module alone"),
        (GOOD.replace("base", "baseline"), "baseline is missing; give it"),
        (GOOD + "baseline: controlnet", "'baseline' is a setting of the baseline stage, not of base"),
        (GOOD + "estimator: {}", "'estimator' is a setting of the estimator stage, not of base"),
        (GOOD.replace("base", "estimator"), "estimator is missing; give it"),
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


def test_every_path_says_what_it_means_for_a_run_that_goes_on() -> None:
    def paths(model: type[BaseModel]) -> Iterator[tuple[str, bool]]:
        for name, field in model.model_fields.items():
            if "Path" in str(field.annotation):
                yield name, any(isinstance(one, Bearing) for one in field.metadata)
            for inner in config_file.models_in(field.annotation):
                yield from paths(inner)

    found = {name: kept for stage in stages().values() for name, kept in paths(stage)}
    assert found == dict.fromkeys(
        (
            "data",
            "run",
            "start",
            "begin_with",
            "expression_net",
            "emotion_net",
            "fer2013",
            "votes",
            "labels",
            "arcface",
        ),
        True,
    )


# --- what runs of before wrote down -----------------------------------------------------------------------------------

# Every setting there was while all stages had one config, at its default, as a run's config.yaml has it.
ALL_STAGES = """
scale: mini
data: d
run: r
start: null
steps: 10
batch_size: 32
accumulate: 1
learning_rate: 0.0003
warmup: 100
schedule: cosine
encoder_rate: 0.05
identity_rate: 4.0
scaffold_rate: 1.0
critic_rate: 1.0
weight_decay: 0.01
clip: 1.0
ema: 0.999
precision: bf16
seed: 0
held_out: true
log_every: 20
save_every: 500
sample_every: 1000
validate_every: 500
plain_attention: true
mixture: {none: 0.1, identity: 0.9, landmark: 0.0, emotion: 0.0, both: 0.0}
fresh_controls: false
scaffold: false
pairs: null
pair: 0.5
identity_noise: 0.0
snr_gamma: null
loss: {lpips: 0.3, prior: 0.001, crop: 64, whole_from: 0.75}
picture_loss:
  {identity: 0.0, enough: 1.0, expression: 0.0, expression_net: null, lpips: 0.0, face_lpips: 0.0, colours: 0.0,
   face: 0.0, background: 1.0, adversary: 0.0, batch: 8, steps: 8, learning: 4, blend: 0.2, cross: 0.0}
joint: {weight: 0.0005, reading: branch, groups: 1, drop: 0.05, identity_projections: false}
rival: null
distill: {rank: 16, spread: 0.5}
estimator: null
expression: null
gradient_checkpointing: false
arcface: null
"""
OWN: dict[str, dict[str, Any]] = {
    "autoencoder": {"loss": {"crop": 32}},
    "base": {"start": "s", "critic_rate": 6.0, "picture_loss": {"identity": 1.0, "lpips": 0.4, "batch": 8}},
    "landmark": {"start": "s", "mixture": {"landmark": 1.0}, "pairs": {"landmark_turn": 5.0}, "fresh_controls": True},
    "emotion": {"start": "s", "mixture": {"emotion": 0.5, "identity": 0.5}, "accumulate": 2},
    "joint": {"start": "s", "joint": {"groups": 4}, "encoder_rate": 0.5},
    "distill": {"start": "s", "mixture": {"identity": 0.5, "both": 0.5}, "distill": {"rank": 4}},
    "rival": {"start": "s", "rival": "ip_adapter", "mixture": {"identity": 1.0}},
    "estimator": {"estimator": {"fer2013": "f", "votes": "v", "labels": "l"}},
    "expression": {"expression": {"hidden": 8}},
}


@pytest.mark.parametrize("stage", OWN)
def test_what_a_run_of_before_wrote_down_is_the_config_that_it_had(stage: str, tmp_path: Path) -> None:
    """Other stages' settings are left out, also where they were not at their defaults."""
    written = {**yaml.safe_load(ALL_STAGES), "stage": stage, **OWN[stage]}
    if stage == "joint":  # the last version wrote none for it
        del written["mixture"]
    now = load(write(tmp_path, yaml.safe_dump({"stage": stage, "data": "d", "run": "r", "steps": 10, **OWN[stage]})))
    assert load(write(tmp_path, yaml.safe_dump(written))) == now
    others = {name: value for name, value in OWN["base" if stage == "joint" else "joint"].items() if name != "start"}
    foreign = {name: value for name, value in others.items() if name not in OWN[stage]}
    if stage not in ("base", "joint"):
        assert foreign and load(write(tmp_path, yaml.safe_dump({**written, **foreign}))) == now
    assert load(write(tmp_path, yaml.safe_dump(now.model_dump(mode="json")))) == now


def test_a_loss_that_was_replaced_is_left_out_where_it_was_off(tmp_path: Path) -> None:
    written = {**yaml.safe_load(ALL_STAGES), "stage": "base", "start": "s"}
    off, on = ({**written, "identity_loss": {"weight": weight, "batch": 8}} for weight in (0.0, 0.5))
    assert load(write(tmp_path, yaml.safe_dump(off))) == load(write(tmp_path, yaml.safe_dump(written)))
    with pytest.raises(ConfigError, match="there is no setting 'identity_loss'"):
        load(write(tmp_path, yaml.safe_dump(on)))


def test_former_names_are_said_once(
    tmp_path: Path, notes: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_file, "_NOTED", set())
    text = GOOD.replace("base", "rival") + "rival: controlnet\nmixture: {landmark: 1}"
    assert load(write(tmp_path, text)) == load(write(tmp_path, text.replace("rival", "baseline")))
    assert notes() == ["the stage 'rival' is called 'baseline' now", "the setting 'rival' is called 'baseline' now"]
    load(write(tmp_path, text))
    assert notes() == []


# --- a stage is a class, and nothing asks for its name ---------------------------------------------------------------


def compared(tree: ast.AST) -> set[str]:
    """The words that code compares a ``stage`` with, and those that it compares anything with and that name no
    control."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.Match):
            words = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)} & {*stages(), *RENAMED}
            head = node.subject if isinstance(node, ast.Match) else node
            found |= words if "stage" in ast.unparse(head) else words - {*CONTROLS}
    return found


def test_comparisons_are_found() -> None:
    code = "a.stage == 'emotion'\nb in ('joint', x)\nmatch c:\n    case 'rival':\n        d\ne == 'landmark'\nf('base')"
    assert compared(ast.parse(code)) == {"emotion", "joint", "rival"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_code_of_training_compares_a_stages_name(path: Path) -> None:
    assert not compared(ast.parse(path.read_text()))


def test_no_setting_is_one_that_a_stage_has_to_ignore() -> None:
    """Each stage's file, with those that it imports from, reads every setting that its config has."""
    common = (SOURCE / "trainer.py").read_text() + (SOURCE / "run_folder.py").read_text()
    common += (SOURCE / "config.py").read_text()
    shared = "".join((SOURCE / "stages" / f"{name}.py").read_text() for name in ("prepared", "diffusion"))
    for stage, kind in stages().items():
        own = Path(inspect.getfile(kind)).read_text()
        for name in kind.model_fields:
            assert f".{name}" in own + shared + common, f"{stage}: {name}"
