"""The training loop, the same for every stage: init, resume, steps, checkpoints, result."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from facecrafter import config as config_file
from facecrafter import weights
from facecrafter.data import shards
from facecrafter.errors import CheckpointError, ConfigError, FaceCrafterError
from facecrafter.interruption import deferred, stating
from facecrafter.io import alone, whole, write_whole
from facecrafter.provenance import environment
from facecrafter.training.config import RunConfig, Stage, start_folder
from facecrafter.training.stages import load

log = logging.getLogger(__name__)

CHECKPOINT, CONFIG, INPUTS, LOG = "checkpoint.pt", "config.yaml", "inputs.json", "log.jsonl"
_AHEAD = 3  # batches made ahead of their step


def train(config: RunConfig, resume: bool = False, progress: bool = True) -> Path:
    """Run one stage of training, or go on with it.

    Args:
        config: the run.
        resume: go on from the run folder's checkpoint; without it a folder that has one is refused.
        progress: show a bar.

    Returns:
        The folder of the result, ``run/model``.

    Raises:
        ConfigError: the run folder is in use, or belongs to another config.
        FaceCrafterError: the loss is no longer a number; the last checkpoint is kept.
        KeyboardInterrupt: after Ctrl-C, with a note that says which step is kept.
    """
    before, reached = _check_run(config, resume), _Reached()
    # Of several processes of one run the first one locks.
    with (
        alone(config.run, "run") if os.environ.get("RANK", "0") == "0" else _nothing(),
        stating(lambda: _kept(config, reached.step)),
    ):
        return _train(config, before, progress, reached)


@dataclass
class _Reached:
    """How many steps a run has behind it."""

    step: int = 0


def _train(config: RunConfig, before: RunConfig | None, progress: bool, reached: _Reached) -> Path:
    """See :func:`train`; the run folder is this process's, and ``before`` the config of the run that goes on."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from diffusers.training_utils import EMAModel
    from tqdm import tqdm

    # init
    accelerator = Accelerator(
        mixed_precision=config.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    parts = accelerator.num_processes * config.accumulate
    _check_shares(config, parts)
    main = accelerator.is_main_process
    if main and before is None:
        _open_run(config, accelerator.device)
    accelerator.wait_for_everyone()

    # data, network
    stage = config.build(accelerator.device)
    if main and stage.data and stage.data.pairs:
        stage.data.pairs.report(config.run / "pairs.png", overwrite=True)
    stage.objective.requires_grad_(False)
    parameters = _unfreeze(stage)
    buffers = [buffer for module in stage.trained() for buffer in module.buffers()]  # of norms, say
    ema = EMAModel(parameters, decay=config.ema, use_ema_warmup=True, power=0.75, foreach=True)

    # optimiser
    optimizer = torch.optim.AdamW(
        _groups(config, stage, parameters),
        config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        fused=_fused(accelerator.device),
    )
    objective, optimizer = accelerator.prepare(stage.objective, optimizer)
    first = reached.step = _restore(config, parameters, buffers, optimizer, ema) if before else 0
    if main and before:
        _go_on(config, before, first)
    batches = _batches(config, stage, accelerator, first)

    # loop
    records = _Log(config.run, main, first)
    bar = tqdm(
        range(first, config.steps),
        initial=first,
        total=config.steps,
        desc=config.stage,
        disable=not (main and progress),
    )
    started = time.monotonic()
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * group["share"] * schedule(config, step)
        loss = _step(config, batches, objective, optimizer, parameters, accelerator)
        if not math.isfinite(loss):
            raise FaceCrafterError(
                f"the loss became {loss} at step {step} of {config.run}; the last checkpoint is kept; "
                "lower learning_rate and go on with --resume"
            )
        ema.step(parameters)
        reached.step = step + 1
        if (step + 1) % config.log_every == 0:
            rate = (step + 1 - first) * config.batch_size / (time.monotonic() - started)
            records.scalars(
                step + 1,
                loss=loss,
                learning_rate=config.learning_rate * schedule(config, step),
                samples_per_second=rate,
            )
            bar.set_postfix(loss=f"{loss:.4f}", rate=f"{rate:.0f}/s")
        if main and (step + 1) % config.validate_every == 0:
            _validate(stage, objective, accelerator, records, step + 1)
        if main and (step + 1) % config.sample_every == 0:
            with _averaged(ema, parameters, stage):
                records.images(step + 1, stage.samples(), _people(stage))
        if main and ((step + 1) % config.save_every == 0 or step + 1 == config.steps):
            _save(config, step + 1, parameters, buffers, optimizer, ema)

    # result
    if main:
        with _averaged(ema, parameters, stage):
            stage.save(config.run / "model")
            records.images(config.steps, stage.samples(), _people(stage))
    records.close()
    accelerator.wait_for_everyone()
    return config.run / "model"


def _check_shares(config: RunConfig, parts: int) -> None:
    """Refuse a batch that does not divide among the processes and accumulated steps."""
    for name, count in config.divided().items():
        if count % parts:
            raise ConfigError(f"{name} {count} does not divide among {parts} processes and accumulated steps")


def schedule(config: RunConfig, step: int) -> float:
    """The learning rate's factor at a step, in (0, 1]: linear warm-up, then constant or half a cosine down to 2 %."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return warm
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


def _batches(config: RunConfig, stage: Stage, accelerator: Any, first: int) -> Iterator[dict[str, Any]]:
    """This process's shares of the batches from step ``first`` on. Where an accelerator computes, the next ones are
    made meanwhile: a batch is a function of its step, so this changes nothing but time."""
    parts, device = accelerator.num_processes * config.accumulate, accelerator.device
    places = (
        (step, turn * accelerator.num_processes + accelerator.process_index)
        for step in range(first, config.steps)
        for turn in range(config.accumulate)
    )
    if device.type == "cpu":  # it has no time to spare
        yield from (stage.batch(step, index, parts, device) for step, index in places)
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(stage.batch, *place, parts, device) for place in islice(places, _AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(stage.batch, *place, parts, device) for place in islice(places, 1))
            yield batch


def _step(
    config: RunConfig,
    batches: Iterator[dict[str, Any]],
    objective: nn.Module,
    optimizer: Any,
    parameters: list[nn.Parameter],
    accelerator: Any,
) -> float:
    """One optimiser step over this process's shares of the batch; the loss averaged over all of it. NaN if the
    gradients are not finite, and then nothing was changed."""
    total = torch.zeros((), device=accelerator.device)
    for turn in range(config.accumulate):
        batch = next(batches)
        last = turn == config.accumulate - 1
        with accelerator.no_sync(objective) if not last else _nothing():
            with accelerator.autocast():
                loss = objective(**batch) / config.accumulate
            if loss.requires_grad:  # a share may happen to hold no sample with the condition that learns
                accelerator.backward(loss)
        total += loss.detach()
    loss_value = float(accelerator.reduce(total, "mean"))
    norm = accelerator.clip_grad_norm_(parameters, config.clip)
    # The fp16 scaler skips steps whose gradients overflow; everywhere else such a step would destroy the parameters.
    if config.precision != "fp16" and norm is not None and not math.isfinite(float(norm)):
        return float("nan")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_value


def _people(stage: Stage) -> int:
    """How many images a row of the sample grid has."""
    return min(8, stage.data.count) if stage.data else 8


def _validate(stage: Stage, objective: nn.Module, accelerator: Any, records: _Log, step: int) -> None:
    objective.eval()
    with accelerator.autocast():
        loss = stage.validate()
    objective.train()
    if loss is not None:
        records.scalars(step, validation_loss=loss)


def _unfreeze(stage: Stage) -> list[nn.Parameter]:
    """Let the stage's own modules learn; returns their parameters in a fixed order."""
    for module in stage.trained():
        module.requires_grad_(True)
    return [parameter for parameter in stage.objective.parameters() if parameter.requires_grad]


def _groups(config: RunConfig, stage: Stage, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """The parameters by learning rate."""
    groups: list[dict[str, Any]] = []
    special: set[int] = set()
    for members, share in stage.rates():
        learning = [one for one in members if one.requires_grad]
        special.update(id(one) for one in learning)
        groups.append({"params": learning, "share": share})
    groups.insert(0, {"params": [one for one in parameters if id(one) not in special], "share": 1.0})
    return [group for group in groups if group["params"]]


def _fused(device: torch.device) -> bool:
    return device.type in ("cuda", "cpu")


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class _averaged:
    """Within it the model has the averaged weights."""

    def __init__(self, ema: Any, parameters: list[nn.Parameter], stage: Stage) -> None:
        self.ema, self.parameters, self.stage = ema, parameters, stage

    def __enter__(self) -> None:
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.stage.objective.eval()

    def __exit__(self, *_: object) -> None:
        self.ema.restore(self.parameters)
        self.stage.objective.train()


# --- the run folder ---------------------------------------------------------------------------------------------------


def _check_run(config: RunConfig, resume: bool) -> RunConfig | None:
    """Refuse a run folder that is not this run's; returns the config of the run that goes on. Every process asks, so
    that none waits for one that has given up."""
    checkpoint, saved = config.run / CHECKPOINT, config.run / CONFIG
    if not resume:
        if checkpoint.is_file():
            raise ConfigError(f"{config.run} already holds a run; go on with --resume, or choose another run folder")
        return None
    if not checkpoint.is_file():
        raise ConfigError(f"{config.run} has no checkpoint to resume; start it without --resume")
    before = load(saved)  # what it does not name yet has its default
    changed = config_file.differences(before, config) if before.stage == config.stage else ["stage"]
    if changed:
        raise ConfigError(
            f"{config.run} was started with another config: {', '.join(changed)}; see {saved}, or choose another run "
            "folder"
        )
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


def _open_run(config: RunConfig, device: torch.device) -> None:
    """Make the run folder and write down how the run was made."""
    _write_config(config)
    write_whole(config.run / INPUTS, (json.dumps(_inputs(config), indent=2) + "\n").encode())
    write_whole(config.run / "environment.json", (json.dumps(environment(device), indent=2) + "\n").encode())


def _write_config(config: RunConfig) -> None:
    values = json.loads(config.model_dump_json())
    write_whole(config.run / CONFIG, yaml.safe_dump(values, sort_keys=False).encode())


def _go_on(config: RunConfig, before: RunConfig, step: int) -> None:
    """Write down, and say, with what a run goes on from a step."""
    if config != before:
        write_whole(config.run / f"config-to-{step}.yaml", (config.run / CONFIG).read_bytes())
        _write_config(config)
    if config.steps == before.steps:
        return
    if config.schedule == "cosine":
        rates = [one.learning_rate * schedule(one, step) for one in (before, config)]
        log.warning(
            f"from step {step} on the learning rate follows the cosine of {config.steps} steps: it goes from "
            f"{rates[0]:.3g} to {rates[1]:.3g}"
        )
    for name in config.SHARES_OF_STEPS:
        log.warning(f"{name} is a share of {config.steps} steps now, and was of {before.steps}")


def _kept(config: RunConfig, reached: int) -> str:
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


def _save(
    config: RunConfig, step: int, parameters: list[nn.Parameter], buffers: list[Tensor], optimizer: Any, ema: Any
) -> None:
    """Write the checkpoint: at any moment the last one or this one is whole."""
    state = {
        "step": step,
        "parameters": [parameter.detach() for parameter in parameters],
        "buffers": buffers,
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict(),
    }
    try:
        with deferred(), whole(config.run / CHECKPOINT) as partial, open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # what torch's writer raises on its way out of one
            raise error.__context__ from None
        raise CheckpointError(f"the checkpoint of step {step} could not be written to {config.run}: {error}") from None


def _restore(config: RunConfig, parameters: list[nn.Parameter], buffers: list[Tensor], optimizer: Any, ema: Any) -> int:
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
        for tensors, name in ((parameters, "parameters"), (buffers, "buffers")):
            for tensor, value in zip(tensors, state[name], strict=True):
                tensor.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    ema.load_state_dict(state["ema"])
    ema.to(parameters[0].device)
    return int(state["step"])


class _Log:
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
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._lines.write(
                json.dumps({"step": step, **{name: round(value, 6) for name, value in values.items()}}) + "\n"
            )

    def images(self, step: int, images: torch.Tensor, columns: int) -> None:
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
