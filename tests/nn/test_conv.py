"""Octave convolution against a slow reference over generated cases, and by examples with known answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.helpers.reference import dense, low_count, octave_convolve
from tests.helpers.versions import needs_torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from octavize import InputError, OctConv1d, OctConv2d, OctConv3d, OctTensor, freeze, octavize
from octavize.convert.trace import trace

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")

LAYERS = {1: OctConv1d, 2: OctConv2d, 3: OctConv3d}
VANILLA = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
ALPHAS = [0.0, 0.125, 0.25, 0.4, 0.5, 0.75, 1.0]

STABLE = settings(
    deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
MANY = settings(STABLE, max_examples=1500)


# ---- generated cases --------------------------------------------------------------------------------------


@dataclass
class Case:
    rank: int
    octave_dims: int
    batch: int
    size: tuple[int, ...]
    c_in: int
    c_low: int  # of the input
    c_out: int
    alpha: float
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    pairs: list[tuple[int, int]]
    dilation: tuple[int, ...]
    groups: int
    mode: str
    bias: bool
    seed: int

    def layer(self, dtype: torch.dtype) -> Any:
        torch.manual_seed(self.seed)
        return LAYERS[self.rank](
            self.c_in,
            self.c_out,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias,
            self.mode,
            dtype=dtype,
            alpha=self.alpha,
            octave_dims=self.octave_dims,
        )

    def halves(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        torch.manual_seed(self.seed + 1)
        kept = self.rank - self.octave_dims
        small = (*self.size[:kept], *((n + 1) // 2 for n in self.size[kept:]))
        high = torch.randn(self.batch, self.c_in - self.c_low, *self.size).to(dtype)
        low = torch.randn(self.batch, self.c_low, *small).to(dtype)
        return high.requires_grad_(), low.requires_grad_()

    def reference(self, high: Tensor, low: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
        return list(
            octave_convolve(
                high,
                low,
                weight,
                bias,
                self.alpha,
                stride=self.stride,
                pairs=self.pairs,
                mode=self.mode,
                dilation=self.dilation,
                groups=self.groups,
                octave_dims=self.octave_dims,
            )
        )


@st.composite
def cases(draw: st.DrawFn, rank: int | None = None) -> Case:
    rank = draw(st.sampled_from([1, 2, 2, 3])) if rank is None else rank
    octave_dims = draw(st.sampled_from([2, 2, 3, 1])) if rank == 3 else rank
    kept = rank - octave_dims
    small = rank == 3
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kind = draw(st.sampled_from(["full", "full", "depthwise"]))
    if kind == "depthwise":
        c_in = groups = draw(st.integers(2, 6))
        c_out = c_in * draw(st.integers(1, 3))
        c_low = draw(st.integers(0, c_in))
    else:
        c_in = groups * draw(st.integers(1, 4))
        c_out = groups * draw(st.integers(1, 4))
        c_low = groups * draw(st.integers(0, c_in // groups))
    size = tuple(draw(st.integers(1, 4 if small else 9)) for _ in range(rank))
    same = draw(st.booleans())
    kernels = [1, 3] if small else [1, 3, 3, 5, 7]
    kernel = tuple(draw(st.sampled_from([*kernels, 2, 4] if same else kernels)) for _ in range(rank))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    stride = tuple(1 if same else draw(st.sampled_from([1, 2])) for _ in range(rank))
    lost = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    pairs = [(n // 2, n - n // 2) for n in lost]
    padding: Any = "same"
    if not same:
        # Axes that are not halved may be padded as one likes, if the kernel still fits.
        for axis in range(kept):
            p = draw(st.integers(0, 2))
            p = p if size[axis] + 2 * p > lost[axis] else lost[axis] // 2
            pairs[axis] = (p, p)
        padding = tuple(before for before, _ in pairs)
    return Case(
        rank=rank,
        octave_dims=octave_dims,
        batch=draw(st.integers(1, 2)),
        size=size,
        c_in=c_in,
        c_low=c_low,
        c_out=c_out,
        alpha=draw(st.sampled_from(ALPHAS)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        pairs=pairs,
        dilation=dilation,
        groups=groups,
        mode=mode,
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


def halves_of(y: OctTensor | Tensor) -> list[Tensor]:
    return [y.high, y.low] if isinstance(y, OctTensor) else [y]


def weigh(halves: list[Tensor], seed: int) -> Tensor:
    """A loss in which every output value has its own weight, so that no two gradients are mixed up."""
    torch.manual_seed(seed)
    weights = [torch.randn(half.shape, dtype=torch.float64) for half in halves]
    return sum(((h.double() * w).sum() for h, w in zip(halves, weights, strict=True)), torch.zeros(()))


def gradients(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, of, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(of, found, strict=True)]


def check(case: Case, dtype: torch.dtype, tolerance: float, *, plain: bool = False) -> None:
    """Outputs and all gradients of the layer equal those of the reference in double precision."""
    layer, (high, low) = case.layer(dtype), case.halves(dtype)
    leaves = [high, low, layer.weight, *([layer.bias] if case.bias else [])]
    y = layer(high if plain else OctTensor(high, low, octave_dims=case.octave_dims))
    outputs = halves_of(y)

    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = case.reference(*exact[:3], exact[3] if case.bias else None)
    if not isinstance(y, OctTensor):
        assert expected[1].shape[1] == 0, "a plain tensor comes out only if no output channel is low"
        expected = expected[:1]
    else:
        assert y.octave_dims == case.octave_dims
    for name, a, b in zip(("high", "low"), outputs, expected, strict=False):
        close(a, b, tolerance, name)
        assert a.dtype == dtype
    got = gradients(weigh(outputs, case.seed), leaves)
    wanted = gradients(weigh(expected, case.seed), exact)
    for name, a, b in zip(("∂high", "∂low", "∂weight", "∂bias"), got, wanted, strict=False):
        close(a, b, tolerance, name)


def close(a: Tensor, b: Tensor, tolerance: float, name: str) -> None:
    """Equal up to `tolerance` of the largest value."""
    assert a.shape == b.shape, name
    scale = b.detach().abs().max().item() if b.numel() else 0
    torch.testing.assert_close(
        a.detach().double(),
        b.detach(),
        rtol=0,
        atol=tolerance * max(scale, 1e-3),
        msg=lambda text: f"{name}: {text}",
    )


@STABLE
@given(cases(rank=1))
def test_equals_the_reference_in_1d(case: Case) -> None:
    check(case, torch.float64, 1e-12)


@settings(STABLE, max_examples=120)
@given(cases(rank=2))
def test_equals_the_reference_in_2d(case: Case) -> None:
    check(case, torch.float64, 1e-12)


@STABLE
@given(cases(rank=3))
def test_equals_the_reference_in_3d(case: Case) -> None:
    check(case, torch.float64, 1e-12)


@settings(STABLE, max_examples=30)
@given(cases())
def test_equals_the_reference_in_float32(case: Case) -> None:
    check(case, torch.float32, 1e-5)


@needs_torch("2.10", "convolutions of torch 2.9 round some bfloat16 gradients once more")
@settings(STABLE, max_examples=30)
@given(cases(rank=2))
def test_equals_the_reference_in_bfloat16(case: Case) -> None:
    check(case, torch.bfloat16, 0.05)


@settings(STABLE, max_examples=30)
@given(cases())
def test_a_plain_tensor_is_all_high(case: Case) -> None:
    case.c_low = 0
    # With no low output, or depthwise, it is torch's own layer (tested below).
    assume(not case.groups == case.c_in > 1 and low_count(case.c_out, case.alpha, case.groups) > 0)
    check(case, torch.float64, 1e-12, plain=True)


@pytest.mark.slow
@MANY
@given(cases())
def test_equals_the_reference_on_many_cases(case: Case) -> None:
    check(case, torch.float64, 1e-12)


@settings(STABLE, max_examples=40)
@given(cases(), st.integers(0, 5))
def test_low_channels_that_do_not_fill_the_groups_are_raised_to_high(case: Case, c_low: int) -> None:
    """A grouped layer reads C_low mod g channels of the low half at full resolution: the first ones."""
    case.groups, case.c_in, case.c_out = 2, 6, 4
    case.c_low = c_low
    layer, (high, low) = case.layer(torch.float64), case.halves(torch.float64)
    y = layer(OctTensor(high, low, octave_dims=case.octave_dims))
    extra = c_low % 2
    raised = dense(high, low[:, :extra], case.octave_dims)
    expected = case.reference(raised, low[:, extra:], layer.weight, layer.bias)
    for a, b in zip(halves_of(y), expected, strict=False):
        close(a, b.detach(), 1e-12, "output")


# ---- answers known without a program ----------------------------------------------------------------------


def test_hand_computed_values() -> None:
    """One high and one low channel, 4×4, kernel 1×1, weights 1, 10, 100, 1000."""
    high = torch.arange(16.0).view(1, 1, 4, 4)
    low = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    layer = OctConv2d(2, 2, 1, bias=False, alpha=0.5)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0], [100.0, 1000.0]]).view(2, 2, 1, 1))
    y = layer(OctTensor(high, low))
    # high: X_high + 10·U(X_low)
    assert y.high.squeeze().tolist() == [
        [10, 11, 22, 23],
        [14, 15, 26, 27],
        [38, 39, 50, 51],
        [42, 43, 54, 55],
    ]
    # low: 1000·X_low + 100·P(X_high), with P(X_high) = 2.5, 4.5, 10.5, 12.5
    assert y.low.squeeze().tolist() == [[1250, 2450], [4050, 5250]]


def test_hand_computed_values_of_an_odd_size() -> None:
    """Three pixels in a row: the last cell of P has one pixel, and U is cropped."""
    high = torch.tensor([[[2.0, 4.0, 8.0]]])
    low = torch.tensor([[[1.0, 5.0]]])
    layer = OctConv1d(2, 2, 1, bias=False, alpha=0.5)
    nn.init.ones_(layer.weight)
    y = layer(OctTensor(high, low))
    assert y.high.squeeze().tolist() == [3, 5, 13]
    assert y.low.squeeze().tolist() == [4, 13]


@pytest.mark.parametrize("size", [8, 12])
def test_stride_2_pools_first_as_the_official_code(size: int) -> None:
    torch.manual_seed(0)
    layer = OctConv2d(8, 8, 3, 2, 1, bias=False, alpha=0.5)
    x = OctTensor(torch.randn(2, 4, size, size), torch.randn(2, 4, size // 2, size // 2))
    w = layer.weight
    conv, pool = nn.functional.conv2d, nn.functional.avg_pool2d
    high = pool(x.high, 2)
    y_high = conv(high, w[:4, :4], padding=1) + conv(x.low, w[:4, 4:], padding=1)
    y_low = conv(pool(x.low, 2), w[4:, 4:], padding=1) + conv(pool(high, 2), w[4:, :4], padding=1)
    y = layer(x)
    torch.testing.assert_close(y.high, y_high)
    torch.testing.assert_close(y.low, y_low)


@pytest.mark.parametrize("c", [(2, 3), (4, 1), (8, 2)])
def test_channels_of_the_halves(c: tuple[int, int]) -> None:
    """low = int(α·C) and high the rest, also where α·C has a fraction."""
    y = OctConv2d(3, 5, 1, alpha=0.3 if c == (4, 1) else 0.6)(torch.randn(1, 3, 4, 4))
    if sum(c) == 5:
        assert (y.high.shape[1], y.low.shape[1]) == c
    assert y.high.shape[1] + y.low.shape[1] == 5


# ---- α = 0 is the vanilla layer ---------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 2, "stride": 2, "bias": False},  # no octave layer, but a vanilla one
        {"kernel_size": 3, "stride": 3, "padding": 1},
        {"kernel_size": 4, "padding": "same", "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": 1, "groups": 4},
    ],
)
def test_alpha_0_is_torchs_layer_bit_for_bit(rank: int, arguments: dict[str, Any]) -> None:
    torch.manual_seed(7)
    vanilla = VANILLA[rank](4, 8, **arguments)
    torch.manual_seed(7)
    octave = LAYERS[rank](4, 8, alpha=0, **arguments)
    x = torch.randn(2, 4, *[7] * rank, requires_grad=True)
    y, expected = octave(x), vanilla(x)
    assert type(y) is Tensor
    assert torch.equal(y, expected)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    assert torch.equal(grad, wanted)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 3, "padding": 1},
        {"kernel_size": 3, "padding": 2},
        {"kernel_size": 3, "groups": 4},
    ],
)
def test_alpha_0_merges_with_any_geometry_or_refuses(arguments: dict[str, Any]) -> None:
    """α = 0 allows any geometry. Given low channels the layer must be right on the dense map, or refuse."""
    layer = OctConv2d(4, 8, alpha=0, **arguments)
    x = OctTensor(torch.randn(1, 2, 6, 6), torch.randn(1, 2, 3, 3))
    expected = nn.Conv2d.forward(layer, x.to_dense())
    try:
        y = layer(x)
    except InputError:
        return
    y = y.to_dense() if isinstance(y, OctTensor) else y
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_state_dict_and_initialization_are_the_vanilla_ones(rank: int, alpha: float) -> None:
    torch.manual_seed(3)
    vanilla = VANILLA[rank](4, 6, 3, padding=1)
    torch.manual_seed(3)
    octave = LAYERS[rank](4, 6, 3, padding=1, alpha=alpha)
    assert list(octave.state_dict()) == list(vanilla.state_dict())
    for name, value in vanilla.state_dict().items():
        assert torch.equal(octave.state_dict()[name], value)
    vanilla.load_state_dict(octave.state_dict())
    octave.load_state_dict(vanilla.state_dict())
    assert isinstance(octave, VANILLA[rank])


def test_constructor_takes_torchs_positional_arguments() -> None:
    layer = OctConv2d(4, 8, 3, 1, 2, 2, 2, False, "reflect", None, torch.float64, alpha=0.5)
    assert layer.dilation == (2, 2)
    assert layer.groups == 2
    assert layer.bias is None
    assert layer.padding_mode == "reflect"
    assert layer.weight.dtype == torch.float64
    assert "alpha=0.5" in repr(layer)


# ---- α at both ends, and from layer to layer --------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (5, 4), (7, 7)])
@pytest.mark.parametrize("alphas", [(1, 0), (0.5, 1, 0), (1, 1, 0.5), (0.25, 0.75, 0.125, 0), (0, 0.5, 0, 1)])
def test_alpha_may_differ_from_layer_to_layer(alphas: tuple[float, ...], size: tuple[int, int]) -> None:
    x: Any = torch.randn(2, 8, *size, requires_grad=True)
    layers = [OctConv2d(8, 8, 3, padding=1, alpha=alpha) for alpha in alphas]
    y: Any = x
    for layer, alpha in zip(layers, alphas, strict=True):
        y = layer(y)
        assert tuple(y.shape) == (2, 8, *size)
        if alpha == 0:
            assert type(y) is Tensor
        else:
            assert y.low.shape[1] == int(alpha * 8)
    (y if isinstance(y, Tensor) else y.to_dense()).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_half_without_channels_carries_the_size() -> None:
    y = OctConv2d(4, 6, 3, 2, 1, alpha=1)(torch.randn(2, 4, 7, 9))
    assert y.high.shape == (2, 0, 4, 5)
    assert y.low.shape == (2, 6, 2, 3)


@pytest.mark.parametrize("alpha", [0.5, 1])
def test_depthwise_keeps_the_split_of_its_input(alpha: float) -> None:
    layer = OctConv2d(4, 8, 3, padding=1, groups=4, alpha=alpha)
    y = layer(OctTensor(torch.randn(1, 3, 5, 5), torch.randn(1, 1, 3, 3)))
    assert y.channel_layout == (6, 2)
    plain = layer(torch.randn(1, 4, 5, 5))
    assert type(plain) is Tensor


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("depthwise", [False, True])
def test_interleaved_channels_meet_their_own_weights(stride: int, depthwise: bool) -> None:
    """After a concatenation low channels lie between high ones; the weight columns must follow."""
    torch.manual_seed(0)
    runs = (2, 1, 1, 2)
    layer = OctConv2d(6, 12, 3, stride, 1, groups=6 if depthwise else 1, alpha=0.5).double()
    high, low = torch.randn(2, 3, 5, 6).double(), torch.randn(2, 3, 3, 3).double()
    is_low = [False, False, True, False, True, True]
    order = [i for i, f in enumerate(is_low) if not f] + [i for i, f in enumerate(is_low) if f]
    ordered = OctConv2d(6, 12, 3, stride, 1, groups=6 if depthwise else 1, alpha=0.5).double()
    with torch.no_grad():
        if depthwise:
            rows = [2 * i + j for i in order for j in (0, 1)]
            ordered.weight.copy_(layer.weight[rows])
            ordered.bias.copy_(layer.bias[rows])
        else:
            ordered.weight.copy_(layer.weight[:, order])
            ordered.bias.copy_(layer.bias)
    y, expected = layer(OctTensor(high, low, channel_layout=runs)), ordered(OctTensor(high, low))
    torch.testing.assert_close(y.high, expected.high)
    torch.testing.assert_close(y.low, expected.low)
    assert y.channel_layout == ((4, 2, 2, 4) if depthwise else (6, 6))


# ---- memory format, precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_channels_last_is_kept(stride: int) -> None:
    layer = OctConv2d(8, 8, 3, stride, 1, alpha=0.5).to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last)
    y = layer(layer(x))
    assert y.high.is_contiguous(memory_format=torch.channels_last)
    assert y.low.is_contiguous(memory_format=torch.channels_last)
    reference = OctConv2d(8, 8, 3, stride, 1, alpha=0.5)
    reference.load_state_dict(layer.state_dict())
    expected = reference(reference(x.contiguous()))
    torch.testing.assert_close(y.to_dense(), expected.to_dense())


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("alpha_in", [0, 0.5, 1])
@pytest.mark.parametrize("alpha_out", [0, 0.5, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_autocast_gives_bfloat16_whatever_the_split(
    rank: int, alpha_in: float, alpha_out: float, stride: int
) -> None:
    layer = LAYERS[rank](4, 4, 3, stride, 1, alpha=alpha_out)
    x = OctTensor.from_dense(torch.randn(1, 4, *[4] * rank), alpha_in)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    expected = halves_of(layer(x))
    for half, wanted in zip(halves_of(y), expected, strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_autocast_of_a_depthwise_layer(alpha: float) -> None:
    layer = OctConv2d(4, 4, 3, padding=1, groups=4, alpha=alpha)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(OctTensor.from_dense(torch.randn(1, 4, 4, 4), alpha))
    assert {half.dtype for half in halves_of(y)} == {torch.bfloat16}


def test_a_batch_without_images() -> None:
    y = OctConv2d(4, 4, 3, padding=1, alpha=0.5)(torch.randn(0, 4, 6, 6))
    assert y.high.shape == (0, 2, 6, 6)
    assert y.low.shape == (0, 2, 3, 3)


def test_pooled_input_is_shared_and_its_gradient_complete() -> None:
    """What a layer run without gradient has pooled must not cost a later layer its gradient."""
    high = torch.randn(1, 2, 4, 4, requires_grad=True)
    x = OctTensor(high, torch.randn(1, 2, 2, 2))
    layer = OctConv2d(4, 4, 1, alpha=0.5)
    with torch.no_grad():
        layer(x)
    (grad,) = torch.autograd.grad(layer(x).low.sum(), high, allow_unused=True)
    assert grad is not None, "the low output depends on the high input"
    assert grad.abs().sum() > 0


# ---- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_size": 3}, ["kernel_size=(3, 3)", "padding=(0, 0)", "needs padding=1"]),
        ({"kernel_size": 3, "padding": "valid"}, ["kernel_size=(3, 3)", "needs padding=1"]),
        ({"kernel_size": 5, "padding": 2, "dilation": 2}, ["dilation=(2, 2)", "needs padding=4"]),
        ({"kernel_size": 2, "stride": 2}, ["kernel_size=(2, 2)", "odd kernel"]),
        ({"kernel_size": 4, "padding": 1}, ["kernel_size=(4, 4)", "padding='same'"]),
        ({"kernel_size": (3, 5), "padding": 1}, ["kernel_size=(3, 5)", "padding=2"]),
        ({"kernel_size": 3, "padding": 1, "stride": 3}, ["stride=(3, 3)", "1 and 2"]),
        ({"kernel_size": 3, "padding": 1, "stride": (1, 4)}, ["stride=(1, 4)"]),
        ({"kernel_size": 3, "padding": 1, "octave_dims": 3}, ["octave_dims=3", "1 to 2"]),
        ({"kernel_size": 3, "padding": 1, "octave_dims": 0}, ["octave_dims=0"]),
    ],
)
def test_geometry_that_cannot_keep_the_size_is_refused(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        OctConv2d(4, 4, alpha=0.5, **arguments)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_time_needs_no_particular_geometry() -> None:
    """The time axis is not halved, so a valid convolution with any stride along it is fine."""
    layer = OctConv3d(4, 4, (3, 3, 3), stride=(3, 2, 2), padding=(0, 1, 1), alpha=0.5)
    y = layer(torch.randn(1, 4, 9, 6, 6))
    assert y.high.shape == (1, 2, 3, 3, 3)
    assert y.low.shape == (1, 2, 3, 2, 2)
    with pytest.raises(InputError, match="does not keep"):
        OctConv3d(4, 4, (3, 3, 3), padding=(0, 1, 1), alpha=0.5, octave_dims=3)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), "half", None, True, 2])
def test_alpha_outside_0_to_1_is_refused(alpha: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"alpha={alpha!r}")):
        OctConv2d(4, 4, 1, alpha=alpha)


def test_wrong_channel_count_names_both_halves() -> None:
    layer = OctConv2d(8, 4, 1, alpha=0.5)
    with pytest.raises(InputError, match=r"4 high and 2 low channels.*in_channels=8"):
        layer(OctTensor(torch.randn(1, 4, 4, 4), torch.randn(1, 2, 2, 2)))
    with pytest.raises(InputError, match=re.escape("(1, 6, 4, 4)")):
        layer(torch.randn(1, 6, 4, 4))
    with pytest.raises(InputError, match="spatial axes"):
        layer(torch.randn(8, 4, 4))


def test_other_octave_axes_are_refused() -> None:
    x = OctTensor.from_dense(torch.randn(1, 4, 4, 4, 4), 0.5, octave_dims=3)
    with pytest.raises(InputError, match="octave_dims=2"):
        OctConv3d(4, 4, 1, alpha=0.5)(x)


# ---- Table 1 of the paper ---------------------------------------------------------------------------------

TABLE_1 = [(0.125, 82, 91), (0.25, 67, 81), (0.5, 44, 63), (0.75, 30, 44), (0.875, 26, 35), (1.0, 25, 25)]
THEIR_ROUNDING = 1  # the table rounds 76.6 % … of 1 − ¾·α·(2 − α) up or down


@pytest.mark.parametrize(("alpha", "flops_percent", "memory_percent"), TABLE_1)
def test_cost_of_a_layer_is_that_of_table_1(alpha: float, flops_percent: int, memory_percent: int) -> None:
    layer = OctConv2d(64, 64, 3, padding=1, bias=False, alpha=alpha, device="meta")
    x = OctTensor.from_dense(torch.empty(1, 64, 56, 56, device="meta"), alpha)
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    vanilla = 2 * 64 * 64 * 9 * 56 * 56
    ratio = counter.get_total_flops() / vanilla
    assert ratio == 1 - 0.75 * alpha * (2 - alpha)
    assert abs(100 * ratio - flops_percent) <= THEIR_ROUNDING
    memory = y.stored_numel() / y.numel()
    assert memory == 1 - 0.75 * alpha
    assert abs(100 * memory - memory_percent) <= THEIR_ROUNDING
    assert sum(p.numel() for p in layer.parameters()) == 64 * 64 * 9


def test_trace_counts_a_layer_alike() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 1), *[nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)])
    octave = trace(octavize(net, 0.5, example=(1, 3, 56, 56)), (1, 3, 56, 56))
    vanilla = trace(net, (1, 3, 56, 56))
    assert octave["2"].macs / vanilla["2"].macs == 1 - 0.75 * 0.5 * 1.5
    assert octave["2"].input == ((1, 32, 56, 56), (1, 32, 28, 28))
    assert octave["0"].reads_input
    assert not octave["1"].reads_input


@pytest.mark.parametrize("groups", [1, 8])
def test_pool_always_averages_between_plain_maps_too(groups: int) -> None:
    layer = OctConv2d(8, 8, 3, stride=2, padding=1, groups=groups, alpha=0, downsample="pool_always")
    x = torch.randn(2, 8, 9, 10)
    pooled = F.avg_pool2d(x, 2, ceil_mode=True)  # the last row of nine stands alone
    expected = F.conv2d(pooled, layer.weight, layer.bias, padding=1, groups=groups)
    torch.testing.assert_close(layer(x), expected)
    frozen = freeze(nn.Sequential(layer), example=x)
    torch.testing.assert_close(frozen(x), expected, rtol=1e-5, atol=1e-5)
    strided = OctConv2d(8, 8, 3, stride=2, padding=1, groups=groups, alpha=0)
    strided.load_state_dict(layer.state_dict())
    assert not torch.allclose(strided(x), expected, atol=1e-2)
