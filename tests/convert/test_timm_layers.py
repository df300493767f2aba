"""timm's convolution that pads as TensorFlow does: vanilla at α = 0, the paper's equations at α = ½."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from tests.helpers.reference import octave_convolve
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from octavize import OctTensor, octavize, plan
from octavize.nn.conv import OctConv

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 5, "stride": 2},
    {"kernel_size": 2},
    {"kernel_size": 4, "stride": 2},
    {"kernel_size": 3, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "groups": 2},
    {"kernel_size": 5, "stride": 2, "groups": 8},
]
SIZES = [(8, 12), (9, 7), (1, 2)]


def layer(alpha: float, downsample: str = "pool", **geometry: Any) -> Any:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), Conv2dSame(8, 8, **geometry))
    net = octavize(body.double(), {"2": alpha}, downsample=downsample, example=(1, 3, 16, 16))
    net[2].become_octave(alpha)  # though the network returns its output
    return net[2]


def vanilla(octave: Any, x: Tensor) -> Tensor:
    return Conv2dSame.forward(octave, x)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_alpha_0_is_the_vanilla_layer(geometry: dict[str, Any], size: tuple[int, int]) -> None:
    octave, x = layer(0, **geometry), torch.randn(2, 8, *size, dtype=torch.float64)
    assert isinstance(octave, OctConv)
    assert torch.equal(octave(x), vanilla(octave, x))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha_in", [0, 0.5])
def test_the_equations(geometry: dict[str, Any], size: tuple[int, int], alpha_in: float) -> None:
    octave = layer(0.5, **geometry)
    x = OctTensor.from_dense(torch.randn(2, 8, *size, dtype=torch.float64), alpha_in)
    missing = octave.dilation[0] * (octave.kernel_size[0] - 1)
    expected = octave_convolve(
        x.high,
        x.low,
        octave.weight,
        octave.bias,
        0.5,
        stride=octave.stride,
        pairs=[(missing // 2, missing - missing // 2)] * 2,
        mode="zeros",
        dilation=octave.dilation,
        groups=octave.groups,
        octave_dims=2,
    )
    y = octave(x)
    for half, wanted in zip((y.high, y.low), expected, strict=True):
        torch.testing.assert_close(half, wanted)


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g.get("groups") != 2])
@pytest.mark.parametrize("size", SIZES)
def test_the_own_stride_on_the_high_path(geometry: dict[str, Any], size: tuple[int, int]) -> None:
    """Of a dense map, the high channels are those of the vanilla layer."""
    octave, x = layer(0.5, "stride", **geometry), torch.randn(2, 8, *size, dtype=torch.float64)
    y = octave(OctTensor.all_high(x))
    torch.testing.assert_close(y.high, vanilla(octave, x)[:, : y.high.shape[1]])


def test_tensorflow_networks_are_octave() -> None:
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_b0", num_classes=4).eval()
    found = plan(net, 0.5, example=(1, 3, 64, 64))
    assert not [d for d in found.decisions if "oct_handler" in d.reason]
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(octavize(net, 0.0, example=(1, 3, 64, 64))(x), net(x))
    octave = octavize(net, found).train()
    octave(x).sum().backward()
    assert all(p.grad is not None for p in octave.parameters())
    assert list(octave.state_dict()) == list(net.state_dict())
