"""How PyTorch functions act on the two halves of an OctTensor: one short rule a family.

The law of every rule: `rule(x).to_dense()` equals the function on `x.to_dense()`. It holds exactly where the
function commutes with nearest up-sampling; where it does not (pooling, resizing, statistics over odd sizes),
the docstring defines the result, always as *the function on each half at its own resolution*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .split import common_runs, join_runs, low_size, uncut
from .tensor import OctTensor, apply_rule, oct_rule

Function = Callable[..., Any]


def named(names: str) -> tuple[Function, ...]:
    """Every torch function that goes by these names: in torch, torch.Tensor and torch.nn.functional."""
    homes = (torch, torch.Tensor, F)
    return tuple(getattr(home, name) for name in names.split() for home in homes if hasattr(home, name))


def named_in_place(names: str) -> tuple[Function, ...]:
    """The same for the functions that change their first argument: `relu_`, `__iadd__`."""
    stems = [name.strip("_") for name in names.split()]
    return named(" ".join([f"{stem}_" for stem in stems] + [f"__i{stem}__" for stem in stems]))


# ---- pointwise ------------------------------------------------------------------------------------------

POINTWISE = """
    relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh hardshrink softshrink
    tanhshrink sigmoid logsigmoid tanh softplus softsign threshold rrelu dropout alpha_dropout
    feature_alpha_dropout dropout1d dropout2d dropout3d
    abs neg negative sign square sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p erf erfc sin cos
    atan floor ceil round trunc frac clamp clamp_min clamp_max clip nan_to_num isnan isinf isfinite
    logical_not
    to type float double half bfloat16 int long bool cpu cuda clone detach contiguous requires_grad
    zeros_like ones_like rand_like randn_like full_like empty_like zero fill positive
"""


@oct_rule(*named(POINTWISE), torch.Tensor.__neg__, torch.Tensor.__abs__)
def pointwise(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """Functions of one value at a time (also dropout, casts and copies): on each half. Exact."""
    if not isinstance(x, OctTensor):
        return NotImplemented
    y = x.like(func(x.high, *args, **kwargs), func(x.low, *args, **kwargs))
    if kwargs.get("inplace") or any(arg is True for arg in args):  # `relu(x, inplace=True)` changes x too
        x.forget_pooled()
    return y


@oct_rule(*named_in_place(POINTWISE))
def pointwise_in_place(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """The same, changing the halves themselves, and with them every holder of this OctTensor."""
    if not isinstance(x, OctTensor):
        return NotImplemented
    func(x.high, *args, **kwargs)
    func(x.low, *args, **kwargs)
    return x.forget_pooled()


# ---- two operands ---------------------------------------------------------------------------------------

BINARY = """
    add sub subtract mul multiply div divide true_divide floor_divide pow maximum minimum rsub fmod remainder
    eq ne lt le gt ge
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
    __lt__ __le__ __gt__ __ge__ __eq__ __ne__
