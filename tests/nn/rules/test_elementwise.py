"""Every rule against its function on the dense map, where that is exact; else against the rule's definition.

The cases are keyed by function name, and `test_every_rule_has_a_case` walks the table of rules itself, so a
new rule without a case fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.reference import repeat_pixels
from torch import Tensor, nn

from octavize import DenseFallbackWarning, OctConv2d, OctTensor, octavize
from octavize.nn import dispatch as dispatch_module

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")

Function = Callable[..., Any]


# ---- maps to try every rule on ----------------------------------------------------------------------------


def make(layout: tuple[int, ...], *size: int, octave_dims: int | None = None, seed: int = 0) -> OctTensor:
    """A random map of two images with these layout and spatial size."""
    generator = torch.Generator().manual_seed(seed)
    dims = min(len(size), 2) if octave_dims is None else octave_dims
    small = (*size[: len(size) - dims], *((n + 1) // 2 for n in size[len(size) - dims :]))
    high, low = (
        torch.randn(2, channels, *s, generator=generator, dtype=torch.float64)
        for channels, s in ((sum(layout[::2]), size), (sum(layout[1::2]), small))
    )
    return OctTensor(high, low, octave_dims=octave_dims, channel_layout=layout)


MAPS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int | None]] = {
    "even": ((3, 1), (4, 6), None),
    "odd": ((3, 1), (5, 7), None),
    "one pixel": ((2, 2), (1, 1), None),
    "interleaved": ((1, 1, 2, 2), (5, 4), None),
    "low first": ((0, 2, 2, 0), (4, 4), None),
    "all high": ((4, 0), (4, 5), None),
    "all low": ((0, 4), (5, 4), None),
    "line": ((2, 1), (5,), None),
    "video": ((2, 1), (3, 5, 4), None),
    "video in all three": ((2, 1), (3, 5, 4), 3),
}


def map_named(name: str, seed: int = 0) -> OctTensor:
    layout, size, octave_dims = MAPS[name]
    return make(layout, *size, octave_dims=octave_dims, seed=seed)


def dense_of(x: Any) -> Any:
    """The logical map, put together channel by channel; anything else as it is."""
    if not isinstance(x, OctTensor):
        return x
    up = x.low
    for axis in range(x.dim() - x.octave_dims, x.dim()):
        up = repeat_pixels(up, axis, x.high.shape[axis])
    channels, used = [], [0, 0]
    for i, count in enumerate(x.channel_layout):
        for _ in range(count):
            channels.append((x.high, up)[i % 2][:, used[i % 2]])
            used[i % 2] += 1
    return torch.stack(channels, 1)


def copied(x: OctTensor) -> OctTensor:
    return OctTensor(
        x.high.clone(),
        x.low.clone(),
        octave_dims=x.octave_dims,
        channel_layout=x.channel_layout,
        strict=x.strict,
    )


def equal(a: Any, b: Any, name: str = "") -> None:
    """Same values to the last bits: vectorized and scalar code of one function may round differently."""
    torch.testing.assert_close(
        a, b, rtol=1e-12, atol=1e-12, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )


# ---- the functions in the table, and how to call them -----------------------------------------------------

HOMES = {"torch": torch, "Tensor": torch.Tensor, "F": F}


def homes_of(func: Any) -> list[tuple[str, str]]:
    """Under which names torch has this function; old names of operators, such as `__rdiv__`, left out."""
    return [
        (home, name)
        for home, place in HOMES.items()
        for name in dir(place)
        if (getattr(place, name, None) is func or (home == "Tensor" and getattr(place, name, None) == func))
        and (not name.startswith("__") or hasattr(OctTensor, name))
    ]


TABLE = {func: homes_of(func) for func in dispatch_module.RULES if callable(func)}


def caller(func: Function) -> tuple[str, Function]:
    """The function's name, and a way to call it on an OctTensor and on a tensor alike."""
    home, name = TABLE[func][0]
    if home == "Tensor":
        return name, lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)
    return name, func


def functions(cases: Any) -> list[Any]:
    """The registered functions that go by the names in `cases`."""
    return [
        pytest.param(func, id=f"{found[0][0]}.{found[0][1]}")
        for func, found in TABLE.items()
        if found and found[0][1] in cases
    ]


