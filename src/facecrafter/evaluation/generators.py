"""The methods that belong to the project itself: its own model, and a folder of images made elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facecrafter import __version__, baselines
from facecrafter.errors import ConfigError, DataError
from facecrafter.evaluation.config import FOLDER, OURS, MethodConfig
from facecrafter.evaluation.images import request_name
from facecrafter.faces import landmarks
from facecrafter.faces.emotion import OWN
from facecrafter.faces.face import load_photo
from facecrafter.faces.photo import SUFFIXES
from facecrafter.generator import Generator, Portrait, Request, table_device
from facecrafter.pipelines.generate import Settings
from facecrafter.weights import ASSETS

if TYPE_CHECKING:
    from torch import Tensor

    from facecrafter.models.checkpoint import FaceModel

NAMED = 5  # missing or extra images that an error names
SHARED = ("batch_size", "device")  # what a table has for all its methods


class FaceCrafterGenerator:
    """The project's model as a row of a table; see :class:`facecrafter.generator.Generator`.

    Args:
        name: what the table calls it.
        model: a whole model.
        conditions: which of ``landmark`` and ``emotion`` it takes from a request, where they are there.
        settings: how to sample; what is None is the scale's own.

    Raises:
        ConfigError: a condition is asked of a model without controls, or a setting cannot be used.
    """

    def __init__(
        self, name: str, model: FaceModel, conditions: Sequence[str] = (), settings: Settings = Settings()
    ) -> None:
        from facecrafter.models.controls import parameter_count
        from facecrafter.sampling.sampler import Sampler

        if conditions and model.controls is None:
            raise ConfigError(
                f"the model of '{name}' has no controls; set its conditions to [], or name other controls"
            )
        self.name, self.size, self.conditions = name, model.scale.size, tuple(sorted(conditions))
        self.settings = settings.filled(model.scale)
        parts = [part for one in self.conditions for part in model.controls.parts(one)] if model.controls else []
        self.extra_parameters = parameter_count(parts)
        self._model, self._sampler = model, Sampler(model)
        self.key = self._digest()

    def _digest(self) -> str:
        """Of the weights in use, the conditions, the settings and the project's version."""
        from facecrafter.models.checkpoint import digest

        told = {name: value for name, value in vars(self.settings).items() if name != "batch_size"}
        idle = set() if self.settings.speed == "distilled" else {"distilled"}
        modules = [module for name, module in sorted(self._model.modules.items()) if name not in idle]
        return digest(modules, {**told, "conditions": self.conditions, "version": __version__})

    def generate(self, requests: Sequence[Request]) -> NDArray[np.uint8]:
        """See :class:`facecrafter.generator.Generator`."""
        images = np.empty((len(requests), self.size, self.size, 3), np.uint8)
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for index, request in enumerate(requests):
            kinds.setdefault((self._reads("landmark", request), self._reads("emotion", request)), []).append(index)
        for indices in kinds.values():
            images[indices] = self._alike([requests[index] for index in indices])
        return images

    def _reads(self, condition: str, request: Request) -> bool:
        given = request.landmarks if condition == "landmark" else request.emotion
        return condition in self.conditions and given is not None

    def _alike(self, requests: Sequence[Request]) -> NDArray[np.uint8]:
        """Images of requests of which all or none have landmarks, and all or none emotion."""
        import torch

        from facecrafter.sampling.sampler import pixels

        unet: Any = self._model.unet
        device = unet.device
        shapes = [one.landmarks for one in requests if one.landmarks and self._reads("landmark", one)]
        moods = [one.emotion.emotion for one in requests if one.emotion and self._reads("emotion", one)]
        made = self._sampler.generate(
            torch.from_numpy(np.stack([one.identity.embedding for one in requests])).to(device),
            self._drawn(shapes).to(device) if shapes else None,
            torch.from_numpy(np.stack(moods)).to(device) if moods else None,
            self.settings.guidance,
            self.settings.steps,
            [one.seed for one in requests],
            self.settings.scheduler,
            speed=self.settings.speed,
        )
        return pixels(made)

    def _drawn(self, portraits: Sequence[Portrait]) -> Tensor:
        """Landmark images ``(B, 3, L, L)`` in [0, 1]."""
        import torch

        assert self._model.controls is not None
        config: Any = self._model.controls.config
        size = config.landmark_size
        return torch.from_numpy(
            np.concatenate([landmarks.drawn([one.points], len(one.image), size) for one in portraits])
        )


