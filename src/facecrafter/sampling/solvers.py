"""The solvers by name, and how many steps they can take. Reading a plan needs no more of them, and no torch."""

from __future__ import annotations

import numpy as np

from facecrafter.errors import ConfigError
from facecrafter.models.noise import TIMESTEPS

# The paper samples with DDPM. DPM-Solver++ in 25 steps is Arc2Face's default solver, there with timesteps spaced by
# linspace and here trailing, as for all solvers.
SCHEDULERS = {
    "dpm": "DPMSolverMultistepScheduler",
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def check_steps(steps: int, scheduler: str) -> None:
    """Refuse what no solver can do.

    Raises:
        ConfigError: unknown scheduler, or a number of steps that is out of range or that the noise schedule cannot be
            cut into.
    """
    if scheduler not in SCHEDULERS:
        raise ConfigError(f"unknown scheduler '{scheduler}'; there are {', '.join(SCHEDULERS)}")
    if not 1 <= steps <= TIMESTEPS:
        raise ConfigError(f"steps must be from 1 to {TIMESTEPS}, not {steps}")
    if not _is_cut_well(steps):
        near = next(more for more in range(steps, TIMESTEPS + 1) if _is_cut_well(more))
        raise ConfigError(f"the solvers cannot cut the {TIMESTEPS} timesteps into {steps}; take {near} steps")


def _is_cut_well(steps: int) -> bool:
    """Whether strides of TIMESTEPS / steps end before 0; as floating-point numbers some go one further."""
    return len(np.arange(TIMESTEPS, 0, -TIMESTEPS / steps)) == steps