# Arguments after the map, for functions of one value at a time.
SIMPLE = """
    relu relu6 elu selu celu gelu silu mish hardswish hardsigmoid hardtanh hardshrink softshrink tanhshrink
    sigmoid logsigmoid tanh softplus softsign abs neg negative sign square sqrt rsqrt reciprocal exp exp2
    expm1 log log2 log10 log1p erf erfc sin cos atan floor ceil round trunc frac isnan isinf isfinite
    logical_not float double half bfloat16 int long bool cpu clone detach contiguous zeros_like ones_like
    positive zero nan_to_num __neg__ __abs__
"""
POINTWISE: dict[str, list[tuple[Any, ...]]] = {name: [()] for name in SIMPLE.split()} | {
    "leaky_relu": [(), (0.2,)],
    "hardtanh": [(-0.5, 0.25)],
    "softplus": [(2.0, 1.0)],
    "threshold": [(0.1, -3.0)],
    "clamp": [(-0.5, 0.5), (None, 0.1), (0.2,)],
    "clamp_min": [(0.1,)],
    "clamp_max": [(0.1,)],
    "clip": [(-0.5, 0.5)],
    "to": [(torch.float32,), ("cpu",), (torch.zeros(1, dtype=torch.int32),), (torch.float64, False, True)],
    "type": [(torch.float32,), ("torch.FloatTensor",)],
    "type_as": [(torch.zeros(1, dtype=torch.int32),)],
    "full_like": [(3.0,)],
    "fill": [(3.0,)],
}
RANDOM = {
    "dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "rrelu",
    "rand_like", "randn_like", "empty_like",
}  # fmt: skip
OPERATIONS = """
    add sub subtract mul multiply div divide true_divide floor_divide pow maximum minimum rsub fmod remainder
    eq ne lt le gt ge
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
    __floordiv__ __rfloordiv__ __mod__ __rmod__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__
"""
BINARY = set(OPERATIONS.split())
BINARY_IN_PLACE = {"add_", "sub_", "mul_", "div_", "true_divide_", "pow_", "__ipow__"}
AUGMENTED = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__"}
IN_PLACE_RANDOM = {"dropout_", "alpha_dropout_", "feature_alpha_dropout_", "rrelu_"}
NEEDS_HARDWARE = {"cuda"}
FLAGS = {"requires_grad", "requires_grad_", "detach_"}
# Tested in test_channel_rules.py.
OF_CHANNELS = {
    "split", "split_with_sizes", "chunk", "tensor_split", "narrow", "view", "reshape", "unflatten", "stack",
    "channel_shuffle", "native_channel_shuffle", "addcmul", "addcdiv", "lerp", "where", "masked_fill",
    "expand_as", "norm", "sum", "group_norm", "lp_pool1d", "lp_pool2d", "lp_pool3d",
}  # fmt: skip
# Tested by name further down.
SPATIAL = OF_CHANNELS | {
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for n in (1, 2, 3)),
    "interpolate", "pad", "mean", "amax", "amin", "batch_norm", "instance_norm", "prelu",
    "cat", "concat", "concatenate", "__getitem__", "flatten",
    *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)),
}  # fmt: skip
QUESTIONS = {
    "is_contiguous": (), "is_floating_point": (), "is_complex": (), "element_size": (), "get_device": (),
    "is_pinned": (), "new_empty": ((2, 3),), "new_zeros": ((2, 3),), "new_ones": ((2, 3),),
    "new_full": ((2, 3), 4.0), "new_tensor": ([1.0, 2.0],),
}  # fmt: skip

# Functions of true and false, tested on masks further down.
OF_ONE_MASK = {"bitwise_not", "__invert__"}
OF_TWO_MASKS = {
    *(f"{kind}_{word}" for kind in ("logical", "bitwise") for word in ("and", "or", "xor")),
    "__and__", "__or__", "__xor__",
}  # fmt: skip
NO_CASE_NEEDED = RANDOM | IN_PLACE_RANDOM | NEEDS_HARDWARE | FLAGS | SPATIAL | set(QUESTIONS)
NO_CASE_NEEDED |= OF_ONE_MASK | OF_TWO_MASKS | {"bitwise_not_"}


def has_case(name: str) -> bool:
    in_place = name.endswith("_") and name.rstrip("_") in POINTWISE
    return in_place or name in {*POINTWISE, *BINARY, *BINARY_IN_PLACE, *AUGMENTED, *NO_CASE_NEEDED}


