"""OctTensor: what it is made of, what it answers, and how functions reach its halves."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.helpers.reference import average, dense
from torch import Tensor, nn

from octavize import DenseFallbackWarning, InputError, OctConv2d, OctTensor, oct_rule
from octavize.nn import dispatch as dispatch_module

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")


@pytest.fixture
def x() -> OctTensor:
    torch.manual_seed(0)
    return OctTensor(torch.randn(2, 3, 5, 6), torch.randn(2, 1, 3, 3))


@pytest.fixture
def scratch_rules() -> Iterator[None]:
    """Rules registered in a test vanish after it."""
    before = dict(dispatch_module.RULES)
    yield
    dispatch_module.RULES.clear()
    dispatch_module.RULES.update(before)


# ---- invariants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("high", "low", "message"),
    [
        ((2, 3, 4, 4), (2, 1, 3, 2), r"low must be \(2, 1, 2, 2\)"),
        ((2, 3, 5, 5), (2, 1, 2, 2), r"low must be \(2, 1, 3, 3\)"),
        ((2, 3, 4, 4), (1, 1, 2, 2), r"low must be \(2, 1, 2, 2\)"),
        ((2, 3, 4, 4), (2, 1, 4, 4), r"low must be \(2, 1, 2, 2\)"),
        ((2, 3, 4, 4), (2, 0, 1, 1), r"low must be \(2, 0, 2, 2\)"),
        ((2, 3, 4, 4), (2, 1, 2), "3 to 5 dimensions"),
        ((3, 4), (1, 4), "3 to 5 dimensions"),
        ((1,) * 6, (1,) * 6, "3 to 5 dimensions"),
        ((2, 3, 4, 8, 8), (2, 1, 2, 4, 4), r"low must be \(2, 1, 4, 4, 4\)"),
    ],
)
def test_halves_that_do_not_belong_together(
    high: tuple[int, ...], low: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        OctTensor(torch.zeros(high), torch.zeros(low))


def test_halves_of_different_kind() -> None:
    high, low = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)
    with pytest.raises(InputError, match=r"float32.*float64.*move both"):
        OctTensor(high, low.double())
    with pytest.raises(InputError, match=r"cpu.*meta"):
        OctTensor(high, low.to("meta"))


@pytest.mark.parametrize("layout", [(2, 2), (3,), (4, 1), (3, -1, 1, 2), (-1, 1, 4, 0), (3, 1, 1), ()])
def test_layouts_that_are_not_counts_of_channels_are_refused(layout: Any) -> None:
    with pytest.raises(InputError, match="channel_layout"):
        OctTensor(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 1, 1), channel_layout=layout)


@pytest.mark.parametrize("octave_dims", [0, 3, -1])
def test_octave_dims_out_of_range_are_refused(octave_dims: int) -> None:
    with pytest.raises(InputError, match="octave_dims"):
        OctTensor(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2), octave_dims=octave_dims)


@pytest.mark.parametrize("high", [None, 3, [[1.0]], np.zeros((1, 1, 2, 2))])
def test_halves_that_are_no_tensors_are_refused(high: Any) -> None:
    with pytest.raises((InputError, TypeError), match="high"):
        OctTensor(high, torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize("shape", [(3, 4), (4,), (1,) * 6])
def test_from_dense_needs_a_feature_map(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="feature map"):
        OctTensor.from_dense(torch.zeros(shape), 0.5)


@pytest.mark.parametrize("alpha", [-1, 1.01, "0.5", None, float("nan")])
def test_from_dense_checks_alpha(alpha: Any) -> None:
    with pytest.raises(InputError, match="alpha="):
        OctTensor.from_dense(torch.zeros(1, 4, 2, 2), alpha)


# ---- the way in and out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1,), (5,), (8,), (1, 1), (4, 4), (7, 2), (3, 5, 5), (2, 4, 1)])
@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 1])
def test_from_dense_averages_and_to_dense_repeats(size: tuple[int, ...], alpha: float) -> None:
    d = torch.randn(2, 5, *size)
    x = OctTensor.from_dense(d, alpha)
    c_low = int(alpha * 5)
    dims = min(len(size), 2)
    axes = range(d.dim() - dims, d.dim())
    assert torch.equal(x.high, d[:, : 5 - c_low])
    torch.testing.assert_close(x.low, average(d[:, 5 - c_low :], axes))
    assert torch.equal(x.to_dense(), dense(x.high, x.low, dims))
    again = OctTensor.from_dense(x.to_dense(), alpha)
    torch.testing.assert_close(again.to_dense(), x.to_dense())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_to_dense_of_every_dtype(dtype: torch.dtype) -> None:
    x = OctTensor(torch.ones(1, 1, 3, 3).to(dtype), torch.tensor([[[[0, 1], [1, 1]]]]).to(dtype))
    assert x.to_dense().tolist()[0][1] == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]


def test_from_dense_of_video_in_space_only_or_in_all_three() -> None:
    d = torch.randn(1, 4, 5, 6, 6)
    assert OctTensor.from_dense(d, 0.5).low.shape == (1, 2, 5, 3, 3)
    x = OctTensor.from_dense(d, 0.5, octave_dims=3)
    assert x.low.shape == (1, 2, 3, 3, 3)
    assert torch.equal(x.to_dense(), dense(x.high, x.low, 3))


def test_gradient_of_to_dense_and_from_dense() -> None:
    d = torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda t: OctTensor.from_dense(t, 0.5).to_dense(), d)


def test_interleaved_channels_come_out_in_logical_order() -> None:
    high, low = torch.randn(1, 3, 4, 4), torch.randn(1, 2, 2, 2)
    x = OctTensor(high, low, channel_layout=(1, 1, 2, 1))
    up = low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = torch.stack([high[:, 0], up[:, 0], high[:, 1], high[:, 2], up[:, 1]], 1)
    assert torch.equal(x.to_dense(), expected)
    assert "channel_layout=(1, 1, 2, 1)" in repr(x)


def test_with_layout_raises_channels_without_changing_a_value() -> None:
    x = OctTensor(torch.randn(1, 2, 5, 5), torch.randn(1, 3, 3, 3))
    y = x.with_layout((3, 1, 1, 0))
    assert (y.high.shape[1], y.low.shape[1]) == (4, 1)
    assert torch.equal(y.to_dense(), x.to_dense())


# ---- what a tensor is asked -------------------------------------------------------------------------------


def test_answers_like_the_dense_tensor(x: OctTensor) -> None:
    d = x.to_dense()
    assert x.shape == d.shape
    assert isinstance(x.shape, torch.Size)
    assert x.size() == d.size()
    assert [x.size(i) for i in range(-4, 4)] == [d.size(i) for i in range(-4, 4)]
    assert x.size(dim=1) == 4
    assert (x.dim(), x.ndim, len(x), x.numel()) == (4, 4, 2, d.numel())
    assert x.stored_numel() == 2 * 3 * 30 + 2 * 9
    assert x.alpha == 0.25
    assert x.dtype == torch.float32
    assert x.device == torch.device("cpu")
    assert x.is_floating_point()
    assert torch.is_floating_point(x)
    assert not x.is_cuda
    assert not x.is_meta
    assert not x.requires_grad
    x.low.requires_grad_()
    assert x.requires_grad


@pytest.mark.parametrize("name", ["T", "mT", "H", "real", "data", "nbytes", "grad"])
def test_a_property_answers_for_both_halves_or_not_at_all(x: OctTensor, name: str) -> None:
    """Handing out the property of the high half alone would be a silent loss of the low channels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = getattr(x, name)
            expected = getattr(x.to_dense(), name)
    except (AttributeError, InputError):
        return
    if isinstance(got, OctTensor):
        got = got.to_dense()
    if isinstance(expected, Tensor):
        assert torch.equal(got, expected)
    elif name == "nbytes":
        assert got in (expected, x.high.nbytes + x.low.nbytes)
    else:
        assert got == expected


