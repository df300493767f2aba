"""Changes in place through what torch's code takes for a view: they reach the map, or it is refused later."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.maps import dense_of, equal, make
from torch import nn

from octavize import InputError, OctTensor, octavize, plan
from octavize.nn.activation import OctHardswish

LAYOUTS = [(5, 3), (2, 2, 3, 1)]
OTHER = torch.randn(2, 8, 4, 6, dtype=torch.float64)
GRID = (2, 2, 4, 4, 6)

REACH: dict[str, Callable[[Any], object]] = {
    "slice": lambda x: x[:, :4].mul_(2),
    "slice and number": lambda x: x[:, 2:7].__iadd__(1),
    "batch": lambda x: x[:1].zero_(),
    "narrow": lambda x: x.narrow(1, 2, 4).fill_(3),
    "chunk": lambda x: x.chunk(2, 1)[1].relu_(),
    "split": lambda x: x.split([2, 6], 1)[1].zero_(),
    "inplace of a slice": lambda x: F.relu(x[:, 2:7], inplace=True),
    "row": lambda x: x.view(GRID)[:, 0].mul_(0),
    "detach": lambda x: x.detach().mul_(2),
    "set": lambda x: x.__setitem__((slice(None), slice(2, 7)), 0.5),
    "set a batch": lambda x: x.__setitem__(slice(0, 1), 0.5),
    "set high channels": lambda x: x.__setitem__((slice(None), slice(0, 2)), OTHER[:, :2]),
    "set per channel": lambda x: x.__setitem__((slice(None), slice(2, 7)), OTHER[:, 2:7, :1, :1]),
    "set from itself": lambda x: x.__setitem__(slice(0, 1), x[1:] * 2),
    "set everything": lambda x: x.__setitem__(..., x * 2),
    "assign to a slice": lambda x: exec("x[:, 1:6] += 1; x[:1] *= 3; x[:, -2:] -= x[:, -2:]"),
    "list is a copy": lambda x: x[:, [1, 5]].mul_(0),
    "neighbors are a copy, too": lambda x: x[:, [1, 2]].mul_(0),
    "reshape of a turned grid is a copy": lambda x: x.view(GRID).transpose(1, 2).reshape(2, 8, 4, 6).mul_(0),
}
REFUSED: dict[str, Callable[[Any], object]] = {
    "view": lambda x: x.view(2, 8, -1).zero_(),
    "to two axes": lambda x: x.view(2, -1).zero_(),
    "flatten": lambda x: x.flatten(2).mul_(2),
    "select": lambda x: x.select(0, 0).zero_(),
    "transpose": lambda x: x.transpose(2, 3).mul_(2),
    "permute": lambda x: x.permute(0, 2, 3, 1).mul_(2),
    "unsqueeze": lambda x: x.unsqueeze(0).mul_(2),
    "unbind": lambda x: x.unbind(0)[0].mul_(2),
    "of space": lambda x: x[:, :, 1:-1].mul_(2),
    "view of a view": lambda x: x.transpose(2, 3)[:, 0].add_(1),
    "steps": lambda x: x[:, ::2].mul_(2),
    "turned grid": lambda x: x.view(GRID).transpose(1, 2)[:, 0].mul_(0),
    "slice and a dense map": lambda x: x[:, 4:].__iadd__(OTHER[:, 4:]),
    "slice of a slice": lambda x: x[:, 3:][:, 1:].__iadd__(OTHER[:, 4:]),
}
SEEN: dict[str, Callable[[Any], Any]] = {
    "slice": lambda x: (x[:, 2:7], x.mul_(2))[0],
    "high channels": lambda x: (x[:, :2], x.mul_(2))[0],
    "detach": lambda x: (x.detach(), x.relu_())[0],
    "data": lambda x: (x.data, x.relu_())[0],
    "a copy of a slice": lambda x: (x, x[:, 2:].contiguous().mul_(2))[0],
    "a copy of a slice that is a whole half": lambda x: (x, x[:, 5:].contiguous().mul_(2))[0],
    "a copy in another layout": lambda x: (x, x.to(memory_format=torch.channels_last).mul_(2))[0],
    "a shuffled copy": lambda x: (x.view(GRID).transpose(1, 2).reshape(2, 8, 4, 6), x.mul_(2))[0],
    "a view that is gone": lambda x: (x.flatten(2).sum(), x.mul_(2))[1],
}
UNSEEN: dict[str, Callable[[Any], object]] = {
    "view": lambda x: (x.view(2, 8, -1), x.mul_(2)),
    "flatten": lambda x: (x.flatten(2), F.relu(x, inplace=True)),
    "view of a view": lambda x: (x.flatten(2).transpose(1, 2), F.relu_(x)),
    "two axes": lambda x: (x.view(2, -1), x.__setitem__((slice(None), slice(0, 2)), 0.5)),
    "of space": lambda x: (x[:, :, ::2, ::2], x.__iadd__(1)),
    "steps": lambda x: (x[:, ::2], x.mul_(2)),
    "hardswish": lambda x: (x.flatten(2), OctHardswish(inplace=True)(x)),
    "slice and a dense map": lambda x: (x[:, 2:7], x.mul_(OTHER)),
    "high channels and a dense map": lambda x: (x[:, :2], x.mul_(OTHER)),
    "detach and a dense map": lambda x: (x.detach(), x.mul_(OTHER)),
    "turned grid": lambda x: (x.view(GRID).transpose(1, 2), x.mul_(2))[0].reshape(2, 8, 4, 6),
}
WRITTEN: dict[str, Callable[[Any, Any], object]] = {
    "half by half": lambda x, y: torch.add(x, 1, out=y),
    "dense": lambda x, y: torch.mul(x, OTHER, out=y),
    "by no rule": lambda x, y: torch.cumsum(x, 2, out=y),
    "of plain tensors": lambda x, y: torch.cat([OTHER[:, :3], OTHER[:, 3:]], 1, out=y),
}
pytestmark = pytest.mark.filterwarnings("ignore::octavize.errors.DenseFallbackWarning")


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", REACH)
def test_a_change_through_a_slice_reaches_the_map(name: str, layout: tuple[int, ...], grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        x = make(layout, 4, 6)
        d = dense_of(x)
        REACH[name](x)
        REACH[name](d)
        equal(dense_of(x), d)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_map_that_missed_a_change_is_refused(name: str, layout: tuple[int, ...], grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        x = make(layout, 4, 6)
        REFUSED[name](x)
        for use in (torch.relu, nn.Conv2d(8, 8, 1).double(), lambda x: x + 1, OctTensor.to_dense):
            with pytest.raises(InputError, match="in place through a view or a slice of it") as error:
                use(x)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SEEN)
def test_a_change_of_the_map_reaches_its_views_and_no_copies(
    name: str, layout: tuple[int, ...], grad: bool
) -> None:
    with torch.set_grad_enabled(grad):
        x = make(layout, 4, 6)
        d = dense_of(x)
        equal(dense_of(SEEN[name](x)), SEEN[name](d))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", UNSEEN)
def test_a_change_that_a_view_would_miss_is_refused(name: str, layout: tuple[int, ...], grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        with pytest.raises(InputError, match=r"in place while a view .* cannot see the change") as error:
            UNSEEN[name](make(layout, 4, 6))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_map_given_as_out_gets_the_result(name: str, layout: tuple[int, ...]) -> None:
    x, y = make(layout, 4, 6), make((4, 4), 4, 6, seed=1)
    d, e = dense_of(x), dense_of(y)
    assert WRITTEN[name](x, y) is y
    WRITTEN[name](d, e)
    equal(dense_of(y), e)
    with pytest.raises(InputError, match=r"sort\(out=…\) cannot write into octave maps"):
        torch.sort(x, 1, out=(y, torch.empty(0, dtype=torch.long)))


def test_a_function_that_changes_its_copy_is_refused() -> None:
    x = make((5, 3), 4, 6)
    with pytest.raises(InputError, match="_foreach_mul_ changes in place what it gets"):
        torch._foreach_mul_([x], 2.0)
    high = OctTensor.all_high(OTHER.clone())
    torch._foreach_mul_([high], 2.0)  # the dense map is its own memory
    equal(dense_of(high), OTHER * 2)


def test_a_detached_map_and_its_origin_share_their_values() -> None:
    x = make((5, 3), 4, 6)
    x.detach().mul_(OTHER)
    with pytest.raises(InputError, match="in place through a view"):
        x.relu()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_set_slices(layout: tuple[int, ...]) -> None:
    x, gate = make(layout, 4, 6), torch.rand(2, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    found = []
    for start in (x, OctTensor.all_high(dense_of(x))):
        y = start * 2
        y[:, 2:6] = gate
        y[1:] += y[:1]
        y[:, :3] *= 5
        found.append(torch.autograd.grad(dense_of(y * y).sum(), gate)[0])
    equal(*found)


def test_compiled_too() -> None:
    def change(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        x = OctTensor(high, low)
        y = x
        x[:, :4] += 1
        x.add_(torch.arange(6.0, dtype=torch.float64))
        return (y * 2).to_dense()

    x = make((5, 3), 4, 6)
    wanted = change(x.high.clone(), x.low.clone())
    equal(torch.compile(change, backend="eager", fullgraph=True)(x.high.clone(), x.low.clone()), wanted)


def test_views_that_are_only_read_cost_nothing_but_memory() -> None:
    x = make((5, 3), 4, 6)
    d = dense_of(x)
    equal(x.flatten(2).sum(2), d.flatten(2).sum(2))
    for same in (x, copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        equal(dense_of(same.relu()), d.relu())
    x.mul_(2)  # the map's own changes do not count
    equal(dense_of(x), d * 2)
    part, whole = x[:, 2:], weakref.ref(x)
    del x
    gc.collect()
    assert whole() is None  # a slice does not keep it
    part += OTHER[:, 2:]
    equal(dense_of(part), (d * 2)[:, 2:] + OTHER[:, 2:])


def test_planning_merges_before_such_a_line() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b, self.c = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8, 8))

        def forward(self, x: Any) -> Any:
            x = self.a(self.stem(x))
            x[:, ::2].mul_(2)
            x = self.b(x)
            x[:, 4:] += torch.ones(8, 8)
            return self.c(x).mean((2, 3))

    class Kept(Net):
        def forward(self, x: Any) -> Any:
            x = self.a(self.stem(x))
            rows = x.flatten(2)
            F.relu_(x)
            return self.c(self.b(x) + rows.mean(2)[..., None, None]).mean((2, 3))

    made = plan(Kept(), 0.5, min_low=0, example=(1, 3, 8, 8))
    assert made.alphas == {"a": 0, "b": 0.5, "c": 0.5}
    assert "test_views.py:" in made.decisions[1].reason
    net = Net().double()
    made = plan(net, 0.5, min_low=0, example=(1, 3, 8, 8))
    assert made.alphas == {"a": 0, "b": 0, "c": 0.5}
    assert "test_views.py:" in made.decisions[1].reason
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    equal(octavize(net, made.with_alphas({"c": 0}))(x), net(x))
