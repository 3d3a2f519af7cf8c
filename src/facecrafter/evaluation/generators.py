"""The rows of a table: opened, checked, and a folder of images made elsewhere as one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facecrafter import baselines
from facecrafter.errors import ConfigError, DataError
from facecrafter.evaluation.config import FOLDER, OURS, MethodConfig
from facecrafter.evaluation.images import request_name
from facecrafter.faces.emotion import OWN
from facecrafter.faces.face import load_photo
from facecrafter.faces.photo import SUFFIXES
from facecrafter.pipelines.generator import FaceCrafterGenerator
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Generator, Progress, Request
from facecrafter.weights import ASSETS

if TYPE_CHECKING:
    from facecrafter.models.checkpoint import FaceModel

NAMED = 5  # missing or extra images that an error names
SHARED = ("batch_size", "device")  # what a table has for all its methods


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
        faults = [
            f"{len(some)} {what}: {_named(some)}" for some, what in ((missing, "missing"), (extra, "extra")) if some
        ]
        if faults:
            raise DataError(
                f"{folder} does not hold what the table asks of '{name}' ({'; '.join(faults)}); "
                "requests.csv in the result folder lists what it should"
            )
        self.size, self.key = len(load_photo(found[0])), self._digest()

    def _digest(self) -> str:
        """Of the images."""
        key = hashlib.sha256()
        for stem, path in sorted(self._paths.items()):
            key.update(stem.encode() + hashlib.sha256(path.read_bytes()).digest())
        return key.hexdigest()

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The images of requests, each as soon as it is made."""
        for index, request in enumerate(requests):
            path = self._paths[_stem(request)]
            image = load_photo(path)
            height, width = image.shape[:2]
            if (height, width) != (self.size, self.size):
                raise DataError(
                    f"{path} is {width}x{height}; the images of '{self.name}' must all be {self.size}x{self.size}"
                )
            yield index, image
            if progress:
                progress(1)


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
    conditions = config.conditions if controls else ()
    if conditions and model.controls is None:
        raise ConfigError(
            f"the model of '{config.name}' has no controls; set its conditions to [], or name other controls"
        )
    return FaceCrafterGenerator(model, config.name, conditions, Settings(**config.settings, batch_size=batch_size))


def table_device() -> str:
    """Where all methods of a table compute, so that their times compare: ``cuda`` where there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


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
            Settings(**config.settings)
        elif config.kind != FOLDER:
            baselines.check_settings(config.kind, config.settings)
    except ConfigError as error:
        raise ConfigError(f"'{config.name}': {error}") from None


def note(config: MethodConfig, method: Generator) -> str:
    """What a reader of the method's row must know: its own words, and those of the config."""
    note: Any = getattr(method, "note", "")
    elsewhere = f"{baselines.ELSEWHERE[config.of]}; the images were made elsewhere." if config.of else ""
    return " ".join(part for part in (note, elsewhere, config.note) if part)


def _folder(model: Path) -> Path:
    """The folder of ``mini``, or the folder that is named."""
    return ASSETS / "mini" if str(model) == "mini" else model


def _stem(request: Request) -> str:
    return request_name(request).removesuffix(".png")


def _named(stems: Sequence[str]) -> str:
    more = f" and {len(stems) - NAMED} more" if len(stems) > NAMED else ""
    return ", ".join(stems[:NAMED]) + more
