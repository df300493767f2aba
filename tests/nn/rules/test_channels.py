"""Rules that choose, join and rearrange channels, and those that came with them: operands, sums, group norm.

Each is compared with torch's function on the dense map: for odd and even sizes, for every share of low
channels, interleaved or not, with gradients; and the same compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.maps import dense_of, equal, make, map_named
from torch import Tensor, nn

from octavize import DenseFallbackWarning, OctTensor
from octavize.nn import dispatch as dispatch_module
from octavize.nn.channels import merge_channels, split_channels
from octavize.nn.rules.grid import ChannelGrid
from octavize.split import locate_channels

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")

LAYOUTS = {
    "all high": (8, 0),
    "half": (4, 4),
    "a quarter": (6, 2),
    "all low": (0, 8),
    "interleaved": (1, 2, 3, 2),
    "every other": (1, 1) * 4,
    "many layout": (0, 1, 1, 1, 2, 1, 1, 1),
}
SIZES = {"even": (4, 6), "odd": (5, 3), "line": (5,), "video": (2, 3, 4)}


def wide(x: Any, n: int = 2) -> Tensor:
    """One value a path and channel: (1, n, 8, 1, …)."""
    values = torch.arange(1, 8 * n + 1, dtype=torch.float64)
    return values.view(1, n, 8, *[1] * (x.dim() - 2)) / 8


def a_channel(x: Any) -> Tensor:
    return torch.linspace(0.5, 2, 8, dtype=torch.float64).view(1, 8, *[1] * (x.dim() - 2))


SHUFFLES: dict[str, Callable[[Any], Any]] = {
    "view": lambda x: x.view(2, 4, 2, *x.shape[2:]).transpose(1, 2).contiguous().view(2, -1, *x.shape[2:]),
    "reshape": lambda x: x.reshape((2, 2, 4, *x.shape[2:])).swapaxes(2, 1).reshape(x.shape),
    "unflatten": lambda x: x.unflatten(1, (2, -1)).transpose(-1 - len(x.shape[2:]), 1).flatten(1, 2),
    "permute": lambda x: x.view(2, 2, 4, *x.shape[2:]).permute(0, 2, 1, *range(3, x.dim() + 1)).flatten(1, 2),
    "channel_shuffle": lambda x: torch.channel_shuffle(x, 4),
    "F.channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "ChannelShuffle": nn.ChannelShuffle(2),
}
CHOICES: dict[str, Callable[[Any], Any]] = {
    "split": lambda x: x.split(3, 1),
    "torch.split": lambda x: torch.split(x, [1, 5, 2], dim=1),
    "split of the batch": lambda x: x.split(1),
    "split_with_sizes": lambda x: torch.split_with_sizes(x, [3, 5], 1),
    "chunk": lambda x: x.chunk(3, dim=1),
    "chunk of the batch": lambda x: torch.chunk(x, 2),
    "tensor_split": lambda x: torch.tensor_split(x, 3, dim=1),
    "tensor_split at": lambda x: x.tensor_split((2, 3, 7), dim=-x.dim() + 1),
    "narrow": lambda x: x.narrow(1, 2, 4),
    "narrow from the end": lambda x: torch.narrow(x, 1, -3, 2),
    "narrow of the batch": lambda x: x.narrow(0, 1, 1),
    "slice": lambda x: x[:, 2:5],
    "slice with space": lambda x: x[:1, -3:, ...],
    "slice with all axes": lambda x: x[(slice(None), slice(1, None, 2), *[slice(None)] * (x.dim() - 2))],
    "list": lambda x: x[:, [0, 7, 3, -1]],
    "nothing": lambda x: x[:, :],
    "split by name": lambda x: x.split(split_size=3, dim=1),
    "torch.split by name": lambda x: torch.split(tensor=x, split_size_or_sections=[1, 5, 2], dim=1),
    "chunk by name": lambda x: torch.chunk(x, dim=1, chunks=3),
    "tensor_split by name": lambda x: torch.tensor_split(x, sections=3, dim=1),
    "tensor_split at, by name": lambda x: torch.tensor_split(x, indices=(2, 3, 7), dim=1),
}
PATHS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: torch.stack([x, x * 2, x - 1], 1).sum(1),
    "mean": lambda x: torch.stack([x, x * 2], dim=1).mean(dim=1),
    "gate": lambda x: (torch.stack([x, x.sigmoid()], 1) * wide(x)).sum(dim=1),
    "gate from the left": lambda x: torch.sum(wide(x) * torch.stack([x, x.sigmoid()], 1), dim=1),
    "of one map": lambda x: x.reshape(2, 2, 4, *x.shape[2:]).relu().flatten(1, 2),
    "of one map, by name": lambda x: x.unflatten(dim=1, sizes=(2, -1)).relu().flatten(start_dim=1, end_dim=2),
    "shuffle by name": lambda x: (
        torch.reshape(x, shape=(2, 2, 4, *x.shape[2:])).transpose(dim0=1, dim1=2).flatten(1, end_dim=2)
    ),
    "row": lambda x: torch.stack([x, x.exp()], 1)[:, 1],
    "unbind": lambda x: torch.stack([x, x.exp()], 1).unbind(1),
    "two grids": lambda x: (torch.stack([x, -x], 1) + torch.stack([x.exp(), x], 1)).sum(1),
    "a tuple of maps": lambda x: torch.stack((x, -x), 1).mul(wide(x)).sum(1),
}
TUPLES = {"a tuple of maps"}
OPERANDS: dict[str, Callable[[Any], Any]] = {
    "addcmul": lambda x: torch.addcmul(a_channel(x), a_channel(x) * 2, x, value=0.5),
    "addcmul of maps": lambda x: x.addcmul(x, x.exp()),
    "addcdiv": lambda x: torch.addcdiv(x, x * 2, x.exp(), value=-1),
    "lerp": lambda x: torch.lerp(x, x.exp(), 0.25),
    "lerp by channel": lambda x: x.lerp(-x, a_channel(x)),
    "where": lambda x: torch.where(x > 0, x, a_channel(x).expand(2, -1, *[1] * (x.dim() - 2))),
    "where by name": lambda x: torch.where(condition=x > 0, input=x, other=-x),
    "where a number": lambda x: x.where(x < 0.5, 0.5),
    "masked_fill": lambda x: x.masked_fill(x < 0, -2.0),
    "expand_as": lambda x: x * a_channel(x).expand_as(x),
    "keyword": lambda x: torch.add(x, other=a_channel(x), alpha=2),
    "cat by axis": lambda x: torch.cat([x, -x], axis=1),
    "flatten by view": lambda x: x.view(2, -1),
}
ON_EVEN: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: x.sum(tuple(range(2, x.dim()))),
    "sum, kept": lambda x: torch.sum(x, tuple(range(2, x.dim())), keepdim=True),
    "sum of all": lambda x: x.sum(),
    "norm": lambda x: x.norm(p=2, dim=tuple(range(2, x.dim())), keepdim=True),
    "3-norm": lambda x: torch.norm(x, 3, tuple(range(2, x.dim()))),
    "group_norm": lambda x: F.group_norm(x, 2, a_channel(x).flatten(), -a_channel(x).flatten()),
    "group_norm of all": lambda x: F.group_norm(x, 1, eps=1e-3),
    "GroupNorm": lambda x: nn.GroupNorm(8, 8).double()(x),
}
EXACT = {
    f"{group}: {name}": call
    for group, cases in (
        ("shuffle", SHUFFLES), ("choice", CHOICES), ("paths", PATHS), ("operands", OPERANDS),
    )
    for name, call in cases.items()
}  # fmt: skip


def values_of(y: Any) -> list[Tensor]:
    """The dense maps of a result or of a tuple of them."""
    return [dense_of(part) for part in (y if isinstance(y, tuple) else (y,))]


def check(call: Callable[[Any], Any], layout: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Values and gradients of `call` on an OctTensor and on the dense map."""
    x = make(layout, *size)
    leaves = [x.high.requires_grad_(), x.low.requires_grad_()]
    got, wanted = values_of(call(x)), values_of(call(dense_of(x)))
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        equal(a, b)
    gradients = [
        torch.autograd.grad(
            sum((t * (i + 1)).sin().sum() for i, t in enumerate(many)), leaves, allow_unused=True
        )
        for many in (got, wanted)
    ]
    for leaf, a, b in zip(leaves, *gradients, strict=True):
        nothing = torch.zeros_like(leaf)
        equal(nothing if a is None else a, nothing if b is None else b)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", EXACT)
