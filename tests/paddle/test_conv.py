"""Octave convolutions against a slow reference from the paper's equations: geometries, sizes and paths."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from tests.helpers.paddle_maps import average, convolve, make, repeat_pixels

from octavize import InputError
from octavize.paddle import (
    OctConv1D,
    OctConv1DTranspose,
    OctConv2D,
    OctConv2DTranspose,
    OctConv3D,
    OctConv3DTranspose,
    OctTensor,
)
from octavize.plans.geometry import EXCHANGE

pytestmark = pytest.mark.filterwarnings("error::octavize.errors.DenseFallbackWarning")
LAYERS = {1: OctConv1D, 2: OctConv2D, 3: OctConv3D}
VANILLA = {1: nn.Conv1D, 2: nn.Conv2D, 3: nn.Conv3D}
TRANSPOSED = {1: OctConv1DTranspose, 2: OctConv2DTranspose, 3: OctConv3DTranspose}
SIZES = {1: (7,), 2: (5, 8), 3: (3, 5, 6)}
LAYOUTS = [(4, 2), (2, 2, 1, 1), (6, 0), (0, 6)]


def double(layer: Any) -> Any:
    return layer.to(dtype="float64")


def parts(values: np.ndarray, layout: tuple[int, ...], axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries of high and of low channels."""
    low = [bool(i % 2) for i, count in enumerate(layout) for _ in range(count)]
    index = range(len(low))
    return tuple(np.take(values, [c for c in index if low[c] == want], axis) for want in (False, True))  # type: ignore


