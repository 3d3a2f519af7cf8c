"""Random weights under which no layer can be passed over unnoticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

Enliven = Callable[[nn.Module], nn.Module]


@pytest.fixture(scope="session")
def enliven() -> Enliven:
    """Gives a network weights that keep its features' size, with norms whose statistics are random too."""

    def give(network: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
                for tensor in (module.weight.data, module.running_var):
                    tensor.uniform_(0.7, 1.3)
                for tensor in (module.bias.data, module.running_mean):
                    tensor.normal_(std=0.2)
        return network.eval().requires_grad_(False)

    return give
