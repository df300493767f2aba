"""P and U, the two resamplings of octave convolution, and padding for maps of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import gcd
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from octavize.errors import InputError
from octavize.paddle.dispatch import dense
from octavize.paddle.sizes import Unknown, crop

_AVG_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_INTERPOLATE: Callable[..., Tensor] = F.interpolate
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {2: F.conv2d_transpose, 3: F.conv3d_transpose}
_CHANNELS_A_GROUP = 8
_for_onednn: ContextVar[bool] = ContextVar("for_onednn", default=False)
_for_int8: ContextVar[bool] = ContextVar("for_int8", default=False)


@contextmanager
def laid_out_for_int8() -> Iterator[None]:
    """Inside, programs average 2 × 2 pixels by a convolution with a quarter, on maps of even size.

    Runtimes have integer convolutions, with the scale of their output included, but take the average of
    integers in float32 and quantize it again.
    """
    before = _for_int8.set(True)
    try:
        yield
    finally:
        _for_int8.reset(before)


@contextmanager
def laid_out_for_onednn() -> Iterator[None]:
    """Inside, programs up-sample by a transposed convolution with ones.

    Paddle Inference with oneDNN fails on every nearest interpolation (Paddle 3.3.1). It takes this, and stays
    in its own order of values, where repeated pixels (`tile`) would be brought into Paddle's order and back.
    """
    before = _for_onednn.set(True)
    try:
        yield
    finally:
        _for_onednn.reset(before)


def pool(x: Tensor, factors: Sequence[int]) -> Tensor:
    """P: average over cells of `factors` pixels, one factor (1 or 2) per spatial axis.

    Args:
        x: (N, C, *size).

    Returns:
        (N, C, *⌈size / factor⌉). A cell cut off by the border averages the pixels it has.
    """
    if max(factors) == 1:
        return x
    size = list(x.shape[2:])
    if 1 in size:  # a single pixel is its own average
        factors = [min(factor, n) if n > 0 else factor for factor, n in zip(factors, size, strict=True)]
    window = list(factors)
    if _for_int8.get() and window == [2, 2] and all(n > 0 and n % 2 == 0 for n in size):
        quarter = paddle.full([x.shape[1], 1, 2, 2], 0.25, x.dtype)
        return F.conv2d(x, quarter, stride=2, groups=x.shape[1])
    return _AVG_POOL[len(size)](x, window, window, ceil_mode=True, exclusive=True)


def halve(x: Tensor, octave_dims: int) -> Tensor:
    """P over the octave axes: (N, C, *size) → (N, C, *low_size(size))."""
    return pool(x, (1,) * (x.ndim - 2 - octave_dims) + (2,) * octave_dims)


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """U: repeat every pixel along each octave axis and crop to `size`.

    Args:
        x: (N, C, *size) or (N, C, *low_size(size)).
    """
    if list(x.shape[2:]) == list(size):
        return x
    if not x.is_floating_point():  # Paddle does not interpolate masks and counts
        for axis, n in enumerate(size, start=2):
            if x.shape[axis] != n:
                x = paddle.index_select(x, paddle.to_tensor([i // 2 for i in range(n)], "int64"), axis)
        return x
    # Nearest interpolation from ⌈n/2⌉ to n reads pixel i // 2 for every i: repetition and crop in one step.
    if len(size) == 1:  # Paddle has it for images and volumes
        return upsample(x.unsqueeze(2), [1, *size]).squeeze(2)
    if _for_onednn.get() and not paddle.in_dynamic_mode():
        return _spread(x, size)
    return _INTERPOLATE(x, size=list(map(dense, size)), mode="nearest")


def _spread(x: Tensor, size: Sequence[int]) -> Tensor:
    """U as a transposed convolution in groups of some channels; oneDNN has none for single channels."""
    if len(size) == 3 and isinstance(size[0], Unknown):
        raise InputError("frames: save a network of videos for one number of them")
    factors = [1 if n == have else 2 for n, have in zip(size, x.shape[2:], strict=True)]
    channels = x.shape[1]
    width = gcd(channels, _CHANNELS_A_GROUP)
    own = paddle.eye(width, dtype=x.dtype).tile([channels // width, 1])
    ones = own.reshape([channels, width, *[1] * len(factors)]).tile([1, 1, *factors])
    y = _TRANSPOSED[len(factors)](x, ones, stride=factors, groups=channels // width)
    return crop(y, size)


def pad_any(x: Tensor, pads: Sequence[int], mode: Any) -> Tensor:
    """Padding by reflection, replication or wrapping, for maps of any size.

    Paddle refuses to reflect or wrap further than the map reaches, but the low half of a small map can be a
    single pixel. There, reflection goes back and forth and wrapping starts again, as in NumPy.

    Args:
        x: (N, C, *size).
        pads: (left, right) per axis, from the last axis to the first.
        mode: `reflect`, `replicate` or `circular`.
    """
    reach = {"reflect": -1, "circular": 0}.get(mode)
    sizes = list(reversed(x.shape[2:]))
    if reach is None or all(pads[2 * i] <= n + reach >= pads[2 * i + 1] for i, n in enumerate(sizes)):
        return F.pad(x, list(pads), mode=mode, data_format=default_format(x.ndim))
    for i, n in enumerate(sizes):
        axis, left, right = x.ndim - 1 - i, pads[2 * i], pads[2 * i + 1]
        index = [_read(position, n, mode) for position in range(-left, n + right)]
        x = paddle.index_select(x, paddle.to_tensor(index, "int64"), axis)
    return x


def _read(position: int, n: int, mode: str) -> int:
    """The pixel of `n` that stands at a position inside or outside of them."""
    if mode == "circular" or n == 1:
        return position % n
    back_and_forth = position % (2 * (n - 1))
    return min(back_and_forth, 2 * (n - 1) - back_and_forth)


def default_format(ndim: int) -> Any:
    """Paddle's name for channels first, in a map of so many dimensions."""
    return ("NCL", "NCHW", "NCDHW")[ndim - 3]