class FolderGenerator:
    """A folder of images made elsewhere: one a request, named as ``requests.csv`` of the result folder names them.

    The endings may be others than PNG's.

    Args:
        name: what the table calls it.
        folder: the images, all of one size and square.
        requests: what the table asks for.
        extra_parameters: of the method that made them, beside its base.

    Raises:
        DataError: there is no such folder, an image is missing, there are images that nobody asked for, or one has
            another size than the first.
        PhotoError: a file is not an image.
    """

    def __init__(self, name: str, folder: Path, requests: Sequence[Request], extra_parameters: int) -> None:
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder} with the images of '{name}'")
        self.name, self.extra_parameters = name, extra_parameters
        found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
        self._paths = {path.stem: path for path in found}
        wanted = {_stem(request) for request in requests}
        again = [path.name for path in found if self._paths[path.stem] != path]
        missing, extra = sorted(wanted - self._paths.keys()), sorted(self._paths.keys() - wanted) + again
        told = [
            f"{len(some)} {what}: {_named(some)}" for some, what in ((missing, "missing"), (extra, "extra")) if some
        ]
        if told:
            raise DataError(
                f"{folder} does not hold what the table asks of '{name}' ({'; '.join(told)}); "
                "requests.csv in the result folder lists what it should"
            )
        self.size, self.key = len(load_photo(found[0])), self._digest()

    def _digest(self) -> str:
        """Of the images."""
        key = hashlib.sha256()
        for stem, path in sorted(self._paths.items()):
            key.update(stem.encode() + hashlib.sha256(path.read_bytes()).digest())
        return key.hexdigest()

    def generate(self, requests: Sequence[Request]) -> NDArray[np.uint8]:
        """See :class:`facecrafter.generator.Generator`."""
        images = np.empty((len(requests), self.size, self.size, 3), np.uint8)
        for index, request in enumerate(requests):
            path = self._paths[_stem(request)]
            image = load_photo(path)
            if image.shape != images.shape[1:]:
                height, width = image.shape[:2]
                raise DataError(
                    f"{path} is {width}x{height}; the images of '{self.name}' must all be {self.size}x{self.size}"
                )
            images[index] = image
        return images


def open_generator(
    config: MethodConfig,
    requests: Sequence[Request],
    condition: str,
    batch_size: int = 16,
    controls: bool = True,
    estimator: str | None = None,
) -> Generator:
    """A row of a table, ready to make images.

    Args:
        config: the row.
        requests: what the table asks for, which a folder of images must hold.
        condition: the recogniser whose embeddings the requests have.
        batch_size: images made at once.
        controls: whether conditions beside identity are asked for at all.
        estimator: the name of the one that gave the requests' emotions, where it is known.

    Raises:
        ConfigError: a setting cannot be used, or the model reads other embeddings or another estimator's emotions.
        CheckpointError: a file is missing, damaged, or another one.
        DataError: see :class:`FolderGenerator`.
    """
    check_settings(config)
    if config.kind == FOLDER:
        return FolderGenerator(config.name, config.model, requests, config.extra_parameters or 0)
    device = table_device()
    if config.kind != OURS:
        assert config.base is not None
        settings = {"batch_size": batch_size, **config.settings}
        return baselines.load(config.kind, config.model, _folder(config.base), device, **settings)
    from facecrafter.models.pretrained import load_folder

    model = load_folder(_folder(config.model), config.controls).to(device)
    if model.scale.recogniser != condition:
        raise ConfigError(
            f"the model of '{config.name}' reads {model.scale.recogniser}, not {condition}; set `condition`"
        )
    if controls and "emotion" in config.conditions:
        check_emotions(config.name, model, estimator)
    return FaceCrafterGenerator(config.name, model, config.conditions if controls else (), Settings(**config.settings))


def check_emotions(name: str, model: FaceModel, estimator: str | None) -> None:
    """Refuse a data set whose emotions are from another estimator than the model learned from, where both are known.

    Raises:
        ConfigError: they are.
    """
    learned = None if model.controls is None else model.controls.config.emotion_estimator
    if None not in (learned, estimator) and learned != estimator:
        raise ConfigError(
            f"the model of '{name}' learned emotions from {learned}, and the data's are from {estimator}; renew them: "
            f"facecrafter data prepare DIR --only emotion{'' if learned == OWN else f' --emonet {learned}.pth'}"
        )


def check_settings(config: MethodConfig) -> None:
    """Refuse settings that a row's method does not take. No weights are read.

    Raises:
        ConfigError: there is no such setting, the table has it for all methods, or its value is of another kind; the
            message names the row and the setting.
    """
    try:
        for name in SHARED:
            if name in config.settings:
                raise ConfigError(f"{name} is no setting of a method; all methods of a table have the same")
        if config.kind == OURS:
            baselines.check_kinds(Settings, config.settings)
        elif config.kind != FOLDER:
            baselines.check_settings(config.kind, config.settings)
    except ConfigError as error:
        raise ConfigError(f"'{config.name}': {error}") from None


def note(config: MethodConfig, method: Generator) -> str:
    """What a reader of the method's row must know: its own words, and those of the config."""
    said: Any = getattr(method, "note", "")
    elsewhere = f"{baselines.ELSEWHERE[config.of]}; the images were made elsewhere." if config.of else ""
    return " ".join(part for part in (said, elsewhere, config.note) if part)


def _folder(model: Path) -> Path:
    """The folder of ``mini``, or the folder that is named."""
    return ASSETS / "mini" if str(model) == "mini" else model


def _stem(request: Request) -> str:
    return request_name(request).removesuffix(".png")


def _named(stems: Sequence[str]) -> str:
    more = f" and {len(stems) - NAMED} more" if len(stems) > NAMED else ""
    return ", ".join(stems[:NAMED]) + more
