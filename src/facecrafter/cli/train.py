"""`train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import app


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    run: Annotated[Path | None, typer.Option(help="Run folder in place of the config's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in place of the config's.")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long at most, as in 90s, 9m, 12h or 2d; recipes need it.")
    ] = None,
) -> None:
    """Train one stage of a model, or all by a recipe.

    A stage is autoencoder, base, landmark, emotion, joint, distill, a baseline, or a network that reads emotions or
    expressions. A recipe is all stages in order within a budget of time.

    A recipe ends with a whole model whenever it ends. Given again it goes on, and each stage gets the time that it
    lacks of its share of all the time. One stage within a budget writes its model on the way, and when it is stopped.

    \b
    facecrafter train configs/mini/recipe.yaml --budget 12h
    facecrafter train configs/mini/landmark.yaml
    facecrafter train configs/mini/landmark.yaml --resume                   # after a stop
    facecrafter train configs/mini/landmark.yaml --resume --steps 4000      # longer; see docs/training.md
    """
    from facecrafter import config as config_file
    from facecrafter.training.stages import load

    if "stages" in config_file.read(config):
        if resume or steps is not None:
            raise typer.BadParameter("a recipe goes on by itself and ends by the clock; leave out --resume and --steps")
        if budget is None:
            raise typer.BadParameter("a recipe needs a --budget, as in --budget 12h")
        from facecrafter.training import recipe
        from facecrafter.training.timebox import seconds_of

        seconds = seconds_of(budget)
        made = recipe.run(recipe.load(config, {"run": run} if run else {}), seconds)
        typer.echo(f"the model is in {made}")
        return
    given = {"run": run, "steps": steps}
    settings = load(config, {name: value for name, value in given.items() if value is not None})

    from facecrafter.training.timebox import TimeBox, seconds_of
    from facecrafter.training.trainer import train as run_training

    box = None if budget is None else TimeBox.of(seconds_of(budget))
    typer.echo(f"the model is in {run_training(settings, resume, box=box)}")