def reference(layer: Any, x: OctTensor) -> tuple[Any, Any]:
    """(Y_high, Y_low) by the equations of the paper; an empty sum is 0."""
    weight, geometry = layer.weight.numpy(), layer._geometry
    n_low = int(layer.alpha * geometry.out_channels) // geometry.groups * geometry.groups
    n_high = geometry.out_channels - n_low
    dims, axes = x.octave_dims, range(x.ndim - x.octave_dims, x.ndim)
    strided = [axis for axis in axes if geometry.stride[axis - 2] == 2]
    steps = [1 if axis in axes else geometry.stride[axis - 2] for axis in range(2, x.ndim)]
    high = None if x.high is None else x.high.numpy()
    low = None if x.low is None else x.low.numpy()

    def star(half: Any, w: np.ndarray, stride: Any = steps) -> Any:
        if half is None or 0 in w.shape:
            return 0.0
        return convolve(half, w, stride, geometry.padding, geometry.groups)

    def up(y: Any) -> Any:
        if isinstance(y, float):
            return y
        for axis in axes:
            if axis not in strided:
                y = repeat_pixels(y, axis, x.shape[axis])
        return y

    assert dims == layer.octave_dims
    columns = x.channel_layout if geometry.groups == 1 else tuple(n // geometry.groups for n in x.counts)
    (w_hh, w_lh), (w_hl, w_ll) = parts(weight[:n_high], columns, 1), parts(weight[n_high:], columns, 1)
    pooled = None if high is None else average(high, strided)
    y_high = star(high, w_hh, geometry.stride) if layer.downsample == "stride" else star(pooled, w_hh)
    one_way = 0 in (*x.counts, n_low, n_high)
    to_high, to_low = (one_way or layer.exchange in ("both", path) for path in ("low_to_high", "high_to_low"))
    y_high = y_high + up(star(low, w_lh)) * to_high
    y_low = star(None if low is None else average(low, strided), w_ll)
    y_low = y_low + star(None if pooled is None else average(pooled, axes), w_hl) * to_low
    bias = layer.bias.numpy().reshape([-1, *[1] * (x.ndim - 2)])
    return (y_high + bias[:n_high] if n_high else None), (y_low + bias[n_high:] if n_low else None)


def check(layer: Any, x: OctTensor) -> None:
    ours, theirs = layer(x), reference(layer, x)
    if not isinstance(ours, OctTensor):
        assert theirs[1] is None
        np.testing.assert_allclose(ours.numpy(), theirs[0], rtol=1e-9, atol=1e-9)
        return
    for half, wanted in zip((ours.high, ours.low), theirs, strict=True):
        if wanted is None:
            assert half is None
        else:
            np.testing.assert_allclose(half.numpy(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 1])
def test_every_layer_against_the_equations(dims: int, kernel: int, stride: int, alpha: float) -> None:
    for layout, downsample in product(LAYOUTS, ("pool", "stride")):
        layer = LAYERS[dims](
            6, 8, kernel, stride=stride, padding=kernel // 2, alpha=alpha, downsample=downsample
        )
        check(double(layer), make(layout, *SIZES[dims]))


@pytest.mark.parametrize("exchange", EXCHANGE)
@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_exchange(exchange: str, downsample: str, stride: int, groups: int) -> None:
    layer = OctConv2D(
        6, 8, 3, stride=stride, padding=1, groups=groups, exchange=exchange, downsample=downsample
    )
    check(double(layer), make((4, 2), 5, 8))
    check(layer, make((2, 4), 6, 7))
    if groups == 1:
        check(layer, make((6, 0), 5, 5))  # a layer that splits keeps its path


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_depthwise_layers_keep_the_split(stride: Any, multiplier: int, layout: Any) -> None:
    layer = double(OctConv2D(6, 6 * multiplier, 3, stride=stride, padding=1, groups=6))
    x = make(layout, 5, 8)
    y = layer(x)
    assert y.channel_layout == tuple(n * multiplier for n in layout)
    for half, result, low in ((x.high, y.high, False), (x.low, y.low, True)):
        if half is None:
            assert result is None
            continue
        weight, bias = (
            parts(p.numpy(), y.channel_layout, 0)[low] for p in (layer.weight, layer.bias.reshape([-1, 1, 1]))
        )
        axes = [
            axis + 2 for axis, s in enumerate((stride,) * 2 if isinstance(stride, int) else stride) if s == 2
        ]
        wanted = convolve(average(half.numpy(), axes), weight, (1, 1), (1, 1), half.shape[1]) + bias
        np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_time_is_not_halved_unless_asked() -> None:
    x = paddle.rand([1, 6, 4, 5, 6], "float64")
    assert double(OctConv3D(6, 6, 3, padding=1))(x).low.shape == [1, 3, 4, 3, 3]
    assert double(OctConv3D(6, 6, 3, padding=1, octave_dims=3))(x).low.shape == [1, 3, 2, 3, 3]
    assert double(OctConv3D(6, 6, 3, padding=(0, 1, 1), stride=(2, 1, 1)))(x).low.shape == [1, 3, 1, 3, 3]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (3, 3), (2, 2)])
