"""Rules that change space: pooling, resizing, padding, and reduction to a plain tensor.

They follow the law of `elementwise.py`. None of them commutes with up-sampling in general, so each docstring
defines its result: the function on each half at its own resolution, with the low half at ⌈size / 2⌉.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from octavize.nn.channels import merge_channels
from octavize.nn.dispatch import functions_named, oct_rule
from octavize.nn.resample import are_known, crop, pad_any
from octavize.nn.rules.elementwise import Function
from octavize.nn.tensor import OctTensor
from octavize.split import low_size

# ---- change of spatial size -----------------------------------------------------------------------------


def _windows(x: OctTensor, value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * (x.dim() - 2)


MAX_POOL = functions_named("max_pool1d max_pool2d max_pool3d")


@oct_rule(*MAX_POOL, *functions_named("avg_pool1d avg_pool2d avg_pool3d"))
def pool_by_window(func: Function, x: OctTensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    """Max- and average-pooling: the same window on each half, at its own resolution (official code).

    A window over the whole map becomes one over the whole low half: global pooling. If the low half would end
    up smaller than ⌈size / 2⌉, it keeps its last, partial cell (ceil mode), or repeats its last pixel. A
    window larger than the low half falls back to the dense map.
    """
    settings = ("stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    if func in MAX_POOL:
        settings = ("stride", "padding", "dilation", "ceil_mode", "return_indices")
    kwargs = {**dict(zip(settings[: len(args)], args, strict=True)), **kwargs}
    if kwargs.get("return_indices"):
        return NotImplemented
    return _pool_halves(func, x, kernel_size, kwargs, 1 if kwargs.get("divisor_override") else 0)


def _pool_halves(
    func: Callable[..., Tensor], x: OctTensor, kernel_size: Any, kwargs: dict[str, Any], power: float
) -> Any:
    """`func(half, kernel_size, **kwargs)` of each half, see `pool_by_window`.

    Args:
        power: of the number of pixels in a window, to which the result is proportional: 1 for a sum.
    """
    low, low_kernel = x.low, kernel_size
    size = _pooled_size(x, x.high.shape[2:], kernel_size, kwargs, bool(kwargs.get("ceil_mode")))
    wanted = low_size(size, x.octave_dims)
    window, padding, axes = _windows(x, kernel_size), kwargs.get("padding", 0), x.octave_dims
    if window[-axes:] == tuple(x.shape[-axes:]) and not any(_windows(x, padding)):
        low_kernel = (*window[:-axes], *low.shape[-axes:])
    reached = _pooled_size(x, low.shape[2:], low_kernel, kwargs, True)
    if min(reached) < 1:
        return NotImplemented
    stride = _windows(x, kwargs.get("stride") or kernel_size)
    missing = [(want - have) * s for want, have, s in zip(wanted, reached, stride, strict=True)]
    if max(missing) > 0 and low.shape[1] > 0:
        low = pad_any(low, [pad for n in reversed(missing) for pad in (0, max(n, 0))], "replicate")
        reached = _pooled_size(x, low.shape[2:], low_kernel, kwargs, True)
    full = _pooled_size(x, low.shape[2:], low_kernel, kwargs, False)
    # Ceil mode only where a cell would be missing: ONNX counts cells otherwise where windows have gaps.
    ceil = not are_known((*full, *wanted)) or any(
        have < want for want, have in zip(wanted, full, strict=True)
    )
    high = _on_half(x.high, size, lambda half: func(half, kernel_size, **kwargs))
    low = _on_half(low, wanted, lambda half: func(half, low_kernel, **{**kwargs, "ceil_mode": ceil}))
    if power and low_kernel is not kernel_size:  # a sum over fewer pixels
        low = low * (math.prod(window) / math.prod(_windows(x, low_kernel))) ** power
    return x.like(high, crop(low, wanted))


def _pooled_size(
    x: OctTensor, size: Sequence[int], kernel_size: Any, settings: Mapping[str, Any], ceil_mode: bool
) -> list[int]:
    """The size that torch gives to a map of `size` pooled by a window."""
    window = _windows(x, kernel_size)
    stride = _windows(x, settings.get("stride") or window)
    padding, dilation = _windows(x, settings.get("padding", 0)), _windows(x, settings.get("dilation", 1))
    pooled = []
    for n, k, s, p, d in zip(size, window, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        cells = (-(-room // s) if ceil_mode else room // s) + 1
        # torch drops a last cell that would start in the padding.
        pooled.append(cells - 1 if ceil_mode and (cells - 1) * s >= n + p else cells)
    return pooled


def _on_half(half: Tensor, size: Sequence[int], func: Callable[[Tensor], Tensor]) -> Tensor:
    """`func(half)`, of spatial size `size`; many of torch's functions refuse a map without channels."""
    return half.new_empty((half.shape[0], 0, *size)) if half.shape[1] == 0 else func(half)