def test_repr_shows_both_halves(x: OctTensor) -> None:
    text = repr(x)
    for word in (
        "shape=(2, 4, 5, 6)",
        "alpha=0.25",
        "high=(2, 3, 5, 6)",
        "low=(2, 1, 3, 3)",
        "float32",
        "cpu",
    ):
        assert word in text


def test_truth_is_refused_as_by_a_tensor(x: OctTensor) -> None:
    """Falling back to `len` would make every comparison true."""
    with pytest.raises(RuntimeError):
        bool(x.to_dense() == 0)
    with pytest.raises((RuntimeError, InputError, TypeError)):
        bool(x == 0)


def test_compares_with_none_as_a_tensor(x: OctTensor) -> None:
    assert (x.to_dense() == None) is False  # noqa: E711
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711


def test_type_name(x: OctTensor) -> None:
    assert x.type() == "torch.FloatTensor"


def test_is_hashable_by_identity(x: OctTensor) -> None:
    assert len({x, x, x.clone()}) == 2


def test_unknown_attribute(x: OctTensor) -> None:
    assert not hasattr(x, "no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        x.no_such_thing  # noqa: B018


# ---- operators --------------------------------------------------------------------------------------------


OPERATORS = {
    "x + y": lambda x, y: x + y,
    "x - 2": lambda x, y: x - 2,
    "2 - x": lambda x, y: 2 - x,
    "2 + x": lambda x, y: 2 + x,
    "x * y": lambda x, y: x * y,
    "3 * x": lambda x, y: 3 * x,
    "x / y": lambda x, y: x / y,
    "1 / x": lambda x, y: 1 / x,
    "x ** 2": lambda x, y: x**2,
    "2 ** x": lambda x, y: 2**x,
    "-x": lambda x, y: -x,
    "abs(x)": lambda x, y: abs(x),
    "x < y": lambda x, y: x < y,
    "x >= 0": lambda x, y: x >= 0,
    "0 < x": lambda x, y: 0 < x,  # noqa: SIM300
    "x == y": lambda x, y: x == y,
    "x != y": lambda x, y: x != y,
    "x // 2": lambda x, y: x // 2,
    "7 // x": lambda x, y: 7 // x,
    "x % 2": lambda x, y: x % 2,
    "~(x > 0)": lambda x, y: ~(x > 0),
    "mask & mask": lambda x, y: (x > 0) & (y > 0),
    "mask | mask": lambda x, y: (x > 0) | (y > 0),
    "tensor - x": lambda x, y: torch.tensor(2.0) - x,
    "x * tensor": lambda x, y: x * torch.tensor(2.0),
    "numpy scalar * x": lambda x, y: np.float64(2) * x,
    "x * numpy scalar": lambda x, y: x * np.float64(2),
    "x * numpy float32": lambda x, y: x * np.float32(2),
    "numpy integer * x": lambda x, y: np.int64(3) * x,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(x: OctTensor, name: str) -> None:
    torch.manual_seed(1)
    y = OctTensor(torch.randn(2, 3, 5, 6), torch.randn(2, 1, 3, 3))
    result = OPERATORS[name](x, y)
    assert isinstance(result, OctTensor)
    assert torch.equal(result.to_dense(), OPERATORS[name](x.to_dense(), y.to_dense()))


@pytest.mark.parametrize("symbol", ["+=", "-=", "*=", "/="])
def test_augmented_assignment_changes_every_holder(x: OctTensor, symbol: str) -> None:
    y = x.clone() + 1
    expected = x.to_dense()
    holder, halves = x, (x.high, x.low)
    names: dict[str, Any] = {"x": x, "y": y, "e": expected, "d": y.to_dense()}
    exec(f"x {symbol} y\ne {symbol} d", names)
    assert names["x"] is holder
    assert (names["x"].high, names["x"].low) == halves or names["x"].high is halves[0]
    assert torch.equal(holder.to_dense(), names["e"])


# ---- the shared P(high) -----------------------------------------------------------------------------------


def test_pooled_high_is_computed_once(x: OctTensor) -> None:
    pooled = x.pooled_high()
    torch.testing.assert_close(pooled, average(x.high, (2, 3)))
    assert x.pooled_high() is pooled
    OctConv2d(4, 4, 1, alpha=0.5)(x)
    assert x.pooled_high() is pooled


@pytest.mark.parametrize(
    "change",
    [
        lambda x: F.relu(x, inplace=True),
        lambda x: x.relu_(),
        lambda x: x.add_(1),
        lambda x: x.mul_(torch.rand(4, 1, 1)),
        lambda x: x.__iadd__(x),
        lambda x: x.__imul__(2),
        lambda x: nn.Hardswish(inplace=True)(x),
        lambda x: nn.Dropout(1.0, inplace=True)(x),
        lambda x: torch.relu_(x),
        lambda x: x.zero_(),
        lambda x: x.fill_(3),
        # An alias has the same memory, as with tensors.
        lambda x: x.detach().relu_(),
        lambda x: x[:].relu_(),
        lambda x: F.dropout(x, training=False).relu_(),
        lambda x: x.contiguous().relu_(),
        lambda x: x.to(torch.float32).mul_(2),
        lambda x: F.relu(F.relu(x, inplace=True), inplace=True).mul_(2),
        lambda x: x.high.relu_(),
    ],
)
def test_pooled_high_is_dropped_after_a_change_in_place(x: OctTensor, change: Any) -> None:
    x.pooled_high()
    change(x)
    torch.testing.assert_close(x.pooled_high(), average(x.high, (2, 3)))


def test_pooled_high_follows_a_new_half(x: OctTensor) -> None:
    x.pooled_high()
    x.high = torch.randn_like(x.high)
    torch.testing.assert_close(x.pooled_high(), average(x.high, (2, 3)))


def test_two_backward_passes_from_one_leaf(x: OctTensor) -> None:
    conv = OctConv2d(4, 4, 1, alpha=0.5)
    x.high.requires_grad_()
    for _ in range(2):
        conv(x).to_dense().sum().backward()


def test_pooled_high_in_inference_mode() -> None:
    with torch.inference_mode():
        x = OctTensor(torch.randn(1, 1, 4, 4), torch.randn(1, 1, 2, 2))
        x.pooled_high()
        x.relu_()
        torch.testing.assert_close(x.pooled_high(), average(x.high, (2, 3)))


@pytest.mark.parametrize(
    "nothing", [lambda x: F.dropout(x, training=False), lambda x: x.contiguous(), lambda x: x.float()]
)
def test_what_torch_returns_as_it_is_is_the_same_map(nothing: Any) -> None:
    with torch.inference_mode():  # tensors have no versions there, which tell of changes in place
        x = OctTensor(torch.randn(1, 1, 4, 4), torch.randn(1, 1, 2, 2))
        x.pooled_high()
        F.relu_(nothing(x))
        torch.testing.assert_close(x.pooled_high(), average(x.high, (2, 3)))


# ---- copies and files -------------------------------------------------------------------------------------


def same(a: OctTensor, b: OctTensor) -> None:
    assert torch.equal(a.high, b.high)
    assert torch.equal(a.low, b.low)
    assert (a.channel_layout, a.octave_dims, a.strict) == (b.channel_layout, b.octave_dims, b.strict)
    torch.testing.assert_close(a.pooled_high(), b.pooled_high())


@pytest.mark.parametrize("pooled", [False, True])
def test_copies(pooled: bool) -> None:
    x = OctTensor(torch.randn(1, 3, 4, 4), torch.randn(1, 2, 2, 2), strict=True, channel_layout=(1, 1, 2, 1))
    if pooled:
        x.pooled_high()
    for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        same(x, y)
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    same(x, torch.load(file, weights_only=False))
    y = copy.deepcopy(x)
    y.relu_()
    assert not torch.equal(y.high, x.high)


# ---- rules of one's own -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("scratch_rules")
def test_a_rule_of_ones_own(x: OctTensor) -> None:
    @oct_rule(torch.cumsum)
    def cumsum_over_the_batch(func: Any, x: OctTensor, dim: int) -> Any:
        return x.like(func(x.high, dim), func(x.low, dim)) if dim == 0 else NotImplemented

    assert isinstance(torch.cumsum(x, 0), OctTensor)
    assert torch.equal(torch.cumsum(x, 0).to_dense(), torch.cumsum(x.to_dense(), 0))
    with pytest.warns(DenseFallbackWarning, match="cumsum"):
        assert type(torch.cumsum(x, 1)) is Tensor


@pytest.mark.usefixtures("scratch_rules")
def test_a_rule_for_a_function_of_ones_own(x: OctTensor) -> None:
    """`torch.overrides` is how a user's function lets an OctTensor in."""

    def double(x: Any) -> Any:
        if torch.overrides.has_torch_function((x,)):
            return torch.overrides.handle_torch_function(double, (x,), x)
        return 2 * x

    @oct_rule(double)
    def double_rule(func: Any, x: OctTensor) -> OctTensor:
        return x.like(func(x.high), func(x.low))

    assert torch.equal(double(x).to_dense(), 2 * x.to_dense())


@pytest.mark.usefixtures("scratch_rules")
def test_a_rule_gets_its_keywords_as_they_were_given(x: OctTensor) -> None:
    """Only first operands may be moved into place: another function may mean more by the names."""

    def scale(x: Any, factor: float = 1, other: Any = None) -> Any:
        if torch.overrides.has_torch_function((x,)):
            return torch.overrides.handle_torch_function(scale, (x,), x, factor=factor, other=other)
        return x * factor + other

    @oct_rule(scale)
    def scale_rule(func: Any, x: OctTensor, factor: float = 1, other: Any = None) -> OctTensor:
        return x.like(func(x.high, factor, other), func(x.low, factor, other))

    assert torch.equal(scale(x, 3.0, other=1.0).to_dense(), x.to_dense() * 3 + 1)


# ---- dense fallback ---------------------------------------------------------------------------------------


def test_fallback_is_exact_and_announced_once_by_name(x: OctTensor) -> None:
    with pytest.warns(DenseFallbackWarning, match=r"cumsum has no octave rule.*oct_rule.*strict=True"):
        y = torch.cumsum(x, 1)
    assert torch.equal(y, torch.cumsum(x.to_dense(), 1))
    torch.cumsum(x, 1)  # a second warning would be an error here
    with pytest.warns(DenseFallbackWarning, match="softmax"):
        x.softmax(1)


@pytest.mark.parametrize("call", [lambda x: torch.cumsum(x, 1), lambda x: x.cumsum(1), lambda x: x[0]])
def test_warning_points_at_the_callers_line(x: OctTensor, call: Any) -> None:
    with pytest.warns(DenseFallbackWarning) as caught:
        call(x)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.cumsum(x, 1),
        lambda x: x.softmax(1),
        lambda x: x[0],
        lambda x: x + x.to_dense(),
        lambda x: torch.stack([x, x]),
        lambda x: torch.cat([x, x], 2),
        lambda x: torch.cat((x.to_dense(), x), -1),
    ],
)
def test_strict_refuses_the_fallback(x: OctTensor, call: Any) -> None:
    x = OctTensor(x.high, x.low, strict=True)
    with pytest.raises(InputError, match=r"has no octave rule and strict=True.*oct_rule"):
        call(x)


