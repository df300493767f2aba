"""Rules that change space: pooling, resizing, padding, and reduction to a plain tensor.

They follow the law of `elementwise.py`. None of them commutes with up-sampling in general, so each docstring
defines its result: the function on each half at its own resolution, with the low half at ⌈size / 2⌉.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import signature
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor

from octavize.paddle.channels import merge_channels
from octavize.paddle.dispatch import dense, oct_rule
from octavize.paddle.functions import Function
from octavize.paddle.resample import default_format, pad_any
from octavize.paddle.rules.elementwise import is_tensor
from octavize.paddle.sizes import Unknown, crop, is_unknown
from octavize.paddle.tensor import OctTensor
from octavize.split import low_size

# ---- change of spatial size -----------------------------------------------------------------------------


def _windows(x: OctTensor, value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * (x.ndim - 2)


_signature = lru_cache(None)(signature)
POOLS = "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d"


@oct_rule(*POOLS.split())
def pool_by_window(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """Max- and average-pooling: the same window on each half, at its own resolution (official code).

    A window over the whole map becomes one over the whole low half: global pooling. If the low half would end
    up smaller than ⌈size / 2⌉, it keeps its last, partial cell (ceil mode), or repeats its last pixel. A
    window larger than the low half falls back to the dense map.
    """
    settings = dict(_signature(func).bind(x, *args, **kwargs).arguments)  # 1-D has them in another order
    settings.pop("x", None)
    kernel_size, padding = settings.pop("kernel_size"), settings.pop("padding", 0)
    stride, ceil = settings.pop("stride", None), bool(settings.pop("ceil_mode", False))
    window, step = _windows(x, kernel_size), _windows(x, stride or kernel_size)
    if isinstance(padding, str) or len(_windows(x, padding)) != x.ndim - 2 or settings.get("return_mask"):
        return NotImplemented
    if settings.get("data_format", "NCHW")[1] != "C":
        return NotImplemented
    pads = _windows(x, padding)
    if is_unknown(x.spatial_shape):
        return _pool_unknown(func, x, (window, step, pads, ceil), settings)
    size = _pooled_size(x.spatial_shape, window, step, pads, ceil)
    wanted, low_window, axes = low_size(size, x.octave_dims), window, x.octave_dims
    if window[-axes:] == x.spatial_shape[-axes:] and not any(pads):
        low_window = (*window[:-axes], *low_size(x.spatial_shape, axes)[-axes:])
    low_space = low_size(x.spatial_shape, axes)
    reached = _pooled_size(low_space, low_window, step, pads, True)
    if min(reached) < 1:
        return NotImplemented

    def pooled(half: Tensor, window: Sequence[int], ceil: bool, missing: Sequence[int]) -> Tensor:
        if any(missing):
            half = pad_any(half, [n for more in reversed(missing) for n in (0, more)], "replicate")
        return func(half, list(window), list(step), list(pads), ceil_mode=ceil, **settings)

    missing = [max(want - have, 0) * s for want, have, s in zip(wanted, reached, step, strict=True)]
    of_half = ((window, low_window), (ceil, True), ([0] * len(size), missing))
    y = x.each_half(pooled, *of_half, size=size)
    low = crop(y.low, wanted)
    if settings.get("divisor_override"):  # a sum: over fewer pixels, where the window is the whole map
        low = low * (math.prod(window) / math.prod(low_window))
    return y.like(y.high, low)


def _pool_unknown(func: Function, x: OctTensor, how: Any, settings: dict[str, Any]) -> Any:
    """The same for a map of any size: the low half keeps a partial cell (ceil mode) and is cropped.

    It is refused where the low half of some size would need more pixels than the window reaches.
    """
    window, step, pads, ceil = how
    for n in range(8 * max(window), 8 * max(window) + 4 * max(step)):  # all remainders that occur
        size = (n,) * len(window)
        wanted = low_size(_pooled_size(size, window, step, pads, ceil), x.octave_dims)
        reached = _pooled_size(low_size(size, x.octave_dims), window, step, pads, True)
        if any(have < want for have, want in zip(reached, wanted, strict=True)):
            return NotImplemented
    size = tuple(
        (n + (2 * p - k + (s - 1 if ceil else 0))) // s + 1
        for n, k, s, p in zip(x.spatial_shape, window, step, pads, strict=True)
    )
    if ceil and any(pads):
        return NotImplemented  # Paddle drops a cell of some sizes

    def pooled(half: Tensor, ceil: bool) -> Tensor:
        return func(half, list(window), list(step), list(pads), ceil_mode=ceil, **settings)

    y = x.each_half(pooled, (ceil, True), size=size)
    return y.like(y.high, crop(y.low, low_size(size, x.octave_dims)))


def _pooled_size(
    size: Sequence[int], window: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil: bool
) -> tuple[int, ...]:
    """The size that Paddle gives to a map of `size` pooled by a window."""
    pooled = []
    for n, k, s, p in zip(size, window, stride, padding, strict=True):
        room = n + 2 * p - k
        cells = (-(-room // s) if ceil else room // s) + 1
        # Paddle drops a last cell that would start in the padding.
        pooled.append(cells - 1 if ceil and (cells - 1) * s >= n + p else cells)
    return tuple(pooled)


@oct_rule("interpolate", "upsample")
def interpolate(
    func: Function, x: OctTensor, size: Any = None, scale_factor: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Resizing: the high half as requested, the low half to the matching ⌈size / 2⌉ in the same mode.

    Exact for nearest by whole factors; in the other modes each half is interpolated at its own resolution.
    By whole factors the low half keeps the factor, so that both halves lie where they lay: that of an odd map
    is a little more than half, and is cropped.
    """
    given = size if scale_factor is None else scale_factor
    if given is None or is_tensor(given) or any(is_tensor(n) for n in _windows(x, given)):
        return NotImplemented
    if scale_factor is not None and size is not None:
        return NotImplemented  # Paddle's own error
    if scale_factor is not None:
        scales = zip(x.spatial_shape, _windows(x, scale_factor), strict=True)
        reached = tuple(_whole(n * f) for n, f in scales)
    else:
        reached = tuple(map(_whole, _windows(x, size)))
    wanted, low_space = low_size(reached, x.octave_dims), low_size(x.spatial_shape, x.octave_dims)
    factors = [_factor(new, old) for new, old in zip(reached, x.spatial_shape, strict=True)]
    kept = tuple(n * f for n, f in zip(low_space, factors, strict=True)) if all(factors) else wanted
    kwargs.pop("recompute_scale_factor", None)
    y = x.each_half(
        lambda half, to: func(half, list(map(dense, to)), None, *args, **kwargs),
        (reached, kept),
        size=reached,
    )
    return y.like(y.high, crop(y.low, wanted))


