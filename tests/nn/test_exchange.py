"""Octave convolutions without a path between the frequencies: the whole layer with that part of W at zero."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octavize import InputError, OctConv2d, OctConvTranspose2d, OctTensor
from octavize.bench.profile import count_macs
from octavize.convert.trace import trace
from octavize.plans.geometry import EXCHANGE
from octavize.zoo.models import create_model


def octave_map(high: int = 3, low: int = 5, side: int = 7) -> OctTensor:
    half = (side + 1) // 2
    return OctTensor(torch.randn(2, high, side, side).double(), torch.randn(2, low, half, half).double())


def without(weight: Tensor, exchange: str, *, high_in: int, high_out: int) -> Tensor:
    """The weight (out, in, k, k) with the paths that `exchange` leaves out at zero."""
    cleared = weight.clone()
    if exchange in ("none", "high_to_low"):
        cleared[:high_out, high_in:] = 0
    if exchange in ("none", "low_to_high"):
        cleared[high_out:, :high_in] = 0
    return cleared


@pytest.mark.parametrize("exchange", EXCHANGE)
@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_path_left_out_is_a_weight_of_zero(exchange: str, downsample: str, stride: int) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"stride": stride, "padding": 1, "alpha": 0.5, "downsample": downsample}
    layer = OctConv2d(8, 6, 3, exchange=exchange, **settings).double()
    whole = OctConv2d(8, 6, 3, **settings).double()
    cleared = {**layer.state_dict(), "weight": without(layer.weight, exchange, high_in=3, high_out=3)}
    whole.load_state_dict(cleared)  # the state dict is the same
    x = octave_map()
    torch.testing.assert_close(layer(x).high, whole(x).high)
    torch.testing.assert_close(layer(x).low, whole(x).low)


@pytest.mark.parametrize("exchange", EXCHANGE)
def test_transposed(exchange: str) -> None:
    torch.manual_seed(0)
    layer = OctConvTranspose2d(8, 6, 4, stride=2, padding=1, alpha=0.5, exchange=exchange).double()
    whole = copy.deepcopy(layer)
    whole.become_octave(exchange="both")
    weight = layer.weight.transpose(0, 1)
    whole.weight.data = without(weight, exchange, high_in=3, high_out=3).transpose(0, 1).contiguous()
    x = octave_map()
    torch.testing.assert_close(layer(x).high, whole(x).high)
    torch.testing.assert_close(layer(x).low, whole(x).low)


def test_splitting_and_merging_keep_their_paths() -> None:
    torch.manual_seed(0)
    split = OctConv2d(8, 6, 3, padding=1, alpha=0.5, exchange="none")
    merge = OctConv2d(8, 6, 3, padding=1, alpha=0, exchange="none")
    plain, halves = torch.randn(1, 8, 8, 8), OctTensor.from_dense(torch.randn(1, 8, 8, 8), 0.5)
    for layer, x in ((split, plain), (merge, halves)):
        both = copy.deepcopy(layer)
        both.become_octave(exchange="both")
        ours, theirs = layer(x), both(x)
        if isinstance(ours, OctTensor):
            assert torch.equal(ours.low, theirs.low)
            assert ours.low.abs().max() > 0
            ours, theirs = ours.high, theirs.high
        assert torch.equal(ours, theirs)


def test_every_weight_that_is_used_learns_and_no_other() -> None:
    layer = OctConv2d(4, 4, 1, alpha=0.5, exchange="high_to_low")
    y = layer(OctTensor.from_dense(torch.randn(1, 4, 4, 4), 0.5))
    (y.high.sum() + y.low.sum()).backward()
    assert layer.weight.grad is not None
    used = layer.weight.grad[..., 0, 0] != 0
    assert used.tolist() == [[True, True, False, False]] * 2 + [[True] * 4] * 2


def test_multiply_accumulates() -> None:
    """Of 8 × 8 pixels, 4 → 4 channels at α = ½: 64 of W_hh; 16 each of the others, for 2 × 2 weights."""
    counted = {}
    for exchange in EXCHANGE:
        net = nn.Sequential(OctConv2d(4, 4, 1), OctConv2d(4, 4, 1, exchange=exchange), OctConv2d(4, 4, 1))
        counted[exchange] = trace(net, (1, 4, 8, 8)).layers[1].macs
    assert counted == {
        "both": 4 * (64 + 3 * 16), "low_to_high": 4 * (64 + 32), "high_to_low": 4 * (64 + 32),
        "none": 4 * (64 + 16),
    }  # fmt: skip


def test_named_networks_take_both_switches() -> None:
    shape = (1, 3, 32, 32)
    macs = {e: count_macs(create_model("oct_cifar_resnet20", 0.5, exchange=e), shape) for e in EXCHANGE}
    one_way = macs["low_to_high"], macs["high_to_low"]
    assert macs["none"] < min(one_way) <= max(one_way) < macs["both"]
    strided = create_model("oct_cifar_resnet20", 0.5, downsample="stride", exchange="none")
    layers = [m for m in strided.modules() if isinstance(m, OctConv2d)]
    assert {(layer.downsample, layer.exchange) for layer in layers} == {("stride", "none")}
    vanilla = create_model("oct_cifar_resnet20", 0, exchange="none")
    assert list(strided.state_dict()) == list(vanilla.state_dict())


def test_mistakes() -> None:
    message = "exchange='h2l': give .*both, low_to_high"
    with pytest.raises(InputError, match=message):
        OctConv2d(4, 4, 1, exchange="h2l")
    with pytest.raises(InputError, match=message):
        create_model("oct_cifar_resnet20", exchange="h2l")
    assert "exchange='none'" in repr(OctConv2d(4, 4, 1, exchange="none"))