def test_strict_survives_operations(x: OctTensor) -> None:
    strict = OctTensor(x.high, x.low, strict=True)
    results = {
        "relu": strict.relu(),
        "strict + other": strict + x,
        "other + strict": x + strict,
        "cat": torch.cat([x, strict], 1),
        "conv": OctConv2d(4, 4, 1, alpha=0.5)(strict),
        "slice": strict[:1],
        "pool": F.max_pool2d(strict, 2),
        "pad": F.pad(strict, (2, 2)),
    }
    assert [name for name, y in results.items() if not y.strict] == []
    assert OctConv2d(4, 4, 1, alpha=0.5, strict=True)(torch.randn(1, 4, 4, 4)).strict


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.cumsum_(1),
        lambda x: x.clamp_(max=x.to_dense()),
        lambda x: x.copy_(x.to_dense()),
        lambda x: torch.Tensor.masked_fill_(x, x > 0, 0.0),
        lambda x: x.masked_fill_(x > 0, 0.0),
    ],
)
def test_change_in_place_that_cannot_be_done_is_refused(x: OctTensor, call: Any) -> None:
    before = x.to_dense().clone()
    with pytest.raises((InputError, TypeError)):
        call(x)
    assert torch.equal(x.to_dense(), before)


@pytest.mark.parametrize(
    "call", [lambda x: x.register_post_accumulate_grad_hook(print), lambda x: x.data_ptr()]
)
def test_what_would_be_lost_on_a_dense_copy_is_refused(x: OctTensor, call: Any) -> None:
    x.high.requires_grad_()
    with pytest.raises(InputError, match=r"x\.high and x\.low"):
        call(x * 2)


