"""A run's folder: who may use it, how the run was made, its checkpoint and its log."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from facecrafter import config as config_file
from facecrafter import weights
from facecrafter.data import shards
from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.interruption import deferred
from facecrafter.io import whole, write_whole
from facecrafter.provenance import environment
from facecrafter.training.config import RunConfig, start_folder
from facecrafter.training.stages import load

log = logging.getLogger(__name__)

CHECKPOINT, CONFIG, INPUTS, LOG = "checkpoint.pt", "config.yaml", "inputs.json", "log.jsonl"


# What may differ when a run by the clock goes on, which may be given more people on the way.
GROWS = {"beside"}


def check(config: RunConfig, resume: bool, grows: bool = False) -> RunConfig | None:
    """Refuse a run folder that is not this run's; returns the config of the run that goes on. Every process asks, so
    that none waits for one that has given up.

    Args:
        config: the run.
        resume: whether it is to go on.
        grows: what it reads may have changed: its data has grown, or the model that it starts from learned on.
    """
    checkpoint, saved = config.run / CHECKPOINT, config.run / CONFIG
    if not resume:
        if checkpoint.is_file():
            raise ConfigError(f"{config.run} already holds a run; go on with --resume, or choose another run folder")
        return None
    if not checkpoint.is_file():
        raise ConfigError(
            f"{config.run} has no checkpoint to resume; if the run's folder was moved, name it with --run FOLDER, and "
            "if there was no run yet, start it without --resume"
        )
    before = load(saved)  # what it does not name yet has its default
    changed = config_file.differences(before, config) if before.stage == config.stage else ["stage"]
    if grows:
        changed = [name for name in changed if name not in GROWS]
    if changed:
        raise ConfigError(
            f"{config.run} was started with another config: {', '.join(changed)}; see {saved}, or choose another run "
            "folder"
        )
    if not grows:
        _check_inputs(config, before)
    return before


def _check_inputs(config: RunConfig, before: RunConfig) -> None:
    """Refuse to go on with other data or weights than the run began with, wherever they lie now."""
    try:
        began = json.loads((config.run / INPUTS).read_text(encoding="utf-8"))
    except FileNotFoundError:  # a run of an earlier version
        now, then = config_file.places(config), config_file.places(before)
        moved = [name for name in now if now[name] != then.get(name)]
        if moved:
            log.warning(f"{config.run} does not say what {', '.join(moved)} held; it is taken for the same")
        return
    except ValueError:
        raise ConfigError(f"{config.run / INPUTS} is damaged; delete it to go on without a comparison") from None
    digests = _inputs(config)
    other = [name for name in digests if began.get(name, digests[name]) != digests[name]]
    if other:
        where = ", ".join(f"{name} ({config_file.places(config)[name]})" for name in other)
        raise ConfigError(
            f"{config.run} was started with other content of {where}; name what it was started with, or choose "
            "another run folder"
        )


def _inputs(config: RunConfig) -> dict[str, str]:
    """The sha256 of what a run reads, by setting: of a file, of a prepared folder's index, of a model folder's weights.
    What is none of these, or is not there, has none."""
    found = {}
    for name, path in config_file.places(config).items():
        place = start_folder(path) if name == "start" else path
        index = place / shards.INDEX
        files = [index] if index.is_file() else sorted(place.rglob("*.safetensors"))
        if place.is_file():
            files = [place]
        if files:
            digests = "".join(f"{file.relative_to(place)} {weights.sha256(file)}\n" for file in files)
            found[name] = hashlib.sha256(digests.encode()).hexdigest()
    return found


def open_run(config: RunConfig, device: torch.device) -> None:
    """Make the run folder and write down how the run was made."""
    _write_config(config)
    write_whole(config.run / INPUTS, (json.dumps(_inputs(config), indent=2) + "\n").encode())
    write_whole(config.run / "environment.json", (json.dumps(environment(device), indent=2) + "\n").encode())


def _write_config(config: RunConfig) -> None:
    values = json.loads(config.model_dump_json())
    write_whole(config.run / CONFIG, yaml.safe_dump(values, sort_keys=False).encode())


def go_on(config: RunConfig, before: RunConfig, step: int) -> None:
    """Write down, and say, with what a run goes on from a step."""
    if config != before:
        write_whole(config.run / f"config-to-{step}.yaml", (config.run / CONFIG).read_bytes())
        _write_config(config)
    if config.steps == before.steps:
        return
    if config.schedule == "cosine":
        rates = [one.learning_rate * one.rate_factor(step) for one in (before, config)]
        log.warning(
            f"from step {step} on the learning rate follows the cosine of {config.steps} steps: it goes from "
            f"{rates[0]:.3g} to {rates[1]:.3g}"
        )
    for name in config.SHARES_OF_STEPS:
        log.warning(f"{name} is a share of {config.steps} steps now, and was of {before.steps}")


def kept(config: RunConfig, reached: int) -> str:
    """What a run that was stopped can go on from."""
    path = config.run / CHECKPOINT
    if not path.is_file():
        return (
            f"{config.run} has no checkpoint yet after {reached} steps (save_every is {config.save_every}); start it "
            "again without --resume"
        )
    try:
        step = int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["step"])
    except Exception:  # see _restore
        return f"{path} cannot be read"
    lost = max(0, reached - step)
    return f"step {step} is kept in {path}, {lost} steps after it are lost; --resume goes on from there"


@dataclass(frozen=True)
class State:
    """What changes while a run trains, and a run that was stopped goes on with."""

    parameters: list[nn.Parameter]
    buffers: list[Tensor]  # of norms, say
    optimizer: Any
    ema: Any
    scaler: Any = None  # of the gradients, in fp16

    def save(self, config: RunConfig, step: int) -> None:
        """Write the checkpoint: at any moment the last one or this one is whole.

        Raises:
            CheckpointError: it cannot be written.
        """
        state = {
            "step": step,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "buffers": self.buffers,
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            **({} if self.scaler is None else {"scaler": self.scaler.state_dict()}),
        }
        try:
            with deferred(), whole(config.run / CHECKPOINT) as partial, open(partial, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # what torch's writer raises on its way out of one
                raise error.__context__ from None
            message = f"the checkpoint of step {step} could not be written to {config.run}: {error}"
            raise CheckpointError(message) from None

    def restore(self, config: RunConfig) -> int:
        """Take up the last checkpoint; returns the number of steps it has behind it.

        Raises:
            CheckpointError: it is damaged.
            ConfigError: it is beyond the config's steps already.
        """
        path = config.run / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types on a damaged file
            raise CheckpointError(f"{path} cannot be read: {str(error)[:200]}") from None
        if state["step"] > config.steps:
            raise ConfigError(f"{config.run} is at step {state['step']}, and steps says {config.steps}; set it higher")
        with torch.no_grad():
            for tensors, name in ((self.parameters, "parameters"), (self.buffers, "buffers")):
                for tensor, value in zip(tensors, state[name], strict=True):
                    tensor.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.parameters[0].device)
        if self.scaler is not None and "scaler" in state:  # not in those of earlier versions
            self.scaler.load_state_dict(state["scaler"])
        return int(state["step"])


class Log:
    """TensorBoard events and a line of JSON a record, in the run folder. What a run that was stopped had recorded of
    steps after ``first``, which are computed again, is cleared away."""

    def __init__(self, run: Path, active: bool, first: int) -> None:
        self._writer = None
        if active:
            from torch.utils.tensorboard import SummaryWriter

            _trim(run / LOG, first)
            self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first + 1)
            self._lines = open(run / LOG, "a", buffering=1)  # noqa: SIM115 - open as long as the run
            self._folder = run / "samples"

    def scalars(self, step: int, **values: float) -> None:
        """Record numbers of a step by name, to seven significant digits in the lines of JSON."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
            self._lines.write(json.dumps({"step": step, **rounded}) + "\n")

    def images(self, step: int, images: torch.Tensor, columns: int) -> None:
        """Record images ``(N, 3, S, S)`` in [-1, 1] as a grid of so many columns."""
        if self._writer:
            from PIL import Image

            count, channels, height, width = images.shape
            rows = count // columns
            grid = images[: rows * columns].unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
            grid = grid.reshape(channels, rows * height, columns * width).float().clamp(-1, 1) * 127.5 + 127.5
            values = grid.round().to(torch.uint8)
            self._writer.add_image("samples", values, step)
            content = io.BytesIO()
            Image.fromarray(values.permute(1, 2, 0).numpy()).save(content, "PNG")
            write_whole(self._folder / f"{step:07d}.png", content.getvalue())

    def close(self) -> None:
        """End the log."""
        if self._writer:
            self._writer.close()
            self._lines.close()


def _trim(path: Path, last: int) -> None:
    """Leave of a log the records up to a step; half a line, which a kill may have left, is none."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= last:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_whole(path, "".join(f"{line}\n" for line in kept).encode())