def test_every_rule_has_a_case() -> None:
    names = {func: [name for _, name in found] or [func.__name__] for func, found in TABLE.items()}
    missing = [func for func in names if not any(has_case(name) for name in names[func])]
    assert missing == []


def test_table_holds_functions_only() -> None:
    """Names looked up in the wrong place find dtypes, modules and methods of the module object itself."""
    strange = [f for f in dispatch_module.RULES if not callable(f) or "module object" in repr(f)]
    assert strange == []


# ---- pointwise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("func", functions(POINTWISE))
def test_pointwise(func: Function) -> None:
    name, call = caller(func)
    for where, args in product(MAPS, POINTWISE[name]):
        x = map_named(where)
        y = call(x, *args)
        assert isinstance(y, OctTensor)
        assert (y.channel_layout, y.octave_dims) == (x.channel_layout, x.octave_dims)
        expected = call(dense_of(x), *args)
        assert y.dtype == expected.dtype
        equal(dense_of(y), expected, f"{name}{args} on {where}")


IN_PLACE = {f"{name}_" for name in POINTWISE} - BINARY_IN_PLACE - FLAGS


@pytest.mark.parametrize("func", functions(IN_PLACE))
def test_pointwise_in_place(func: Function) -> None:
    name, call = caller(func)
    for where, args in product(MAPS, POINTWISE[name.rstrip("_")]):
        x = map_named(where)
        expected = call(dense_of(x), *args)
        high = x.high
        x.pooled_high()
        y = call(x, *args)
        assert y is x, "the very object is changed and returned"
        assert x.high is high
        equal(dense_of(x), expected, f"{name}{args} on {where}")


@pytest.mark.parametrize(
    "name",
    [name for name in POINTWISE if "inplace" in getattr(getattr(F, name, None), "__annotations__", {})],
)
def test_inplace_argument_changes_the_map_itself(name: str) -> None:
    args = POINTWISE[name][-1]
    x = map_named("odd")
    expected = getattr(F, name)(dense_of(x), *args)
    y = getattr(F, name)(x, *args, inplace=True)
    equal(dense_of(x), expected, name)
    equal(dense_of(y), expected, name)


def test_clamp_by_a_tensor_a_channel() -> None:
    """Bounds may be tensors; whatever the route, the values are right."""
    x = map_named("interleaved")
    bounds = torch.linspace(-1, 1, 6, dtype=torch.float64).view(6, 1, 1)
    for call in (
        lambda t: torch.clamp(t, bounds),
        lambda t: t.clamp(max=bounds),
        lambda t: t.clamp_min(bounds),
    ):
        dispatch_module._announced.update({"clamp", "clamp_min"})
        equal(dense_of(call(x)), call(dense_of(x)))


def test_type_of_another_map() -> None:
    x = map_named("odd")
    dispatch_module._announced.update({"to", "type_as"})
    for other in (x.float(), torch.zeros(1)):
        assert x.type_as(other).dtype == torch.float32
        equal(dense_of(x.type_as(other)), dense_of(x).float())


def test_casts_keep_both_halves_alike() -> None:
    x = map_named("even")
    for y in (x.to("meta"), x.to(torch.float16), x.to(device="cpu", dtype=torch.int32), x.to(x.float())):
        assert isinstance(y, OctTensor)
        assert (y.low.dtype, y.low.device) == (y.high.dtype, y.high.device)
    y = x.to(memory_format=torch.channels_last)
    assert y.low.is_contiguous(memory_format=torch.channels_last)


def test_flags() -> None:
    x = map_named("even")
    assert x.requires_grad_() is x
    assert x.low.requires_grad
    assert x.high.requires_grad
    y = x * 2
    assert not y.detach().requires_grad
    assert y.detach_() is y
    assert not y.high.requires_grad


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a missing device")
def test_cuda_asks_torch() -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        map_named("even").cuda()


# ---- random functions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("func", functions(RANDOM))
def test_random_functions_by_their_properties(func: Function) -> None:
    name, call = caller(func)
    for where in MAPS:
        x = map_named(where)
        if name in ("dropout1d", "dropout2d", "dropout3d") and int(name[-2]) != x.dim() - 2:
            continue
        if name.endswith("_like"):
            y = call(x)
            if name == "rand_like":
                assert all(((half >= 0) & (half < 1)).all() for half in (y.high, y.low))
        elif name == "rrelu":
            y = call(x, 0.25, 0.25)
            equal(dense_of(y), F.leaky_relu(dense_of(x), 0.25))
            y = call(x, 0.1, 0.3, True)
            for a, b in ((x.high, y.high), (x.low, y.low)):
                slope = torch.where(a < 0, b / a, 0.2)
                assert ((slope >= 0.0999) & (slope <= 0.3001)).all()
        else:
            equal(dense_of(call(x, 0.5, False)), dense_of(x))
            y = call(x, 0.5, True)
        assert (y.shape, y.channel_layout, y.dtype) == (x.shape, x.channel_layout, x.dtype)


