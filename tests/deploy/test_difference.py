"""Networks that use their layers in ways that one run does not show: frozen right, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.deploy import shaken
from torch import nn
from torch.nn.utils import prune

import octavize
from octavize import InputError, OctConv2d, load_runtime
from octavize.convert.inputs import Inputs
from octavize.deploy.difference import difference
from octavize.deploy.export import TOLERANCE, parity

EXAMPLE = (1, 3, 16, 16)


class Listed(nn.Module):
    """Its layers are also in a plain list, which is what it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.layers = [self.conv, self.norm]

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class Tied(nn.Module):
    """Reads a convolution's weight once more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Any) -> Any:
        return F.conv_transpose2d(torch.relu(self.norm(self.conv(x))), self.conv.weight, padding=1)


@dataclass
class Output:
    normed: Any
    raw: Any


class Opened(nn.Module):
    """Returns what was normalized and what was not, in a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Any) -> Any:
        raw = self.conv(x)
        return Output(self.norm(raw), raw)


class WithMask(nn.BatchNorm2d):
    def forward(self, input: Any, mask: Any = None) -> Any:
        return super().forward(input)


class Clamping(nn.BatchNorm2d):
    """Beyond what a random input reaches."""

    def forward(self, input: Any) -> Any:
        return super().forward(input).clamp(-4, 4)


class Positions(nn.Module):
    """Makes a tensor without saying where."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Any) -> Any:
        return self.norm(self.conv(x)) + torch.arange(x.shape[2]).view(1, 1, -1, 1)


def outputs(net: nn.Module, x: Any) -> list[Any]:
    y = net(x)
    return [y.normed, y.raw] if isinstance(y, Output) else [y]


@pytest.mark.parametrize(
    "build",
    [
        Listed,
        Tied,
        Opened,
        Positions,
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), WithMask(8)),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Clamping(8)),
    ],
    ids=["listed", "tied", "dataclass", "positions", "mask", "clamping"],
)
def test_frozen_right(build: Any) -> None:
    torch.manual_seed(0)
    model = shaken(build())
    frozen = octavize.freeze(model, EXAMPLE)
    x = 100 * torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for expected, got in zip(outputs(model, x), outputs(frozen, x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_hooks_that_make_weights() -> None:
    torch.manual_seed(0)
    pruned = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    normed = nn.Sequential(
        torch.nn.utils.weight_norm(OctConv2d(3, 8, 3, padding=1)), OctConv2d(8, 4, 1, alpha=0)
    )
    x = torch.randn(EXAMPLE)
    for model, name in ((pruned, "0.weight_orig"), (normed, "0.weight_g")):
        with torch.no_grad():
            model(x)
            model.load_state_dict({k: v * 3 if k == name else v for k, v in model.state_dict().items()})
            frozen = octavize.freeze(model.eval(), EXAMPLE)
            torch.testing.assert_close(frozen(x), model(x))


def test_what_cannot_be_frozen_is_refused() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = OctConv2d(3, 8, 3, padding=1)
            self.head = nn.Conv2d(8, 8, 1)

        def forward(self, x: Any) -> Any:
            return self.head(self.conv(x).to_dense()) * self.conv.weight.mean()

    with pytest.raises(InputError, match=r"Reading cannot be frozen: frozen, it fails .*weight"):
        octavize.freeze(Reading().eval(), EXAMPLE)


def test_difference_tells_and_lets_the_random_pass() -> None:
    model, other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    assert difference(model, model, EXAMPLE) is None
    assert difference(model, other, EXAMPLE) == "its outputs are others"
    noise = nn.Sequential(model)
    noise.forward = lambda x: F.dropout(model(x))
    assert difference(noise, other, EXAMPLE) is None
    before = torch.random.get_rng_state()
    difference(noise, other, EXAMPLE)
    assert torch.equal(before, torch.random.get_rng_state())


def test_transforms_of_torch_func() -> None:
    model = shaken(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
    frozen, x = octavize.freeze(model, EXAMPLE), torch.randn(EXAMPLE)
    frozen(x)
    expected, got = (torch.func.jvp(net, (x,), (x,))[1] for net in (model, frozen))
    torch.testing.assert_close(got, expected)


def biased(bias: float = 1000.0) -> nn.Module:
    """A network whose outputs an image changes by less than a hundredth."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16 * 16, 4)).eval()
    with torch.no_grad():
        net[-1].bias += bias
    return net


def test_a_large_bias_hides_no_difference() -> None:
    net, other = biased(), biased()
    assert difference(net, other, EXAMPLE) is None
    with torch.no_grad():
        other[0].weight *= 1.05
    assert difference(net, other, EXAMPLE) == "its outputs are others"


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime not installed")
def test_nor_does_it_in_a_file(tmp_path: Path) -> None:
    net, path = biased(100.0), tmp_path / "net.onnx"
    assert octavize.export(net, path, EXAMPLE) < TOLERANCE
    with torch.no_grad():
        net[0].weight *= 1.005
        x = torch.randn(EXAMPLE)
        assert (load_runtime(path)(x) - net(x).numpy()).max() < TOLERANCE * 100  # of the largest output
    assert parity(net, path, [Inputs((torch.randn(EXAMPLE),))]) > TOLERANCE