def test_a_name_that_a_rule_does_not_know_takes_the_dense_map(x: OctTensor) -> None:
    grid = x.reshape(2, 2, 2, 5, 6)
    with pytest.warns(DenseFallbackWarning, match="swapaxes"):
        assert torch.equal(grid.swapaxes(axis0=1, axis1=2), grid.to_dense().swapaxes(1, 2))
    with pytest.raises(TypeError):  # what torch does not know either
        torch.split(x, 2, 1, width=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.roll(x, shifts=1, dims=2),
        lambda x: torch.roll(input=x, shifts=(1,), dims=(3,)),
        lambda x: torch.rot90(x, k=1, dims=(2, 3)),
        lambda x: torch.rot90(input=x, dims=(2, 3)),
        lambda x: torch.tensordot(x, torch.ones(4, 2, dtype=x.dtype), dims=([1], [0])),
        lambda x: torch.tile(input=x, dims=(1, 1, 2, 2)),
        lambda x: torch.cumsum(input=x, axis=1),
        lambda x: torch.permute(input=x, dims=(0, 2, 3, 1)),
    ],
)
def test_the_fallback_gets_the_call_as_it_was_made(x: OctTensor, call: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DenseFallbackWarning)
        assert torch.equal(call(x), call(x.to_dense()))


