"""Reparameterization: first, it stays right; on octave layers it is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from timm.models.byobnet import MobileOneBlock, RepVggBlock
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from octavize import InputError, octavize
from octavize.nn.conv import OctConv

EXAMPLE = (1, 3, 16, 16)


def network() -> nn.Module:
    torch.manual_seed(0)
    blocks = [RepVggBlock(64, 64, 3), MobileOneBlock(64, 64, 3)]
    stem = [nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1)).eval()


@pytest.mark.parametrize("inplace", [True, False])
def test_octave_layers_are_not_reparameterized(inplace: bool) -> None:
    octave, x = octavize(network(), 0.5, example=EXAMPLE), torch.randn(1, 3, 16, 16)
    before = octave(x)
    with pytest.raises(InputError, match=r"reparameterize\(\) would replace octave layers"):
        reparameterize_model(octave, inplace=inplace)
    again = pickle.loads(pickle.dumps(copy.deepcopy(octave)))
    with pytest.raises(InputError, match="then octavize"):
        reparameterize_model(again)
    torch.testing.assert_close(octave(x), before, rtol=1e-3, atol=0)  # its vanilla stem may be merged


def test_reparameterized_first_and_vanilla_again() -> None:
    x, net = torch.randn(1, 3, 16, 16), network()
    merged = octavize(reparameterize_model(net), 0.5, example=EXAMPLE)
    assert any(isinstance(m, OctConv) and m.alpha for m in merged.modules())
    vanilla = octavize(octavize(net, 0.5, example=EXAMPLE), 0.0, example=EXAMPLE)
    torch.testing.assert_close(reparameterize_model(vanilla)(x), net(x), rtol=1e-3, atol=1e-4)


def test_a_method_of_the_forward_that_has_the_same_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def fuse(self, x: Tensor, y: Tensor) -> Tensor:
            return x.mean((2, 3)) + y.mean((2, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.fuse(x, self.b(x))

    octave = octavize(Net(), {"*": 0.5}, example=(1, 3, 16, 16))
    assert octave(torch.randn(1, 3, 16, 16)).shape == (1, 8)
    with pytest.raises(InputError, match=r"Net\.fuse\(\)"):
        octave.fuse()