@pytest.mark.parametrize("func", functions(IN_PLACE_RANDOM))
def test_random_functions_in_place(func: Function) -> None:
    name, call = caller(func)
    x = map_named("interleaved")
    expected = F.leaky_relu(dense_of(x), 0.25) if name == "rrelu_" else dense_of(x)
    y = call(x, 0.25, 0.25) if name == "rrelu_" else call(x, 0.5, False)
    assert y is x
    equal(dense_of(x), expected)


def test_dropout_scales_what_it_keeps() -> None:
    x = make((40, 24), 8, 8).abs() + 1
    y = F.dropout(x, 0.25, True)
    for a, b in ((x.high, y.high), (x.low, y.low)):
        kept = b != 0
        equal(b[kept], a[kept] / 0.75)
        assert 0.6 < kept.double().mean() < 0.9
    y = F.dropout2d(x, 0.5, True)
    for half in (y.high, y.low):
        whole = (half != 0).flatten(2)
        assert (whole.all(2) == whole.any(2)).all(), "a channel is dropped as a whole"


# ---- two operands -----------------------------------------------------------------------------------------


def operands(x: OctTensor) -> dict[str, Any]:
    """What may stand beside a map without leaving the octave."""
    spatial = (1,) * (x.dim() - 2)
    n, c = x.shape[:2]
    torch.manual_seed(5)
    return {
        "map": copied(x) * 0.5 + 0.25,
        "number": 2,
        "fraction": 0.75,
        "scalar tensor": torch.tensor(1.5, dtype=torch.float64),
        "one value": torch.full((1,) * x.dim(), 1.5, dtype=torch.float64),
        "an image": torch.rand(n, 1, *spatial, dtype=torch.float64) + 0.5,
        "a channel": torch.rand(c, *spatial, dtype=torch.float64) + 0.5,
        "a channel and image": torch.rand(n, c, *spatial, dtype=torch.float64) + 0.5,
        "a channel, batch of 1": torch.rand(1, c, *spatial, dtype=torch.float64) + 0.5,
    }


def other_split(x: OctTensor) -> OctTensor:
    """A map of the same shape in which the first channel is not low and the last is."""
    c = x.shape[1]
    layout = (c - 1, 1) if x.channel_layout != (c - 1, 1) else (c - 2, 2)
    return make(layout, *x.shape[2:], octave_dims=x.octave_dims, seed=9)


@pytest.mark.parametrize("func", functions(BINARY))
def test_binary(func: Function) -> None:
    name, call = caller(func)
    tensors_only = name in ("maximum", "minimum")
    for where in MAPS:
        x = map_named(where)
        for kind, other in operands(x).items():
            if tensors_only and not isinstance(other, (Tensor, OctTensor)):
                continue
            y = call(x, other)
            assert isinstance(y, OctTensor), kind
            assert y.channel_layout == x.channel_layout
            equal(dense_of(y), call(dense_of(x), dense_of(other)), f"{name} with {kind} on {where}")
            if TABLE[func][0][0] == "torch" and isinstance(other, Tensor):
                y = func(other, x)
                assert isinstance(y, OctTensor), kind
                equal(dense_of(y), func(other, dense_of(x)), f"{name} of {kind} and {where}")


@pytest.mark.parametrize("func", functions(BINARY))
def test_binary_of_two_splits(func: Function) -> None:
    """Channels low in only one of two maps are raised first; with none low in both the maps are dense."""
    name, call = caller(func)
    for where in MAPS:
        x = map_named(where)
        other = other_split(x)
        dispatch_module._announced.add(func.__name__)
        y = call(x, other)
        equal(dense_of(y), call(dense_of(x), dense_of(other)), f"{name} on {where}")
        equal(dense_of(call(other, x)), call(dense_of(other), dense_of(x)), f"{name} on {where}")


