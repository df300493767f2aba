"""Every rule against its law: the rule's map, made dense, is the function on the dense map."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from tests.helpers.paddle_maps import MAPS, average, dense_of, make, map_named

from octavize import InputError
from octavize.errors import DenseFallbackWarning
from octavize.paddle import OctTensor, oct_rule
from octavize.paddle.dispatch import RULES, unannounced
from octavize.paddle.rules.elementwise import BINARY, POINTWISE

pytestmark = pytest.mark.filterwarnings("error::octavize.errors.DenseFallbackWarning")
RANDOM = {"rand_like", "randn_like", "rrelu", "alpha_dropout", "feature_alpha_dropout"} | {
    f"dropout{n}" for n in ("", "1d", "2d", "3d")
}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cast": ("float32",), "astype": ("float32",), "full_like": (3.0,), "clip": (-0.5, 0.5),
    "thresholded_relu": (0.3,), "celu": (0.7,),
}  # fmt: skip
WHOLE = {"bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor"}


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """A function by its public name, or a method."""
    function = getattr(paddle, name, None) or getattr(F, name, None)
    if function is None:
        return getattr(args[0], name)(*args[1:], **kwargs)
    return function(*args, **kwargs)


def same(ours: Any, theirs: Any) -> None:
    theirs = theirs.numpy()
    np.testing.assert_allclose(dense_of(ours), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(POINTWISE.split()) - RANDOM - {"cuda", "pin_memory"}))
@pytest.mark.parametrize("kind", ["odd", "interleaved", "all low"])
def test_pointwise(name: str, kind: str) -> None:
    x = map_named(kind)
    if name in WHOLE:
        x = x.each_half(lambda half: half.astype("int32"))
    if name.startswith("log") or name in ("sqrt", "rsqrt"):
        x = x.each_half(paddle.abs)
    if name == "logical_not":
        x = x.each_half(lambda half: half > 0)
    y = call(name, x, *ARGUMENTS.get(name, ()))
    assert isinstance(y, OctTensor)
    same(y, call(name, paddle.to_tensor(dense_of(x)), *ARGUMENTS.get(name, ())))


@pytest.mark.parametrize("kind", MAPS)
def test_every_map_through_relu_and_back(kind: str) -> None:
    x = map_named(kind)
    same(x, paddle.to_tensor(dense_of(x)))
    assert x.shape == list(dense_of(x).shape)
    np.testing.assert_array_equal(x.to_dense().numpy(), dense_of(x))
    same(F.relu(x), F.relu(x.to_dense()))
    same(x.abs(), x.to_dense().abs())


def test_dropout_drops_values_of_each_half() -> None:
    y = F.dropout(make((3, 3), 8, 8), 0.5)
    assert isinstance(y, OctTensor)
    assert y.high is not None
    assert y.low is not None
    assert {bool((half == 0).any()) for half in (y.high, y.low)} == {True}
    same(F.dropout(map_named("odd"), 0.5, training=False), map_named("odd").to_dense())


@pytest.mark.parametrize("name", BINARY.split())
def test_two_maps(name: str) -> None:
    x, y = map_named("odd"), map_named("odd", seed=1)
    if name in WHOLE or name.startswith("logical"):
        x, y = (m.each_half(lambda half: half > 0) for m in (x, y))
    if name in ("pow", "floor_divide", "remainder"):
        x, y = (m.abs() + 0.5 for m in (x, y))
    same(call(name, x, y), call(name, x.to_dense(), y.to_dense()))


@pytest.mark.parametrize("function", [operator.add, operator.sub, operator.mul, operator.truediv])
@pytest.mark.parametrize("shape", [None, (), (1,), (4, 1, 1), (2, 4, 1, 1), (1, 4, 1, 1), (2, 1, 1, 1)])
@pytest.mark.parametrize("kind", ["odd", "interleaved"])
def test_operators_with_numbers_and_gates(function: Any, shape: Any, kind: str) -> None:
    x = map_named(kind)
    if shape is not None:  # 4 stands for the channels
        shape = [x.shape[1] if n == 4 else n for n in shape]
    gate = 1.5 if shape is None else paddle.rand(shape, "float64") + 0.5
    for ours, theirs in ((function(x, gate), function(x.to_dense(), gate)),
                         (function(gate, x), function(gate, x.to_dense()))):  # fmt: skip
        assert isinstance(ours, OctTensor)
        same(ours, theirs)


def test_maps_of_other_layouts_meet_where_both_are_low() -> None:
    x, y = make((1, 3), 5, 6), make((2, 2), 5, 6, seed=1)
    total = x + y
    assert total.channel_layout == (2, 2)
    same(total, x.to_dense() + y.to_dense())
    with pytest.warns(DenseFallbackWarning, match="add"):
        same(x + x.to_dense(), x.to_dense() + x.to_dense())
    same(x.to_dense() + x, x.to_dense() + x.to_dense())  # announced once


def test_comparison_and_choice() -> None:
    x, y = map_named("odd"), map_named("odd", seed=1)
    same(x > y, x.to_dense() > y.to_dense())
    same(-x, -x.to_dense())
    same(x**2, x.to_dense() ** 2)
    same(paddle.where(x > 0, x, y), paddle.where(x.to_dense() > 0, x.to_dense(), y.to_dense()))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["even", "interleaved even", "all low even", "line even", "video even"])
def test_batch_norm(kind: str, training: bool) -> None:
    layout, size = {
        "even": ((3, 1), (4, 6)), "interleaved even": ((1, 1, 2, 2), (4, 4)),
        "all low even": ((0, 4), (4, 4)),
        "line even": ((2, 2), (6,)), "video even": ((2, 2), (3, 4, 4)),
    }[kind]  # fmt: skip
    x, channels = make(layout, *size), sum(layout)
    per_channel = [paddle.rand([channels], "float64") + 0.5 for _ in range(4)]
    ours, theirs = [p.clone() for p in per_channel], [p.clone() for p in per_channel]
    y = F.batch_norm(x, *ours, training=training)
    assert isinstance(y, OctTensor)
    same(y, F.batch_norm(x.to_dense(), *theirs, training=training))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)
    assert bool((ours[0] == per_channel[0]).all()) is not training


@pytest.mark.parametrize("layer", [paddle.nn.BatchNorm, paddle.nn.BatchNorm2D])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_layers_learn_as_paddle_s_own(layer: Any, training: bool) -> None:
    x = make((2, 2), 5, 7).astype("float32")
    assert x.high is not None
    assert x.low is not None
    whole, of_high, of_low = layer(4), layer(2), layer(2)
    for norm in (whole, of_high, of_low):
        norm.train() if training else norm.eval()
    for _ in range(3):
        y, y_high, y_low = whole(x), of_high(x.high), of_low(x.low)
    assert (y.high == y_high).all()
    assert (y.low == y_low).all()
    for name in ("_mean", "_variance"):
        ours = getattr(whole, name).numpy()
        np.testing.assert_array_equal(ours[:2], getattr(of_high, name).numpy())
        np.testing.assert_array_equal(ours[2:], getattr(of_low, name).numpy())


def test_older_batch_norm_with_its_activation() -> None:
    norm = paddle.nn.BatchNorm(4, act="relu")
    y = norm(make((2, 2), 4, 4).astype("float32"))
    assert isinstance(y, OctTensor)
    assert float(y.to_dense().min()) == 0


def test_norms_per_channel() -> None:
    x = make((1, 1, 2, 2), 4, 6)
    weight, bias = paddle.rand([6], "float64"), paddle.rand([6], "float64")
    same(F.prelu(x, weight), F.prelu(x.to_dense(), weight))
    same(F.prelu(x, weight[:1]), F.prelu(x.to_dense(), weight[:1]))
    for groups in (1, 2, 3, 6):
        ours = F.group_norm(x, groups, weight=weight, bias=bias)
        assert isinstance(ours, OctTensor)
        same(ours, F.group_norm(x.to_dense(), groups, weight=weight, bias=bias))
    same(
        F.instance_norm(x, weight=weight, bias=bias), F.instance_norm(x.to_dense(), weight=weight, bias=bias)
    )
    same(
        paddle.nn.GroupNorm(3, 6)(x.astype("float32")),
        paddle.nn.GroupNorm(3, 6)(x.to_dense().astype("float32")),
    )


# ---- space ------------------------------------------------------------------------------------------------


def in_blocks(size: int, layout: tuple[int, ...] = (2, 2)) -> OctTensor:
    """A map whose low pixels come in equal twos: resizing by two commutes with up-sampling."""
    x = make(layout, size, size)
    low = dense_of(make((0, layout[1]), size // 2, size // 2, seed=3))
    return OctTensor(x.high, paddle.to_tensor(low))


@pytest.mark.parametrize("function", [F.max_pool2d, F.avg_pool2d])
def test_pooling_of_blocks_is_exact(function: Any) -> None:
    x = in_blocks(8)
    same(function(x, 2, 2), function(x.to_dense(), 2, 2))
    same(function(x, 2), function(x.to_dense(), 2))


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (6, 5), (7, 7), (1, 1), (9, 3)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 2, 0), (5, 1, 2)]
)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_pooling_keeps_the_halves_in_step(
    name: str, size: Any, kernel: int, stride: int, padding: int, ceil: bool
) -> None:
    for dims in (1, 2, 3):
        function = getattr(F, f"{name}{dims}d")
        space = (size[0], *size)[-dims:] if dims == 3 else size[-dims:]
        x = make((2, 2), *space)
        if min(space) + 2 * padding < kernel:
            continue
        theirs = function(x.to_dense(), kernel, stride, padding, ceil_mode=ceil)
        ours = function(x, kernel, stride, padding, ceil_mode=ceil)
        assert list(ours.shape) == list(theirs.shape)
        if isinstance(ours, OctTensor):
            np.testing.assert_array_equal(
                ours.high.numpy(), function(x.high, kernel, stride, padding, ceil_mode=ceil).numpy()
            )


@pytest.mark.parametrize("function", [F.adaptive_avg_pool2d, F.adaptive_max_pool2d])
@pytest.mark.parametrize("size", [1, (1, 1)])
def test_global_pooling(function: Any, size: Any) -> None:
    x = make((1, 1, 2, 2), 4, 6)
    ours = function(x, size)
    assert not isinstance(ours, OctTensor)
    same(ours, function(x.to_dense(), size))
    blocks = in_blocks(8)
    same(function(blocks, 4), function(blocks.to_dense(), 4))


@pytest.mark.parametrize("name", ["mean", "sum", "max", "min", "amax", "amin"])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("axis", [[2, 3], (-1, -2)])
def test_reduction_over_space(name: str, keepdim: bool, axis: Any) -> None:
    x = make((1, 1, 2, 2), 4, 6)
    ours = getattr(paddle, name)(x, axis=list(axis), keepdim=keepdim)
    assert not isinstance(ours, OctTensor)
    same(ours, getattr(paddle, name)(x.to_dense(), axis=list(axis), keepdim=keepdim))
    same(
        getattr(x, name)(list(axis), keepdim=keepdim),
        getattr(x.to_dense(), name)(list(axis), keepdim=keepdim),
    )


@pytest.mark.parametrize("how", [{"scale_factor": 2}, {"size": [8, 12]}, {"size": [12, 18]}])
@pytest.mark.parametrize("function", [F.interpolate, F.upsample])
def test_nearest_resizing_by_whole_factors_is_exact(function: Any, how: Any) -> None:
    x = make((2, 2), 4, 6)
    same(function(x, **how), function(x.to_dense(), **how))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("size", [[7, 9], [3, 5], [10, 14]])
def test_resizing_keeps_the_halves_in_step(mode: str, size: list[int]) -> None:
    x = make((2, 2), 5, 7)
    ours = F.interpolate(x, size=size, mode=mode)
    assert isinstance(ours, OctTensor)
    assert ours.high is not None
    assert ours.low is not None
    assert ours.shape == [2, 4, *size]
    assert list(ours.low.shape[2:]) == [(n + 1) // 2 for n in size]
    np.testing.assert_array_equal(ours.high.numpy(), F.interpolate(x.high, size=size, mode=mode).numpy())


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_padding(mode: str) -> None:
    x = make((2, 2), 6, 8)
    if mode in ("constant", "replicate"):
        same(F.pad(x, [2, 2, 4, 2], mode=mode), F.pad(x.to_dense(), [2, 2, 4, 2], mode=mode))
    odd = F.pad(make((2, 2), 5, 5), [1, 1, 1, 1], mode=mode)
    assert isinstance(odd, OctTensor)
    assert odd.shape == [2, 4, 7, 7]
    same(F.zeropad2d(x, [2, 2, 2, 2]), F.zeropad2d(x.to_dense(), [2, 2, 2, 2]))


# ---- channels ---------------------------------------------------------------------------------------------


def test_concatenation_and_split() -> None:
    x, y = make((2, 1), 5, 4), make((1, 2), 5, 4, seed=1)
    plain = paddle.rand([2, 2, 5, 4], "float64")
    parts = [x, plain, y]
    ours, theirs = (
        paddle.concat(parts, axis=1),
        paddle.concat([paddle.to_tensor(dense_of(p)) for p in parts], 1),
    )
    assert ours.channel_layout == (2, 1, 3, 2)
    same(ours, theirs)
    same(paddle.concat([x, x]), paddle.concat([x.to_dense(), x.to_dense()]))
    for sections in (2, [3, 5], [2, -1, 3], 4):
        for a, b in zip(
            paddle.split(ours, sections, axis=1), paddle.split(theirs, sections, axis=1), strict=True
        ):
            same(a, b)
    for a, b in zip(paddle.chunk(ours, 2, axis=1), paddle.chunk(theirs, 2, axis=1), strict=True):
        same(a, b)
    for a, b in zip(paddle.split(ours, 2), paddle.split(theirs, 2), strict=True):
        same(a, b)
    same(paddle.gather(ours, paddle.to_tensor([1])), paddle.gather(theirs, paddle.to_tensor([1])))


@pytest.mark.parametrize(
    "position",
    [slice(0, 1), (slice(None), slice(1, 4)), (slice(None), slice(None, None, 2)), (slice(0, 1), slice(3)),
     (slice(None), [5, 0, 3]), (slice(None), slice(0, 4), ...), (slice(None), slice(2), slice(None))],
)  # fmt: skip
def test_slices(position: Any) -> None:
    x = make((1, 1, 2, 2), 5, 4)
    ours = x[position]
    np.testing.assert_array_equal(dense_of(ours), dense_of(x)[position])


@pytest.mark.parametrize("groups", [2, 3])
def test_shuffle(groups: int) -> None:
    x, channels = make((1, 1, 2, 2), 5, 4), 6

    def shuffle(x: Any) -> Any:
        n, c, h, w = x.shape
        x = paddle.reshape(x, [n, groups, c // groups, h, w])
        x = paddle.transpose(x, perm=[0, 2, 1, 3, 4])
        return paddle.reshape(x, shape=[n, c, h, w])

    assert channels % groups == 0
    assert isinstance(shuffle(x), OctTensor)
    same(shuffle(x), shuffle(x.to_dense()))
    same(F.channel_shuffle(x, groups), F.channel_shuffle(x.to_dense(), groups))


def test_paths_stacked_weighted_and_added() -> None:
    x, y = make((2, 2), 5, 4), make((2, 2), 5, 4, seed=1)
    gates = paddle.rand([2, 2, 4, 1, 1], "float64")

    def add_up(x: Any, y: Any) -> Any:
        return paddle.sum(paddle.stack([x, y], axis=1) * gates, axis=1)

    assert isinstance(add_up(x, y), OctTensor)
    same(add_up(x, y), add_up(x.to_dense(), y.to_dense()))
    paths = paddle.stack([x, y], axis=1)
    same(paths[:, 1], y.to_dense())
    same(F.relu(paths)[:, 0], F.relu(x.to_dense()))
    same(paths.mean(1), (x.to_dense() + y.to_dense()) / 2)


def test_to_a_classifier() -> None:
    x = map_named("odd")
    same(paddle.flatten(x, 1), paddle.flatten(x.to_dense(), 1))
    same(x.flatten(1), x.to_dense().flatten(1))
    same(paddle.reshape(x, [2, -1]), paddle.reshape(x.to_dense(), [2, -1]))
    assert paddle.shape(x).tolist() == [2, 4, 5, 7]
    weight = paddle.rand([3, 4, 3, 3], "float64")
    same(F.conv2d(x, weight, padding=1), F.conv2d(x.to_dense(), weight, padding=1))
    conv = paddle.nn.Conv2D(4, 3, 3).to(dtype="float64")
    same(conv(x), conv(x.to_dense()))


# ---- without a rule, in place, of one's own -------------------------------------------------------------


def test_the_dense_fallback_is_exact_and_announced_once() -> None:
    x = map_named("odd")
    with pytest.warns(DenseFallbackWarning, match="cumsum has no octave rule"):
        same(paddle.cumsum(x, axis=2), paddle.cumsum(x.to_dense(), axis=2))
    same(x.cumsum(2), x.to_dense().cumsum(2))
    x.strict = True
    with pytest.raises(InputError, match="cumsum has no octave rule and strict=True"):
        paddle.cumsum(x, axis=2)


def test_keywords_in_every_spelling() -> None:
    x = make((2, 2), 4, 4)
    same(F.relu(x=x), F.relu(x.to_dense()))
    same(paddle.mean(x=x, axis=[2, 3]), paddle.mean(x.to_dense(), axis=[2, 3]))
    same(paddle.add(x=x, y=x), x.to_dense() * 2)
    same(paddle.concat(x=[x, x], axis=1), paddle.concat([x.to_dense()] * 2, axis=1))


def test_changes_in_place() -> None:
    x = map_named("odd")
    before = x.to_dense()
    y = F.relu_(x)
    assert y is x
    same(x, F.relu(before))
    assert x.add_(x) is x
    same(x, 2 * F.relu(before))
    with pytest.raises(InputError, match="setitem is of one tensor"):
        x[:, 0] = 1.0
    with pytest.raises(InputError, match="cumsum_ cannot change"):
        x.cumsum_(2)


def test_a_rule_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flip", "reverse"):
        monkeypatch.setitem(RULES, name, RULES.get(name))

    @oct_rule(paddle.flip)
    def flip(func: Callable[..., Any], x: OctTensor, axis: Any) -> Any:
        return x.each_half(lambda half: func(half, axis))

    assert RULES["reverse"] is flip
    x = make((2, 2), 4, 4)
    same(paddle.flip(x, [2]), paddle.flip(x.to_dense(), [2]))
    with pytest.raises(LookupError, match="no function 'flop'"):
        oct_rule("flop")(flip)


def test_from_dense_averages_the_last_channels() -> None:
    x = paddle.rand([2, 4, 5, 7], "float64")
    octave = OctTensor.from_dense(x, 0.5)
    assert octave.high is not None
    assert octave.low is not None
    np.testing.assert_array_equal(octave.high.numpy(), x.numpy()[:, :2])
    np.testing.assert_allclose(octave.low.numpy(), average(x.numpy()[:, 2:], (2, 3)), rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda h, low: OctTensor(h, low[:, :, :2]), "low must be of size (3, 4)"),
        (lambda h, low: OctTensor(h, low, channel_layout=(1, 3)), "channel_layout=(1, 3)"),
        (lambda h, low: OctTensor(None, low), "give size="),
        (lambda h, low: OctTensor(None, None), "a map has channels"),
        (lambda h, low: OctTensor(h, low, octave_dims=3), "octave_dims=3"),
        (lambda h, low: OctTensor(h, low.astype("float32")), "both need the same"),
    ],
)
def test_halves_that_do_not_belong_together(build: Any, message: str) -> None:
    x = map_named("odd")
    with pytest.raises(InputError) as error:
        build(x.high, x.low)
    assert message in str(error.value)


def test_a_sum_over_the_whole_map_counts_every_pixel() -> None:
    x = make((2, 2), 4, 6)
    same(F.avg_pool2d(x, (4, 6), divisor_override=5), F.avg_pool2d(x.to_dense(), (4, 6), divisor_override=5))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 1:3],
        lambda x: x[:, :1],
        lambda x: x[:, 1:][:, 1:],
        lambda x: x.detach(),
        lambda x: x.flatten(2),
        lambda x: x.reshape([2, 4, -1]),
        lambda x: x.transpose([0, 2, 3, 1]),
    ],
)
def test_a_change_that_a_view_would_miss_is_refused(view: Any) -> None:
    x = make((2, 2), 4, 6)
    with unannounced():
        y = view(x)
    with pytest.raises(InputError, match="changed in place while a view or a slice of it"):
        F.relu_(x)
    if isinstance(y, OctTensor):
        with pytest.raises(InputError, match="changed in place while a view or a slice of it"):
            F.relu_(y)
    dense = x.to_dense()
    same(copy.deepcopy(x), dense)
    del y
    same(F.relu_(x), F.relu(dense))
