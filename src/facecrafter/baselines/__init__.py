"""The baselines of the tables, each behind :class:`facecrafter.request.Generator`.

Torch and diffusers are imported when a baseline is asked for, so that its name costs nothing.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from facecrafter.errors import ConfigError

if TYPE_CHECKING:
    from facecrafter.baselines.base import Baseline
    from facecrafter.models.checkpoint import FaceModel
    from facecrafter.request import Generator

# Those that `facecrafter train` makes: the class by the kind, which is also its module's name.
TRAINED = {
    "controlnet": "ControlNetBaseline",
    "caphuman": "CapHumanBaseline",
    "ip_adapter": "IPAdapterBaseline",
    "expression_adapter": "ExpressionAdapterBaseline",
}
# Published ones that are read from their makers' files: module and class by the kind.
PUBLISHED = {
    "published_controlnet": ("pretrained_controlnet", "PublishedControlNet"),
    "published_ip_adapter_faceid": ("pretrained_faceid", "PublishedFaceID"),
    "published_ip_adapter_faceid_plus": ("pretrained_faceid", "PublishedFaceIDPlus"),
    "published_ip_adapter_faceid_plusv2": ("pretrained_faceid", "PublishedFaceIDPlusV2"),
}
# What baselines take by name that is no setting.
_GIVEN = ("baseline", "model", "base", "device")
# Published ones that are not: what each expects. Their images come from their makers' code.
ELSEWHERE = {
    "published_instantid": "InstantID has a pipeline in its own repository and none in the diffusers package, and "
    "expects Stable Diffusion XL, an antelopev2 embedding and a drawing of five facial keypoints",
    "published_photomaker": "PhotoMaker has a pipeline in its own package and none in the diffusers package, and "
    "expects Stable Diffusion XL, photos of the person for its fine-tuned CLIP encoder and a prompt with its trigger "
    "word",
    "published_fastcomposer": "FastComposer has no diffusers pipeline, and expects its own fine-tuned Stable Diffusion "
    "1.5 with a CLIP image encoder whose features are fused into the prompt's tokens",
    "published_caphuman": "CapHuman's published weights have no diffusers path, and it expects its own "
    "latent-diffusion code with DECA's FLAME renders, FaceNet and CLIP features, and a face parser",
    "published_expression_adapter": "Arc2Face's published expression adapter loads through diffusers' "
    "load_ip_adapter, and expects the 55 FLAME numbers that SMIRK estimates from the target",
}


def baseline_class(kind: str) -> type[Baseline]:
    """The class of a baseline that is trained here, by its kind."""
    found: type[Baseline] = getattr(importlib.import_module(f"facecrafter.baselines.{kind}"), TRAINED[kind])
    return found


def load(kind: str, model: Path, base: FaceModel | Path, device: str = "cpu", **settings: Any) -> Generator:
    """A baseline, ready to make images.

    Args:
        kind: one of :data:`TRAINED` or :data:`PUBLISHED`.
        model: what training wrote, ``rival.safetensors`` or its folder; of a published one, its file or folder.
        base: the base that it is for, a whole model or its folder; of ``published_ip_adapter_faceid`` and its Plus a
            folder of Stable Diffusion 1.5.
        device: where to compute, as torch calls it; a base that is a whole model stays where it is, and the baseline
            goes there.
        settings: the rest of what :class:`facecrafter.baselines.base.BaselineGenerator`, or the published one's class,
            takes by name.

    Raises:
        ConfigError: the kind or a setting is unknown, or a setting's value cannot be used.
        CheckpointError: a file is missing, damaged, or another one.
    """
    check_settings(kind, settings)
    make = _maker(kind)
    if kind in TRAINED:
        from facecrafter.baselines.base import load_baseline, whole_base

        whole = whole_base(base, device)
        method: Generator = make(load_baseline(baseline_class(kind), Path(model), whole), whole, **settings)
    else:
        method = make(Path(model), base, device=device, **settings)
    return method


def check_settings(kind: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that a baseline does not take.

    Args:
        kind: as for :func:`load`.
        settings: as for :func:`load`.

    Raises:
        ConfigError: the kind or a setting is unknown, or a value is of another kind than the setting.
    """
    make = _maker(kind)
    known = [name for name in inspect.signature(make).parameters if name not in _GIVEN]
    for name in settings:
        if name not in known:
            raise ConfigError(f"the baseline {kind} has no setting '{name}'; there are {', '.join(known)}")
    check_kinds(make, settings)


def check_kinds(make: Callable[..., object], settings: Mapping[str, Any]) -> None:
    """Refuse values, as YAML has them, of another kind than the parameters' annotations; an int is a float too, and
    text a path.

    Args:
        make: what takes the settings by name.
        settings: of these names only.

    Raises:
        ConfigError: a value is of another kind.
    """
    parameters = inspect.signature(make, eval_str=True).parameters
    for name, value in settings.items():
        kind = parameters[name].annotation
        kinds = get_args(kind) if isinstance(kind, UnionType) else (get_origin(kind) or kind,)
        if not any(_is(value, one) for one in kinds):
            raise ConfigError(f"the setting {name} cannot be {value!r}")


def _is(value: object, kind: Any) -> bool:
    """Of one kind of an annotation; a protocol is known by its attributes."""
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for name in get_type_hints(kind))
    wider: dict[Any, tuple[type, ...]] = {float: (int, float), Path: (str, Path)}
    return isinstance(value, wider.get(kind, kind)) and (kind is bool or not isinstance(value, bool))


def _maker(kind: str) -> Callable[..., Any]:
    """The class of a baseline's method."""
    if kind in TRAINED:
        from facecrafter.baselines.base import BaselineGenerator

        return BaselineGenerator
    if kind in PUBLISHED:
        module, name = PUBLISHED[kind]
        make: Callable[..., Any] = getattr(importlib.import_module(f"facecrafter.baselines.{module}"), name)
        return make
    if kind in ELSEWHERE:
        raise ConfigError(f"{ELSEWHERE[kind]}; make its images with its own code, and give the folder they are in")
    raise ConfigError(f"unknown baseline '{kind}'; there are {', '.join([*TRAINED, *PUBLISHED])}")