@pytest.mark.parametrize("alpha", [None, 0, 0.5, 1])
def test_change_in_place_by_another_split(x: OctTensor, alpha: float | None) -> None:
    """The very object takes over the common split, and every holder of it sees the new values."""
    dispatch_module._announced.add("add")  # with a dense map
    d = x.to_dense()
    other = d * 2 if alpha is None else OctTensor.from_dense(d * 2, alpha)
    before = other if isinstance(other, Tensor) else other.to_dense()
    x.pooled_high()
    assert x.add_(other, alpha=3) is x
    assert torch.equal(x.to_dense(), torch.add(d, before, alpha=3))
    assert torch.equal(x.pooled_high(), F.avg_pool2d(x.high, 2, ceil_mode=True, count_include_pad=False))


def test_change_in_place_by_a_larger_map_is_refused(x: OctTensor) -> None:
    with pytest.raises(RuntimeError, match="does not fit"), pytest.warns(DenseFallbackWarning):
        x[:1].add_(x.to_dense())


def test_change_in_place_by_a_dense_map_when_compiled(x: OctTensor) -> None:
    def change(high: Tensor, low: Tensor, other: Tensor) -> Tensor:
        x = OctTensor(high, low)
        y = x.relu()
        y.mul_(other)
        return y.to_dense()

    other = torch.rand(2, 4, 5, 6)
    compiled = torch.compile(change, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x.high, x.low, other), x.to_dense().relu() * other)


