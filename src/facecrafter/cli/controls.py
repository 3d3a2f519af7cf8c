"""`controls`: what can be asked for by numbers, and the rig behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import controls_app
from facecrafter.cli.options import Overwrite
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
