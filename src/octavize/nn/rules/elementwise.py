"""How PyTorch functions act on the two halves of an OctTensor: one short rule per family.

This module has the rules that leave space and the order of channels alone. `norm.py` has those with
parameters per channel, `spatial.py` pooling, resizing, padding and reduction, `channels.py` slices and
concatenation, and `grid.py` shuffles and sums of paths.

The law of every rule: `rule(x).to_dense()` equals the function on `x.to_dense()`. It holds exactly where the
function commutes with nearest up-sampling; where it does not (pooling, resizing, statistics over odd sizes),
the docstring defines the result, always as *the function on each half at its own resolution*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from octavize.nn.dispatch import (
    ChangeRefused,
    Octave,
    apply_rule,
    functions_named,
    in_place_functions_named,
    oct_rule,
    on_dense,
)
from octavize.nn.tensor import OctTensor
from octavize.split import common_layout, same_layout

Function = Callable[..., Any]


# ---- pointwise ------------------------------------------------------------------------------------------

POINTWISE = """
    relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh hardshrink softshrink
    tanhshrink sigmoid logsigmoid tanh softplus softsign threshold rrelu dropout alpha_dropout
    feature_alpha_dropout dropout1d dropout2d dropout3d
    abs neg negative sign square sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p erf erfc sin cos
    atan floor ceil round trunc frac clamp clamp_min clamp_max clip nan_to_num isnan isinf isfinite
    logical_not bitwise_not isposinf isneginf isreal signbit sgn fix
    tan asin acos sinh cosh asinh acosh atanh arcsin arccos arctan arcsinh arccosh arctanh deg2rad rad2deg
    erfinv erfcx sinc logit expit digamma psi lgamma gammaln i0 i0e i1 i1e entr ndtr ndtri log_ndtr
    airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 spherical_bessel_j0 modified_bessel_i0 modified_bessel_i1
    modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1
    fake_quantize_per_tensor_affine byte char short conj_physical resolve_conj resolve_neg
    float double half bfloat16 int long bool cpu cuda clone detach contiguous
    zeros_like ones_like rand_like randn_like full_like empty_like fill positive
"""


_NOT_IN_PLACE = {"inplace": False}  # torch's modules pass this at every call
_MAY_ALIAS = frozenset(
    functions_named("detach contiguous float double half bfloat16 byte char short int long bool cpu cuda")
    + functions_named("to type type_as")
)
"""Functions that may return the map itself, or its memory, instead of a copy."""
_DETACH, _LAY_OUT = functions_named("detach"), functions_named("contiguous")


@oct_rule(*functions_named(POINTWISE), *functions_named("__neg__ __abs__ __invert__"))
def pointwise(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """Functions of one value at a time (also dropout, casts and copies): on each half. Exact.

    A bound or threshold per channel, as in `clamp(x, min=(C, 1, 1))`, is split like the channels.
    """
    if not args and (not kwargs or kwargs == _NOT_IN_PLACE) and isinstance(x, OctTensor):  # the fast path
        high, low = func(x.high, **kwargs), func(x.low, **kwargs)
        return _copied_or_not(func, x, high, low) if func in _MAY_ALIAS else x.trusted_like(high, low)
    halves = _arguments_of_halves(x, args, kwargs)
    if halves is None:
        return NotImplemented
    (args_high, kwargs_high), (args_low, kwargs_low) = halves
    y = _copied_or_not(func, x, func(x.high, *args_high, **kwargs_high), func(x.low, *args_low, **kwargs_low))
    if kwargs.get("inplace") or any(arg is True for arg in args):  # `relu(x, inplace=True)` changes x too
        x.invalidate()
    return y


def _copied_or_not(func: Function, x: OctTensor, high: Tensor, low: Tensor) -> OctTensor:
    """The result of a function that may return its argument or its memory: of both halves, or of none."""
    if func in _DETACH:
        return x.trusted_like(high, low).as_part(x)
    copies = (high is not x.high, low is not x.low)
    if not any(copies) and x.is_strided and func in _LAY_OUT:
        copies = (True, False)
    if any(copies) and not all(copies):
        high, low = (half.clone() if half is own else half for half, own in ((high, x.high), (low, x.low)))
    return x.trusted_like(high, low)


@oct_rule(*in_place_functions_named(f"{POINTWISE} zero requires_grad"))
def pointwise_in_place(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """The same in place: every reference to this OctTensor sees the change."""
    halves = _arguments_of_halves(x, args, kwargs)
    if halves is None:
        raise _cannot_change()
    (args_high, kwargs_high), (args_low, kwargs_low) = halves
    func(x.high, *args_high, **kwargs_high)
    func(x.low, *args_low, **kwargs_low)
    return x.invalidate()


def _arguments_of_halves(x: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The further arguments for the high and for the low half; None if they need the dense map."""
    if not isinstance(x, OctTensor):
        return None
    by_place: list[Any] = [operand_halves(arg, x) for arg in args]
    by_name: dict[str, Any] = {name: operand_halves(arg, x) for name, arg in kwargs.items()}
    if any(pair is None for pair in [*by_place, *by_name.values()]):
        return None
    return [([pair[i] for pair in by_place], {k: pair[i] for k, pair in by_name.items()}) for i in (0, 1)]


