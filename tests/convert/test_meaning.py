"""An octave network is its vanilla network on ordinary maps, with another way to convolve and to pool.

The reference is the network itself on plain dense tensors: no OctTensor, no rule. A low channel is one whose
pixels are alike within each cell of 2 × 2. Only the layers in which the frequencies differ are replaced:

* an octave convolution takes the high channels, and every second pixel of the low ones; it follows the
  paper's equations (`reference.octave_convolve`) and repeats the pixels of what is low in its output;
* a pooling layer acts on the low channels at their own resolution.

Normalization, activation, residual sums, attention, concatenation, splits and shuffles are torch's own. On
even sizes the two networks must then agree in every value and in every gradient.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.helpers.reference import octave_convolve, repeat_pixels
from torch import Tensor, nn

from octavize import OctTensor, octavize
from octavize.nn.conv import OctConv

pytestmark = pytest.mark.filterwarnings("ignore::octavize.nn.dispatch.DenseFallbackWarning")

TORCHVISION = (
    "resnet18 densenet121 mobilenet_v2 mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 regnet_x_400mf"
)
TIMM = """
    resnet26t resnext26ts seresnet18 ecaresnet26t skresnet18 resnest14d ghostnet_100 cspresnet50 dla34
    hrnet_w18_small dpn48b mixnet_s rexnet_100 ese_vovnet19b_dw repvgg_a0
"""
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
ALWAYS = {"resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "skresnet18", "ghostnet_100"}


def reference_convolution(layer: Any, low_channels: list[list[int] | None], x: Tensor) -> Tensor:
    """The layer on a dense map (N, C, H, W), of which the channels listed are low."""
    is_low = low_channels.pop(0)
    depthwise = layer.groups == layer.in_channels > 1
    if not layer.octave.keeps_size or (is_low is None and (depthwise or layer.octave.out_layout[1] == 0)):
        return layer._conv_forward(x, layer.weight, layer.bias)  # nothing low comes in or goes out: vanilla
    is_low = is_low or []
    is_high = [c for c in range(x.shape[1]) if c not in is_low]
    high, low = x[:, is_high], low_pixels(x[:, is_low])
    rows = list(range(layer.out_channels))
    columns = [*is_high, *is_low]
    if depthwise:
        times = layer.out_channels // layer.in_channels
        rows, columns = [c * times + i for c in columns for i in range(times)], [0]
    elif layer.groups > 1:
        assert is_low == list(range(len(is_high), x.shape[1])), "grouped columns are those of one group"
        columns = list(range(layer.weight.shape[1]))
    y_high, y_low = octave_convolve(
        high,
        low,
        layer.weight[rows][:, columns],
        None if layer.bias is None else layer.bias[rows],
        layer.alpha,
        stride=layer.stride,
        pairs=[(p, p) for p in layer.padding],
        mode=layer.padding_mode,
        dilation=layer.dilation,
        groups=layer.groups,
        octave_dims=2,
    )
    y = torch.cat([y_high, repeated(y_low, y_high)], 1)
    back = torch.tensor(rows).argsort()
    return y[:, back]


def reference_pool(layer: Any, low_channels: list[list[int] | None], x: Tensor) -> Tensor:
    """The layer on the high channels, and on the low ones at their resolution."""
    is_low = low_channels.pop(0)
    y = type(layer).forward(layer, x)
    if is_low:
        y = y.clone()
        y[:, is_low] = repeated(type(layer).forward(layer, low_pixels(x[:, is_low])), y)
    return y


def low_pixels(x: Tensor) -> Tensor:
    """One pixel of each cell, having looked that its pixels are alike."""
    pixels = x[:, :, ::2, ::2]
    torch.testing.assert_close(repeated(pixels, x), x, rtol=1e-9, atol=1e-9)
    return pixels


def repeated(pixels: Tensor, like: Tensor) -> Tensor:
    return repeat_pixels(repeat_pixels(pixels, 2, like.shape[2]), 3, like.shape[3])


def low_of(x: Any) -> list[int] | None:
    """Which channels of an OctTensor are low; None for a plain tensor."""
    if not isinstance(x, OctTensor):
        return None
    is_low = [bool(i % 2) for i, count in enumerate(x.channel_layout) for _ in range(count)]
    return [c for c, low in enumerate(is_low) if low]


def replaced(model: nn.Module) -> dict[str, Any]:
    """The layers that the reference has a definition of its own for, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, (OctConv, *POOLS))}


def values(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    y = model(x)
    y = y.to_dense() if isinstance(y, OctTensor) else y
    (y * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))).sum().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def settle(model: nn.Module) -> None:
    """Running statistics and scales as after training: nothing 0 or 1 that could hide a mistake."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.8, 1.2)
            nn.init.normal_(m.bias, std=0.1)
            assert m.running_mean is not None
            assert m.running_var is not None
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.5, 1.5)


CASES = [
    pytest.param(library, name, marks=() if name in ALWAYS else pytest.mark.slow)
    for library, names in ((torchvision, TORCHVISION), (timm, TIMM))
    for name in names.split()
]


@pytest.mark.parametrize(("library", "name"), CASES)
def test_network_means_what_the_definition_says(library: Any, name: str) -> None:
    torch.manual_seed(0)
    vanilla = (
        library.models.get_model(name, weights=None) if library is torchvision else timm.create_model(name)
    )
    vanilla = vanilla.double().eval()
    settle(vanilla)
    octave = octavize(vanilla, 0.5, example=(1, 3, 64, 64))
    twin = copy.deepcopy(octave)
    seen: dict[str, list[list[int] | None]] = defaultdict(list)
    for key, layer in replaced(octave).items():
        layer.register_forward_pre_hook(lambda m, args, key=key: seen[key].append(low_of(args[0])))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    y, gradients = values(octave, x)
    assert sum(any(low) for low in seen.values()) >= 5, "the network has octaves in it"
    for key, layer in replaced(twin).items():
        reference = reference_convolution if isinstance(layer, OctConv) else reference_pool
        layer.forward = partial(reference, layer, seen[key])
    wanted, wanted_gradients = values(twin, x)

    assert wanted.std() > 0
    torch.testing.assert_close(y, wanted, rtol=1e-8, atol=1e-8 * wanted.abs().max().item())
    assert gradients.keys() == wanted_gradients.keys()
    for key, gradient in wanted_gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-7, atol=1e-7 * scale + 1e-12, msg=key)
