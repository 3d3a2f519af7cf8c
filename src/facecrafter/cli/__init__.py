"""The command line: parse, call one function of the package, print. Heavy modules are imported by the commands."""

# Each adds its commands.
from facecrafter.cli import (  # noqa: F401
    bench,
    controls,
    data,
    dataset,
    evaluate,
    generate,
    perceive,
    studio,
    study,
    train,
    weights,
)
from facecrafter.cli.application import app
from facecrafter.interruption import heed_sigterm, ignore

__all__ = ["app", "main"]


def main() -> None:
    """The entry point."""
    heed_sigterm()
    try:
        app(prog_name="facecrafter")
    finally:
        ignore()
