"""Every rule against its function on the dense map, where that is exact; else against the rule's definition.

The cases are keyed by function name, and `test_every_rule_has_a_case` walks the table of rules itself, so a
new rule without a case fails.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.maps import MAPS, copied, dense_of, equal, make, map_named, randomized
from torch import Tensor, nn

from octavize import DenseFallbackWarning, OctConv2d, OctTensor, octavize
from octavize.nn import dispatch as dispatch_module

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")

Function = Callable[..., Any]


# ---- the functions in the table, and how to call them -----------------------------------------------------

HOMES = {"torch": torch, "Tensor": torch.Tensor, "F": F, "special": torch.special}


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
    isposinf isneginf isreal signbit sgn fix tan asin acos sinh cosh asinh acosh atanh arcsin arccos arctan
    arcsinh arccosh arctanh deg2rad rad2deg erfinv erfcx sinc logit expit digamma psi lgamma gammaln i0 i0e i1
    i1e entr ndtr ndtri log_ndtr airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 spherical_bessel_j0
    modified_bessel_i0 modified_bessel_i1 modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0
    scaled_modified_bessel_k1 byte char short conj_physical resolve_conj resolve_neg
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
    "fake_quantize_per_tensor_affine": [(0.1, 3, 0, 255)],
    "logit": [(), (0.1,)],
    "full_like": [(3.0,)],
    "fill": [(3.0,)],
}
RANDOM = {
    "dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "rrelu",
    "rand_like", "randn_like", "empty_like",
}  # fmt: skip
OPERATIONS = """
    add sub subtract mul multiply div divide true_divide floor_divide pow maximum minimum rsub fmod remainder
    eq ne lt le gt ge not_equal less less_equal greater greater_equal max min
    fmax fmin atan2 arctan2 hypot copysign nextafter heaviside float_power ldexp logaddexp logaddexp2 xlogy
    xlog1py igamma igammac gammainc gammaincc zeta isclose
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
    __floordiv__ __rfloordiv__ __mod__ __rmod__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__
"""
BINARY = set(OPERATIONS.split())
TENSORS_ONLY = {
    "maximum", "minimum", "max", "min", "fmax", "fmin", "atan2", "arctan2", "hypot", "nextafter", "heaviside",
    "logaddexp", "logaddexp2", "igamma", "igammac", "gammainc", "gammaincc", "isclose", "ldexp",
}  # fmt: skip
BINARY_IN_PLACE = {"add_", "sub_", "mul_", "div_", "true_divide_", "pow_", "__ipow__"}
AUGMENTED = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__"}
IN_PLACE_RANDOM = {"dropout_", "alpha_dropout_", "feature_alpha_dropout_", "rrelu_"}
NEEDS_HARDWARE = {"cuda"}
FLAGS = {"requires_grad", "requires_grad_", "detach_"}
# Tested in test_channels.py.
OF_CHANNELS = {
    "split", "split_with_sizes", "chunk", "tensor_split", "narrow", "view", "reshape", "unflatten", "stack",
    "channel_shuffle", "native_channel_shuffle", "addcmul", "addcdiv", "lerp", "where", "masked_fill",
    "expand_as", "norm", "glu", "sum", "group_norm", "lp_pool1d", "lp_pool2d", "lp_pool3d",
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
    "__and__", "__or__", "__xor__"
}  # fmt: skip
NO_CASE_NEEDED = RANDOM | IN_PLACE_RANDOM | NEEDS_HARDWARE | FLAGS | SPATIAL | set(QUESTIONS)
NO_CASE_NEEDED |= OF_ONE_MASK | OF_TWO_MASKS | {"bitwise_not_"}
NO_CASE_NEEDED |= {"__ifloordiv__", "__imod__", "__iand__", "__ior__", "__ixor__"}
# Tested in test_views.py.
NO_CASE_NEEDED |= {"__setitem__"}
# Tested in test_gradients.py.
NO_CASE_NEEDED |= {"backward", "register_hook", "retain_grad", "grad"}
OF_WHOLE_NUMBERS = {"gcd", "lcm", "bitwise_left_shift", "bitwise_right_shift"}
NO_CASE_NEEDED |= OF_WHOLE_NUMBERS
OF_ORDER = {name for name in dir(torch.special) if "polynomial" in name} | {"polygamma"}
NO_CASE_NEEDED |= OF_ORDER


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
    tensors_only = name in TENSORS_ONLY
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


@pytest.mark.parametrize("func", functions(OF_ORDER))
def test_functions_of_an_order_and_a_map(func: Function) -> None:
    x = map_named("interleaved").abs()
    first = func in (torch.polygamma, torch.special.polygamma)
    call = (lambda t: func(2, t)) if first else (lambda t: caller(func)[1](t, 2))
    y = call(x)
    assert isinstance(y, OctTensor)
    equal(dense_of(y), call(dense_of(x)))


@pytest.mark.parametrize("name", sorted(OF_WHOLE_NUMBERS))
def test_functions_of_whole_numbers(name: str) -> None:
    x, func = (map_named("odd") * 20).abs().int(), getattr(torch, name)
    for other in (x, torch.tensor(3, dtype=torch.int32)):
        assert isinstance(func(x, other), OctTensor)
        equal(dense_of(func(x, other)), func(dense_of(x), dense_of(other)))


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


def test_augmented_assignment_of_other_splits_changes_the_map() -> None:
    """Whoever holds the map sees it, as a skip connection does."""
    x = map_named("odd")
    other = other_split(x)
    y, before = x, dense_of(x)
    y += other
    assert y is x
    equal(dense_of(x), before + dense_of(other))
    d = dense_of(x)
    with pytest.warns(DenseFallbackWarning, match="add"):
        d += x
    equal(d, 2 * dense_of(x))


def test_every_augmented_assignment_changes_the_map() -> None:
    other = other_split(map_named("odd"))
    dispatch_module._announced |= {"__pow__", "pow", "__floordiv__", "__mod__", "__truediv__", "remainder"}
    for change in (operator.ipow, operator.ifloordiv, operator.imod, operator.itruediv):
        x = map_named("odd").abs() + 1
        y, expected, dense = x, change(dense_of(x).clone(), 2.0), dense_of(other).abs() + 1
        assert change(x, 2.0) is y
        equal(dense_of(y), expected)
        change(x, dense)
        equal(dense_of(y), change(expected, dense))
    mask, bits = map_named("odd") > 0, map_named("odd") > 0.5
    for change in (operator.iand, operator.ior, operator.ixor):
        y, expected = mask.clone(), change(dense_of(mask).clone(), dense_of(bits))
        assert change(y, bits) is y
        equal(dense_of(y), expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: (1 - x, x - 1, x - y, y - x),
        lambda x, y: (2 / x, x / 2, x / y, y / x),
        lambda x, y: (x**2, 2**x, x**y, y**x),
        lambda x, y: (x // 2, x % 2, 7 // x, 7 % x, -x, abs(x)),
    ],
)
def test_operators_compiled(call: Callable[[Any, Any], tuple[Any, ...]]) -> None:
    """Some of torch's are written in Python, and its compiler looks them up in its own way."""
    x, gate = map_named("even").abs() + 1, torch.rand(2, 4, 1, 1, dtype=torch.float64) + 1

    def run(high: Tensor, low: Tensor) -> tuple[Any, ...]:
        return tuple(y.to_dense() for y in call(OctTensor(high, low), gate))

    torch._dynamo.reset()
    found = torch.compile(run, backend="eager", fullgraph=True)(x.high, x.low)
    for own, expected in zip(found, call(dense_of(x), gate), strict=True):
        equal(own, expected)


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
