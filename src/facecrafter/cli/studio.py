"""`studio` and `serve`: the page and the API."""

from __future__ import annotations

import logging
import os
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facecrafter.cli.application import app
from facecrafter.cli.options import Choose, EmoNet, Weights
from facecrafter.errors import ConfigError

if TYPE_CHECKING:
    from facecrafter.studio.studio import Studio

PORT = 8017
Host = Annotated[str, typer.Option(help="Address to listen on; another than this machine's own needs --token.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")]
Token = Annotated[
    str | None,
    typer.Option(
        help="What visitors have to know, 16 characters or more; 'new' makes one.", envvar="FACECRAFTER_TOKEN"
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME", help="Another name that it is reached by, say a proxy's: faces.example."),
]
Keep = Annotated[Path | None, typer.Option(metavar="FILE", help="Database of results. [default: in the user's data]")]
KeptMegabytes = Annotated[int, typer.Option("--keep-mb", min=1, help="Size of the results; the oldest go first.")]
Private = Annotated[bool, typer.Option("--private", help="Keep no results beyond this run.")]
Waiting = Annotated[int, typer.Option(min=1, max=1000, help="Requests that may wait; more are refused.")]
Model = Annotated[str, typer.Option(help="mini, arc2face, or a model folder.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Bfloat16 = Annotated[bool, typer.Option("--bfloat16", help="Faster, and a little less exact.")]
Controls = Annotated[Path | None, typer.Option(help="Controls file in place of the model's own.")]
ChooseFace = Annotated[Choose, typer.Option(help="Which of several faces in a photo.")]


def _run(
    page: bool, opened: bool, host: str, port: int, token: str | None, names: list[str] | None, **how: object
) -> None:
    """Load the model, and serve until Ctrl-C."""
    from facecrafter.web import check_installed

    check_installed("studio")
    from facecrafter.web.binding import Binding
    from facecrafter.web.server import guarded, serve
    from facecrafter.web.tokens import new_token

    binding = Binding(host, port, new_token() if token == "new" else token, names or ())
    binding.listen().close()  # an address that cannot be used is named before the model is loaded
    typer.echo("loading the model ...", err=True)
    from facecrafter.studio.app import studio_app

    studio = _studio(**how)  # type: ignore[arg-type]
    _quiet()

    def ready(url: str) -> None:
        what = "the studio is open at" if page else "the API is at"
        typer.echo(f"{what} {url}   (Ctrl-C ends it)")
        if opened:
            webbrowser.open(url)
        if not binding.is_loopback:
            typer.echo("note: others reach it without encryption; put a proxy with TLS before it", err=True)

    serve(guarded(studio_app(studio, page), binding), ready)


def _studio(
    model: str,
    device: str,
    bfloat16: bool,
    controls: Path | None,
    weights: Path | None,
    emonet: Path | None,
    choose: Choose,
    keep: Path | None,
    keep_mb: int,
    private: bool,
    waiting: int,
) -> Studio:
    """The studio of a model."""
    if private and keep is not None:
        raise ConfigError("--private keeps nothing; leave --keep out")
    from facecrafter.pipelines.generate import FaceCrafter
    from facecrafter.studio.store import reserved
    from facecrafter.studio.studio import Options, Studio

    database = None if private else keep or _data_folder() / "studio.sqlite"
    if database is not None:
        reserved(database).close()  # one that another server has is named before the model is loaded
    crafter = FaceCrafter.from_pretrained(model, device, controls, choose.value, weights, bfloat16, emonet)
    chosen: dict[str, object] = {"model": model}
    given = {"device": device, "choose": choose.value, "bfloat16": bfloat16}
    usual = {"device": "auto", "choose": "largest", "bfloat16": False}
    chosen |= {name: value for name, value in given.items() if value != usual[name]}
    files = {"controls": controls, "weights": weights, "emonet": emonet}
    chosen |= {name: str(path) for name, path in files.items() if path is not None}
    return Studio(crafter, Options(database, keep_mb * 2**20, waiting, chosen))


def _data_folder() -> Path:
    """Where the user's programs keep what they made."""
    place = os.environ.get("XDG_DATA_HOME")
    return (Path(place) if place else Path.home() / ".local" / "share") / "facecrafter"


def _quiet() -> None:
    """Notes are about visitors' photos and go to them alone; what fails is logged without what it was about."""
    package = logging.getLogger("facecrafter")
    kept = logging.getLogger("facecrafter.web"), logging.getLogger("facecrafter.studio")
    for logger in kept:
        logger.handlers, logger.propagate = list(package.handlers), False
    package.handlers = [logging.NullHandler()]


@app.command()
def studio(
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    token: Token = None,
    name: Names = None,
    keep: Keep = None,
    keep_mb: KeptMegabytes = 500,
    private: Private = False,
    waiting: Waiting = 16,
    model: Model = "mini",
    device: Device = "auto",
    bfloat16: Bfloat16 = False,
    controls: Controls = None,
    weights: Weights = None,
    emonet: EmoNet = None,
    choose: ChooseFace = Choose.largest,
) -> None:
    """Open a local page to drag, see and download faces.

    Photos stay on this machine. docs/studio.md shows it.
    """
    how = {"keep": keep, "keep_mb": keep_mb, "private": private, "waiting": waiting, "model": model, "device": device}
    files = {"bfloat16": bfloat16, "controls": controls, "weights": weights, "emonet": emonet, "choose": choose}
    _run(True, open_page, host, port, token, name, **how, **files)


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = PORT,
    token: Token = None,
    name: Names = None,
    keep: Keep = None,
    keep_mb: KeptMegabytes = 500,
    private: Private = False,
    waiting: Waiting = 16,
    model: Model = "mini",
    device: Device = "auto",
    bfloat16: Bfloat16 = False,
    controls: Controls = None,
    weights: Weights = None,
    emonet: EmoNet = None,
    choose: ChooseFace = Choose.largest,
) -> None:
    """Serve the API of the studio without its page.

    It is described at /openapi.json, and in docs/studio.md.
    """
    how = {"keep": keep, "keep_mb": keep_mb, "private": private, "waiting": waiting, "model": model, "device": device}
    files = {"bfloat16": bfloat16, "controls": controls, "weights": weights, "emonet": emonet, "choose": choose}
    _run(False, False, host, port, token, name, **how, **files)
