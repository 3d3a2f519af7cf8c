"""`controls`: what can be asked for by numbers, and the rig behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import controls_app
from facecrafter.cli.options import Overwrite, Presets
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.io import check_free


@controls_app.command("fit")
def controls_fit(
    data: Annotated[Path, typer.Argument(help="Prepared folder.", file_okay=False)],
    out: Annotated[Path, typer.Argument(help="The rig to write, an .npz.", dir_okay=False)],
    overwrite: Overwrite = False,
) -> None:
    """Fit the rig that moves a person's landmarks by numbers, on the photos of a prepared folder."""
    from facecrafter.data.rig import fit_rig

    check_free([out], overwrite)
    rig = fit_rig(data)
    rig.save(out)
    about = rig.about
    typer.echo(f"{about['photos']} photos of {about['people']} people, {about['with several photos']} with several")
    typer.echo(f"{int(rig.live.sum())} of {len(rig.live) - 1} blendshapes are read in them: {out}")


@controls_app.command("list")
def controls_list(presets: Presets = None) -> None:
    """Every number that can be asked for: its range, what it does, and how reliably it is followed."""
    from facecrafter.faces.asked import ANGLES, in_words, read_presets
    from facecrafter.faces.control_words import DOES
    from facecrafter.faces.rig import load

    named = read_presets(presets)
    rig = load()
    turns = {"yaw": "to the image's right", "pitch": "up", "roll": "counter-clockwise"}
    for name, most in ANGLES.items():
        typer.echo(f"{name:16} {-most:g} to {most:g}   head turned {turns[name]}; {_followed(name)}")
    for name, words in DOES.items():
        numbers = [number for number, full in enumerate(BLENDSHAPES) if full in (name, f"{name}Left", f"{name}Right")]
        sides = " (also Left, Right)" if len(numbers) == 2 else ""
        state = _followed(name) if rig.live[numbers].any() else "dead: MediaPipe hardly reads it in photos"
        typer.echo(f"{name:16} 0 to 1      {words}{sides}; {state}")
    typer.echo("presets:")
    for name, expression in named.items():
        typer.echo(f"  {name}: {in_words(expression) or 'straight ahead, no expression'}")


def _followed(name: str) -> str:
    """How well the shipped model follows a control, as it was measured."""
    return "not measured"
