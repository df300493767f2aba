"""Small networks for the tests of deployment, with batch norms that do something."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import octavize


def shaken(model: nn.Module) -> nn.Module:
    """Running statistics and parameters as if it had been trained; evaluation mode."""
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.copy_(torch.randn(module.num_features, generator=random) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=random) + 0.5)
            if module.affine:
                module.weight.data = torch.rand(module.num_features, generator=random) + 0.5
                module.bias.data = torch.randn(module.num_features, generator=random) * 0.1
    return model.eval()


class Block(nn.Module):
    """A strided depthwise and a grouped convolution with a shortcut around them."""

    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.bn2 = nn.BatchNorm2d(16)
        self.shortcut = nn.Conv2d(16, 16, 1, stride=2)

    def forward(self, x: Any) -> Any:
        return self.bn2(self.grouped(torch.relu(self.bn1(self.dw(x))))) + self.shortcut(x)


def small(classes: int = 4) -> nn.Module:
    """A network of every kind of layer, vanilla, to (N, classes)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(),
        nn.Conv2d(16, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


def octave(alpha: float = 0.5, **settings: Any) -> nn.Module:
    return shaken(octavize.octavize(small(), alpha, example=(1, 3, 16, 16), **settings))
