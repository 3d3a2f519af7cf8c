"""The tables: the YAML of a run, checked before anything is loaded, and the run itself."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from facecrafter import baselines
from facecrafter import config as config_file
from facecrafter.config import Strict
from facecrafter.controls import CONTROLS
from facecrafter.errors import ConfigError, nearest
from facecrafter.evaluation.judges import JudgesConfig
from facecrafter.evaluation.result import RESULT, TableResult
from facecrafter.io import check_free
from facecrafter.pipelines.settings import Settings

Distance = Literal["l2", "rmse"]
OURS, FOLDER = "facecrafter", "folder"
KINDS = (OURS, FOLDER, *baselines.TRAINED, *baselines.PUBLISHED)
SAMPLING = tuple(name for name in Settings.__dataclass_fields__ if name != "batch_size")


class MethodConfig(Strict):
    """One row of a table."""

    name: str = Field(min_length=1)  # what the table calls it
    kind: str = OURS  # facecrafter, folder (images made elsewhere), or one of facecrafter/baselines
    model: Path  # `mini`, a model folder, a baseline's file or folder, or the folder of images
    base: Path | None = None  # baselines: the base that they are for, `mini` or a folder
    controls: Path | None = None  # facecrafter: a controls file in place of the model's own
    # facecrafter: which controls it uses, in Table 1
    conditions: tuple[str, ...] = Field(default_factory=lambda: tuple(CONTROLS))
    settings: dict[str, Any] = Field(default_factory=dict)  # how it samples; what is not named is the model's own
    extra_parameters: int | None = Field(None, ge=0)  # folder: what the method adds to its base
    of: str | None = None  # folder: the published baseline that made the images, for its row to say what that expects
    note: str = ""  # what a reader of the table must know

    @model_validator(mode="after")
    def _consistent(self) -> MethodConfig:
        if self.kind in baselines.ELSEWHERE:
            raise ValueError(f"{baselines.ELSEWHERE[self.kind]}; give the folder of its images, with kind: {FOLDER}")
        if self.kind not in KINDS:
            raise ValueError(f"there is no kind of method '{self.kind}'; there are {', '.join(KINDS)}")
        if self.kind == FOLDER and self.extra_parameters is None:
            raise ValueError("a folder of images needs `extra_parameters`, what its method adds to the base; or 0")
        if self.kind not in (OURS, FOLDER) and self.base is None:
            raise ValueError(f"the baseline {self.kind} needs `base`, the model that it is for")
        if self.of is not None and self.of not in baselines.ELSEWHERE:
            raise ValueError(f"`of` is one of {', '.join(baselines.ELSEWHERE)}, not '{self.of}'")
        for name in self.conditions:
            if name not in CONTROLS:
                raise ValueError(f"conditions: there is no '{name}'{nearest(name, tuple(CONTROLS))}")
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError("`conditions` names one twice")
        for name in self._unknown_settings():
            raise ValueError(f"settings: there is no '{name}'{nearest(name, SAMPLING)}")
        own = {"base": self.kind not in (OURS, FOLDER), "controls": self.kind == OURS, "conditions": self.kind == OURS}
        own |= {"extra_parameters": self.kind == FOLDER, "of": self.kind == FOLDER, "settings": self.kind != FOLDER}
        for name, used in own.items():
            if name in self.model_fields_set and not used:
                raise ValueError(f"the kind {self.kind} has no use for `{name}`; leave it out")
        return self

    def _unknown_settings(self) -> list[str]:
        """Of ours; those of a baseline are checked by :func:`facecrafter.evaluation.generators.check_settings`."""
        return [name for name in self.settings if name not in SAMPLING] if self.kind == OURS else []

    @property
    def slug(self) -> str:
        """What its files are called."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower())


