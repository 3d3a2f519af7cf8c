"""What each stage of a recipe has had so far: ``recipe.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from facecrafter.errors import ConfigError
from facecrafter.io import write_whole

STATE = "recipe.json"


@dataclass
class Had:
    """What a stage has had so far.

    Attributes:
        seconds: of training, building included.
        start: the digest of the model that it began with.
    """

    seconds: float = 0.0
    start: str = ""


@dataclass
class State:
    """``recipe.json``."""

    stages: dict[str, Had] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> State:
        """What is in a recipe's folder; nothing in a new one.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            content = json.loads((run / STATE).read_text(encoding="utf-8"))
            return cls({name: Had(**had) for name, had in content["stages"].items()})
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError(
                f"{run / STATE} is damaged; delete it, and the times of the stages count from zero"
            ) from None

    def write(self, run: Path) -> None:
        """Write it into a recipe's folder."""
        write_whole(run / STATE, (json.dumps(asdict(self), indent=2) + "\n").encode())