def test_other_padding(mode: str, size: Any) -> None:
    layer = double(OctConv2D(6, 4, 3, padding=1, padding_mode=mode))
    x = make((4, 2), *size)
    y = layer(x)
    assert y.shape == [2, 4, *size]
    same_weights = double(nn.Conv2D(6, 4, 3, padding=1, padding_mode=mode))
    same_weights.set_state_dict(layer.state_dict())
    layer.alpha = 0
    np.testing.assert_array_equal(layer(x.to_dense()).numpy(), same_weights(x.to_dense()).numpy())


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("settings", [{}, {"kernel_size": 1, "padding": 0}, {"groups": 2}, {"stride": 2}])
def test_alpha_0_is_paddle_s_own_layer_bit_for_bit(dims: int, settings: Any) -> None:
    arguments: dict[str, Any] = {"kernel_size": 3, "padding": 1, **settings}
    paddle.seed(3)
    ours = LAYERS[dims](6, 8, alpha=0, **arguments)
    paddle.seed(3)
    theirs = VANILLA[dims](6, 8, **arguments)
    x = paddle.rand([2, 6, *SIZES[dims]])
    np.testing.assert_array_equal(ours(x).numpy(), theirs(x).numpy())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert isinstance(ours, VANILLA[dims])


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (2, 2, 0), (4, 2, 1)])
@pytest.mark.parametrize("exchange", EXCHANGE)
def test_transposed(dims: int, kernel: int, stride: int, padding: int, exchange: str) -> None:
    """A transposed layer is linear: each path is Paddle's own layer with that part of the weight."""
    if dims == 3 and stride == 2:
        stride_of_time = (1, 2, 2)
        kernels: Any = (1, kernel, kernel)
        paddings: Any = (0, padding, padding)
    else:
        stride_of_time, kernels, paddings = stride, kernel, padding
    layer = double(
        TRANSPOSED[dims](6, 4, kernels, stride=stride_of_time, padding=paddings, exchange=exchange)
    )
    x = make((4, 2), *SIZES[dims])
    y = layer(x)
    size = [n * s for n, s in zip(x.spatial_shape, layer._stride, strict=True)]
    low_size = [(n + 1) // 2 if axis >= dims - x.octave_dims else n for axis, n in enumerate(size)]
    assert y.shape == [2, 4, *size]
    assert list(y.low.shape[2:]) == low_size
    vanilla = double(
        getattr(nn, f"Conv{dims}DTranspose")(6, 4, kernels, stride=stride_of_time, padding=paddings)
    )
    weight, bias = layer.weight.numpy(), layer.bias.numpy().reshape([-1, *[1] * dims])

    def path(half: np.ndarray, rows: slice, columns: slice, size: list[int]) -> np.ndarray:
        part, whole = np.zeros_like(weight), np.zeros((2, 6, *half.shape[2:]))
        part[rows, columns] = weight[rows, columns]
        whole[:, rows] = half
        vanilla.weight.set_value(part)
        vanilla.bias.set_value(np.zeros(4))
        made = vanilla(paddle.to_tensor(whole)).numpy()[:, columns]
        return made[(..., *(slice(0, n) for n in size))]

    first, last = slice(0, 4), slice(4, 6)
    to_high, to_low = slice(0, 2), slice(2, 4)
    axes = range(x.ndim - x.octave_dims, x.ndim)
    up = path(x.low.numpy(), last, to_high, low_size)
    for axis in axes:
        up = repeat_pixels(up, axis, size[axis - 2])
    y_high = path(x.high.numpy(), first, to_high, size) + bias[:2]
    y_high = y_high + up * (exchange in ("both", "low_to_high"))
    pooled = average(x.high.numpy(), axes)
    y_low = path(x.low.numpy(), last, to_low, low_size) + bias[2:]
    y_low = y_low + path(pooled, first, to_low, low_size) * (exchange in ("both", "high_to_low"))
    np.testing.assert_allclose(y.high.numpy(), y_high, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(y.low.numpy(), y_low, rtol=1e-9, atol=1e-9)


def test_transposed_depthwise_and_vanilla() -> None:
    layer = double(OctConv2DTranspose(6, 6, 2, stride=2, groups=6))
    y = layer(make((4, 2), 5, 7))
    assert y.counts == (4, 2)
    assert y.shape == [2, 6, 10, 14]
    paddle.seed(3)
    ours = OctConv2DTranspose(6, 4, 4, stride=2, padding=1, alpha=0)
    paddle.seed(3)
    theirs = nn.Conv2DTranspose(6, 4, 4, stride=2, padding=1)
    x = paddle.rand([1, 6, 5, 5])
    np.testing.assert_array_equal(ours(x).numpy(), theirs(x).numpy())
    with pytest.raises(InputError, match="output_size=\\(11, 11\\): this octave layer makes \\(10, 10\\)"):
        OctConv2DTranspose(6, 4, 4, stride=2, padding=1)(x, output_size=[11, 11])


def test_gradients_reach_everything_and_equal_those_of_the_slow_way() -> None:
    layer = double(OctConv2D(6, 8, 3, padding=1, stride=2))
    x = make((4, 2), 6, 7)
    x.high.stop_gradient = x.low.stop_gradient = False
    y = layer(x)
    (y.high.sum() + (y.low * 2).sum()).backward()
    step = 1e-5
    for p, place in ((layer.weight, (1, 2, 0, 1)), (layer.weight, (7, 5, 2, 2)), (x.high, (0, 3, 5, 6)),
                     (x.low, (1, 0, 0, 0)), (layer.bias, (6,))):  # fmt: skip
        sums = []
        for sign in (1, -1):
            moved = p.numpy().copy()
            moved[place] += sign * step
            before, with_paddle = p.numpy().copy(), paddle.no_grad()
            with with_paddle:
                p.set_value(moved)
                fresh = OctTensor(x.high, x.low)
                out = layer(fresh)
                sums.append(float(out.high.sum() + (out.low * 2).sum()))
                p.set_value(before)
        assert p.grad is not None
        assert abs((sums[0] - sums[1]) / (2 * step) - float(p.grad.numpy()[place])) < 1e-6


def test_one_pooling_serves_all_readers_until_the_map_changes() -> None:
    x = make((4, 2), 6, 6)
    assert x.pooled_high() is x.pooled_high()
    before = x.pooled_high()
    with paddle.no_grad():
        assert x.pooled_high() is not before
    x.high.add_(paddle.ones_like(x.high))
    assert x.pooled_high() is not before
    np.testing.assert_allclose(x.pooled_high().numpy(), average(x.high.numpy(), (2, 3)), rtol=1e-9)


def test_settings_can_be_changed_and_are_shown() -> None:
    layer = OctConv2D(4, 4, 3, padding=1)
    layer.alpha = 0.25
    layer.become_octave(exchange="none", downsample="stride")
    assert "alpha=0.25, downsample='stride', exchange='none'" in repr(layer)
    assert copy.deepcopy(layer).exchange == "none"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OctConv2D(4, 4, 3, padding=1, alpha=2), "alpha=2"),
        (lambda: OctConv2D(4, 4, 3), "octave needs padding=1"),
        (lambda: OctConv2D(4, 4, 3, padding=[0, 1, 0, 1]), "as many pixels on both sides can"),
        (lambda: OctConv2D(4, 4, 3, padding=1, data_format="NHWC"), "data_format='NHWC' cannot be octave"),
        (lambda: OctConv2D(4, 4, 3, padding=1, stride=3), "strides of 1 and 2 can"),
        (lambda: OctConv2D(4, 4, 3, padding=1, exchange="some"), "exchange='some'"),
        (lambda: OctConv2D(4, 4, 1)(paddle.ones([1, 3, 2, 2])), "this layer reads (N, 4, …)"),
        (lambda: OctConv2D(4, 4, 1)(make((2, 1), 4, 4)), "this layer reads in_channels=4"),
    ],
)
def test_mistakes(build: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        build()
    assert message in str(error.value)


def test_alpha_0_may_have_any_geometry() -> None:
    for settings in ({"padding": [0, 1, 0, 1]}, {"padding": "valid"}, {"stride": 3}):
        layer = OctConv2D(4, 4, 3, alpha=0, **settings)
        vanilla = nn.Conv2D(4, 4, 3, **settings)
        vanilla.set_state_dict(layer.state_dict())
        x = make((2, 2), 6, 6).astype("float32")
        np.testing.assert_allclose(layer(x).numpy(), vanilla(x.to_dense()).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "padding", [1, [1, 1], [1, 1, 1, 1], [[0, 0], [0, 0], [1, 1], [1, 1]], "SAME", "same"]
)
def test_padding_in_every_spelling(padding: Any) -> None:
    layer = OctConv2D(6, 8, 3, padding=padding)
    plain = OctConv2D(6, 8, 3, padding=1)
    plain.set_state_dict(layer.state_dict())
    x = make((4, 2), 5, 8).astype("float32")
    np.testing.assert_allclose(layer(x).to_dense().numpy(), plain(x).to_dense().numpy(), rtol=1e-5, atol=1e-6)
