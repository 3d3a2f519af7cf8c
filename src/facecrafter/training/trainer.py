"""The training loop, the same for every stage: init, resume, steps, checkpoints, result."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from facecrafter.errors import ConfigError, FaceCrafterError
from facecrafter.interruption import deferred, stating
from facecrafter.io import alone
from facecrafter.training import run_folder
from facecrafter.training.config import RunConfig, Stage
from facecrafter.training.graphs import Captured
from facecrafter.training.operations import Pace
from facecrafter.training.run_folder import Log, State
from facecrafter.training.timebox import SHOWN_FROM, TimeBox, check_one_process

log = logging.getLogger(__name__)

_AHEAD = 3  # batches made ahead of their step


def train(
    config: RunConfig, resume: bool = False, progress: bool = True, box: TimeBox | None = None, grows: bool = False
) -> Path:
    """Run one stage of training, or go on with it.

    Args:
        config: the run.
        resume: go on from the run folder's checkpoint; without it a folder that has one is refused.
        progress: show a bar.
        box: the clock ends the run, and the steps of the config do not.
        grows: what it reads may have changed since it began, as in a recipe.

    Returns:
        The folder of the result, ``run/model``.

    Raises:
        ConfigError: the run folder is in use, or belongs to another config; or several processes are given a box.
        FaceCrafterError: the loss is no longer a number; the last checkpoint is kept.
        KeyboardInterrupt: after Ctrl-C, with a note that says which step is kept; with a box, that is the last one.
    """
    if box is not None:
        check_one_process()
    before, reached = run_folder.check(config, resume, grows), _Reached()
    # Of several processes of one run the first one locks.
    with (
        alone(config.run, "run") if os.environ.get("RANK", "0") == "0" else nullcontext(),
        stating(lambda: run_folder.kept(config, reached.step)),
    ):
        return _train(config, before, progress, reached, box)


@dataclass
class _Reached:
    """How many steps a run has behind it."""

    step: int = 0


def _train(config: RunConfig, before: RunConfig | None, progress: bool, reached: _Reached, box: TimeBox | None) -> Path:
    """Train; the run folder is this process's, and ``before`` the config of the run that goes on."""
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
        run_folder.open_run(config, accelerator.device)
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
        fused=accelerator.device.type in ("cuda", "cpu"),
    )
    objective, optimizer = accelerator.prepare(_Anchored(stage.objective, parameters), optimizer)
    state, finite = State(parameters, buffers, optimizer, ema, accelerator.scaler), _Finite(accelerator.device)
    first = reached.step = state.restore(config) if before else 0
    if main and before:
        run_folder.go_on(config, before, first)
    quiet = Lock()  # held by whatever uses the device beside a step
    batches = _batches(config, stage, accelerator, first, quiet)
    gradients: Callable[[dict[str, Any]], Tensor] = partial(_gradients, objective, accelerator, config.accumulate)
    if stage.captures and accelerator.device.type == "cuda" and accelerator.num_processes == 1:
        gradients = Captured(gradients, parameters, accelerator.device, quiet)

    # loop
    records = Log(config.run, main, first)
    made = _Made(config, stage, state, records, ema, parameters, main)
    bar = tqdm(
        range(first, config.steps),
        initial=first,
        total=None if box else config.steps,
        desc=config.stage,
        disable=not (main and progress),
    )
    pace = Pace(box, accelerator.device)
    try:
        for step in bar:
            if box and box.is_over(step - first):
                break
            # By the clock an interrupt waits for the step's end, and the model is kept as it is then.
            with deferred() if box else nullcontext():
                factor = box.rate_factor(step, config.warmup) if box else config.rate_factor(step)
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * group["share"] * factor
                _settle(stage, step, parameters, ema)
                logged = not box or step == first or (step + 1) % config.log_every == 0
                with pace.step(step == first):
                    loss = _step(
                        config, batches, gradients, objective, optimizer, parameters, accelerator, pace, logged, finite
                    )
                if loss is not None and not math.isfinite(loss):
                    raise FaceCrafterError(
                        f"the loss became {loss} at step {step} of {config.run}; the last checkpoint is kept; "
                        "lower learning_rate and go on with --resume"
                    )
                ema.step(parameters)
                reached.step = step + 1
                if step == first:
                    stage.compile()
            if loss is not None and ((step + 1) % config.log_every == 0 or (box and step == first)):
                records.scalars(step + 1, loss=loss, learning_rate=config.learning_rate * factor, **pace.measured())
                bar.set_postfix(loss=f"{loss:.4f}", rate=f"{pace.samples_per_second:.0f}/s")
            saves = box.save_is_due() if box else (step + 1) % config.save_every == 0 or step + 1 == config.steps
            validates, shows = ((step + 1) % every == 0 for every in (config.validate_every, config.sample_every))
            if not main or not (validates or shows or saves):
                continue  # a device is not waited for
            with pace.aside():
                if validates:
                    _validate(stage, objective, accelerator, records, step + 1)
                if shows:
                    made.show(step + 1)
                if saves:
                    _check_finite(finite, config, step)
                    state.save(config, step + 1)
                if saves and box:
                    made.save(box)
    except KeyboardInterrupt:
        if box and main and reached.step > first and finite:
            with deferred():
                state.save(config, reached.step)
                made.save(box)
        raise

    # result
    if main:
        if box:
            _check_finite(finite, config, reached.step)
            state.save(config, reached.step)
        made.save(box)
        if not box or box.seconds >= SHOWN_FROM:
            made.show(reached.step)
    records.close()
    accelerator.wait_for_everyone()
    return config.run / "model"


