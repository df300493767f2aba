"""Convolutions that pad as TensorFlow does: vanilla at α = 0, the paper's equations at α = ½."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from tests.helpers.reference import octave_convolve
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from octavize import InputError, OctTensor, export, freeze, octavize, plan
from octavize.nn.conv import OctConv
from octavize.nn.own_padding import own_padding, pads_by_itself

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
    net: Any = octavize(body.double(), {"2": alpha}, downsample=downsample, example=(1, 3, 16, 16))
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


# ---- classes of other packages --------------------------------------------------------------------------


class Dynamic(nn.Conv2d):
    """As in efficientnet-pytorch, without an image size."""

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for n, k, s, d in zip(input.size()[:1:-1], self.kernel_size, self.stride, self.dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            pads += [total // 2, total - total // 2]
        input = F.pad(input, pads) if any(pads) else input
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Static(nn.Conv2d):
    """The same with one: zeros for maps of `size` pixels."""

    def __init__(self, *args: Any, size: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (k, _), (s, _) = self.kernel_size, self.stride
        total = max((-(-size // s) - 1) * s + k - size, 0)
        left, right = total // 2, total - total // 2
        self.static_padding = nn.ZeroPad2d((left, right, left, right))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.static_padding(input))


class Standardized(Dynamic):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, [1] * 4), self.weight - self.weight.mean(), self.bias)


class Scaled(Dynamic):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Doubled(Dynamic):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * 2)


class Reflected(Dynamic):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, [1] * 4, mode="reflect")[:, :, 1:-1, 1:-1])


class Causal(nn.Conv1d):
    """A low sample would tell of the future."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (2, 0)))


class Noisy(Dynamic):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + torch.randn_like(input) if self.training else input)


class Masked(Dynamic):
    mask: Any = None

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input if self.mask is None else input * self.mask)


class Flagged(Dynamic):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.twice = False

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * 2 if self.twice else input)


class Keeping(Dynamic):
    def forward(self, input: Tensor) -> Tensor:
        self.seen = input
        return super().forward(input)


class Plain(nn.Conv2d):
    """Its forward adds nothing."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class Quiet(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        super().forward(F.pad(input, [1] * 4))
        return input


MAY = [Noisy, Masked, Flagged, Keeping]
"""What does more only later."""


@pytest.mark.parametrize("kind", [Standardized, Scaled, Doubled, Reflected, Quiet, *MAY])
def test_a_layer_that_does_more_stays_vanilla(kind: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), kind(8, 8, 3), nn.Conv2d(8, 8, 1))
    found = plan(net, {"*": 0.5}, example=(1, 3, 16, 16))
    assert found.decisions[2].alpha is None
    assert found.decisions[2].reason == f"{kind.__name__} is a layer of its own kind, without an @oct_handler"


def test_a_forward_that_adds_nothing_is_torch_s() -> None:
    net = of_other_packages(Plain(8, 8, 3, stride=2, padding=1), downsample="stride")
    torchs = of_other_packages(nn.Conv2d(8, 8, 3, stride=2, padding=1), downsample="stride")
    torchs.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(net(x), torchs(x))


def test_what_is_no_zeros_on_both_sides_is_not_known() -> None:
    assert not pads_by_itself(Causal(4, 4, 3))
    assert not pads_by_itself(nn.Conv2d(4, 4, 3, padding=1))
    assert own_padding(Dynamic(4, 4, 3, stride=2)) is None
    assert own_padding(Static(4, 4, 3, stride=2, size=10)) == (0, 1, 0, 1)
    assert own_padding(Static(4, 4, 3, stride=2, size=11)) == (1, 1, 1, 1)
    assert own_padding(Static(4, 4, 3, size=10)) is None  # right for all sizes


def of_other_packages(last: nn.Module, alpha: float = 0.5, **settings: Any) -> Any:
    body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), last, nn.AdaptiveAvgPool2d(1))
    torch.manual_seed(0)
    for p in body.parameters():
        nn.init.normal_(p)
    return octavize(body.double().eval(), {"*": alpha}, example=(1, 3, 8, 12), **settings)


LAST: list[tuple[type[nn.Module], dict[str, Any]]] = [
    *((Dynamic, geometry) for geometry in GEOMETRIES),
    (Static, {"kernel_size": 3, "stride": 2, "size": 12}),
    (Static, {"kernel_size": 5, "stride": 2, "size": 12, "groups": 8}),
    (Static, {"kernel_size": 3, "size": 12}),
]


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize(("kind", "geometry"), LAST)
def test_classes_of_other_packages_are_octave(kind: Any, geometry: Any, downsample: str) -> None:
    """They compute what timm's class computes, and what they did themselves at α = 0 and on the high path."""
    torch.manual_seed(0)
    last = kind(8, 8, **geometry)
    net = of_other_packages(last, downsample=downsample)
    assert isinstance(net[2], OctConv)
    assert isinstance(net[2], kind)
    timms = Conv2dSame(8, 8, **{key: value for key, value in geometry.items() if key != "size"})
    other = of_other_packages(timms, downsample=downsample)
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(net(x), other(x))
    y = torch.randn(2, 8, 8, 12, dtype=torch.float64)
    if downsample == "stride" and geometry.get("groups", 1) == 1:
        high = net[2](OctTensor.all_high(y)).high
        torch.testing.assert_close(high, kind.forward(net[2], y)[:, : high.shape[1]])
    vanilla = octavize(net, 0.0, example=(1, 3, 8, 12))
    torch.testing.assert_close(vanilla[2](y), kind.forward(vanilla[2], y))
    frozen = freeze(net, (1, 3, 8, 12))
    torch.testing.assert_close(frozen(x), net(x))


def test_a_padding_for_even_sizes_refuses_odd_ones() -> None:
    net = of_other_packages(Static(8, 8, 3, stride=2, size=12))
    with pytest.raises(InputError, match=r"OctStatic pads by \(0, 1, 0, 1\), for even sizes only"):
        net(torch.randn(1, 3, 9, 12, dtype=torch.float64))
    odd = of_other_packages(Static(8, 8, 3, stride=2, size=11))  # this padding fits all sizes
    assert odd(torch.randn(1, 3, 12, 12, dtype=torch.float64)).shape == (1, 8, 1, 1)


def test_copies_files_and_the_way_back(tmp_path: Any) -> None:
    net, x = of_other_packages(Dynamic(8, 8, 3, stride=2)), torch.randn(1, 3, 8, 12, dtype=torch.float64)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for same in (copy.deepcopy(net), torch.load(file, weights_only=False)):
        assert type(same[2]) is type(net[2])
        assert torch.equal(same(x), net(x))
    back = octavize(net, plan(net, {"*": 0.5}, example=(1, 3, 8, 12)).with_alphas({"2": None}))
    assert type(back[2]) is Dynamic
    assert vars(back[2]).keys() == vars(Dynamic(8, 8, 3, stride=2)).keys()
    export(net.float(), tmp_path / "same.onnx", (1, 3, 8, 12))