def _cannot_change() -> ChangeRefused:
    return ChangeRefused(
        "an OctTensor cannot be changed in place by a map of another split: use the function that returns a "
        "new map (add instead of add_) and keep its result"
    )


@oct_rule(*functions_named("to type type_as"))
def cast(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Casts and moves of both halves, also to the dtype and device of another map. Exact."""
    args = tuple(arg.high if isinstance(arg, OctTensor) else arg for arg in args)
    if not isinstance(x, OctTensor):
        return func(x, *args, **kwargs)
    if not args and not kwargs:  # `x.type()` asks for the name
        return func(x.high)
    return _copied_or_not(func, x, func(x.high, *args, **kwargs), func(x.low, *args, **kwargs))


# ---- two operands ---------------------------------------------------------------------------------------

BINARY = """
    add sub subtract mul multiply div divide true_divide floor_divide pow maximum minimum rsub fmod remainder
    fmax fmin atan2 arctan2 hypot copysign nextafter heaviside float_power ldexp logaddexp logaddexp2 xlogy
    xlog1py igamma igammac gammainc gammaincc polygamma zeta isclose gcd lcm bitwise_left_shift
    bitwise_right_shift not_equal less less_equal greater greater_equal
    eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor
    chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w
    shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
    shifted_chebyshev_polynomial_w hermite_polynomial_h hermite_polynomial_he laguerre_polynomial_l
    legendre_polynomial_p
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __floordiv__ __rfloordiv__
    __mod__ __rmod__ __pow__ __rpow__ __and__ __or__ __xor__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__
"""


TERNARY = "addcmul addcdiv lerp where masked_fill"


@oct_rule(*functions_named(BINARY), *functions_named(TERNARY))
def combine(func: Function, *operands: Any, **kwargs: Any) -> Any:
    """Arithmetic and comparison of two or three operands, such as a residual sum or a gate. Exact.

    * OctTensors: half by half. Where their splits differ, channels that are low in only one of them are
      brought to full resolution first.
    * A number, a tensor of one value, or one value per image (N, 1, 1, 1): with each half.
    * One value per channel, (N, C, 1, 1) or (C, 1, 1): split into those of high and of low channels. This is
      the official squeeze-and-excitation.
    * A dense map: left to the dense fallback.
    """
    if len(operands) == 2 and not kwargs and _agree(*operands):  # the fast path
        x, y = operands
        return (y if y.strict else x).trusted_like(func(x.high, y.high), func(x.low, y.low))
    names, values = list(kwargs), [*operands, *kwargs.values()]
    maps = [value for value in values if isinstance(value, OctTensor)]
    x = maps[0]
    if not all(same_layout(y.channel_layout, x.channel_layout) for y in maps[1:]) and all(
        y.shape == x.shape for y in maps[1:]
    ):
        layout = reduce(common_layout, [y.channel_layout for y in maps])
        if sum(layout[1::2]) == 0:
            return NotImplemented
        values = [value.with_layout(layout) if isinstance(value, OctTensor) else value for value in values]
        x = next(value for value in values if isinstance(value, OctTensor))
    halves = [operand_halves(value, x) for value in values]
    results = []
    for half in (0, 1):
        parts = [pair[half] for pair in halves if pair is not None]
        if len(parts) < len(values):
            return NotImplemented
        named_parts = dict(zip(names, parts[len(operands) :], strict=True))
        results.append(func(*parts[: len(operands)], **named_parts))
    strict = any(y.strict for y in maps)
    return OctTensor(*results, octave_dims=x.octave_dims, strict=strict, channel_layout=x.channel_layout)


@oct_rule(*functions_named("max min"))
def larger(func: Function, x: Any, other: Any = None, **kwargs: Any) -> Any:
    """The larger or smaller of two maps, value by value. Exact; `max(x, dim)` is left to the fallback."""
    if not isinstance(other, (Tensor, Octave)):
        return NotImplemented
    return combine(torch.maximum if func in functions_named("max") else torch.minimum, x, other, **kwargs)


def _agree(x: Any, y: Any) -> bool:
    """Whether both are maps of one size whose halves hold the same channels."""
    return (
        isinstance(x, OctTensor)
        and isinstance(y, OctTensor)
        and same_layout(x.channel_layout, y.channel_layout)
        and x.high.shape == y.high.shape
        and x.octave_dims == y.octave_dims
    )


IN_PLACE = "add sub mul div true_divide truediv pow floordiv mod and or xor"


@oct_rule(*in_place_functions_named(IN_PLACE))
def binary_in_place(func: Function, x: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    """The same in place: `x` keeps its halves, or gets new ones if the operand has another layout.

    So does `x += y`: whoever else holds the map sees the change, as a skip connection does.
    """
    if not isinstance(x, OctTensor):
        return NotImplemented
    halves = operand_halves(other, x)
    if halves is None:
        return x.become(apply_rule(_OUT_OF_PLACE[func], (x, other, *args), kwargs))
    func(x.high, halves[0], *args, **kwargs)
    func(x.low, halves[1], *args, **kwargs)
    return x.invalidate()


_OUT_OF_PLACE = {
    getattr(torch.Tensor, in_place): getattr(torch.Tensor, plain)
    for name in IN_PLACE.split()
    for in_place, plain in ((f"{name}_", name), (f"__i{name}__", f"__{name}__"))
    if hasattr(torch.Tensor, in_place)
}


@oct_rule(torch.Tensor.expand_as)
def expand_as(func: Function, x: Any, other: Any) -> Any:
    """One value per channel, repeated over a map, in the layout of that map. Exact."""
    halves = operand_halves(x, other) if isinstance(other, OctTensor) else None
    if halves is None or not isinstance(x, (Tensor, OctTensor)):
        return NotImplemented
    return other.trusted_like(func(halves[0], other.high), func(halves[1], other.low))


def operand_halves(value: Any, x: OctTensor) -> tuple[Any, Any] | None:
    """The operand for each half of `x`; None if the operand needs the dense map."""
    if isinstance(value, OctTensor):
        same = (
            value.shape[2:] == x.shape[2:]
            and value.octave_dims == x.octave_dims
            and same_layout(value.channel_layout, x.channel_layout)
        )
        return (value.high, value.low) if same else None
    if isinstance(value, Octave):
        return None
    if not isinstance(value, Tensor) or (value.numel() == 1 and value.dim() <= x.dim()):
        return value, value
    if value.dim() > x.dim():
        return None
    shape = (1,) * (x.dim() - value.dim()) + tuple(value.shape)
    if any(n != 1 for n in shape[2:]):
        return None
    if shape[1] == 1:
        return value, value
    return x.split_channels(value, dim=1 - x.dim()) if shape[1] == x.shape[1] else None


# ---- to the dense map, and queries -----------------------------------------------------------------------


@oct_rule(
    *functions_named("flatten conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
)
def leave_octave(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Functions that need the dense map. Exact.

    Flattening gives up the grid that an octave needs, and a convolution that was left vanilla reads the full
    resolution. A plan names those layers, so no warning announces this, unlike a fallback.
    """
    if not isinstance(x, OctTensor):
        return NotImplemented
    return on_dense(func, (x, *args), kwargs)


@oct_rule(
    *functions_named("is_floating_point is_complex element_size get_device is_pinned"),
    *functions_named("new_empty new_zeros new_ones new_full new_tensor"),
)
def ask_high(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """Queries that both halves answer alike, and new plain tensors of the same dtype and device."""
    return func(x.high, *args, **kwargs)


@oct_rule(*functions_named("is_contiguous"))
def is_contiguous(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> bool:
    """Whether both halves are contiguous, and the map is no slice of the channels of another."""
    return not x.is_strided and func(x.high, *args, **kwargs) and func(x.low, *args, **kwargs)
