"""Networks of three bands, made of octave networks of two: for `bands_training.py`.

They need the two changes of `bands_rules.changed` to run: a residual sum in place, for one, has no other way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from torch import nn

from bands_rules import changed, draft
from octavize.bench.profile import count_macs
from octavize.bench.timing import same_random_numbers
from octavize.nn.conv import OctConv2d

Shares = tuple[float, float]
STEP = 0.005
"""Shares of low channels are tried in steps of this."""


def three_bands_of(net: nn.Module, alpha: Shares) -> nn.Module:
    """The network itself: its octave layers get three bands, and those that merge read three.

    Their weights stay the same. There are no grouped layers in it.
    """
    for name, layer in list(net.named_modules()):
        if isinstance(layer, OctConv2d):
            parent, _, own = name.rpartition(".")
            with same_random_numbers():
                three = _three(layer, alpha if layer.alpha else (0.0, 0.0))
            setattr(net.get_submodule(parent), own, three)
    return net


def _three(layer: OctConv2d, alpha: Shares) -> nn.Module:
    assert (layer.groups, layer.exchange, layer.downsample) == (1, "both", "pool")
    assert not isinstance(layer.padding, str)
    sides = [sides[0] for sides in (layer.kernel_size, layer.stride, layer.padding)]
    told = {"bias": layer.bias is not None, "alpha": alpha}
    three = draft.ThreeBandConv2d(layer.in_channels, layer.out_channels, *sides, **told)
    three.to(layer.weight)
    three.load_state_dict(layer.state_dict())
    return three


def shares_in_thirds(low: float) -> Shares:
    """Shares of which a third of the low channels have a quarter of the resolution."""
    return low - low / 3, low / 3


def matching(build: Callable[[float], nn.Module], alpha: float, shape: tuple[int, ...]) -> Shares:
    """Three bands of as much arithmetic as two bands of this α, for `build(alpha)` of two bands."""
    wanted = count_macs(build(alpha), shape)
    shares = [shares_in_thirds(alpha - STEP * step) for step in range(round(alpha / STEP))]

    def macs(tried: Shares) -> int:
        return macs_of_three(build(alpha), tried, shape)

    found = bisect_left(shares, wanted, hi=len(shares) - 1, key=macs)
    return min(shares[max(found - 1, 0) : found + 1], key=lambda tried: abs(macs(tried) - wanted))


def macs_of_three(net: nn.Module, alpha: Shares, shape: tuple[int, ...]) -> int:
    """Multiply–accumulates of the network with three bands. The network is changed."""
    with changed():
        return count_macs(three_bands_of(net, alpha), shape)
