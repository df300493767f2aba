"""Pooling, resizing, padding and reduction: by the definitions in the rules' docstrings."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.maps import MAPS, dense_of, equal, make, map_named, stored_channels
from torch import Tensor, nn

from octavize import DenseFallbackWarning, OctTensor
from octavize.nn import dispatch as dispatch_module

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")

Function = Callable[..., Any]


# ---- change of spatial size -------------------------------------------------------------------------------

WINDOWS = [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 1, 2), (1, 1, 0), (1, 2, 0)]
POOLS = {
    "max": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "avg": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
}


def pool_each_half(f: Function, x: OctTensor, window: tuple[int, int, int]) -> OctTensor | None:
    """The definition: the window on each half, the low one with its partial last cells if they are needed."""
    any_map = torch.zeros(1, 1, *x.shape[2:])
    size = f(any_map, *window).shape[2:]
    wanted = [(n + 1) // 2 for n in size]
    high = f(x.high, *window) if x.high.shape[1] else x.high.new_zeros(2, 0, *size)
    if x.low.shape[1] == 0:
        return OctTensor(high, x.low.new_zeros(2, 0, *wanted), channel_layout=x.channel_layout)
    k, _, padding = window
    if all(n == k and padding == 0 for n in x.shape[2:]):
        low = f(x.low, tuple(x.low.shape[2:]))
        return OctTensor(high, low, channel_layout=x.channel_layout)
    low = x.low
    try:
        for axis, n in enumerate(wanted, start=2):  # continued by its last pixel until there are cells enough
            while f(low, *window, ceil_mode=True).shape[axis] < n:
                low = torch.cat([low, low.narrow(axis, -1, 1)], axis)
    except RuntimeError:  # the window does not fit
        return None
    low = f(low, *window, ceil_mode=True)
    for axis, n in enumerate(wanted):
        low = low.narrow(axis + 2, 0, n)
    return OctTensor(high, low, channel_layout=x.channel_layout)


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("layout", [(2, 1), (1, 1, 1, 2), (3, 0), (0, 3)])
@pytest.mark.parametrize("window", WINDOWS)
def test_pooling_by_window(kind: str, layout: tuple[int, ...], window: tuple[int, int, int]) -> None:
    dispatch_module._announced.update({f"{kind}_pool1d", f"{kind}_pool2d"})
    kept = 0
    sizes = [*product((1, 2, 3, 4, 5, 8), repeat=2), (1,), (5,), (6,)]
    for size in sizes:
        x = make(layout, *size)
        f = POOLS[kind][len(size) - 1]
        try:
            dense = f(dense_of(x), *window)
        except RuntimeError:  # the window does not fit
            continue
        y, expected = f(x, *window), pool_each_half(f, x, window)
        if expected is None:
            equal(y, dense, f"{size}")
            continue
        assert isinstance(y, OctTensor), size
        assert y.shape == dense.shape
        equal(y.high, expected.high, f"{size}")
        equal(y.low, expected.low, f"{size}")
        kept += 1
    assert kept > 0


@pytest.mark.parametrize("kind", POOLS)
def test_pooling_of_video(kind: str) -> None:
    x = make((2, 1), 4, 8, 8)
    f = POOLS[kind][2]
    y = f(x, (1, 2, 2))
    equal(y.high, f(x.high, (1, 2, 2)))
    equal(y.low, f(x.low, (1, 2, 2)))
    y = f(x, 3, 2, 1)
    assert y.high.shape == (2, 2, 2, 4, 4)
    assert y.low.shape == (2, 1, 2, 2, 2)


@pytest.mark.parametrize("kind", POOLS)
def test_pooling_commutes_on_sizes_divisible_by_four(kind: str) -> None:
    """Where a cell of the window is a cell of the octave, the average is the dense one."""
    x = make((2, 2), 8, 8)
    y, d = POOLS[kind][1](x, 2), POOLS[kind][1](dense_of(x), 2)
    equal(y.high, d[:, :2])
    if kind == "avg":
        equal(torch.nn.functional.avg_pool2d(d[:, 2:], 2), y.low)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 1, 1, count_include_pad=True),
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 1, 1, divisor_override=2),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1),
    ],
    ids=repr,
)
def test_pooling_layers_keep_all_their_settings(layer: nn.Module) -> None:
    x = make((2, 2), 8, 12)
    y = layer(x)
    assert isinstance(y, OctTensor)
    equal(y.high, layer(x.high))
    equal(y.low, layer(x.low))


def test_pooling_by_position_and_by_the_module_torch() -> None:
    x = make((2, 2), 9)
    y = torch.avg_pool1d(x, 3, 1, 1, False, False)
    equal(y.high, torch.avg_pool1d(x.high, 3, 1, 1, False, False))
    x = make((2, 2), 8, 8)
    y = F.avg_pool2d(x, 3, 1, 1, False, False, 5)
    equal(y.high, F.avg_pool2d(x.high, 3, 1, 1, False, False, 5))
    equal(torch.max_pool2d(x, 3, 2, 1).high, torch.max_pool2d(x.high, 3, 2, 1))
    with pytest.warns(DenseFallbackWarning, match="max_pool2d"):
        values, indices = F.max_pool2d(x, 2, return_indices=True)
    equal(values, F.max_pool2d(dense_of(x), 2))
    assert indices.dtype == torch.int64


def test_pooling_that_no_half_can_follow_falls_back() -> None:
    x = make((2, 2), 4, 4)
    with pytest.warns(DenseFallbackWarning, match="max_pool2d"):
        y = F.max_pool2d(x, 3, 1)
    equal(y, F.max_pool2d(dense_of(x), 3, 1))


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("side", [1, 4, 7])
def test_window_over_the_whole_map_is_global(kind: str, side: int) -> None:
    x = make((1, 2, 3, 2), side, side)
    y = POOLS[kind][1](x, side)
    equal(dense_of(y), POOLS[kind][1](dense_of(x), side) if kind == "max" else x.mean((2, 3), True))


@pytest.mark.parametrize("layout", [(8, 0), (0, 8), (2, 2, 1, 3)])
def test_a_sum_over_the_whole_map_counts_every_pixel(layout: tuple[int, ...]) -> None:
    x = make(layout, 4, 6)
    pools: list[Any] = [lambda x: F.avg_pool2d(x, (4, 6), divisor_override=5)]
    pools += [lambda x, p=p: F.lp_pool2d(x, p, (4, 6)) for p in (1, 2, 3.0, 4)]
    for pool in pools:
        equal(dense_of(pool(x)), pool(dense_of(x)))


@pytest.mark.parametrize("norm_type", [1, 2, 3, float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [(4, 8), (5, 7)])
def test_power_pooling_is_torchs_on_each_half(norm_type: float, size: tuple[int, int]) -> None:
    x = make((2, 2, 1, 3), *size)
    y = F.lp_pool2d(x, norm_type, 2, 2)
    equal(y.high, F.lp_pool2d(x.high, norm_type, 2, 2))
    equal(y.low[..., :1, :2], F.lp_pool2d(x.low, norm_type, 2)[..., :1, :2])
    assert torch.isfinite(y.low).all() or norm_type == 3  # the root of a negative sum
    equal(nn.LPPool2d(norm_type, 2)(x.abs()).high, F.lp_pool2d(x.high.abs(), norm_type, 2))
    with pytest.raises(ValueError, match="non-zero"):
        F.lp_pool2d(x, 0, 2)


@pytest.mark.parametrize("where", MAPS)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_nearest_resize_by_whole_factors_is_exact(where: str, factor: int) -> None:
    x = map_named(where)
    factors = [factor] * (x.dim() - 2)
    for kwargs in (
        {"scale_factor": factor},
        {"size": [n * f for n, f in zip(x.shape[2:], factors, strict=True)]},
    ):
        y = F.interpolate(x, **kwargs)
        assert isinstance(y, OctTensor)
        equal(dense_of(y), F.interpolate(dense_of(x), **kwargs), f"{kwargs}")


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
def test_nearest_resize_of_a_line(factor: int) -> None:
    """However the factor is given: `nn.Upsample` makes a float of it."""
    for size in range(1, 33):
        x = make((1, 1), size)
        expected = F.interpolate(dense_of(x), scale_factor=factor)
        equal(dense_of(F.interpolate(x, scale_factor=factor)), expected, f"{size}")
        equal(dense_of(F.interpolate(x, size=factor * size)), expected, f"{size}")
        equal(dense_of(nn.Upsample(scale_factor=factor)(x)), expected, f"{size}")
        equal(dense_of(nn.Upsample(scale_factor=(factor,))(x)), expected, f"{size}")


def test_nearest_resize_to_a_size_reads_the_pixels_that_the_dense_map_reads() -> None:
    """At even pixels, which a low pixel stands for: also where the factor is no whole number."""
    for old, new in product(range(1, 14), range(1, 30)):
        x = make((1, 1), old)
        dense, y = F.interpolate(dense_of(x), size=new), F.interpolate(x, size=new)
        equal(y.high, dense[:, :1])
        equal(y.low, dense[:, 1:, ::2], f"{old} to {new}")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"size": (7, 9), "mode": "bilinear"},
        {"size": 9, "mode": "bilinear", "align_corners": True},
        {"size": (3, 2), "mode": "bilinear", "antialias": True},
        {"size": (1, 1)},
        {"scale_factor": (1.5, 2.5)},
        {"scale_factor": 1.3, "mode": "bilinear"},
        {"scale_factor": 1.3, "mode": "bilinear", "recompute_scale_factor": True},
        {"scale_factor": 0.5, "mode": "area"},
        {"size": (4, 7), "mode": "nearest-exact"},
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [(2, 1), (0, 2), (2, 0), (1, 1, 1, 1)])
def test_resize_of_each_half_at_its_own_resolution(kwargs: dict[str, Any], layout: tuple[int, ...]) -> None:
    x = make(layout, 6, 5)
    y = F.interpolate(x, **kwargs)
    dense = F.interpolate(dense_of(x), **kwargs)
    assert isinstance(y, OctTensor)
    assert y.shape == dense.shape
    if y.high.shape[1]:
        equal(y.high, F.interpolate(x.high, **kwargs))
    if y.low.shape[1]:
        size = [(n + 1) // 2 for n in dense.shape[2:]]
        rest = {
            k: v for k, v in kwargs.items() if k not in ("size", "scale_factor", "recompute_scale_factor")
        }
        equal(y.low, F.interpolate(x.low, size=size, **rest))


@pytest.mark.parametrize("factor", [2, 4])
def test_halves_stay_in_place_when_an_odd_map_grows(factor: int) -> None:
    """A ramp along both halves; a low pixel has the average of two, the last one as if the ramp went on."""
    ramp = torch.arange(12.0).expand(1, 1, 12, 12)
    x = OctTensor(ramp[..., :11, :11], F.avg_pool2d(ramp, 2))
    y = F.interpolate(x, scale_factor=factor, mode="bilinear")
    inside = slice(factor, -factor)  # where nothing beyond the map plays a part
    equal(y.low[..., inside], F.avg_pool2d(y.high, 2)[..., inside], "low")


def test_resize_of_video_in_space() -> None:
    x = make((2, 1), 3, 4, 4)
    equal(
        dense_of(F.interpolate(x, scale_factor=(1, 2, 2))), F.interpolate(dense_of(x), scale_factor=(1, 2, 2))
    )
    equal(dense_of(nn.Upsample(scale_factor=2)(x)), nn.Upsample(scale_factor=2)(dense_of(x)))


@pytest.mark.parametrize("layout", [(2, 1), (0, 2), (2, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("pads", [(2, 2, 2, 2), (0, 2), (4, 0, 2, 6), (0, 0, 0, 0)])
def test_even_padding_of_even_sizes_is_exact(layout: tuple[int, ...], pads: tuple[int, ...]) -> None:
    x = make(layout, 4, 6)
    for value in (0.0, -2.5):
        equal(dense_of(F.pad(x, pads, value=value)), F.pad(dense_of(x), pads, value=value))


@pytest.mark.parametrize("mode", ["constant", "replicate", "reflect", "circular"])
@pytest.mark.parametrize("layout", [(2, 1), (0, 2), (2, 0)])
def test_padding_of_each_half(mode: str, layout: tuple[int, ...]) -> None:
    sizes = [(4, 4), (5, 7), (4, 6), (8, 3)]
    all_pads = [(1, 1, 1, 1), (0, 1, 0, 1), (2, 2, 2, 2), (2, 1, 0, 2)]
    dispatch_module._announced.add("pad")
    for size, pads in product(sizes, all_pads):
        x = make(layout, *size)
        dense = F.pad(dense_of(x), pads, mode=mode)
        y = F.pad(x, pads, mode=mode)
        assert y.shape == dense.shape
        if not isinstance(y, OctTensor):
            equal(y, dense)
            continue
        if layout[0]:
            equal(y.high, F.pad(x.high, pads, mode=mode))
        if layout[1]:
            left, top = pads[0] // 2, pads[2] // 2
            inside = y.low[:, :, top : top + x.low.shape[2], left : left + x.low.shape[3]]
            equal(inside, x.low)


@pytest.mark.parametrize("pads", [(0, -1), (-2, 0), (-2, -1, 0, -3), (0, 0, -2, -1), (-4, 0, -2, -1)])
@pytest.mark.parametrize("layout", [(2, 1), (0, 2), (2, 0), (1, 1, 1, 1)])
def test_cropping_whole_cells_in_front_is_exact(layout: tuple[int, ...], pads: tuple[int, ...]) -> None:
    for size in ((7, 9), (8, 6), (5, 5)):
        x = make(layout, *size)
        equal(dense_of(F.pad(x, pads)), F.pad(dense_of(x), pads))


def test_cropping_half_a_cell_in_front() -> None:
    """As with padding by an odd number, the low half then lies a pixel off; nothing else is lost or added."""
    for n, pads, kept in [
        (5, (-1, 0), [0, 1]),
        (4, (-1, 0), [0, 1]),
        (2, (-1, 0), [0]),
        (6, (-3, 0), [1, 2]),
    ]:
        x = make((1, 1), n, n)
        y = F.pad(x, pads)
        equal(y.high, F.pad(x.high, pads))
        equal(y.low, x.low[..., kept])
    x = make((1, 1), 5, 5)
    equal(F.pad(x, (-1, 1)).low, x.low)
    with pytest.raises(RuntimeError, match="non-negative"):
        F.pad(x, (-3, -3))


@pytest.mark.parametrize(
    ("pads", "mode"),
    [((-1, 0, 0, 1), "replicate"), ((0, 0, 0, 0, 1, 1), "constant"), ((0, 0, 0, 0, 0, 0, 1, 0), "constant")],
)
def test_padding_of_channels_and_cropping_by_other_modes_fall_back(pads: tuple[int, ...], mode: str) -> None:
    x = map_named("odd")
    with pytest.warns(DenseFallbackWarning, match="pad"):
        y = F.pad(x, pads, mode=mode)
    equal(y, F.pad(dense_of(x), pads, mode=mode))


def test_padding_of_video() -> None:
    x = make((2, 1), 3, 4, 4)
    pads = (2, 2, 2, 2, 1, 2)
    equal(dense_of(F.pad(x, pads)), F.pad(dense_of(x), pads))


def test_padding_of_a_small_map_by_reflection() -> None:
    """What the dense map allows, the low half of it must not forbid."""
    x = make((2, 2), 4, 4)
    dispatch_module._announced.add("pad")
    y = F.pad(x, (3, 3, 3, 3), mode="reflect")
    assert y.shape == (2, 4, 10, 10)


# ---- reduction over space ---------------------------------------------------------------------------------

REDUCTIONS = ["mean", "amax", "amin"]


def own_mean(x: OctTensor, f: Function) -> Tensor:
    """The reduction of the pixels that a channel stores."""
    return torch.stack([f(channel.unsqueeze(1))[:, 0] for channel in stored_channels(x)], 1)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("where", MAPS)
@pytest.mark.parametrize("keepdim", [False, True])
def test_reduction_over_space(name: str, where: str, keepdim: bool) -> None:
    x = map_named(where)
    dims = tuple(range(2, x.dim()))
    for d in (dims, [n - x.dim() for n in dims], tuple(reversed(dims))):
        for y in (getattr(torch, name)(x, d, keepdim=keepdim), getattr(x, name)(d, keepdim)):
            assert type(y) is Tensor
            equal(y, own_mean(x, lambda t: getattr(t, name)(dims, keepdim)))
            if name != "mean" or all(n % 2 == 0 or n == 1 for n in x.shape[2:]):
                equal(y, getattr(dense_of(x), name)(dims, keepdim=keepdim))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_over_some_of_space_falls_back(name: str) -> None:
    x = map_named("odd")
    for dim in (1, -1, (0, 2)):
        dispatch_module._announced.clear()
        with pytest.warns(DenseFallbackWarning, match=name):
            y = getattr(x, name)(dim)
        equal(y, getattr(dense_of(x), name)(dim))


@pytest.mark.parametrize("name", [*REDUCTIONS, "sum"])
@pytest.mark.parametrize("dim", [(1, 2, 3), (0, 2, 3), (0, 1, 2, 3), None])
def test_reduction_over_more_than_space(name: str, dim: Any) -> None:
    for x in (make((3, 1), 4, 6), make((1, 1, 2, 2), 2, 8), make((0, 2), 4, 4)):
        kwargs = {} if dim is None else {"dim": dim}
        y = getattr(torch, name)(x, **kwargs)
        equal(y, getattr(torch, name)(dense_of(x), **kwargs))
        if dim is not None:
            equal(getattr(x, name)(dim, True), getattr(dense_of(x), name)(dim, True))


def test_reduction_of_a_line_and_of_space_only() -> None:
    x = map_named("line")
    equal(x.mean(-1), own_mean(x, lambda t: t.mean(-1)))
    x = map_named("video")
    equal(x.amax((3, 4)), dense_of(x).amax((3, 4)))
    assert x.mean((3, 4), dtype=torch.float32).dtype == torch.float32


ADAPTIVE = {
    "avg": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    "max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
}


@pytest.mark.parametrize("kind", ADAPTIVE)
@pytest.mark.parametrize("where", MAPS)
def test_adaptive_pooling_to_one_pixel_is_dense(kind: str, where: str) -> None:
    x = map_named(where)
    f = ADAPTIVE[kind][x.dim() - 3]
    y = f(x, 1)
    assert type(y) is Tensor
    equal(y, own_mean(x, lambda t: f(t, 1)))
    if kind == "max":
        equal(y, f(dense_of(x), 1))


@pytest.mark.parametrize("kind", ADAPTIVE)
@pytest.mark.parametrize("where", MAPS)
def test_adaptive_pooling_to_more(kind: str, where: str) -> None:
    x = map_named(where)
    spatial = x.dim() - 2
    f = ADAPTIVE[kind][spatial - 1]
    for size in ((3,) * spatial, (2,) * spatial, (*[None] * (spatial - 1), 4), (*[1] * (spatial - 1), 2)):
        full = [n if s is None else s for s, n in zip(size, x.shape[2:], strict=True)]
        y = f(x, size)
        assert isinstance(y, OctTensor)
        assert list(y.shape[2:]) == full
        if y.high.shape[1]:
            equal(y.high, f(x.high, size))
        if y.low.shape[1]:
            kept = spatial - x.octave_dims
            equal(y.low, f(x.low, (*full[:kept], *((n + 1) // 2 for n in full[kept:]))))


def test_adaptive_pooling_of_space_only() -> None:
    x = map_named("video")
    y = F.adaptive_avg_pool3d(x, (2, 1, 1))
    assert type(y) is Tensor
    assert y.shape == (2, 3, 2, 1, 1)


def test_adaptive_max_pooling_with_indices() -> None:
    x = map_named("line")
    with pytest.warns(DenseFallbackWarning):
        values, _ = F.adaptive_max_pool1d(x, 2, return_indices=True)
    equal(values, F.adaptive_max_pool1d(dense_of(x), 2))
    # torch.adaptive_max_pool1d, unlike that of torch.nn.functional, always returns the indices.
    dispatch_module._announced.add("adaptive_max_pool1d")
    values, _ = torch.adaptive_max_pool1d(x, 1)
    equal(values, torch.adaptive_max_pool1d(dense_of(x), 1)[0])