def _whole(n: Any) -> Any:
    return n if isinstance(n, Unknown) else int(n)


def _factor(new: Any, old: Any) -> int:
    """By which whole number a length grew; 0 if by none."""
    if isinstance(new, Unknown):
        name, *rest = new.key
        known = name == "mul" and rest[0] == old and isinstance(rest[1], int)
        return rest[1] if known else int(new == old)
    return new // old if isinstance(old, int) and new % old == 0 else 0


@oct_rule("pad")
def pad(
    func: Function,
    x: OctTensor,
    pad: Any,
    mode: str = "constant",
    value: float = 0.0,
    data_format: Any = None,
    pad_from_left_axis: bool = True,
    name: Any = None,
) -> Any:
    """Padding of space: (left, right) pixels on the high half, about half as many on the low half.

    The low half gets left // 2 pixels in front, and behind as many as ⌈size / 2⌉ needs. Exact for even
    padding of even sizes. Padding of channels or of the batch, and cropping, fall back to the dense map.
    """
    pad = [pad] * (2 * x.ndim - 4) if isinstance(pad, int) else pad
    if is_tensor(pad) or len(pad) != 2 * x.ndim - 4 or any(is_tensor(n) for n in pad) or min(pad) < 0:
        return NotImplemented
    if data_format is not None and data_format[1] != "C":
        return NotImplemented
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]  # the last axis first
    size = [n + sum(pair) for n, pair in zip(x.spatial_shape, reversed(pairs), strict=True)]
    wanted, low_space = low_size(size, x.octave_dims), low_size(x.spatial_shape, x.octave_dims)
    low_pad: list[int] = []
    for axis, (left, _) in enumerate(pairs, start=1):
        front = left // 2 if axis <= x.octave_dims else left
        low_pad += [front, wanted[-axis] - low_space[-axis] - front]
    if min(low_pad) < 0:
        return NotImplemented

    def padded(half: Tensor, pads: Sequence[int]) -> Tensor:
        if mode != "constant":
            return pad_any(half, pads, mode)
        return F.pad(half, list(pads), mode, value, default_format(half.ndim))

    return x.each_half(padded, (pad, low_pad), size=size)


