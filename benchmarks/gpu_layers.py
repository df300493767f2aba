"""The layers that gpu_checks.py compares with the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from torch import nn

import octavize
from octavize.plans.geometry import DOWNSAMPLE, EXCHANGE

CHANNELS = 16
SIZES = {"even": (8, 6, 4), "odd": (9, 7, 5)}


@dataclass(frozen=True)
class Case:
    """A layer and its input: (N, C, *size), of which a share is low; without one it is a plain tensor."""

    layer: Callable[[], nn.Module]
    size: tuple[int, ...]
    alpha: float | None = 0.5
    scattered: bool = False  # every other channel is low
    channels_last: bool = False


def cases() -> dict[str, Case]:
    """The layers by name."""
    return dict([*_plain_layers(), *_special_layers(), *_transposed_layers()])


def _plain_layers() -> Iterator[tuple[str, Case]]:
    """Every exchange, in one to three dimensions, with and without a stride, of even and odd sizes."""
    for dims, stride, size, exchange in product((1, 2, 3), (1, 2), SIZES, EXCHANGE):
        for downsample in DOWNSAMPLE[:stride]:  # without a stride they are the same
            told = f"{dims}-D, {size} size, stride {stride}, downsample {downsample}, exchange {exchange}"
            layer = layer_of(dims, stride=stride, downsample=downsample, exchange=exchange)
            case = Case(layer, SIZES[size][:dims])
            yield told, case
            if dims == 2:
                yield f"{told}, channels-last", replace(case, channels_last=True)


def _special_layers() -> Iterator[tuple[str, Case]]:
    for dims, stride in product((1, 2, 3), (1, 2)):
        odd, told = SIZES["odd"][:dims], f"{dims}-D, stride {stride}"
        for downsample in DOWNSAMPLE[:stride]:
            layer = layer_of(dims, stride=stride, downsample=downsample, groups=CHANNELS)
            yield f"{told}, depthwise, downsample {downsample}", Case(layer, odd)
        for exchange in EXCHANGE:
            layer = layer_of(dims, stride=stride, groups=4, exchange=exchange)
            yield f"{told}, grouped, exchange {exchange}", Case(layer, odd)
        yield f"{told}, from a plain map", Case(layer_of(dims, stride=stride), odd, alpha=None)
        yield f"{told}, to a plain map", Case(layer_of(dims, stride=stride, alpha=0), odd)
        yield f"{told}, all low", Case(layer_of(dims, stride=stride, alpha=1), odd)
        yield f"{told}, 1×1", Case(layer_of(dims, 1, stride=stride, padding=0), odd)
        yield f"{told}, dilated", Case(layer_of(dims, stride=stride, padding=2, dilation=2), odd)
        yield f"{told}, circular padding", Case(layer_of(dims, stride=stride, padding_mode="circular"), odd)
        yield f"{told}, scattered channels", Case(layer_of(dims, stride=stride), odd, scattered=True)


def _transposed_layers() -> Iterator[tuple[str, Case]]:
    kernels = {"3×3, stride 1": (3, 1, 1), "2×2, stride 2": (2, 2, 0), "4×4, stride 2": (4, 2, 1)}
    for dims, kind, size, exchange in product((1, 2, 3), kernels, SIZES, EXCHANGE):
        kernel, stride, padding = kernels[kind]
        told = {"stride": stride, "padding": padding, "exchange": exchange}
        layer = layer_of(dims, kernel, name="OctConvTranspose", **told)
        yield (
            f"{dims}-D transposed, {kind}, {size} size, exchange {exchange}",
            Case(layer, SIZES[size][:dims]),
        )
        for groups, of in ((4, "grouped"), (CHANNELS, "depthwise")):
            if exchange == "both" and size == "odd":
                layer = layer_of(dims, kernel, name="OctConvTranspose", groups=groups, **told)
                yield f"{dims}-D transposed, {kind}, {of}", Case(layer, SIZES[size][:dims])


def layer_of(dims: int, kernel: int = 3, *, name: str = "OctConv", **told: Any) -> Callable[[], nn.Module]:
    return partial(getattr(octavize, f"{name}{dims}d"), CHANNELS, CHANNELS, kernel, **{"padding": 1, **told})