def test_binary_keeps_the_channels_low_in_both() -> None:
    a, b = make((2, 4), 5, 5), make((1, 1, 2, 2), 5, 5)
    y = a + b
    assert isinstance(y, OctTensor)
    assert (y.high.shape[1], y.low.shape[1]) == (4, 2)
    equal(dense_of(y), dense_of(a) + dense_of(b))


def test_binary_with_a_dense_map_falls_back() -> None:
    x = map_named("odd")
    with pytest.warns(DenseFallbackWarning, match="add"):
        y = x + dense_of(x)
    equal(y, 2 * dense_of(x))
    with pytest.warns(DenseFallbackWarning, match="sub"):
        y = torch.sub(torch.ones(4, 5, 7, dtype=torch.float64), x)
    equal(y, 1 - dense_of(x))
    with pytest.warns(DenseFallbackWarning, match="mul"):
        y = x * torch.rand(7, dtype=torch.float64)
    assert y.shape == x.shape
    y = x * torch.ones(2, 1, 1, 1, 1, dtype=torch.float64)
    assert y.shape == (2, 2, 4, 5, 7)


def test_binary_broadcasts_over_the_batch() -> None:
    x = map_named("odd")
    one = x[:1]
    equal(dense_of(x - one), dense_of(x) - dense_of(one))
    equal(dense_of(one - x), dense_of(one) - dense_of(x))


def test_binary_of_different_size_fails_as_torch_does() -> None:
    dispatch_module._announced.add("add")
    dispatch_module._announced.add("__add__")
    with pytest.raises(RuntimeError):
        make((3, 1), 4, 4) + make((3, 1), 3, 3)
    with pytest.raises(RuntimeError):
        make((3, 1), 3, 3) + make((3, 1), 4, 4)
    with pytest.raises(RuntimeError):
        make((3, 1), 4, 4) + make((3, 2), 4, 4)


def test_binary_keywords() -> None:
    x = map_named("odd")
    equal(dense_of(torch.add(x, x, alpha=3)), 4 * dense_of(x))
    equal(dense_of(x.sub(x, alpha=0.5)), 0.5 * dense_of(x))
    equal(
        dense_of(torch.div(x, 0.3, rounding_mode="floor")), torch.div(dense_of(x), 0.3, rounding_mode="floor")
    )


def test_binary_promotes_types() -> None:
    x = map_named("all low").float()
    y = x * torch.rand(4, 1, 1, dtype=torch.float64)
    assert y.dtype == torch.float64
    assert (x.to(torch.int32) / 2).dtype == torch.float32
    assert (x > 0).dtype == torch.bool


@pytest.mark.parametrize("func", functions(BINARY_IN_PLACE | AUGMENTED))
def test_binary_in_place(func: Function) -> None:
    name, call = caller(func)
    for where in MAPS:
        for kind in operands(map_named(where)):
            x = map_named(where).abs()
            other = operands(x)[kind]
            high, d = x.high, dense_of(x)
            expected = call(d, dense_of(other))
            y = call(x, other)
            assert y is x
            assert x.high is high
            equal(dense_of(x), expected, f"{name} with {kind} on {where}")


def test_augmented_assignment_of_other_splits_makes_a_new_map() -> None:
    x = map_named("odd")
    other = other_split(x)
    y = x
    y += other
    equal(dense_of(y), dense_of(x) + dense_of(other))
    d = dense_of(x)
    with pytest.warns(DenseFallbackWarning, match="add"):
        d += x
    equal(d, 2 * dense_of(x))


