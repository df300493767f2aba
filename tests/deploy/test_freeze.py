"""freeze(): the same function as the network, with batch norms folded and weights cut once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.helpers.deploy import octave, shaken, small
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import octavize
from octavize import InputError, OctConv2d, OctTensor, freeze
from octavize.deploy.frozen import JOINS, FrozenOctConv
from octavize.deploy.packed import PackedConv2d

ALPHAS = (0, 0.125, 0.25, 0.5, 0.75, 1)
EXAMPLE = (1, 3, 32, 32)


def check_same(model: nn.Module, frozen: nn.Module, *shapes: tuple[int, ...]) -> None:
    """In float64, where only a wrong formula is further off than 1e-12."""
    for shape in shapes:
        x = torch.randn(shape, dtype=torch.float64)
        with torch.no_grad():
            expected, got = model(x), frozen(x)
        assert (expected - got).abs().max() <= 1e-12 * expected.abs().max()


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_same_function_at_any_size(alpha: float, join: str, downsample: str) -> None:
    model = octave(alpha, downsample=downsample).double()
    frozen = octavize.freeze(model, EXAMPLE, join=join)
    check_same(model, frozen, (1, 3, 16, 16), (3, 3, 17, 16), (2, 3, 9, 23), (2, 3, 1, 2))
    assert count(frozen, _BatchNorm) == 0
    assert count(frozen, OctConv2d) == 0


BUILDERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # and the batch norms that follow no convolution
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=5), 0),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5), 6),
    "mobilenetv1": (lambda: octavize.create_model("oct_mobilenet_v1_small", 0, width=0.25, num_classes=5), 0),
    "resnet20": (lambda: octavize.create_model("oct_cifar_resnet20", 0, num_classes=5), 0),
}
LARGE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), 0),
    "vgg11_bn": (lambda: torchvision.models.vgg11_bn(num_classes=5), 0),
    "resnext50": (lambda: timm.create_model("resnext50_32x4d", num_classes=5), 0),
    "efficientnet": (lambda: timm.create_model("efficientnet_b0", num_classes=5), 0),
    "seresnet": (lambda: timm.create_model("legacy_seresnet18", num_classes=5), 0),
}


@pytest.mark.parametrize("name", [*BUILDERS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_networks(name: str) -> None:
    build, norms_left = (BUILDERS | LARGE)[name]
    model = shaken(octavize.octavize(build(), 0.5, example=EXAMPLE)).double()
    frozen = octavize.freeze(model, EXAMPLE)
    assert count(frozen, FrozenOctConv) > 0
    assert count(frozen, _BatchNorm) == norms_left
    check_same(model, frozen, (2, 3, 33, 32))


@pytest.mark.parametrize("padding_mode", ["reflect", "circular", "replicate"])
@pytest.mark.parametrize("size", [(8, 9), (1, 2)])
def test_padding_modes(padding_mode: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layers = [
        OctConv2d(3, 8, 5, padding=2, padding_mode=padding_mode),
        OctConv2d(8, 4, 3, padding=1, alpha=0),
    ]
    model = nn.Sequential(*layers).double()
    check_same(model, octavize.freeze(model, EXAMPLE, join="low_out"), (2, 3, *size))


def test_video_and_signals() -> None:
    torch.manual_seed(0)
    video = nn.Sequential(
        octavize.OctConv3d(3, 8, 3, padding=(0, 1, 1), stride=(2, 2, 2)), octavize.OctConv3d(8, 4, 1, alpha=0)
    ).double()
    check_same(video, octavize.freeze(video, (1, 3, 8, 8, 8)), (2, 3, 9, 7, 8))
    signal = nn.Sequential(
        octavize.OctConv1d(3, 8, 3, padding=1), octavize.OctConv1d(8, 4, 3, padding=1, alpha=0)
    )
    check_same(signal.double(), octavize.freeze(signal, (1, 3, 8)), (2, 3, 9))


class Watched(nn.Module):
    """conv → batch norm, and a second reader of the convolution's output, if any."""

    def __init__(self, reader: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.again = nn.BatchNorm2d(4)
        self.reader = reader

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        if self.reader == "changed":
            y.add_(1)
        z = self.bn(y)
        if self.reader == "sum":
            z = z + y
        if self.reader == "norm":
            z = z + self.again(y)
        if self.reader == "conv twice":
            z = z + self.conv(x)
        if self.reader == "norm twice":
            z = self.bn(z)
        return (z, y) if self.reader == "returned" else (z, z)


@pytest.mark.parametrize("alpha", [0, 0.5])
@pytest.mark.parametrize("reader", ["none", "sum", "norm", "changed", "conv twice", "norm twice", "returned"])
def test_folds_only_what_nothing_else_reads(reader: str, alpha: float) -> None:
    torch.manual_seed(0)
    model = shaken(Watched(reader))
    if alpha:
        conv: Any = model.conv
        conv.__class__ = OctConv2d
        conv.become_octave(alpha)
    model = model.double()
    frozen = octavize.freeze(model, EXAMPLE)
    assert isinstance(frozen.net.bn, nn.Identity) == (reader == "none")
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    with torch.no_grad():
        for expected, got in zip(model(x), frozen(x), strict=True):
            dense = [y.to_dense() if isinstance(y, OctTensor) else y for y in (expected, got)]
            torch.testing.assert_close(*dense, rtol=1e-12, atol=1e-12)


class Doubling(nn.BatchNorm2d):
    def forward(self, input: Any) -> Any:
        return 2 * super().forward(input)


def test_a_batch_norm_that_does_more_stays() -> None:
    model = shaken(nn.Sequential(nn.Conv2d(3, 4, 1), Doubling(4))).double()
    frozen: Any = octavize.freeze(model, EXAMPLE)
    assert isinstance(frozen.net[1], Doubling)
    check_same(model, frozen, (2, 3, 4, 4))


def test_norm_with_activation_keeps_its_activation() -> None:
    from timm.layers.norm_act import BatchNormAct2d

    model = nn.Sequential(OctConv2d(3, 8, 1), BatchNormAct2d(8), OctConv2d(8, 4, 1, alpha=0))
    model = shaken(model).double()
    frozen = octavize.freeze(model, EXAMPLE)
    assert count(frozen, _BatchNorm) == 0
    assert count(frozen, nn.ReLU) == 1
    check_same(model, frozen, (2, 3, 5, 4))


def test_weights_of_weight_norm() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(OctConv2d(3, 8, 3, padding=1)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3, padding=1)),
        nn.BatchNorm2d(4),
    )
    model = shaken(model).double()
    check_same(model, octavize.freeze(model, EXAMPLE), (2, 3, 6, 6))


