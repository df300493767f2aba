"""A network of your own from octave layers: what flows between them behaves like a tensor.

Run it with `python examples/use_the_layer.py`.
"""

import torch
from torch import nn

from octavize import OctConv2d


class Net(nn.Module):
    """Three layers. The first splits the image into frequencies, the last merges them (alpha=0)."""

    def __init__(self) -> None:
        super().__init__()
        self.split = OctConv2d(3, 32, 3, padding=1, alpha=0.5)
        self.norm = nn.BatchNorm2d(32)
        self.down = OctConv2d(32, 64, 3, padding=1, stride=2, alpha=0.25)
        self.merge = OctConv2d(64, 64, 1, alpha=0)
        self.classify = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.split(x)).relu()
        print("after split:", x)
        x = self.down(x).relu()
        print("after down: ", x)
        x = self.merge(x)  # a plain tensor again
        return self.classify(x.mean((2, 3)))


print("scores:     ", Net()(torch.randn(1, 3, 33, 33)).shape)
