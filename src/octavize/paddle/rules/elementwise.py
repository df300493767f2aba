"""How Paddle's functions act on the two halves of an OctTensor: one short rule per family.

This module has the rules that leave space and the order of channels alone. `norm.py` has those with
parameters per channel, `spatial.py` pooling, resizing, padding and reduction, `channels.py` slices and
concatenation, and `grid.py` shuffles and sums of paths.

The law of every rule: `rule(x).to_dense()` equals the function on `x.to_dense()`. It holds exactly where the
function commutes with nearest up-sampling; where it does not (pooling, resizing, statistics over odd sizes),
the docstring defines the result, always as *the function on each half at its own resolution*.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, concat, full

from octavize.paddle.dispatch import Octave, oct_rule
from octavize.paddle.functions import VALUE, Function
from octavize.paddle.sizes import differ
from octavize.paddle.tensor import OctTensor
from octavize.split import ChannelLayout, common_layout, same_layout

POINTWISE = """
    relu relu6 leaky_relu elu selu celu gelu silu swish mish hardswish hardsigmoid hardtanh hardshrink
    softshrink tanhshrink thresholded_relu sigmoid log_sigmoid tanh softplus softsign rrelu stanh
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
    abs neg sign square sqrt rsqrt reciprocal exp expm1 log log2 log10 log1p erf sin cos tan atan floor ceil
    round trunc frac clip scale nan_to_num isnan isinf isfinite logical_not bitwise_not
    cast astype clone detach assign contiguous cpu cuda pin_memory
    zeros_like ones_like full_like rand_like randn_like
"""


@oct_rule(*POINTWISE.split())
def pointwise(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """Functions of one value at a time (also dropout, casts and copies): on each half. Exact."""
    if not isinstance(x, OctTensor) or any(_is_map(value) for value in (*args, *kwargs.values())):
        return NotImplemented
    return x.each_half(lambda half: func(half, *args, **kwargs))


def _is_map(value: Any) -> bool:
    """Whether an argument is a tensor of more than one value, which would have to be split."""
    if isinstance(value, Octave):
        return True
    return is_tensor(value) and any(n != 1 for n in value.shape)


def is_tensor(value: Any) -> bool:
    """Whether a value is a plain tensor, or that of a program that is being built."""
    return isinstance(value, (Tensor, VALUE))


BINARY = """
    add subtract multiply divide true_divide floor_divide remainder pow maximum minimum fmax fmin
    equal not_equal less_than less_equal greater_than greater_equal
    logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor
"""


@oct_rule(*BINARY.split(), "where", "lerp", "masked_fill")
def combine(func: Function, *operands: Any, **kwargs: Any) -> Any:
    """Arithmetic and comparison of two or three operands, such as a residual sum or a gate. Exact.

    * OctTensors: half by half. Where their splits differ, channels that are low in only one of them are
      brought to full resolution first.
    * A number, a tensor of one value, or one value per image (N, 1, 1, 1): with each half.
    * One value per channel, (N, C, 1, 1) or (C, 1, 1): split into those of high and of low channels. This is
      the official squeeze-and-excitation.
    * A dense map: left to the dense fallback.
    """
    names, values = list(kwargs), [*operands, *kwargs.values()]
    maps = [value for value in values if isinstance(value, OctTensor)]
    layout = _common(maps)
    if layout is None or sum(layout[1::2]) == 0:
        return NotImplemented
    values = [value.with_layout(layout) if isinstance(value, OctTensor) else value for value in values]
    x = next(value for value in values if isinstance(value, OctTensor))
    halves = [operand_halves(value, x) for value in values]
    pairs = [pair for pair in halves if pair is not None]
    if len(pairs) < len(values):
        return NotImplemented

    def of_half(half: Tensor, *parts: Any) -> Any:
        named = dict(zip(names, parts[len(operands) :], strict=True))
        return func(*parts[: len(operands)], **named)

    y = x.each_half(of_half, *pairs)
    y.strict = any(value.strict for value in maps)
    return y


def _common(maps: list[OctTensor]) -> ChannelLayout | None:
    """The layout in which a channel is low where it is low in all maps; None if the maps do not fit."""
    first = maps[0]
    if any(
        differ(y.spatial_shape, first.spatial_shape)
        or y.octave_dims != first.octave_dims
        or sum(y.channel_layout) != sum(first.channel_layout)
        for y in maps[1:]
    ):
        return None
    layout = first.channel_layout
    for y in maps[1:]:
        if not same_layout(layout, y.channel_layout):
            layout = common_layout(layout, y.channel_layout)
    return layout


def operand_halves(value: Any, x: OctTensor) -> tuple[Any, Any] | None:
    """The operand for each half of `x`; None if the operand needs the dense map."""
    if isinstance(value, OctTensor):
        return value.high, value.low
    if isinstance(value, Octave):
        return None
    if not is_tensor(value):
        return value, value
    if value.ndim > x.ndim:
        return None
    shape = [1] * (x.ndim - value.ndim) + list(value.shape)
    if any(n != 1 for n in shape[2:]):
        return None
    if shape[1] == 1:
        return value, value
    return x.split_channels(value, dim=1 - x.ndim) if shape[1] == x.shape[1] else None


# ---- to the dense map, and queries -----------------------------------------------------------------------


CONVOLUTIONS = "conv1d conv2d conv3d conv1d_transpose conv2d_transpose conv3d_transpose _conv_nd"


@oct_rule("flatten", *CONVOLUTIONS.split())
def leave_octave(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Functions that need the dense map. Exact.

    Flattening gives up the grid that an octave needs, and a convolution that was left vanilla reads the full
    resolution. A plan names those layers, so no warning announces this, unlike a fallback.
    """
    if not isinstance(x, OctTensor):
        return NotImplemented
    return func(x.to_dense(), *args, **kwargs)


@oct_rule("is_floating_point", "is_complex", "is_integer", "element_size")
def ask_a_half(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """Queries that both halves answer alike."""
    return func(x.any_half, *args, **kwargs)


@oct_rule("shape")
def logical_shape(func: Function, x: OctTensor) -> Any:
    """The logical shape as a tensor, of a size that may not be known while a program is built."""
    known = x.shape
    if all(isinstance(n, int) and n >= 0 for n in known):
        return paddle.to_tensor(known, "int32")
    if x.high is None:
        return NotImplemented
    own = func(x.high)
    return concat([own[:1], full([1], known[1], "int32"), own[2:]])