def test_exact_rule(name: str, layout: tuple[int, ...]) -> None:
    for where, size in SIZES.items():
        if name == "shuffle: ChannelShuffle" and where != "even":
            continue
        dispatch_module._announced.update({"unbind"} if layout == (8, 0) else ())
        check(EXACT[name], layout, size)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ON_EVEN)
def test_rule_that_is_exact_on_even_sizes(name: str, layout: tuple[int, ...]) -> None:
    for size in ((4, 6), (6,), (3, 2, 4)):
        check(ON_EVEN[name], layout, size)


# While torch.compile traces, a tuple of OctTensors does not reach the rules, as a list of them does.
TRACEABLE = [name for name in EXACT if name not in {f"paths: {n}" for n in TUPLES}]


@pytest.mark.parametrize("layout", [(4, 4), (1, 2, 3, 2)])
@pytest.mark.parametrize("name", TRACEABLE)
def test_compiled(name: str, layout: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    x = make(layout, 4, 5)

    def run(high: Tensor, low: Tensor) -> list[Tensor]:
        y = EXACT[name](OctTensor(high, low, channel_layout=layout))
        return [
            p.to_dense() if isinstance(p, OctTensor) else p for p in (y if isinstance(y, tuple) else (y,))
        ]

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    for a, b in zip(compiled(x.high, x.low), values_of(EXACT[name](dense_of(x))), strict=True):
        equal(a, b)


def test_native_shuffle_without_gradients() -> None:
    """torch has no derivative of it."""
    x = make((3, 5), 4, 4)
    equal(dense_of(torch.native_channel_shuffle(x, 4)), torch.native_channel_shuffle(dense_of(x), 4))


def test_what_a_choice_is() -> None:
    """Wholly high: a plain tensor, so that what follows is vanilla. Wholly low: an OctTensor without high."""
    high, low = make((4, 4), 4, 4).chunk(2, 1)
    assert type(high) is Tensor
    assert isinstance(low, OctTensor)
    assert low.high.shape == (2, 0, 4, 4)
    mixed = make((2, 6), 4, 4)[:, 1:5]
    assert (mixed.channel_layout, mixed.low.shape) == ((1, 3), (2, 3, 2, 2))


def test_a_choice_of_neighbors_is_a_view() -> None:
    x = make((4, 4), 4, 4)
    part = x[:, 2:6]
    part.zero_()
    assert dense_of(x)[:, 2:6].abs().max() == 0


@pytest.mark.parametrize(
    "position", [0, (0, 1), (slice(None), 1), (slice(None), slice(None), slice(1, 3)), None]
)
def test_an_index_that_leaves_the_map_falls_back(position: Any) -> None:
    x = make((4, 4), 5, 4)
    with pytest.warns(DenseFallbackWarning, match="__getitem__"):
        equal(x[position], dense_of(x)[position])


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("split", lambda x: x.split(2, 2)),
        ("chunk", lambda x: x.chunk(2, -1)),
        ("narrow", lambda x: x.narrow(2, 0, 1)),
        ("stack", lambda x: torch.stack([x, x])),
        ("reshape", lambda x: x.reshape(2, 8, -1)),
        ("permute", lambda x: x.permute(0, 2, 3, 1)),
        ("transpose", lambda x: x.view(2, 2, 4, 5, 4).transpose(0, 1)),
        ("softmax", lambda x: torch.stack([x, x], 1).softmax(1)),
        ("flatten", lambda x: torch.stack([x, x], 1).flatten(2)),
        ("view", lambda x: torch.stack([x, x], 1).view(4, 8, 5, 4)),
        ("sum", lambda x: torch.stack([x, x], 1).sum(2)),
        ("__getitem__", lambda x: torch.stack([x, x], 1)[0]),
        ("__mul__", lambda x: torch.stack([x, x], 1) * torch.ones(5, 4).double()),
        ("unbind", lambda x: torch.stack([x, x], 1).unbind(2)),
        ("mul", lambda x: torch.mul(x, torch.stack([x, x], 1))),
    ],
)
def test_what_has_no_rule_falls_back(name: str, call: Callable[[Any], Any]) -> None:
    x = make((4, 4), 5, 4)
    if name == "mul":  # (2, 8, 5, 4) against (2, 2, 8, 5, 4): torch lines them up from the right
        x = x[:1]
    with pytest.warns(DenseFallbackWarning, match=name):
        got = call(x)
    for a, b in zip(values_of(got), values_of(call(dense_of(x))), strict=True):
        equal(a, b)


