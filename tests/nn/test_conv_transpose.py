"""Transposed octave convolution against the slow reference, and against torch's at alpha 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers import reference
from torch import Tensor, nn

import octavize
from octavize import InputError, OctTensor

GEOMETRIES = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 2, "dilation": 2},
    {"kernel_size": 8, "stride": 4, "padding": 2},
]


def octave_map(channels: tuple[int, int], size: tuple[int, ...]) -> OctTensor:
    low = [(n + 1) // 2 for n in size]
    return OctTensor(
        torch.randn(2, channels[0], *size, dtype=torch.float64),
        torch.randn(2, channels[1], *low, dtype=torch.float64),
    )


def expected(layer: Any, x: OctTensor) -> tuple[Tensor, Tensor]:
    """The equations of the module, path by path."""
    rank = x.dim() - 2
    settings = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    size = [n * s for n, s in zip(x.high.shape[2:], layer.stride, strict=True)]
    half = [(n + 1) // 2 for n in size]
    low_out = reference.low_count(layer.out_channels, layer.alpha, layer.groups)
    high_out, g = layer.out_channels - low_out, layer.groups
    w = layer.weight
    rows, columns = x.high.shape[1], high_out // g

    def path(half_map: Tensor, weight: Tensor, to: list[int]) -> Tensor:
        return reference.transposed(half_map, weight, to, **settings)

    def up(y: Tensor) -> Tensor:
        for axis, n in enumerate(size, start=2):
            y = reference.repeat_pixels(y, axis, n)
        return y

    pooled = reference.average(x.high, range(2, rank + 2))
    y_high = path(x.high, w[:rows, :columns], size) + up(path(x.low, w[rows:, :columns], half))
    y_low = path(x.low, w[rows:, columns:], half) + path(pooled, w[:rows, columns:], half)
    bias = layer.bias.view(-1, *[1] * rank)
    return y_high + bias[:high_out], y_low + bias[high_out:]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 2)])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_equals_the_reference(geometry: dict[str, Any], size: tuple[int, int], groups: int) -> None:
    torch.manual_seed(0)
    layer = octavize.OctConvTranspose2d(8, 12, **geometry, groups=groups, alpha=0.5, dtype=torch.float64)
    x = octave_map((4, 4), size)
    y = layer(x)
    high, low = expected(layer, x)
    assert torch.allclose(y.high, high)
    assert torch.allclose(y.low, low)
    assert y.shape == nn.ConvTranspose2d(8, 12, **geometry)(torch.zeros(2, 8, *size)).shape


def test_one_dimension_and_depthwise() -> None:
    line = octavize.OctConvTranspose1d(6, 4, 4, 2, 1, alpha=0.25, dtype=torch.float64)
    x = octave_map((4, 2), (7,))
    high, low = expected(line, x)
    assert torch.allclose(line(x).high, high)
    assert torch.allclose(line(x).low, low)

    each = octavize.OctConvTranspose2d(6, 6, 2, 2, groups=6, alpha=0.9, dtype=torch.float64)
    x = octave_map((4, 2), (5, 4))
    y = each(x)
    assert (y.high.shape[1], y.low.shape[1]) == (4, 2)  # the split of the input
    vanilla = nn.ConvTranspose2d(6, 6, 2, 2, groups=6, dtype=torch.float64)
    vanilla.load_state_dict(each.state_dict())
    assert torch.allclose(y.high, vanilla(x.to_dense())[:, :4])


@pytest.mark.parametrize("kind", ["OctConvTranspose1d", "OctConvTranspose2d", "OctConvTranspose3d"])
def test_alpha_0_is_torchs_layer_bit_for_bit(kind: str) -> None:
    layer = getattr(octavize, kind)(4, 6, 3, 2, 1, 1, alpha=0)
    vanilla = getattr(nn, kind.removeprefix("Oct"))(4, 6, 3, 2, 1, 1)
    vanilla.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, *[5] * int(kind[-2]))
    assert torch.equal(layer(x), vanilla(x))
    size = [11] * int(kind[-2]) if kind.endswith("2d") else None
    if size is None:
        assert torch.equal(layer(x, None), vanilla(x))


def test_all_low_and_all_high_inputs_agree_with_the_vanilla_layer_on_smooth_maps() -> None:
    """On maps constant over cells of 2 by 2, kernel 2 stride 2 in one channel: nothing is lost."""
    layer = octavize.OctConvTranspose2d(4, 4, 1, alpha=0.5, dtype=torch.float64)
    vanilla = nn.ConvTranspose2d(4, 4, 1, dtype=torch.float64)
    vanilla.load_state_dict(layer.state_dict())
    x = OctTensor(octave_map((0, 4), (6, 6)).high, octave_map((0, 4), (6, 6)).low)
    assert torch.allclose(layer(x).to_dense(), vanilla(x.to_dense()))


def test_geometry_and_output_size_are_checked() -> None:
    with pytest.raises(InputError, match="does not multiply the map's size by the stride"):
        octavize.OctConvTranspose2d(4, 4, 3, 2, alpha=0.5)
    layer = octavize.OctConvTranspose2d(4, 4, 2, 2, alpha=0.5)
    with pytest.raises(InputError, match=r"output_size=\(9, 9\)"):
        layer(torch.randn(1, 4, 4, 4), output_size=(9, 9))
    assert layer(torch.randn(1, 4, 4, 4), output_size=(8, 8)).shape == (1, 4, 8, 8)


def test_gradients_reach_every_weight() -> None:
    layer = octavize.OctConvTranspose2d(4, 4, 2, 2, alpha=0.5)
    layer(octave_map((2, 2), (4, 4)).float()).to_dense().square().sum().backward()
    assert (layer.weight.grad != 0).all()
    assert (layer.bias.grad != 0).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("share", [None, 0.0, 0.5, 1.0])
def test_autocast_decides_the_dtype(alpha: float, share: float | None) -> None:
    """Also where a path has no channels."""
    x = torch.randn(1, 4, 6, 6)
    layer = octavize.OctConvTranspose2d(4, 8, 2, 2, alpha=alpha)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x if share is None else OctTensor.from_dense(x, share))
    assert y.dtype == torch.bfloat16
    if isinstance(y, OctTensor) and y.low.shape[1]:
        assert y.low.dtype == torch.bfloat16
