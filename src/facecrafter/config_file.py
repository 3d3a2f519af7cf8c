"""YAML files of settings, checked before anything else is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from facecrafter.errors import ConfigError


class Strict(BaseModel):
    """Settings that cannot be changed, and of which unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# PyYAML takes 5 s for so many. The project's longest config has 2,000.
MOST_CHARACTERS = 1_000_000

Settings = TypeVar("Settings", bound=BaseModel)


def read(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, unchecked.

    Raises:
        ConfigError: no such file, or not YAML with settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MOST_CHARACTERS:
            raise ConfigError(f"{path} has {len(text):,} characters, which is no config; name another file")
        content = yaml.safe_load(text)
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
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {place + ': ' if place else ''}{message}") from None


def _nearest(model: type[BaseModel], place: Sequence[int | str]) -> str:
    *parents, name = place
    for part in parents:
        if isinstance(part, str):
            model = next(_models(model.model_fields[part].annotation))
    close = difflib.get_close_matches(str(name), model.model_fields, 1)
    return f"; did you mean '{'.'.join(map(str, [*parents, *close]))}'?" if close else ""


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models(part)