def test_refused_change_in_place_is_refused_when_compiled(x: OctTensor) -> None:
    """A silent change of a temporary dense map would be a wrong result."""

    def change(high: Tensor, low: Tensor, other: Tensor) -> Tensor:
        x = OctTensor(high, low)
        x.copy_(other)
        return x.to_dense()

    other = torch.rand(2, 4, 5, 6)
    compiled = torch.compile(change, backend="eager")
    with pytest.raises(Exception, match="in place"):
        compiled(x.high, x.low, other)


def test_strict_is_strict_when_compiled(x: OctTensor) -> None:
    def softmax(high: Tensor, low: Tensor) -> Tensor:
        return OctTensor(high, low, strict=True).softmax(1)

    with pytest.raises(Exception, match="strict=True"):
        torch.compile(softmax, backend="eager")(x.high, x.low)


def test_arguments_that_are_containers_are_made_dense(x: OctTensor) -> None:
    d = x.to_dense()
    positive = OctTensor(x.high > 0, x.low > 0)
    calls: list[Any] = [
        lambda t, mask: torch.stack((t, t)),
        lambda t, mask: t.reshape(torch.Size([240])),
        lambda t, mask: torch.einsum("nchw,nchw->n", t, t),
        lambda t, mask: t.max(dim=1)[0],
        lambda t, mask: t[0],
        lambda t, mask: t[mask],
    ]
    for call in calls:
        dispatch_module._announced.clear()
        with pytest.warns(DenseFallbackWarning):
            y = call(x, positive)
        assert torch.equal(y, call(d, d > 0))