@dataclass(frozen=True)
class _Made:
    """What a run makes for people: the model, and images that show how far it is; both by the averaged weights."""

    config: RunConfig
    stage: Stage
    state: State
    records: Log
    ema: Any
    parameters: list[nn.Parameter]
    main: bool

    def save(self, box: TimeBox | None) -> None:
        """Write the model as it is."""
        with _averaged(self.ema, self.parameters, self.stage):
            self.stage.save(self.config.run / "model")
        if box:
            box.saved()

    def show(self, step: int) -> None:
        """Record the grid of samples."""
        with _averaged(self.ema, self.parameters, self.stage):
            self.records.images(step, self.stage.samples(), _people(self.stage))


class _Anchored(nn.Module):
    """An objective whose loss always has gradients: zeros where a share of the batch happens to hold no sample with the
    condition that learns. Several processes sum theirs, and none may be missing.

    Args:
        objective: gives the loss.
        parameters: what learns.
    """

    def __init__(self, objective: nn.Module, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.objective, self._parameters_of_it = objective, parameters

    def forward(self, **batch: Any) -> Tensor:
        """The objective's loss."""
        loss: Tensor = self.objective(**batch)
        if loss.requires_grad or not torch.is_grad_enabled():
            return loss
        return loss + sum((0 * parameter.sum() for parameter in self._parameters_of_it), loss.new_zeros(()))


class _Finite:
    """Whether the gradients of all steps were finite. To ask it is to wait for the device.

    Args:
        device: where the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._so_far = torch.ones((), dtype=torch.bool, device=device)

    def add(self, norm: Tensor) -> None:
        """Note the norm of a step's gradients."""
        self._so_far &= norm.isfinite()

    def __bool__(self) -> bool:
        return bool(self._so_far)


def _check_finite(finite: _Finite, config: RunConfig, step: int) -> None:
    """Write nothing of a network that one step has destroyed.

    Raises:
        FaceCrafterError: it has.
    """
    if not finite:
        raise FaceCrafterError(
            f"the gradients were not finite in a step up to {step} of {config.run}; the last checkpoint is kept; "
            "lower learning_rate and go on"
        )


def _check_shares(config: RunConfig, parts: int) -> None:
    """Refuse a batch that does not divide among the processes and accumulated steps."""
    for name, count in config.divided().items():
        if count % parts:
            raise ConfigError(f"{name} {count} does not divide among {parts} processes and accumulated steps")


def _batches(config: RunConfig, stage: Stage, accelerator: Any, first: int, quiet: Lock) -> Iterator[dict[str, Any]]:
    """This process's shares of the batches from step ``first`` on. Where an accelerator computes, the next ones are
    made meanwhile: a batch is a function of its step, so this changes nothing but time. None is while ``quiet`` is
    held."""
    parts, device = accelerator.num_processes * config.accumulate, accelerator.device
    places = (
        (step, turn * accelerator.num_processes + accelerator.process_index)
        for step in range(first, config.steps)
        for turn in range(config.accumulate)
    )
    if device.type == "cpu":  # it has no time to spare
        yield from (stage.batch(step, index, parts, device) for step, index in places)
        return

    def made(step: int, index: int) -> dict[str, Any]:
        with quiet:
            return stage.batch(step, index, parts, device)

    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(made, *place) for place in islice(places, _AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(made, *place) for place in islice(places, 1))
            yield batch


def _gradients(objective: nn.Module, accelerator: Any, accumulate: int, batch: dict[str, Any]) -> Tensor:
    """A batch's share of the loss; its gradients are added to those that the parameters have."""
    with accelerator.autocast():
        loss: Tensor = objective(**batch) / accumulate
    accelerator.backward(loss)
    return loss.detach()


def _step(
    config: RunConfig,
    batches: Iterator[dict[str, Any]],
    gradients: Callable[[dict[str, Any]], Tensor],
    objective: nn.Module,
    optimizer: Any,
    parameters: list[nn.Parameter],
    accelerator: Any,
    pace: Pace,
    logged: bool,
    finite: _Finite,
) -> float | None:
    """One optimiser step over this process's shares of the batch; the loss averaged over all of it. NaN if the
    gradients are not finite, and then nothing was changed. None if it is not logged: then no device has to finish its
    work to say, and ``finite`` notes whether they were."""
    total = torch.zeros((), device=accelerator.device)
    for turn in range(config.accumulate):
        batch = next(batches)
        pace.samples += len(next(iter(batch.values()))) * accelerator.num_processes
        last = turn == config.accumulate - 1
        with accelerator.no_sync(objective) if not last else nullcontext():
            total += gradients(batch)
    loss_value = float(accelerator.reduce(total, "mean")) if logged else None
    norm = accelerator.clip_grad_norm_(parameters, config.clip)
    # The fp16 scaler skips steps whose gradients overflow; everywhere else such a step would destroy the parameters.
    if config.precision != "fp16" and norm is not None:
        if logged and not math.isfinite(float(norm)):
            return float("nan")
        finite.add(norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_value


def _people(stage: Stage) -> int:
    """How many images a row of the sample grid has."""
    return min(8, stage.data.count) if stage.data else 8


def _validate(stage: Stage, objective: nn.Module, accelerator: Any, records: Log, step: int) -> None:
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


@torch.no_grad()
def _settle(stage: Stage, step: int, parameters: list[nn.Parameter], ema: Any) -> None:
    """Give parameters that learn no more their averages: otherwise these would go on to move, towards the last
    values."""
    done = {id(parameter) for parameter in stage.settled(step)}
    if not done:  # as in all steps but one at most
        return
    for parameter, average in zip(parameters, ema.shadow_params, strict=True):
        if id(parameter) in done:
            parameter.copy_(average)


@contextmanager
def _averaged(ema: Any, parameters: list[nn.Parameter], stage: Stage) -> Iterator[None]:
    """Within it the model has the averaged weights."""
    ema.store(parameters)
    ema.copy_to(parameters)
    stage.objective.eval()
    try:
        yield
    finally:
        ema.restore(parameters)
        stage.objective.train()