"""


@oct_rule(*named(BINARY))
def binary(func: Function, a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
    """Arithmetic and comparison of two operands, such as a residual sum or an attention gate. Exact.

    * Two OctTensors: half by half. Where their splits differ, channels that are low in only one of them are
      brought to full resolution first.
    * A number, a tensor of one value, or one value a picture (N, 1, 1, 1): with each half.
    * One value a channel, (N, C, 1, 1) or (C, 1, 1): cut into those of the high and the low channels. This is
      the official squeeze-and-excitation.
    * A dense map: left to the dense fallback.
    """
    if isinstance(a, OctTensor) and isinstance(b, OctTensor) and a.runs != b.runs and a.shape == b.shape:
        runs = common_runs(a.runs, b.runs)
        if sum(runs[1::2]) == 0:
            return NotImplemented
        a, b = a.with_runs(runs), b.with_runs(runs)
    x = a if isinstance(a, OctTensor) else b
    of_a, of_b = _operand_halves(a, x), _operand_halves(b, x)
    if of_a is None or of_b is None:
        return NotImplemented
    return x.like(func(of_a[0], of_b[0], *args, **kwargs), func(of_a[1], of_b[1], *args, **kwargs))


@oct_rule(*named_in_place("add sub mul div true_divide pow"))
def binary_in_place(func: Function, x: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    """The same, changing the halves of `x` themselves; the other operand must have its split."""
    halves = _operand_halves(other, x) if isinstance(x, OctTensor) else None
    if halves is None:
        return NotImplemented
    func(x.high, halves[0], *args, **kwargs)
    func(x.low, halves[1], *args, **kwargs)
    return x.forget_pooled()


@oct_rule(*named("__iadd__ __isub__ __imul__ __itruediv__"))
def augmented_assignment(func: Function, x: Any, other: Any) -> Any:
    """`x += y`: in place where the splits agree, otherwise as `x = x + y`, which Python allows."""
    y = binary_in_place(func, x, other)
    return apply_rule(_OUT_OF_PLACE[func], (x, other), {}) if y is NotImplemented else y


_OUT_OF_PLACE = {
    torch.Tensor.__iadd__: torch.Tensor.__add__,
    torch.Tensor.__isub__: torch.Tensor.__sub__,
    torch.Tensor.__imul__: torch.Tensor.__mul__,
    torch.Tensor.__itruediv__: torch.Tensor.__truediv__,
}


def _operand_halves(value: Any, x: OctTensor) -> tuple[Any, Any] | None:
    """What an operand contributes to each half of `x`; None if it has to meet the dense map."""
    if isinstance(value, OctTensor):
        same = value.shape[2:] == x.shape[2:] and value.octave_dims == x.octave_dims and value.runs == x.runs
        return (value.high, value.low) if same else None
    if not isinstance(value, Tensor) or (value.numel() == 1 and value.dim() <= x.dim()):
        return value, value
    if value.dim() > x.dim():
        return None
    shape = (1,) * (x.dim() - value.dim()) + tuple(value.shape)
    if any(n != 1 for n in shape[2:]):
        return None
    if shape[1] == 1:
        return value, value
    return x.cut(value, dim=1 - x.dim()) if shape[1] == x.shape[1] else None


# ---- parameters a channel -------------------------------------------------------------------------------


@oct_rule(F.batch_norm)
def batch_norm(
    func: Function,
    x: OctTensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> OctTensor:
    """Batch norm of each half with its share of parameters and running statistics.

    Statistics are those of the pixels a half stores, as in the official code. On even sizes mean and
    (biased) variance are those of the dense map; the running variance has the n/(n−1) of its smaller n.
    """
    return _norm(func, x, (running_mean, running_var, weight, bias), training, momentum, eps)


@oct_rule(F.instance_norm)
def instance_norm(
    func: Function,
    x: OctTensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> OctTensor:
    """Instance norm of each half, by the statistics of the pixels it stores. Exact on even sizes."""
    return _norm(func, x, (running_mean, running_var, weight, bias), use_input_stats, momentum, eps)


def _norm(
    func: Function,
    x: OctTensor,
    per_channel: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    measures: bool,
    momentum: float,
    eps: float,
) -> OctTensor:
    """Normalise each half by (running mean, running variance, weight, bias), all (C,), cut at the split."""
    parts = [(None, None) if p is None else x.cut(p) for p in per_channel]
    high, low = (
        half if half.shape[1] == 0 else func(half, *(part[i] for part in parts), measures, momentum, eps)
        for i, half in enumerate((x.high, x.low))
    )
    if measures and len(x.runs) > 2:
        # The parts of an interleaved map are copies: carry the updated statistics back.
        for statistic, (of_high, of_low) in zip(per_channel[:2], parts[:2], strict=True):
            if statistic is not None and of_high is not None and of_low is not None:
                statistic.copy_(uncut(of_high, of_low, x.runs, dim=0))
    return x.like(high, low)


@oct_rule(*named("prelu"))
def prelu(func: Function, x: OctTensor, weight: Tensor) -> OctTensor:
    """PReLU with its slopes cut at the split. Exact."""
    slopes = (weight, weight) if weight.numel() == 1 else x.cut(weight)
    high, low = (
        half if half.shape[1] == 0 else func(half, slope)
        for half, slope in zip((x.high, x.low), slopes, strict=True)
    )
    return x.like(high, low)


# ---- change of spatial size -----------------------------------------------------------------------------


def _windows(x: OctTensor, value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * (x.dim() - 2)


MAX_POOL = named("max_pool1d max_pool2d max_pool3d")


@oct_rule(*MAX_POOL, *named("avg_pool1d avg_pool2d avg_pool3d"))
def pool_by_window(func: Function, x: OctTensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    """Max- and average-pooling: the same window on each half, at its own resolution (official code).

    Where the window would leave the low half a pixel short of ⌈size / 2⌉, its last, partial cell is kept
    (ceil mode). A window that leaves it shorter still falls back to the dense map.
    """
    names = ("stride", "padding", "dilation") if func in MAX_POOL else ("stride", "padding")
    kwargs = {**dict(zip((*names, "ceil_mode"), args, strict=False)), **kwargs}
    if kwargs.get("return_indices"):
        return NotImplemented
    high = func(x.high, kernel_size, **kwargs)
    wanted = low_size(high.shape[2:], x.octave_dims)
    window = _windows(x, kernel_size)
    stride = _windows(x, kwargs.get("stride") or window)
    padding, dilation = _windows(x, kwargs.get("padding", 0)), _windows(x, kwargs.get("dilation", 1))
    for n, k, s, p, d, least in zip(x.low.shape[2:], window, stride, padding, dilation, wanted, strict=True):
        cells = -(-(n + 2 * p - d * (k - 1) - 1) // s) + 1
        if cells - ((cells - 1) * s >= n + p) < least:  # torch drops a last cell that starts in the padding
            return NotImplemented
    low = func(x.low, kernel_size, **{**kwargs, "ceil_mode": True})
    return x.like(high, low[(..., *(slice(n) for n in wanted))])


@oct_rule(F.interpolate)
def interpolate(
    func: Function, x: OctTensor, size: Any = None, scale_factor: Any = None, **kwargs: Any
) -> OctTensor:
    """Resizing: the high half as asked, the low half to the matching ⌈size / 2⌉ in the same mode.

    Exact for nearest by whole factors; in the other modes each half is interpolated at its own resolution.
    """
    kwargs.pop("recompute_scale_factor", None)
    if size is None:
        factors = _windows(x, scale_factor)
        size = [int(n * factor) for n, factor in zip(x.shape[2:], factors, strict=True)]
    size = _windows(x, size)
    low = low_size(size, x.octave_dims)
    return x.like(_resize(func, x.high, size, kwargs), _resize(func, x.low, low, kwargs))


def _resize(func: Function, half: Tensor, size: Sequence[int], kwargs: dict[str, Any]) -> Tensor:
    if half.shape[1] == 0:
        return half.new_empty((half.shape[0], 0, *size))
    return func(half, size=tuple(size), **kwargs)


@oct_rule(F.pad)
def pad(func: Function, x: OctTensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """Padding of space: (left, right) pixels on the high half, about half as many on the low one.

    The low half gets left // 2 in front and behind what makes up ⌈size / 2⌉. Exact for even padding of even
    sizes. Padding of channels or of the batch, and cropping, fall back to the dense map.
    """
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    if len(pairs) > x.dim() - 2 or min(pad, default=0) < 0:
        return NotImplemented
    high = func(x.high, pad, mode, value)
    wanted = low_size(high.shape[2:], x.octave_dims)
    low_pad: list[int] = []
    for axis, (left, _) in enumerate(pairs, start=1):  # padding is listed from the last axis on
        front = left // 2 if axis <= x.octave_dims else left
        low_pad += [front, wanted[-axis] - x.low.shape[-axis] - front]
    if min(low_pad) < 0:
        return NotImplemented
    return x.like(high, func(x.low, low_pad, mode, value))


# ---- reduction over space -------------------------------------------------------------------------------


def _reduce(x: OctTensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce both halves and join them into a dense (N, C, …) result in logical channel order."""
    return uncut(reduce(x.high), reduce(x.low), x.runs)


