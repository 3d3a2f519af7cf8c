"""One recipe: all stages in order in one process, each with its share of the time, and a usable model at any end.

A recipe's folder holds a run folder a stage (docs/training.md), ``recipe.json`` (what each stage has had so far),
``log.jsonl`` (a line a stage and call) and ``model/``: a whole model in half precision, written again whenever a stage
writes what it has. A call goes on where the one before ended, and gives each stage the time that it lacks of its share
of all the time so far.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator

from facecrafter import config as config_file
from facecrafter import weights
from facecrafter.config import Strict
from facecrafter.data import shards
from facecrafter.errors import ConfigError, FaceCrafterError, TrainingError, reason_of
from facecrafter.interruption import deferred, stating
from facecrafter.io import alone
from facecrafter.models import checkpoint, scales
from facecrafter.training import run_folder, stages
from facecrafter.training.config import ASIDE, PLACE, RunConfig, start_folder
from facecrafter.training.operations import encoding_rate, matmul_limit
from facecrafter.training.recipe_state import Had, State
from facecrafter.training.stages.base import BaseConfig
from facecrafter.training.stages.diffusion import DiffusionConfig
from facecrafter.training.stages.prepared import Source, reading_once
from facecrafter.training.timebox import TimeBox, check_one_process
from facecrafter.training.trainer import train

log = logging.getLogger(__name__)

STEPS = 10**9  # the clock ends a stage
# Of the time that is left when the first stage on latents begins, encoding images takes at most this share; with less
# time there are fewer images.
ENCODING = 0.2
LEAST_SAMPLES = 256
# A stage that lacks less than this share of the budget is left as it is.
NOTICED = 0.01


class StageEntry(Strict):
    """One stage of a recipe."""

    name: str  # of its folder; what follows may start from it
    share: float = Field(ge=0, le=1)  # of the time; the shares sum to 1
    # Begins again whenever the model that it starts from has learned on. The others go on from their own checkpoint.
    again: bool = True
    settings: Mapping[str, Any]  # as in a YAML of its own; "{run}" in a text is the recipe's folder
    # What is other on a GPU, which wants larger batches: laid over `settings`, group by group.
    gpu: Mapping[str, Any] = Field({})
    # Files without which this stage is left out, its time going to the others...
    needs: tuple[Annotated[Path, PLACE], ...] = ()
    # ...and what is then laid over the settings of every stage that has such a group.
    without: Mapping[str, Any] = Field({})


class RecipeConfig(Strict):
    """A recipe; see configs/mini/recipe.yaml."""

    run: Annotated[Path, ASIDE]
    data: Annotated[Path, PLACE]  # photos of real people, prepared at the autoencoder's size
    beside: tuple[Source, ...] = ()  # more folders; one that is not there is left out
    # A model folder, or an autoencoder alone, that a new recipe begins with; null: with nothing.
    start: Annotated[Path | None, PLACE] = None
    settings: Mapping[str, Any] = Field({})  # of every stage that has them
    stages: tuple[StageEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _shares_sum_to_1(self) -> RecipeConfig:
        total = sum(entry.share for entry in self.stages)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the stages sum to {total:g}, not 1")
        if not any(entry.share for entry in self.stages if not entry.needs):
            raise ValueError("every stage needs a file (`needs`); one at least has to run without")
        names = [entry.name for entry in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("two stages have one name")
        return self


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> RecipeConfig:
    """Read a recipe, and check the settings of all its stages.

    Args:
        path: the YAML.
        overrides: values that replace the file's, by name.

    Raises:
        ConfigError: no such file, or a name or value that is not allowed; the message says which.
    """
    config = config_file.check(path, {**config_file.read(path), **(overrides or {})}, RecipeConfig)
    for gpu in (False, True):
        for entry in config.stages:
            settings = stage_config(config, entry, config.run / "model", gpu, path=path)
            if wanted := settings.wants_steps():
                raise ConfigError(
                    f"{path}: the stage '{entry.name}' would change at a share of its steps, and the clock ends a "
                    f"recipe; set {wanted}"
                )
    return config


def stage_config(
    config: RecipeConfig,
    entry: StageEntry,
    start: Path | None,
    gpu: bool,
    most: int | None = None,
    path: Path = Path("recipe"),
) -> RunConfig:
    """The config of one stage.

    Args:
        config, entry: the recipe and the stage.
        start: the model that it starts from; None where nothing has made one.
        gpu: whether it runs on one.
        most: see `most_samples` of a stage's config.
        path: the recipe's file, for the message.
    """
    own = _over(entry.settings, entry.gpu if gpu else {})
    for other in config.stages:
        if _missing(other):
            own = _over(own, {name: value for name, value in other.without.items() if name in own})
    kind = stages.stages().get(str(own.get("stage")))
    fields = kind.model_fields if kind else {}
    given = {"data": config.data, "beside": config.beside, "start": start, "begin_with": start, "most_samples": most}
    common = {**config.settings, **{name: value for name, value in given.items() if value is not None}}
    common = {name: value for name, value in common.items() if name in fields}
    filled = _filled({**common, **own}, str(config.run))
    return stages.parse(path, {**filled, "run": config.run / entry.name, "steps": STEPS})


def _over(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others laid over them: what is not named stays, in groups within groups too."""
    merged = dict(settings)
    for name, value in others.items():
        before = merged.get(name)
        merged[name] = _over(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def _missing(entry: StageEntry) -> list[str]:
    """The files that a stage needs and that are not there; with any it is left out."""
    return [str(path) for path in entry.needs if not path.exists()]


def _filled(value: Any, run: str) -> Any:
    """Settings in which ``{run}`` is the recipe's folder."""
    if isinstance(value, str):
        return value.replace("{run}", run)
    if isinstance(value, dict):
        return {name: _filled(inner, run) for name, inner in value.items()}
    return value


def allotted(entries: tuple[StageEntry, ...], had: Mapping[str, float], budget: float) -> dict[str, float]:
    """How many seconds of a budget each stage gets: what it lacks of its share of all the time, past and to come.

    A stage that begins again when something before it has learned on counts as having had nothing then.

    Args:
        entries: the stages; where some are left out, the others' shares grow in proportion.
        had: seconds that they have had.
        budget: seconds to give.
    """
    had = {entry.name: had.get(entry.name, 0.0) for entry in entries}
    shares = sum(entry.share for entry in entries)
    while True:
        total = (sum(had.values()) + budget) / shares
        lack = {entry.name: max(0.0, entry.share * total - had[entry.name]) for entry in entries}
        lack = {name: seconds if seconds > NOTICED * budget else 0.0 for name, seconds in lack.items()}
        first = next((place for place, entry in enumerate(entries) if lack[entry.name]), len(entries))
        void = [entry.name for entry in entries[first + 1 :] if entry.again and had[entry.name]]
        if not void:
            break
        had.update(dict.fromkeys(void, 0.0))
    scale = budget / max(sum(lack.values()), 1e-9)
    return {name: seconds * scale for name, seconds in lack.items()}


def run(config: RecipeConfig, budget: float, progress: bool = True) -> Path:
    """Run all stages for a budget of time, or go on with them.

    Args:
        config: the recipe.
        budget: seconds; building and writing count.
        progress: show bars.

    Returns:
        The folder of the model.

    Raises:
        ConfigError: the folder is in use, or belongs to a run that is no recipe; or this is one of several processes.
        TrainingError: stages failed; those after them ran, from what there was.
        KeyboardInterrupt: after Ctrl-C, with a note that says where the model is.
    """
    began = time.monotonic()
    check_one_process()
    if (config.run / run_folder.CHECKPOINT).is_file():
        raise ConfigError(f"{config.run} holds the run of one stage; choose another run folder for a recipe")
    with (
        alone(config.run, "recipe"),
        stating(lambda: f"the model as it is now is in {config.run / 'model'}; the same command goes on from there"),
        reading_once(),
    ):
        return _Recipe(config, began, budget, progress).run()


class _Recipe:
    """One call."""

    def __init__(self, config: RecipeConfig, began: float, budget: float, progress: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = config.model_copy(update={"beside": _present(config.beside)})
        self.entries = tuple(entry for entry in config.stages if not _missing(entry))
        for entry in config.stages:
            if missing := _missing(entry):
                log.warning("the stage '%s' is left out: there is no %s", entry.name, ", ".join(missing))
        self.began, self.budget, self.progress = began, budget, progress
        self.state = State.read(config.run)
        self.model = config.run / "model"
        self.most: int | None = None
        self.failed: dict[str, str] = {}

    def run(self) -> Path:
        """All stages that lack time, in order."""
        start = None if self.config.start is None else start_folder(self.config.start)
        self._begin(start)
        limit = self._limit()
        had = {name: one.seconds for name, one in self.state.stages.items()}
        seconds, until = allotted(self.entries, had, self.budget), self.began
        for entry in self.entries:
            until += seconds[entry.name]
            if seconds[entry.name]:
                self._tried(entry, start, until, limit)
            made = self.config.run / entry.name / "model"
            # What a stage makes beside the model, the next one does not start from.
            start = made if (made / "autoencoder.safetensors").is_file() else start
        if self.failed:
            reasons = "; ".join(f"'{name}' ({reason})" for name, reason in self.failed.items())
            trained = self._trained() or self.config.start is not None
            left = "what the others made" if trained else "a model that no stage has trained yet"
            raise TrainingError(
                f"{len(self.failed)} of {len(self.entries)} stages failed: {reasons}. {self.model} is {left}, and the "
                "same command goes on"
            )
        return self.model

    def _tried(self, entry: StageEntry, start: Path | None, until: float, limit: float) -> None:
        """One stage; where it fails, the next ones have its time, and start from what it wrote last."""
        if self.failed and self._lacks_a_start(entry, start):
            self.failed[entry.name] = "not run, for no stage before it has made what it starts from"
            log.error("the stage '%s' was %s", entry.name, self.failed[entry.name])
            return
        try:
            self._stage(entry, start, until, limit)
        except Exception as error:  # whatever it is, the time of the others is not to be lost
            self.failed[entry.name] = reason_of(error)
            log.error("the stage '%s' failed: %s", entry.name, error, exc_info=not isinstance(error, FaceCrafterError))
        gc.collect()  # a failed stage's networks, which its error held
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _lacks_a_start(self, entry: StageEntry, start: Path | None) -> bool:
        """Whether a stage cannot begin from what there is."""
        kind = stages.stages()[str(entry.settings["stage"])]
        if "start" not in kind.model_fields or not kind.model_fields["start"].is_required():
            return False
        return start is None or not (issubclass(kind, BaseConfig) or (start / "unet.safetensors").is_file())

    def _trained(self) -> bool:
        """Whether any stage has trained the model and not its autoencoder alone."""
        folders = [self.config.run / entry.name / "model" for entry in self.config.stages]
        return any((folder / "unet.safetensors").is_file() for folder in folders)

    def _begin(self, start: Path | None) -> None:
        """Put a whole model there, trained or not, if there is none."""
        if (self.model / "unet.safetensors").is_file():
            return
        if start is not None and (start / "unet.safetensors").is_file():
            model = checkpoint.load_model(start)
            model.distilled = None  # it is of the model as it was
        else:
            model = self._untrained(start)
        checkpoint.save_model(model, self.model, torch.float16)

    def _untrained(self, start: Path | None) -> checkpoint.FaceModel:
        scale = scales.SCALES["mini"]
        torch.manual_seed(0)
        settings = (entry.settings.get("autoencoder") for entry in self.config.stages)
        autoencoder: Any = (
            scales.build_autoencoder(scale, next((one for one in settings if one), None))
            if start is None
            else checkpoint.load_part(start / "autoencoder.safetensors", "autoencoder", scale.name)
        )
        scale = scales.fitting(scale, autoencoder)
        unet = scales.build_unet(scale)
        controls = scales.build_controls(scale, unet)
        return checkpoint.FaceModel(scale, unet, scales.build_encoder(scale), autoencoder, controls)

    def _limit(self) -> float:
        """What the machine's own matrix product reaches, in operations a second."""
        if self.device.type != "cuda":
            return matmul_limit(self.device, torch.bfloat16, repeats=3, side=1024)
        # cuDNN's own search is left off: for each new shape of each convolution it takes longer than it saves here.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        return matmul_limit(self.device, torch.bfloat16)

    def _stage(self, entry: StageEntry, start: Path | None, until: float, limit: float) -> None:
        """Train one stage until its time is over."""
        began, folder = time.monotonic(), self.config.run / entry.name
        had, digest = self.state.stages.setdefault(entry.name, Had()), _digest(start)
        if entry.again and had.start != digest and folder.exists():
            shutil.rmtree(folder)
            had.seconds = 0.0
        had.start, before = digest, had.seconds
        gpu = self.device.type == "cuda"
        settings = stage_config(self.config, entry, start, gpu)
        if isinstance(settings, DiffusionConfig):
            settings = stage_config(self.config, entry, start, gpu, self._most(settings, until))
        box = TimeBox(until, limit, lambda: self._publish(folder / "model"), began=began)
        try:
            train(settings, (folder / run_folder.CHECKPOINT).is_file(), self.progress, box, grows=True)
        finally:
            with deferred():
                had.seconds = before + time.monotonic() - began
                self.state.write(self.config.run)
        self._record(entry.name, folder, time.monotonic() - began, limit)

    def _most(self, settings: DiffusionConfig, until: float) -> int:
        """How many samples there is time to encode, measured once a call, so that its stages share one set."""
        if self.most is None:
            autoencoder = checkpoint.load_part(
                start_folder(settings.start) / "autoencoder.safetensors", "autoencoder", settings.scale
            )
            rate = encoding_rate(autoencoder.to(self.device), settings.image_size(), self.device)
            left = max(0.0, self.began + self.budget - time.monotonic())
            self.most = max(LEAST_SAMPLES, int(ENCODING * left * rate / 2))  # each sample has a twin in a mirror
        return self.most

    def _publish(self, made: Path) -> None:
        """Bring the model's parts into the recipe's model, in half precision. An autoencoder by itself only as long as
        nothing was trained on another one's latents."""
        if not (made / "autoencoder.safetensors").is_file() or (
            self._trained() and not (made / "unet.safetensors").is_file()
        ):
            return
        with deferred():
            checkpoint.copy_parts(made, self.model, torch.float16)

    def _record(self, name: str, folder: Path, seconds: float, limit: float) -> None:
        """Add a line to the recipe's log: what came of a stage in this call."""
        lines = (folder / run_folder.LOG).read_text(encoding="utf-8").splitlines()
        last: dict[str, Any] = {}
        for line in lines:
            last.update(json.loads(line))
        record = {"stage": name, "seconds": round(seconds, 1), "matmul_limit": limit, **last}
        with open(self.config.run / run_folder.LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _present(beside: tuple[Source, ...]) -> tuple[Source, ...]:
    """The folders that are there, whose shares stay what they are: `data` has the rest."""
    there = tuple(source for source in beside if (source.data / shards.INDEX).is_file())
    for source in beside:
        if source not in there:
            log.warning("%s is not there, or not finished; its %.0f %% of every batch come from `data`",
                        source.data, 100 * source.share)  # fmt: skip
    return there


def _digest(folder: Path | None) -> str:
    """One key for a model folder's weights; empty for none."""
    files = sorted(folder.glob("*.safetensors")) if folder else []
    return " ".join(weights.sha256(file)[:16] for file in files)
