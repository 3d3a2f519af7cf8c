"""`controls`: what can be asked for by numbers, and the rig behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facecrafter.cli.application import controls_app
from facecrafter.cli.options import Overwrite, Presets, Weights
from facecrafter.cli.printing import bar
from facecrafter.io import check_free
from facecrafter.weights import ASSETS

if TYPE_CHECKING:
    from facecrafter.faces.followed import Following


@controls_app.command("fit")
def controls_fit(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Prepared folder.", file_okay=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The rig to write, an .npz.", dir_okay=False)],
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Another prepared folder, of expressions that are rare in DATA. Repeatable.",
            file_okay=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit the rig that moves a person's landmarks by numbers.

    It is fitted on the photos of prepared folders.
    """
    from facecrafter.data.rig import fit_rig

    check_free([out], overwrite)
    rig = fit_rig(data, beside or [])
    rig.save(out)
    about = rig.about
    typer.echo(f"{about['photos']} photos of {about['people']} people, {about['with several photos']} with several")
    typer.echo(f"{int(rig.live.sum())} of {len(rig.live) - 1} blendshapes are read in them: {out}")


@controls_app.command("gain")
def controls_gain(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Prepared folder that the model was trained on.", file_okay=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="gain.json of the model's folder.", dir_okay=False)],
    model: Annotated[str, typer.Option(help="mini, arc2face, or a model folder.")] = "mini",
    weights: Weights = None,
    people: Annotated[int, typer.Option(min=2, help="People of the training, 18 images each.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Chooses people, and is the images'.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Measure how far a model turns heads, to make up for it.

    It is then asked to turn them that much further.
    """
    from facecrafter.data import shards
    from facecrafter.evaluation import gain
    from facecrafter.models.pretrained import folder_of, load_folder
    from facecrafter.pipelines.devices import usable_device
    from facecrafter.pipelines.generator import FaceCrafterGenerator

    check_free([out], overwrite)
    loaded = load_folder(folder_of(model, weights)).to(usable_device(device))
    prepared = shards.load(data, recogniser=loaded.scale.recogniser)
    with bar(people * sum(map(len, gain.TURNS.values())), "images") as progress:
        found = gain.fit(FaceCrafterGenerator(loaded, model), prepared, people, seed, progress)
    found.save(out)
    for name, pairs in found.shown.items():
        typer.echo(f"{name}: {', '.join(f'{turn:g} shows {shown:.1f}' for turn, shown in pairs)}")
    typer.echo(out)


@controls_app.command("list")
def controls_list(presets: Presets = None) -> None:
    """List the numbers that can be asked for, and how well they work.

    Each with its range, what it does, and how reliably it is followed.
    """
    from facecrafter.faces import followed, gain
    from facecrafter.faces.asked import ANGLES, in_words, read_presets, sides_of
    from facecrafter.faces.control_words import DOES
    from facecrafter.faces.face import BLENDSHAPES
    from facecrafter.faces.rig import load

    named = read_presets(presets)
    following, rig, turned = followed.measured(followed.MEASURED), load(), gain.load(ASSETS / "mini")
    turns = {"yaw": "to the image's right", "pitch": "up", "roll": "counter-clockwise"}
    for name, most in ANGLES.items():
        typer.echo(f"{name:16} {-most:g} to {most:g}   head turned {turns[name]}; {_followed(name, following)}")
        if turned is not None and name in turned.shown:
            ends = [degrees for _, degrees in turned.shown[name]]
            typer.echo(f"{'':16} mini's images show {min(ends):.0f} to {max(ends):.0f} degrees; beyond, as much")
        if name == "roll":
            typer.echo(f"{'':16} photos are aligned upright, for training too, so that mini has not learned it")
    for name, words in DOES.items():
        numbers = [BLENDSHAPES.index(side) for side in sides_of(name)]
        sides = " (also Left, Right)" if len(numbers) == 2 else ""
        state = _followed(name, following) if rig.live[numbers].any() else "dead: MediaPipe hardly reads it in photos"
        typer.echo(f"{name:16} 0 to 1      {words}{sides}; {state}")
    typer.echo("presets:")
    for name, expression in named.items():
        typer.echo(f"  {name}: {in_words(expression) or 'straight ahead, no expression'}")


def _followed(name: str, following: Mapping[str, Following]) -> str:
    """How well the shipped model follows a control."""
    found = following.get(name)
    if found is None:
        return "not measured"
    angle = name in ("yaw", "pitch", "roll")
    degrees = f", off by {found.error:.1f} degrees" if angle else ""
    photos = "" if found.readable is None else f", {found.readable:.2f} in moved photos"
    state = f"r {found.correlation:.2f}, slope {found.slope:.2f}{photos}{degrees} ({found.people} people)"
    return f"hardly followed: {state}" if found.hardly else state
