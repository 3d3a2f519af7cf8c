"""YAML files of settings, checked before anything else is loaded."""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from facecrafter.errors import ConfigError, did_you_mean

log = logging.getLogger(__name__)

_NOTED: set[tuple[str, str]] = set()  # former names that were noted already


def note_renamed(what: str, former: str, name: str) -> None:
    """Say that something has another name now, once for each former name."""
    if (what, former) not in _NOTED:
        log.warning("the %s '%s' is called '%s' now", what, former, name)
        _NOTED.add((what, former))


class Strict(BaseModel):
    """Settings that cannot be changed, and of which unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    # Former names of settings, which files written before still have.
    RENAMED: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _under_new_names(cls, content: Any) -> Any:
        former = [name for name in cls.RENAMED if isinstance(content, Mapping) and name in content]
        for name in former:
            note_renamed("setting", name, cls.RENAMED[name])
        return {cls.RENAMED.get(name, name): value for name, value in content.items()} if former else content


# PyYAML takes 5 s for so many. The project's longest config has 2,000.
MOST_CHARACTERS = 1_000_000


class Bearing(enum.Enum):
    """What a setting means for the result, where it is not a part of the mathematics; written into its annotation:
    ``Annotated[Path, Bearing.PLACE]``."""

    ASIDE = "how often something is written, where it goes, or how memory is saved"
    PLACE = "where something is read: what lies there counts, and not how its path is written"


Settings = TypeVar("Settings", bound=BaseModel)


def differences(one: BaseModel, other: BaseModel) -> list[str]:
    """The settings in which two configs of a class differ, dotted, without those that have a :class:`Bearing`."""
    found: list[str] = []
    for name, field in type(one).model_fields.items():
        first, second = getattr(one, name), getattr(other, name)
        if _bearing(field) or first == second:
            continue
        if isinstance(first, Strict) and isinstance(second, BaseModel):
            found.extend(f"{name}.{inner}" for inner in differences(first, second))
        elif isinstance(first, tuple) and first and len(first) == len(second) and isinstance(first[0], Strict):
            pairs = zip(first, second, strict=True)
            found.extend(f"{name}.{place}.{one}" for place, pair in enumerate(pairs) for one in differences(*pair))
        else:
            found.append(name)
    return found


def places(settings: BaseModel) -> dict[str, Path]:
    """The paths in a config at which something is read, by the dotted names of their settings."""
    found: dict[str, Path] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, tuple):
            models = {f"{name}.{place}": one for place, one in enumerate(value) if isinstance(one, BaseModel)}
            found.update({f"{at}.{inner}": path for at, one in models.items() for inner, path in places(one).items()})
        elif isinstance(value, BaseModel):
            found.update({f"{name}.{inner}": path for inner, path in places(value).items()})
        elif _bearing(field) is Bearing.PLACE and value is not None:
            found[name] = value
    return found


def _bearing(field: FieldInfo) -> Bearing | None:
    return next((one for one in field.metadata if isinstance(one, Bearing)), None)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a name that is there twice; by itself it takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
                if name.value in seen:
                    line = name.start_mark.line + 1
                    raise yaml.YAMLError(f"'{name.value}' is there twice, the second time in line {line}")
                seen.add(name.value)
        return dict(super().construct_mapping(node, deep))


def read(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, unchecked.

    Raises:
        ConfigError: no such file, or not YAML with settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MOST_CHARACTERS:
            raise ConfigError(f"{path} has {len(text):,} characters, which is no config; name another file")
        content = yaml.load(text, _Loader)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"there is no config {path}") from None
    except OSError as error:
        raise ConfigError(f"the config {path} cannot be read ({(error.strerror or str(error)).lower()})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file") from None
    # Beside its own errors PyYAML lets through what Python says of an impossible date, a number of 5,000 digits, or
    # brackets in brackets in brackets.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings")
    return {str(name): value for name, value in content.items()}


def check(path: Path, content: Mapping[str, Any], model: type[Settings]) -> Settings:
    """Settings as their model has them.

    Args:
        path: where they come from, for the message.
        content: the settings.
        model: what they must fit.

    Raises:
        ConfigError: a name or value that is not allowed; the message says which, and the nearest name that is.
    """
    try:
        return model(**content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{path}: there is no setting '{place}'{_nearest(model, first['loc'])}") from None
        if first["type"] == "missing":
            raise ConfigError(f"{path}: {place} is missing; give it") from None
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {place + ': ' if place else ''}{message}") from None


def _nearest(model: type[BaseModel], place: Sequence[int | str]) -> str:
    *parents, name = place
    for part in parents:
        if isinstance(part, str) and part in model.model_fields:  # and no key of a mapping
            model = next(models_in(model.model_fields[part].annotation), model)
    return did_you_mean(str(name), model.model_fields, ".".join(map(str, [*parents, ""])))


def models_in(kind: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from models_in(part)
