"""Where networks compute, and in which precision."""

from __future__ import annotations

import logging

from facecrafter.errors import ConfigError

log = logging.getLogger(__name__)

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86 and ARM processors, as torch.cpu calls them


def usable_device(name: str) -> str:
    """A device by name, ``auto`` resolved.

    Raises:
        ConfigError: torch does not have it.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise ConfigError(f"this machine has no device '{name}'; try cpu, or leave it out") from None
    return name


def check_bfloat16(device: str) -> None:
    """Make sure that a device computes in bfloat16, and say where that saves no time.

    Raises:
        ConfigError: it does not.
    """
    import torch

    try:
        one = torch.ones(1, 1, device=device, dtype=torch.bfloat16)
        (one @ one).item()
    except (RuntimeError, TypeError):
        raise ConfigError(f"the device '{device}' does not compute in bfloat16; leave bfloat16 out") from None
    if not _fast_bfloat16(torch.device(device).type):
        log.warning("the device '%s' has no instructions for bfloat16; it may take longer than float32 there", device)


def _fast_bfloat16(kind: str) -> bool:
    import torch

    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.11 nothing says
        return True
    return any(torch.cpu.get_capabilities().get(name) for name in BFLOAT16_INSTRUCTIONS)
