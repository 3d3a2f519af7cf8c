"""The application: what is common to all commands, and its groups."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from facecrafter import __version__
from facecrafter.cli.printing import complain, files_written
from facecrafter.errors import FaceCrafterError, printable
from facecrafter.interruption import Terminated, ignored, kept_of
from facecrafter.io import forget_written


class Commands(TyperGroup):
    """Turns what a user can put right into one line on stderr and an exit code."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Refuse empty values: as a path one would mean the current folder, and mostly a variable is not set."""
        for index, word in enumerate(args):
            option, equals, value = word.partition("=")
            if not word.strip() or (option.startswith("--") and equals and not value.strip()):
                place = option if equals else args[index - 1] if index else "the command"
                raise typer.BadParameter(f"the value after {place} is empty")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; 1 for an error of ours, 130 for Ctrl-C, 143 for SIGTERM."""
        forget_written()
        try:
            return super().invoke(ctx)
        except FaceCrafterError as error:
            complain(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as interrupt:
            with ignored():
                typer.echo(f"stopped: {printable(kept_of(interrupt) or files_written())}", err=True)
            raise typer.Exit(143 if isinstance(interrupt, Terminated) else 130) from None


STYLE: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}
app = typer.Typer(cls=Commands, pretty_exceptions_enable=False, **STYLE)
data_app = typer.Typer(help="Prepare photos for training, or make people who do not exist.", **STYLE)
weights_app = typer.Typer(help="List, check, fetch and blend files of weights.", **STYLE)
evaluate_app = typer.Typer(help="Measure models and methods, and make the paper's tables.", **STYLE)
controls_app = typer.Typer(help="List, fit and gauge the numbers that can be asked for.", **STYLE)
dataset_app = typer.Typer(help="Make balanced, labelled data sets of faces.", **STYLE)
bench_app = typer.Typer(help="Measure what training, images and the studio cost.", **STYLE)
study_app = typer.Typer(help="Run a user study: people choose among images of methods.", **STYLE)
app.add_typer(data_app, name="data")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(weights_app, name="weights")
app.add_typer(controls_app, name="controls")
app.add_typer(dataset_app, name="dataset")
app.add_typer(bench_app, name="bench")
app.add_typer(study_app, name="study")


class _Notes(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes above a progress bar, not into its line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one note."""
        from tqdm import tqdm

        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"facecrafter {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop.")
    ] = False,
) -> None:
    """Faces of a person from a photo, with control of pose, expression and emotion."""
    handler = _Notes(sys.stderr)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    ours = logging.getLogger("facecrafter")
    ours.handlers, ours.propagate = [handler], False