def test_grid_is_strict_where_its_map_is() -> None:
    x = make((4, 4), 4, 4)
    strict = OctTensor(x.high, x.low, strict=True)
    grid = strict.view(2, 2, 4, 4, 4)
    assert isinstance(grid, ChannelGrid)
    assert grid.shape == (2, 2, 4, 4, 4)
    assert (grid.size(1), grid.dim()) == (2, 5)
    with pytest.raises(ValueError, match="strict=True"):
        grid.softmax(1)


def test_wrong_arguments_fail_as_torch_does() -> None:
    x = make((4, 4), 4, 4)
    with pytest.raises(RuntimeError):
        x.split([3, 3], 1)
    with pytest.raises(RuntimeError), pytest.warns(DenseFallbackWarning):
        x.view(2, 3, 4, 4, 4)
    with pytest.raises(RuntimeError):
        F.group_norm(x, 3)
    with pytest.raises(ValueError, match="size or scale_factor"):
        F.interpolate(x)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_odd_sizes_weigh_every_stored_pixel_alike(layout: tuple[int, ...]) -> None:
    """The definition of sum and group norm where a low pixel stands for fewer than four."""
    x = make(layout, 5, 3)
    stored, used = [], [0, 0]
    for i, count in enumerate(layout):
        for _ in range(count):
            stored.append((x.high, x.low)[i % 2][:, used[i % 2]])
            used[i % 2] += 1
    equal(x.sum((2, 3)), torch.stack([15 * s.mean((1, 2)) for s in stored], 1))
    y = dense_of(F.group_norm(x, 2, eps=0.1))
    for group in (range(4), range(4, 8)):
        mean = torch.stack([stored[c].mean((1, 2)) for c in group]).mean(0)
        squares = [(stored[c] - mean[:, None, None]).square().mean((1, 2)) for c in group]
        deviation = (torch.stack(squares).mean(0) + 0.1).sqrt()
        for c in group:
            equal(y[:, c], (dense_of(x)[:, c] - mean[:, None, None]) / deviation[:, None, None])