@oct_rule(F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)
def lp_pool(
    func: Function, x: OctTensor, norm_type: float, kernel_size: Any, *args: Any, **kwargs: Any
) -> Any:
    """Power-average pooling, as other pooling: the root of the sum of a window's powers."""
    settings = ("stride", "ceil_mode")
    kwargs = {**dict(zip(settings[: len(args)], args, strict=True)), **kwargs}
    root = 1 / norm_type if norm_type else 0  # torch refuses 0
    return _pool_halves(partial(_of_norm, func, norm_type), x, kernel_size, kwargs, root)


def _of_norm(func: Function, norm_type: float, half: Tensor, kernel_size: Any, **kwargs: Any) -> Tensor:
    return func(half, norm_type, kernel_size, **kwargs)


@oct_rule(F.interpolate)
def interpolate(
    func: Function, x: OctTensor, size: Any = None, scale_factor: Any = None, *args: Any, **kwargs: Any
) -> OctTensor:
    """Resizing: the high half as requested, the low half to the matching ⌈size / 2⌉ in the same mode.

    Both halves stay where they lay if the low half keeps the factor of the high one, and is cropped: that of
    an odd map is a little more than half. This is so for whole `scale_factor`, and for nearest to a `size`,
    which is exact by whole factors. Elsewhere each half is interpolated at its own resolution.
    """
    kwargs = {**dict(zip(("mode", "align_corners"), args, strict=False)), **kwargs}
    if size is None and scale_factor is None:
        return func(x.high, **kwargs)  # torch's own error
    factors = () if scale_factor is None else _windows(x, scale_factor)
    if size is None:  # torch scales each axis to int(n · factor)
        reached = [torch.sym_int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
    else:
        reached = list(_windows(x, size))
    high = _on_half(x.high, reached, lambda half: func(half, size, scale_factor, **kwargs))
    kwargs.pop("recompute_scale_factor", None)
    wanted = low_size(reached, x.octave_dims)

    def resized_low(low: Tensor) -> Tensor:
        if factors and all(isinstance(f, (int, float)) and f == int(f) for f in factors):
            return crop(func(low, scale_factor=tuple(float(f) for f in factors), **kwargs), wanted)
        if size is not None and kwargs.get("mode", "nearest") == "nearest":
            return _nearest(low, wanted, x.shape[2:], reached)
        return func(low, size=wanted, **kwargs)

    return x.like(high, _on_half(x.low, wanted, resized_low))


def _nearest(low: Tensor, wanted: Sequence[int], old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Pixel i is pixel ⌊i · old / new⌋: as in the high half, for sizes of any parity."""
    sizes = list(zip(low.shape[2:], wanted, old, new, strict=True))
    if are_known((*low.shape, *wanted)) and all(m * n == w * o for m, w, o, n in sizes):
        return F.interpolate(low, wanted)  # the same, at once
    for axis, (w, o, n) in enumerate(zip(wanted, old, new, strict=True), start=2):
        low = low.index_select(axis, torch.arange(w, device=low.device) * o // n)
    return low


@oct_rule(F.pad)
def pad(func: Function, x: OctTensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """Padding of space: (left, right) pixels on the high half, about half as many on the low half.

    The low half gets half of left in front, without a rest, and behind as many as ⌈size / 2⌉ needs. Pixels
    are cropped where a number is below 0, as U-Nets do at odd sizes. Exact for even padding of even sizes,
    and for cropping of whole cells in front. Padding of channels or of the batch, and cropping with another
    mode than zeros or a value, fall back to the dense map.
    """
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    if len(pairs) > x.dim() - 2 or (mode != "constant" and min(pad, default=0) < 0):
        return NotImplemented
    size = list(x.shape[2:])
    for axis, pair in enumerate(pairs, start=1):  # F.pad lists the last axis first
        size[-axis] += sum(pair)
    if are_known(size) and min(size) < 1:
        return func(x.to_dense(), pad, mode, value)  # torch's own error, or an empty map
    wanted = low_size(size, x.octave_dims)
    low_pad: list[Any] = []
    for axis, (left, _) in enumerate(pairs, start=1):
        front = left
        if axis <= x.octave_dims:
            front = (
                torch.sym_max(left, 0) // 2 - torch.sym_max(-left, 0) // 2
            )  # no branch: it may be a symbol
        low_pad += [front, wanted[-axis] - x.low.shape[-axis] - front]

    def padded(half: Tensor, pads: Sequence[int]) -> Tensor:
        return func(half, pads, mode, value) if mode == "constant" else pad_any(half, pads, mode)

    high = _on_half(x.high, size, lambda half: padded(half, pad))
    return x.like(high, _on_half(x.low, wanted, lambda half: padded(half, low_pad)))


# ---- reduction over space -------------------------------------------------------------------------------


def _reduce(x: OctTensor, reduce: Callable[[Tensor], Tensor], share: float = 1) -> Tensor:
    """Reduce both halves, multiply low by `share`, and merge them into a dense (N, C, …)."""
    low = reduce(x.low)
    return merge_channels(reduce(x.high), low if share == 1 else low * share, x.channel_layout)


@oct_rule(*functions_named("mean sum amax amin"))
def reduce_space(func: Function, x: OctTensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """Mean, sum, maximum or minimum over all of space: of each half, merged into a dense (N, C[, 1, 1]).

    Maximum and minimum are exact. Mean and sum are over stored pixels, where a low pixel counts for its share
    of the image: exact on even sizes. Further axes, of channels or the batch, are reduced afterwards.
    """
    asked = range(x.dim()) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    dims = {d % x.dim() for d in asked}
    if not set(range(x.dim() - x.octave_dims, x.dim())) <= dims:
        return NotImplemented
    weighs = func in functions_named("sum")
    if weighs and not x.dtype.is_floating_point:  # counts stay whole numbers
        return NotImplemented
    space, rest = sorted(dims - {0, 1}), sorted(dims & {0, 1})
    share = _pixels_a_stored_one(x) if weighs else 1
    y = _reduce(x, lambda half: func(half, space, keepdim or bool(rest), **kwargs), share)
    return func(y, sorted(dims), keepdim) if rest else y


@oct_rule(torch.norm, torch.Tensor.norm)
def norm(
    func: Function, x: OctTensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **kw: Any
) -> Any:
    """The p-norm of each half over all of space: a dense (N, C[, 1, 1]). Exact on even sizes.

    It is the root of a sum, in which a low pixel counts for its share of the image.
    """
    power = 2.0 if p == "fro" else p
    if not isinstance(power, (int, float)) or power <= 0 or not isinstance(dim, Sequence):
        return NotImplemented
    dims = sorted(d % x.dim() for d in dim)
    if dims != list(range(2, x.dim())):
        return NotImplemented
    share = _pixels_a_stored_one(x) ** (1 / power)
    return _reduce(x, lambda half: func(half, p, tuple(dims), keepdim, **kw), share)


def _pixels_a_stored_one(x: OctTensor) -> float:
    """How many pixels of the high half one pixel of the low half stands for: 4 on even sizes."""
    return math.prod(x.high.shape[2:]) / math.prod(x.low.shape[2:])


@oct_rule(
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
)
def adaptive_pool(func: Function, x: OctTensor, output_size: Any, return_indices: bool = False) -> Any:
    """Adaptive pooling of each half at its own resolution: to `output_size`, and to half of it, rounded up.

    For one pixel, both halves have the same size and are merged: the result is a dense (N, C, 1, 1), so
    classifiers need no change.
    """
    if return_indices:
        return NotImplemented
    wanted = _windows(x, output_size)
    size = tuple(n if w is None else w for w, n in zip(wanted, x.shape[2:], strict=True))

    def pool(half: Tensor, size: tuple[int, ...]) -> Tensor:
        return _on_half(half, size, lambda half: func(half, size))

    if all(n == 1 for n in size[-x.octave_dims :]):
        return _reduce(x, lambda half: pool(half, size))
    return x.like(pool(x.high, size), pool(x.low, low_size(size, x.octave_dims)))