@oct_rule(*named("mean amax amin"))
def reduce_space(func: Function, x: OctTensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """Mean, maximum or minimum over all of space: of each half, joined to a dense result (N, C[, 1, 1]).

    Maximum and minimum are exact; the mean is that of the pixels a half stores, exact on even sizes.
    """
    if dim is None:
        return NotImplemented
    dims = {d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim)}
    octave_axes = set(range(x.dim() - x.octave_dims, x.dim()))
    if not octave_axes <= dims or dims & {0, 1}:
        return NotImplemented
    order = tuple(sorted(dims))
    return _reduce(x, lambda half: func(half, order, keepdim, **kwargs))


@oct_rule(
    *named("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"),
    *named("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
)
def adaptive_pool(func: Function, x: OctTensor, output_size: Any, return_indices: bool = False) -> Any:
    """Adaptive pooling: of each half at its own resolution, to `output_size` and to its ⌈size / 2⌉.

    To one pixel the halves have the same size and are concatenated: the result is a dense (N, C, 1, 1), so
    classifiers need no change.
    """
    if return_indices:
        return NotImplemented
    wanted = _windows(x, output_size)
    size = tuple(n if w is None else w for w, n in zip(wanted, x.shape[2:], strict=True))

    def pool(half: Tensor, size: tuple[int, ...]) -> Tensor:
        return half.new_empty((half.shape[0], 0, *size)) if half.shape[1] == 0 else func(half, size)

    if all(n == 1 for n in size[-x.octave_dims :]):
        return _reduce(x, lambda half: pool(half, size))
    return x.like(pool(x.high, size), pool(x.low, low_size(size, x.octave_dims)))


# ---- channels, batch, and the way out -------------------------------------------------------------------


@oct_rule(torch.cat, torch.concat, torch.concatenate)
def concatenate(func: Function, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Concatenation over channels: high with high, low with low. Exact: the order of channels is tracked.

    A dense map counts as all high. Maps of equal split are also concatenated over the batch.
    """
    first = next(x for x in tensors if isinstance(x, OctTensor))
    if any(x.dim() != first.dim() for x in tensors):
        return NotImplemented
    maps = [
        x if isinstance(x, OctTensor) else OctTensor.all_high(x, octave_dims=first.octave_dims)
        for x in tensors
    ]
    if any(x.octave_dims != first.octave_dims for x in maps):
        return NotImplemented
    dim %= first.dim()
    if dim == 1:
        runs = join_runs(x.runs for x in maps)
    elif dim == 0 and all(x.runs == first.runs for x in maps):
        runs = first.runs
    else:
        return NotImplemented
    high, low = func([x.high for x in maps], dim), func([x.low for x in maps], dim)
    strict = any(x.strict for x in maps)
    return OctTensor(high, low, octave_dims=first.octave_dims, strict=strict, runs=runs)


@oct_rule(torch.Tensor.__getitem__)
def index_batch(func: Function, x: OctTensor, index: Any) -> Any:
    """`x[a:b]`, a slice of the batch: of each half. Any other index falls back to the dense map."""
    if not isinstance(index, slice):
        return NotImplemented
    return x.like(func(x.high, index), func(x.low, index))


@oct_rule(
    *named("flatten conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
)
def leave_octave(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The ways out: the function on the dense map. Exact.

    Flattening gives up the grid that an octave needs, and a convolution that was left vanilla reads the whole
    resolution. A plan names those layers, so unlike a fallback this is not announced.
    """
    if not isinstance(x, OctTensor):
        return NotImplemented
    return func(x.to_dense(), *args, **kwargs)


@oct_rule(
    *named("is_contiguous is_floating_point is_complex element_size get_device is_pinned"),
    *named("new_empty new_zeros new_ones new_full new_tensor"),
)
def ask_high(func: Function, x: OctTensor, *args: Any, **kwargs: Any) -> Any:
    """Questions both halves answer alike, and new plain tensors of the same dtype and device."""
    return func(x.high, *args, **kwargs)