@oct_rule("zeropad2d")
def zero_pad(func: Function, x: OctTensor, padding: Any, data_format: str = "NCHW", name: Any = None) -> Any:
    """The same, with zeros."""
    return pad(func, x, padding, data_format=data_format)


# ---- reduction over space -------------------------------------------------------------------------------


def _merged(x: OctTensor, reduce: Callable[[Tensor], Tensor], share: float = 1) -> Tensor:
    """Reduce both halves, multiply low by `share`, and merge them into a dense (N, C, …)."""
    y = x.each_half(lambda half, times: reduce(half) if times == 1 else reduce(half) * times, (1, share))
    return merge_channels(y.high, y.low, x.channel_layout)


@oct_rule("mean", "max", "min", "amax", "amin")
def reduce_space(
    func: Function, x: OctTensor, axis: Any = None, keepdim: Any = False, *args: Any, **kwargs: Any
) -> Any:
    """Mean, maximum or minimum over all of space: of each half, merged into a dense (N, C[, 1, 1]).

    Maximum and minimum are exact. The mean is over stored pixels: exact on even sizes. Further axes, of
    channels or the batch, fall back to the dense map.
    """
    if args or kwargs or not isinstance(keepdim, bool):
        return NotImplemented
    axes = _space(x, axis)
    return NotImplemented if axes is None else _merged(x, lambda half: func(half, axes, keepdim=keepdim))


@oct_rule("sum")
def sum_space(
    func: Function, x: OctTensor, axis: Any = None, dtype: Any = None, keepdim: bool = False, name: Any = None
) -> Any:
    """The sum over all of space, where a low pixel counts for its share of the image. Exact on even sizes."""
    axes = _space(x, axis)
    if axes is None or dtype is not None or not x.is_floating_point():  # counts stay whole numbers
        return NotImplemented
    return _merged(x, lambda half: func(half, axes, keepdim=keepdim), _pixels_a_stored_one(x))


def _space(x: OctTensor, axis: Any) -> list[int] | None:
    """The axes of a reduction over all of space and nothing else; None for any other."""
    if not isinstance(axis, (list, tuple, int)):
        return None
    axes = {a % x.ndim for a in ([axis] if isinstance(axis, int) else axis)}
    octave = set(range(x.ndim - x.octave_dims, x.ndim))
    return sorted(axes) if octave <= axes and not axes & {0, 1} else None


def _pixels_a_stored_one(x: OctTensor) -> float:
    """How many pixels of the high half one pixel of the low half stands for: 4 on even sizes."""
    return math.prod(x.spatial_shape) / math.prod(low_size(x.spatial_shape, x.octave_dims))


ADAPTIVE = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
"""


@oct_rule(*ADAPTIVE.split())
def adaptive_pool(func: Function, x: OctTensor, output_size: Any, *args: Any, **kwargs: Any) -> Any:
    """Adaptive pooling of each half at its own resolution: to `output_size`, and to half of it, rounded up.

    For one pixel, both halves have the same size and are merged: the result is a dense (N, C, 1, 1), so
    classifiers need no change.
    """
    if _wants_a_mask(args, kwargs) or is_tensor(output_size):
        return NotImplemented
    asked = zip(_windows(x, output_size), x.spatial_shape, strict=True)
    size = tuple(n if want is None else want for want, n in asked)
    if any(is_tensor(n) for n in size):
        return NotImplemented

    def pooled(half: Tensor, size: Sequence[int]) -> Tensor:
        return func(half, size[0] if len(size) == 1 else list(size))

    y = x.each_half(pooled, (size, low_size(size, x.octave_dims)), size=size)
    one_pixel = all(n == 1 for n in size[-x.octave_dims :])
    return merge_channels(y.high, y.low, x.channel_layout) if one_pixel else y


def _wants_a_mask(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    other_format = kwargs.get("data_format", "NCHW")[1] != "C" or "NHWC" in args
    return bool(kwargs.get("return_mask")) or True in args or other_format