def test_power_average_pooling_is_torchs_on_each_half() -> None:
    x = make((4, 4), 8, 8)
    for layer in (nn.LPPool2d(2, 2), nn.LPPool2d(2, 2, 2, ceil_mode=True)):
        y = layer(x)
        equal(y.high, layer(x.high))
        equal(y.low, layer(x.low))
    line = make((1, 1), 8)
    equal(F.lp_pool1d(line, 2, 2).low, F.lp_pool1d(line.low, 2, 2))


def test_sum_of_whole_numbers_stays_whole() -> None:
    x = make((2, 2), 4, 4) > 0
    with pytest.warns(DenseFallbackWarning, match="sum"):
        assert torch.equal(x.sum((2, 3)), dense_of(x).sum((2, 3)))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_split_and_merge_channels_are_inverse(layout: tuple[int, ...]) -> None:
    values = torch.randn(3, 8)
    high, low = split_channels(values, layout, 1)
    assert torch.equal(merge_channels(high, low, layout), values)
    is_low = [bool(i % 2) for i, count in enumerate(layout) for _ in range(count)]
    assert torch.equal(high, values[:, [c for c in range(8) if not is_low[c]]])
    of_high, of_low, chosen = locate_channels(layout, tuple(range(8)))
    assert (len(of_high), len(of_low)) == (sum(layout[::2]), sum(layout[1::2]))
    assert sum(chosen) == 8


@pytest.mark.parametrize("where", ["even", "odd", "interleaved", "low first", "all low"])
def test_glu(where: str) -> None:
    x = map_named(where)
    dispatch_module._announced.update({"mul", "glu"})
    equal(dense_of(F.glu(x, 1)), F.glu(dense_of(x), 1))
    equal(dense_of(F.glu(make((2, 2, 2, 2), 5, 4), dim=-3)), F.glu(dense_of(make((2, 2, 2, 2), 5, 4)), 1))
    assert isinstance(F.glu(make((2, 2, 2, 2), 5, 4), 1), OctTensor)
    equal(F.glu(make((4, 0), 5, 4), 1), F.glu(dense_of(make((4, 0), 5, 4)), 1))
