"""The draft of three bands, against a slow convolution written path by path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.reference import average, repeat_pixels
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from octavize import InputError, OctConv2d, OctTensor

SIZES = [(12, 16), (13, 7), (5, 6), (1, 1)]
ALPHAS = [(0.25, 0.125), (0.5, 0.25), (0.0, 0.5), (0.25, 0.0), (0.0, 0.0)]


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    return __import__("three_bands")


def make(draft: Any, counts: Sequence[int], size: Sequence[int], seed: int = 0) -> Any:
    """A random map of two images: octave, with a plain or an octave low half."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [tuple(-(-n // 2**level) for n in size) for level in range(3)]
    maps = [
        torch.randn(2, n, *s, generator=generator, dtype=torch.float64).requires_grad_()
        for n, s in zip(counts, sizes, strict=True)
    ]
    low = maps[1] if counts[2] == 0 else OctTensor(*maps[1:])
    return OctTensor.trusted(maps[0], low, (counts[0], sum(counts[1:])), 2, False), maps  # pyright: ignore


def up(x: Tensor, sizes: Sequence[tuple[int, ...]]) -> Tensor:
    """Every pixel repeated, to each of these sizes in turn."""
    for size in sizes:
        for axis, n in enumerate(size, start=2):
            x = repeat_pixels(x, axis, n) if x.shape[axis] != n else x
    return x


def reference(
    maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None, counts: Sequence[int], padding: int
) -> list[Tensor]:
    """Nine paths, each at the resolution of the lower of its two bands."""
    columns, rows = weight.split([x.shape[1] for x in maps], dim=1), []
    for j, own in enumerate(counts):
        start = sum(counts[:j])
        total: Any = 0 if bias is None else bias[start : start + own].view(-1, 1, 1)
        if own == 0:
            rows.append(maps[j].new_empty((maps[j].shape[0], 0, *maps[j].shape[2:])))
            continue
        for i, x in enumerate(maps):
            w = columns[i][start : start + own]
            for _ in range(max(j - i, 0)):
                x = average(x, (2, 3))
            y = F.conv2d(x, w, padding=padding)
            total = total + up(y, [tuple(maps[level].shape[2:]) for level in range(i - 1, j - 1, -1)])
        rows.append(total)
    return rows


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("kernel", "bias"), [(3, True), (1, False)])
def test_the_nine_paths(
    draft: Any, size: tuple[int, int], alpha: tuple[float, float], kernel: int, bias: bool
) -> None:
    layer = draft.ThreeBandConv2d(8, 16, kernel, padding=kernel // 2, bias=bias, alpha=alpha).double()
    x, maps = make(draft, (4, 3, 1), size)
    found = draft.bands(layer(x))
    wanted = reference(maps, layer.weight, layer.bias, layer.counts, kernel // 2)
    assert len(found) == (3 if alpha[1] else 2 if alpha[0] else 1)
    told = [*maps, *layer.parameters()]
    pairs = list(zip(found, wanted, strict=False))
    learning = [(a, b, torch.randn_like(a)) for a, b in pairs if a.shape[1]]
    ours, theirs, sent = zip(*learning, strict=True)
    own, other = torch.autograd.grad(ours, told, sent), torch.autograd.grad(theirs, told, sent)
    for a, b in [*pairs, *zip(own, other, strict=True)]:
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("split", [0.0, 0.5])
@pytest.mark.parametrize("alpha", [0.25, 0.0])
def test_two_bands_are_those_of_the_library(
    draft: Any, stride: int, size: tuple[int, int], split: float, alpha: float
) -> None:
    two = OctConv2d(8, 16, 3, stride, 1, alpha=alpha).double()
    three = draft.ThreeBandConv2d(8, 16, 3, stride, 1, alpha=(alpha, 0.0)).double()
    three.load_state_dict(two.state_dict())
    plain = torch.randn(2, 8, *size, dtype=torch.float64)
    x = OctTensor.from_dense(plain, split) if split else plain
    mine, theirs = draft.bands(three(x)), draft.bands(two(x))
    assert len(mine) == len(theirs) == (2 if alpha else 1)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_stride_is_that_of_the_two_layers_inside(draft: Any) -> None:
    """Of stride 2 is the low output: the octave layer of the rows of the weight that are low."""
    layer = draft.ThreeBandConv2d(8, 16, 3, 2, 1, alpha=(0.25, 0.125)).double()
    x, (full, half, quarter) = make(draft, (4, 3, 1), (13, 8))
    y = layer(x)
    inner = OctConv2d(8, 6, 3, 2, 1, alpha=2 / 6).double()
    inner.load_state_dict({"weight": layer.weight[10:], "bias": layer.bias[10:]})
    both = OctTensor(torch.cat([average(full, (2, 3)), half], 1), quarter)
    torch.testing.assert_close(y.low.high, inner(both).high)
    torch.testing.assert_close(y.low.low, inner(both).low)
    w = layer.weight[:10]
    high = F.conv2d(average(full, (2, 3)), w[:, :4], layer.bias[:10], padding=1)
    high = high + F.conv2d(half, w[:, 4:7], padding=1)
    high = high + up(F.conv2d(quarter, w[:, 7:], padding=1), [tuple(half.shape[2:])])
    torch.testing.assert_close(y.high, high)


@pytest.mark.parametrize("size", [(12, 16), (13, 7)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_arithmetic_is_that_of_the_formula(draft: Any, size: tuple[int, int], kernel: int) -> None:
    layer = draft.ThreeBandConv2d(8, 16, kernel, padding=kernel // 2, alpha=(0.25, 0.125)).double()
    x, maps = make(draft, (4, 3, 1), size)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        layer(x)
    assert counted.get_total_flops() == 2 * 2 * draft.macs((4, 3, 1), layer.counts, kernel, size)
    assert draft.macs([8], [16], kernel, size) == 8 * 16 * kernel**2 * size[0] * size[1]
    assert [m.shape[1] for m in maps] == [4, 3, 1]


def test_torchs_own_layers_ask_each_band(draft: Any) -> None:
    x, maps = make(draft, (4, 3, 1), (12, 8))
    norm = nn.BatchNorm2d(8).double()
    nn.init.normal_(norm.weight)
    found = draft.bands(torch.add(F.relu(norm(x)), x))  # pyright: ignore[reportCallIssue,reportArgumentType]
    start = 0
    for y, own in zip(found, maps, strict=True):
        rows = slice(start, start + own.shape[1])
        start = rows.stop
        plain = F.relu(F.batch_norm(own, None, None, norm.weight[rows], norm.bias[rows], True)) + own
        torch.testing.assert_close(y, plain)
    torch.testing.assert_close(F.adaptive_avg_pool2d(x, 1), draft.dense(x).mean((2, 3), keepdim=True))
    torch.testing.assert_close(
        draft.dense(x),
        torch.cat([maps[0], up(maps[1], [(12, 8)]), up(maps[2], [(6, 4), (12, 8)])], 1),
    )


@pytest.mark.parametrize("alpha", [(0.5, 0.5), (-0.25, 0.5)])
def test_shares_that_leave_nothing_are_refused(draft: Any, alpha: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="full resolution"):
        draft.ThreeBandConv2d(8, 16, 3, padding=1, alpha=alpha)
