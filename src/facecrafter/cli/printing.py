"""What commands print, and what they refuse before they begin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from facecrafter.errors import FaceCrafterError, OutputError, printable
from facecrafter.io import name_as_text, written

# From how many images on a bar shows how far the work is.
MANY = 5


def picked(number: int | None, point: str | None, option: str) -> int | tuple[float, float] | None:
    """A face that is picked by its number or by a point in it; None where it is not."""
    if point is None:
        return number
    if number is not None:
        raise typer.BadParameter(f"give {option} or {option}-at")
    try:
        x, y = (float(value) for value in point.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option}-at is X,Y in pixels of the photo, as 120,80, not '{point}'") from None
    return x, y


def refuse_given(ctx: typer.Context, names: Iterable[str], beside: str) -> None:
    """Refuse options that the user gave and that do nothing beside another one."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.replace('_', '-')} has no effect beside {beside}; leave it out")


def say_skipped(skipped: list[tuple[Path, str]]) -> None:
    """Name on stderr what was left out and why, by path and sentence."""
    for _, reason in skipped:
        typer.echo(f"skipped: {printable(' '.join(reason.split()))}", err=True)


def show(text: str) -> None:
    """Print a part of the results at once, above a bar if there is one.

    Raises:
        OutputError: the file that they go to cannot be written.
    """
    from tqdm import tqdm

    try:
        with tqdm.external_write_mode():
            typer.echo(text, nl=False)
    except BrokenPipeError:  # whoever read them has enough
        raise
    except OSError as error:
        # What is left in the buffer cannot be written when the process ends, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        why = (error.strerror or str(error)).lower()
        raise OutputError(f"the results could not be printed ({why}); free some space, and run it again") from None


def files_written() -> str:
    """How many files a command has written, for those whose results are files of their own."""
    paths = written()
    if not paths:
        return "no file was written"
    files = "1 file was written," if len(paths) == 1 else f"{len(paths)} files were written, the last one"
    return f"{files} {name_as_text(paths[-1])}"


def complain(error: FaceCrafterError) -> None:
    """Print an error of ours as one line on stderr."""
    typer.echo("error: " + printable(" ".join(str(error).split())), err=True)


@contextmanager
def bar(total: int, name: str) -> Iterator[Callable[[float], object]]:
    """A progress bar on stderr; what it gives is called with the amount done."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} [{elapsed}<{remaining}]"
    with tqdm(total=total, desc=name, bar_format=form) as bar:
        yield bar.update