def test_keyword_arguments_reach_the_rules(x: OctTensor) -> None:
    """torch's own functions take `input=` by keyword; so must the rules."""
    d = x.to_dense()
    calls: list[Any] = [
        lambda t: torch.relu(input=t),
        lambda t: torch.sigmoid(input=t),
        lambda t: F.gelu(input=t),
        lambda t: F.relu(input=t),
        lambda t: torch.add(input=t, other=t),
        lambda t: torch.mul(t, other=2),
        lambda t: t.add(other=t),
        lambda t: torch.flatten(input=t, start_dim=1),
        lambda t: torch.amax(input=t, dim=(2, 3)),
        lambda t: torch.cat(tensors=[t, t], dim=1),
        lambda t: torch.clamp(input=t, min=0),
    ]
    for call in calls:
        y = call(x)
        y = y.to_dense() if isinstance(y, OctTensor) else y
        assert torch.equal(y, call(d))
    assert F.avg_pool2d(input=x, kernel_size=2).shape == (2, 4, 2, 3)


def test_iteration_is_over_the_batch(x: OctTensor) -> None:
    with pytest.warns(DenseFallbackWarning):
        images = list(x)
    assert len(images) == 2
    assert torch.equal(torch.stack(images), x.to_dense())


def test_gradient_through_methods_and_functions() -> None:
    high = torch.randn(1, 2, 4, 4, requires_grad=True)
    low = torch.randn(1, 2, 2, 2, requires_grad=True)
    y = (OctTensor(high, low).sigmoid() * 2 + 1).mean((2, 3)).sum()
    y.backward()
    d = OctTensor(high.detach(), low.detach()).to_dense().requires_grad_()
    (d.sigmoid() * 2 + 1).mean((2, 3)).sum().backward()
    assert high.grad is not None
    assert low.grad is not None
    torch.testing.assert_close(high.grad, d.grad[:, :2])
    # Each low value stands for four pixels.
    torch.testing.assert_close(low.grad, 4 * d.grad[:, 2:, ::2, ::2])


def test_data_and_leaves() -> None:
    x = OctTensor.from_dense(torch.randn(1, 8, 4, 4, requires_grad=True), 0.5) * 1
    assert x.requires_grad
    assert not x.is_leaf
    assert not x.data.requires_grad
    assert x.data.is_leaf
    x.data.mul_(0)
    assert not x.to_dense().any()


def test_changes_of_data_are_seen() -> None:
    x = OctTensor.from_dense(torch.randn(1, 8, 4, 4), 0.5)
    data = x.data
    assert x.pooled_high().any()
    data.high.mul_(0)
    assert not x.pooled_high().any()
    with pytest.raises(InputError, match="keep the new map"):
        x.data = x.to_dense()


@pytest.mark.parametrize("made", ["inside", "before"])
@pytest.mark.parametrize("change", ["high", "low"])
def test_changes_in_inference_mode_are_seen(made: str, change: str) -> None:
    """There the high half is a view of an ordinary tensor, and the low half is not counted."""
    conv, dense = OctConv2d(8, 8, 3, padding=1, alpha=0.5), torch.randn(2, 8, 6, 6)
    x = OctTensor.from_dense(dense, 0.5)
    with torch.inference_mode():
        x = OctTensor.from_dense(dense, 0.5) if made == "inside" else x
        before = conv(x).to_dense()
        getattr(x[:1], change).mul_(0)
        after = conv(x).to_dense()
        assert not torch.equal(before, after)
        assert torch.equal(after, conv(OctTensor(x.high.clone(), x.low.clone())).to_dense())
