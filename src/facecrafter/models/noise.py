"""The noise schedule of every scale, for those who need no network."""

from __future__ import annotations

TIMESTEPS = 1000