def test_gradient_of_a_gate() -> None:
    x = make((1, 1, 2, 2), 5, 5)
    gate = torch.rand(2, 6, 1, 1, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad((dense_of(x) * gate).sum(), gate)[0]
    equal(torch.autograd.grad(dense_of(x * gate).sum(), gate)[0], wanted)


@pytest.mark.parametrize("func", functions(OF_ONE_MASK | OF_TWO_MASKS))
def test_masks(func: Function) -> None:
    x = map_named("odd")
    masks = [x > 0, x < 0.5]
    name, call = caller(func)
    operands = masks[: 1 if name in OF_ONE_MASK else 2]
    result = call(*operands)
    assert isinstance(result, OctTensor)
    equal(dense_of(result), call(*map(dense_of, operands)))


# ---- normalization ----------------------------------------------------------------------------------------


def stored_channels(x: OctTensor) -> list[Tensor]:
    """The pixels that each channel stores, in logical order: (N, *size of its half)."""
    found, used = [], [0, 0]
    for i, count in enumerate(x.channel_layout):
        for _ in range(count):
            found.append((x.high, x.low)[i % 2][:, used[i % 2]])
            used[i % 2] += 1
    return found


NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MANY_PIXELS = [name for name in MAPS if name != "one pixel"]


def randomized(norm: Any) -> Any:
    for p in norm.parameters():
        nn.init.normal_(p)
    return norm.double()


@pytest.mark.parametrize("where", MANY_PIXELS)
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_batch_norm_of_the_stored_pixels(where: str, momentum: float | None) -> None:
    x = map_named(where)
    c = x.shape[1]
    norm = randomized(NORMS[x.dim() - 2](c, momentum=momentum))
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    y = x
    for step in range(2):
        y = norm(x)
        for i, (before, after) in enumerate(zip(stored_channels(x), stored_channels(y), strict=True)):
            m, v = before.mean(), before.var(unbiased=False)
            equal(after, (before - m) / (v + norm.eps).sqrt() * norm.weight[i] + norm.bias[i])
            share = momentum or 1 / (step + 1)
            mean[i] = (1 - share) * mean[i] + share * m
            var[i] = (1 - share) * var[i] + share * before.var()
        equal(norm.running_mean, mean)
        equal(norm.running_var, var)
    assert norm.num_batches_tracked == 2
    assert y.channel_layout == x.channel_layout
    norm.eval()
    equal(dense_of(norm(x)), norm(dense_of(x)))
    equal(norm.running_mean, mean)


@pytest.mark.parametrize("where", ["even", "low first"])
def test_batch_norm_on_even_sizes_is_the_dense_one(where: str) -> None:
    x = map_named(where)
    norm = randomized(nn.BatchNorm2d(4))
    equal(dense_of(copy.deepcopy(norm)(x)), norm(dense_of(x)))


@pytest.mark.parametrize("where", MANY_PIXELS)
@pytest.mark.parametrize("training", [True, False])
def test_gradient_of_batch_norm(where: str, training: bool) -> None:
    x = map_named(where)
    norm = randomized(NORMS[x.dim() - 2](x.shape[1])).train(training)
    leaves = [x.high.requires_grad_(), x.low.requires_grad_(), norm.weight, norm.bias]
    loss = dense_of(norm(x)).pow(3).sum()
    got = torch.autograd.grad(loss, leaves, allow_unused=True)

    # The same from stored pixels alone.
    parts = []
    for i, before in enumerate(stored_channels(x)):
        m = before.mean() if training else norm.running_mean[i]
        v = before.var(unbiased=False) if training else norm.running_var[i]
        if not training:
            m, v = torch.zeros(()).double(), torch.ones(()).double()
        parts.append((before - m) / (v + norm.eps).sqrt() * norm.weight[i] + norm.bias[i])
    if not training:
        norm.reset_running_stats()
        got = torch.autograd.grad(dense_of(norm(x)).pow(3).sum(), leaves, allow_unused=True)
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        up = part.unsqueeze(1)
        if part.shape[1:] != x.shape[2:]:
            for axis in range(x.dim() - x.octave_dims, x.dim()):
                up = repeat_pixels(up, axis, x.shape[axis])
        total = total + up.pow(3).sum()
    wanted = torch.autograd.grad(total, leaves, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        if b is not None and b.numel():
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [{"affine": False}, {"track_running_stats": False}, {"affine": False, "track_running_stats": False}],
)
def test_batch_norm_without_its_parts(options: dict[str, bool]) -> None:
    x = make((1, 1, 2, 2), 4, 4)
    norm = nn.BatchNorm2d(6, **options).double()
    equal(dense_of(norm(x)), copy.deepcopy(norm)(dense_of(x)))
    norm.eval()
    equal(dense_of(norm(x)), norm(dense_of(x)))


@pytest.mark.parametrize("where", ["even", "odd", "interleaved", "all high", "all low", "line", "video"])
def test_instance_norm_of_the_stored_pixels(where: str) -> None:
    x = map_named(where)
    norms = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
    norm = randomized(norms[x.dim() - 2](x.shape[1], affine=True, track_running_stats=True))
    y = norm(x)
    for i, (before, after) in enumerate(zip(stored_channels(x), stored_channels(y), strict=True)):
        flat = before.flatten(1)
        m, v = flat.mean(1), flat.var(1, unbiased=False)
        shape = (-1, *[1] * (before.dim() - 1))
        normal = (before - m.view(shape)) / (v + norm.eps).sqrt().view(shape)
        equal(after, normal * norm.weight[i] + norm.bias[i])
        equal(norm.running_mean[i], 0.1 * m.mean())
        equal(norm.running_var[i], 0.9 + 0.1 * flat.var(1).mean())
    norm.eval()
    equal(dense_of(norm(x)), norm(dense_of(x)))


@pytest.mark.parametrize("where", MAPS)
@pytest.mark.parametrize("shared", [True, False])
def test_prelu(where: str, shared: bool) -> None:
    x = map_named(where)
    act = nn.PReLU(1 if shared else x.shape[1]).double()
    nn.init.uniform_(act.weight)
    equal(dense_of(act(x)), act(dense_of(x)))
    equal(dense_of(x.prelu(act.weight)), act(dense_of(x)))
    wanted = torch.autograd.grad(act(dense_of(x)).sum(), act.weight)[0]
    equal(torch.autograd.grad(dense_of(act(x)).sum(), act.weight)[0], wanted)


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


@pytest.mark.parametrize(
    "kwargs",
    [
        {"size": (7, 9), "mode": "bilinear"},
        {"size": 9, "mode": "bilinear", "align_corners": True},
        {"size": (3, 2), "mode": "bilinear", "antialias": True},
        {"size": (1, 1)},
        {"scale_factor": 2, "mode": "bicubic"},
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


@pytest.mark.parametrize("pads", [(-1, 0), (0, 0, -1, 1), (0, 0, 0, 0, 1, 1), (0, 0, 0, 0, 0, 0, 1, 0)])
def test_padding_of_channels_and_cropping_fall_back(pads: tuple[int, ...]) -> None:
    x = map_named("odd")
    with pytest.warns(DenseFallbackWarning, match="pad"):
        y = F.pad(x, pads)
    equal(y, F.pad(dense_of(x), pads))


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


# ---- channels, batch, the way out -------------------------------------------------------------------------


@pytest.mark.parametrize("func", [torch.cat, torch.concat, torch.concatenate])
def test_concatenation_over_channels_is_exact(func: Function) -> None:
    maps = [make((2, 1), 5, 4, seed=1), make((0, 2), 5, 4, seed=2), make((1, 1, 1, 2), 5, 4, seed=3)]
    plain = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    for many in (
        [maps[0], maps[1]],
        maps,
        [plain, *maps],
        [maps[2], plain, maps[0]],
        [maps[0]],
        (maps[1], plain),
    ):
        for dim in (1, -3):
            y = func(many, dim)
            assert isinstance(y, OctTensor)
            equal(dense_of(y), torch.cat([dense_of(m) for m in many], 1))
            equal(y.to_dense(), dense_of(y))
    assert func(maps, dim=1).channel_layout == (2, 3, 1, 1, 1, 2)


def test_concatenation_over_the_batch() -> None:
    x = map_named("interleaved")
    y = torch.cat([x, x.neg()])
    assert y.shape[0] == 4
    equal(dense_of(y), torch.cat([dense_of(x), -dense_of(x)]))
    with pytest.warns(DenseFallbackWarning, match="cat"):
        y = torch.cat([x, make((4, 2), 5, 4)])
    assert y.shape == (4, 6, 5, 4)


def test_concatenation_over_space_falls_back() -> None:
    x = map_named("odd")
    with pytest.warns(DenseFallbackWarning, match="cat"):
        equal(torch.cat([x, x], 2), torch.cat([dense_of(x)] * 2, 2))


def test_concatenation_of_different_types() -> None:
    x = map_named("even")
    y = torch.cat([x, x.float()], 1)
    assert (y.high.dtype, y.low.dtype) == (torch.float64, torch.float64)
    y = torch.cat([x.float(), dense_of(x)], 1)
    assert (y.high.dtype, y.low.dtype) == (torch.float64, torch.float64)


@pytest.mark.parametrize("training", [True, False])
def test_concatenation_then_batch_norm_and_convolution(training: bool) -> None:
    """A dense block: the same as the layers with their channels put in (high, low) order by hand."""
    a, b = make((2, 1), 5, 6, seed=1), make((1, 2), 5, 6, seed=2)
    norm = randomized(nn.BatchNorm2d(6)).train(training)
    conv = OctConv2d(6, 4, 3, padding=1, alpha=0.5).double()
    order = [0, 1, 3, 2, 4, 5]
    norm2, conv2 = copy.deepcopy(norm), copy.deepcopy(conv)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm2, name).copy_(getattr(norm, name)[order])
        conv2.weight.copy_(conv.weight[:, order])
    y = conv(F.relu(norm(torch.cat([a, b], 1))))
    ordered = OctTensor(torch.cat([a.high, b.high], 1), torch.cat([a.low, b.low], 1))
    expected = conv2(F.relu(norm2(ordered)))
    equal(y.high, expected.high)
    equal(y.low, expected.low)
    equal(norm.running_mean[order], norm2.running_mean)
    equal(norm.running_var[order], norm2.running_var)


@pytest.mark.parametrize("where", MAPS)
def test_slice_of_the_batch(where: str) -> None:
    x = map_named(where)
    for part in (slice(0, 1), slice(1, None), slice(None, None, 2), slice(5, 9), slice(None)):
        y = x[part]
        assert isinstance(y, OctTensor)
        equal(dense_of(y), dense_of(x)[part])


@pytest.mark.parametrize("where", MAPS)
def test_flatten_is_dense(where: str) -> None:
    x = map_named(where)
    equal(torch.flatten(x, 1), torch.flatten(dense_of(x), 1))
    equal(x.flatten(2), dense_of(x).flatten(2))
    equal(nn.Flatten()(x), nn.Flatten()(dense_of(x)))
    equal(x.flatten(start_dim=0, end_dim=1), dense_of(x).flatten(0, 1))


def test_vanilla_convolution_reads_the_dense_map_quietly() -> None:
    """A layer left vanilla is exact; the plan names it, so it is neither announced nor refused."""
    for layer in (nn.Conv2d(6, 2, 3, 2, padding_mode="reflect", padding=1), nn.ConvTranspose2d(6, 2, 2, 2)):
        x = make((1, 1, 2, 2), 5, 4)
        strict = OctTensor(x.high, x.low, channel_layout=x.channel_layout, strict=True)
        layer = layer.double()
        if isinstance(layer, nn.ConvTranspose2d):
            equal(layer(strict), layer(dense_of(x)))
        else:
            dispatch_module._announced.add("pad")
            assert layer(x).shape == (2, 2, 3, 2)
    layer = nn.Conv3d(3, 2, 2).double()
    x = map_named("video")
    equal(layer(x), layer(dense_of(x)))
    equal(F.conv3d(input=x, weight=layer.weight), F.conv3d(dense_of(x), layer.weight))


@pytest.mark.parametrize("func", functions(QUESTIONS))
def test_questions(func: Function) -> None:
    name, call = caller(func)
    x = map_named("even")
    got, expected = call(x, *QUESTIONS[name]), call(dense_of(x), *QUESTIONS[name])
    if isinstance(expected, Tensor):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    else:
        assert got == expected


def test_is_contiguous_speaks_for_both_halves() -> None:
    high, low = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 2, 4)[..., ::2]
    assert not OctTensor(high, low).is_contiguous()


# ---- whole blocks -----------------------------------------------------------------------------------------


def test_squeeze_and_excitation_is_the_official_one() -> None:
    """Pool both halves, concatenate, one reduction, excite both."""
    from torchvision.ops import SqueezeExcitation

    x = make((4, 4), 6, 6)
    block = SqueezeExcitation(8, 2).double()
    y = block(x)
    pooled = torch.cat([x.high.mean((2, 3), keepdim=True), x.low.mean((2, 3), keepdim=True)], 1)
    gate = torch.sigmoid(block.fc2(torch.relu(block.fc1(pooled))))
    equal(y.high, x.high * gate[:, :4])
    equal(y.low, x.low * gate[:, 4:])


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1])
def test_autocast_keeps_halves_together(alpha: float) -> None:
    """Under autocast some functions return float32, and the half without channels must follow."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Softplus(),
        nn.PReLU(8),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.InstanceNorm2d(8),
        nn.AvgPool2d(2),
        nn.ReflectionPad2d(2),
        nn.AdaptiveAvgPool2d(4),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.MaxPool2d(3, 1, 1),
        nn.AdaptiveMaxPool2d(1),
    )
    octave = octavize(net, alpha, example=(1, 3, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        y = octave(torch.randn(2, 3, 8, 8))
    assert y.shape == (2, 8, 1, 1)
    assert y.isfinite().all()