class _Table(Strict):
    """What both tables have."""

    RENAMED = {"eyes": "judges"}  # noqa: RUF012

    data: Path  # a folder that `facecrafter data prepare` wrote
    out: Path  # where the result goes
    cache: Path | None = None  # made images and what was measured on them, for several tables to share; `out`/cache
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    judges: JudgesConfig = JudgesConfig()
    condition: Literal["dlib", "sface", "arcface"] = "dlib"  # the recogniser whose embeddings the methods get
    identities: int = Field(100, ge=2)  # people
    seed: int = Field(0, ge=0)  # chooses people, targets and real images, and starts the pictures' seeds
    batch_size: int = Field(16, ge=1)
    bfloat16: bool = False  # let the methods' networks compute in bfloat16
    real: int = Field(2000, ge=2)  # real images that the Frechet distance is to
    real_data: Path | None = None  # a prepared folder that they come from in place of `data`
    # Resamplings behind a Frechet distance's interval; 0 for none. With Inception's 2048 features each takes seconds.
    frechet_draws: int = Field(100, ge=0)

    @model_validator(mode="after")
    def _comparable(self) -> _Table:
        if self.judges.identity == self.condition:
            raise ValueError(
                f"{self.condition} gives the identity condition and cannot judge it too; set judges.identity to another"
            )
        slugs = Counter(method.slug for method in self.methods)
        twice = [method.name for method in self.methods if slugs[method.slug] > 1]
        if twice:
            raise ValueError(f"the methods {' and '.join(twice)} have names too much alike; their files would be one")
        return self

    @property
    def cache_folder(self) -> Path:
        """Where made images are kept."""
        return self.cache or self.out / "cache"


class ControlConfig(_Table):
    """Table 1: people by targets. ``identities`` x ``targets`` pairs."""

    table: Literal["control"] = "control"
    # Of expression and emotion distribution: the mean over images of the l2 norm, by which the paper's values make
    # sense, or the root mean square over images and numbers. docs/evaluation.md says both.
    distance: Distance = "l2"
    targets: int = Field(20, ge=1)  # a person
    pool: int = Field(100, ge=1)  # target photos in all, of which each person gets its share
    leakage: int = Field(50, ge=0)  # probes of the leakage matrix, five images each; 0 leaves it out
    curve: int = Field(20, ge=0)  # people behind the control curves, eighteen images each; 0 leaves them out

    @model_validator(mode="after")
    def _enough_targets(self) -> ControlConfig:
        if self.pool < self.targets:
            raise ValueError(f"{self.targets} targets a person cannot come from a pool of {self.pool}; raise `pool`")
        if self.curve > self.identities:
            raise ValueError(f"the curves are of some of the {self.identities} identities, not of {self.curve}")
        return self


class People(Strict):
    """Whose images Table 2 asks for."""

    layout: Literal["prepared", "plain", "synth", "agedb"] = "prepared"  # held-out people of `data`, or photos:
    folder: Path | None = None  # in the layout that facecrafter/evaluation/datasets.py says
    arcface: Path | None = None  # arcface.onnx, which reads photos where `condition` is arcface

    @model_validator(mode="after")
    def _has_a_folder(self) -> People:
        if (self.folder is None) != (self.layout == "prepared"):
            raise ValueError("`folder` belongs to the layouts plain, synth and agedb, which need it")
        return self


class DiversityConfig(_Table):
    """Table 2: several images of each of some people, by identity alone."""

    table: Literal["diversity"]
    samples: int = Field(10, ge=2)  # images a person
    people: People = People()


TableConfig = ControlConfig | DiversityConfig
_KINDS_OF_TABLE: dict[str, type[ControlConfig] | type[DiversityConfig]] = {
    "control": ControlConfig,
    "diversity": DiversityConfig,
}


def load(path: Path) -> TableConfig:
    """Read a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or a name or value that is not allowed; the message says which.
    """
    content = config_file.read(path)
    if content.get("table") not in _KINDS_OF_TABLE:
        raise ConfigError(f"{path} does not say which table it is of; its first setting is table: control or diversity")
    return config_file.check(path, content, _KINDS_OF_TABLE[content["table"]])


def run(config: str | Path | TableConfig, progress: bool = True, overwrite: bool = False) -> TableResult:
    """Make a table: generate what is missing, measure, and write the result folder.

    Images, and what was measured on them, are kept in the cache: a run that was stopped goes on, and one with other
    metrics generates nothing again.

    Args:
        config: the run, or its YAML.
        progress: show bars.
        overwrite: replace the result that is in the folder; the cache stays.

    Returns:
        What ``result.json`` holds.

    Raises:
        ConfigError: the config, or a method's settings, cannot be used.
        DataError: fewer people or photos than asked for, or a folder of images with missing or extra ones.
        CheckpointError, WeightsError: a model or an estimator cannot be loaded.
        OutputError: the folder holds a result already, or cannot be written.
    """
    from facecrafter.evaluation import control, diversity

    if not isinstance(config, _Table):
        config = load(Path(config))
    check_free([config.out / RESULT], overwrite)
    if isinstance(config, ControlConfig):
        return control.measure(config, progress)
    return diversity.measure(config, progress)