def test_the_original_is_left_alone() -> None:
    model = octave().train()
    hooked = []
    model.register_forward_hook(lambda *args: hooked.append(1))
    before = copy.deepcopy(model.state_dict())
    frozen = octavize.freeze(model, EXAMPLE)
    assert model.training
    assert not frozen.training
    assert hooked == []
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in frozen.parameters()}
    assert not shared


def test_frozen_networks_are_saved_and_loaded() -> None:
    frozen = octavize.freeze(octave(), EXAMPLE)
    again = octavize.freeze(octave(0.5), EXAMPLE)
    for p in again.parameters():
        p.zero_()
    again.load_state_dict(frozen.state_dict())
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(again(x), frozen(x))
    assert torch.equal(copy.deepcopy(frozen)(x), frozen(x))


def test_paths_without_channels_do_not_exist() -> None:
    model = nn.Sequential(
        OctConv2d(3, 8, 1, alpha=0.5), OctConv2d(8, 8, 1, alpha=1), OctConv2d(8, 4, 1, alpha=0)
    )
    frozen: Any = octavize.freeze(model, EXAMPLE, join="none")
    paths = ("hh", "hl", "lh", "ll")
    made = [{path for path in paths if getattr(layer, path) is not None} for layer in frozen.net]
    assert made == [{"hh", "hl"}, {"hl", "ll"}, {"lh"}]
    joined: Any = octavize.freeze(model, EXAMPLE, join={"*": "low_out", "2": "low_in"})
    assert [layer.join for layer in joined.net] == ["none", "low_out", "none"]


@pytest.mark.parametrize("exchange", ["none", "low_to_high", "high_to_low"])
def test_paths_that_are_left_out(exchange: str) -> None:
    model = octave().double()
    for layer in model.modules():
        if isinstance(layer, OctConv2d):
            layer.become_octave(exchange=exchange)
    check_same(model, octavize.freeze(model, EXAMPLE), (2, 3, 16, 17))


def test_another_split_is_refused() -> None:
    frozen: Any = octavize.freeze(nn.Sequential(OctConv2d(8, 8, 1)), (1, 8, 8, 8))
    with pytest.raises(InputError, match=r"layer 0 was frozen for 8 high and 0 low .* got 6 high and 2 low"):
        frozen(OctTensor.from_dense(torch.randn(1, 8, 4, 4), 0.25))


@pytest.mark.parametrize(
    ("example", "join", "words"),
    [
        ((1, 5, 8, 8), "none", "does not run on an input of shape"),
        (EXAMPLE, "high", "join='high'"),
        (EXAMPLE, {"*": 3}, "join=3: give one of none, low_in, low_out"),
        (EXAMPLE, {"layer9.*": "low_in"}, r"join: the pattern 'layer9\.\*' matches no convolution"),
    ],
)
def test_bad_input(example: Any, join: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        octavize.freeze(small(), example, join=join)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2}, {"groups": 8}, {"dilation": 2, "bias": False}, {"padding": "same"}, {"padding": 0}],
    ids=str,
)
def test_packed_layers_are_torchs(settings: dict[str, Any], layout: torch.memory_format) -> None:
    layer = PackedConv2d(8, 8, 3, **{"padding": 1, **settings})
    plain = nn.Conv2d(8, 8, 3, **{"padding": 1, **settings})
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for shape in ((1, 8, 9, 7), (3, 8, 16, 16)):
            x = torch.randn(shape).contiguous(memory_format=layout)
            torch.testing.assert_close(layer(x), plain(x))
        for conv in (layer, plain):
            conv.weight.mul_(-2)
        torch.testing.assert_close(layer(x), plain(x))
        again = pickle.loads(pickle.dumps(layer))
        assert again._packed is None
        torch.testing.assert_close(again(x), plain(x))
        torch.testing.assert_close(layer.double()(x.double()), plain.double()(x.double()))
    layer, x = layer.float(), x.float().requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None


def test_frozen_networks_lay_their_weights_out_once() -> None:
    frozen = freeze(octave(), (1, 3, 16, 16)).net
    x = torch.randn(2, 3, 16, 16)

    def copies_for(batch: int) -> list[torch.Tensor]:
        with torch.inference_mode():
            frozen(x[:batch])
        return [m._packed[-1] for m in frozen.modules() if isinstance(m, PackedConv2d) and m._packed]

    copies = copies_for(2)
    assert len(copies) > 3
    assert all(a is b for a, b in zip(copies, copies_for(2), strict=True))
    assert not any(a is b for a, b in zip(copies, copies_for(1), strict=True))
