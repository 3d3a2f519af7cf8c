"""`train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import app


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    run: Annotated[Path | None, typer.Option(help="Run folder in place of the config's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in place of the config's.")] = None,
) -> None:
    """Train one stage: autoencoder, base, landmark, emotion, joint, distill, a baseline, or a network that reads
    emotions or expressions.

    \b
    facecrafter train configs/mini/landmark.yaml
    facecrafter train configs/mini/landmark.yaml --resume                   # after a stop
    facecrafter train configs/mini/landmark.yaml --resume --steps 4000      # longer; see docs/training.md
    """
    from facecrafter.training.stages import load

    given = {"run": run, "steps": steps}
    settings = load(config, {name: value for name, value in given.items() if value is not None})

    from facecrafter.training.trainer import train as run_training

    typer.echo(f"the model is in {run_training(settings, resume)}")
