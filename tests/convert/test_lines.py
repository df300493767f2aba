"""Code that fails on octave maps gets a dense one, and the plan names the line; other errors name it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octavize import InputError, OctTensor, octavize, plan

EXAMPLE = (1, 3, 16, 16)


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skipped = self.b(x)
        return self.between(self.a(x)).mean((2, 3)) + skipped.mean((2, 3))


def guard(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError("this is no tensor")
    return x


def first_channel_zero(x: Tensor) -> Tensor:
    x = x * 1
    x[:, 0] = 0
    return x


with pytest.warns(FutureWarning, match="deprecated"):
    scripted_swish = torch.jit.script(nn.functional.silu)


FAILING: dict[str, Callable[[Tensor], Any]] = {
    "a guard": guard,
    "an assignment": first_channel_zero,
    "a scripted function": lambda x: scripted_swish(x),
    "a property of one tensor": lambda x: x.mT.mT,
    "a place in memory": lambda x: x if x.data_ptr() >= 0 else -x,
}


@pytest.mark.parametrize("name", FAILING)
def test_a_line_that_fails_on_an_octave_map_gets_a_dense_one(name: str) -> None:
    found = plan(Net(FAILING[name]), 0.5, min_low=0, example=EXAMPLE)
    reason = next(d.reason for d in found.decisions if d.name == "a")
    assert found.alphas["a"] == 0
    assert "test_lines.py:" in reason
    assert len(reason) < 220
    octave = octavize(Net(FAILING[name]), 0.5, min_low=0, example=EXAMPLE)
    assert octave(torch.randn(2, 3, 16, 16)).isfinite().all()


TENSORS = (Tensor, int)


def caught(call: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Code that goes another way where a call fails."""

    def between(x: Tensor) -> Tensor:
        try:
            call(x)
        except Exception:
            return x * 3
        return x * 2

    return between


ASKING: dict[str, Callable[[Tensor], Any]] = {
    "isinstance": lambda x: x * 2 if isinstance(x, Tensor) else x * 3,
    "one of several": lambda x: x * 2 if isinstance(x, TENSORS) else x * 3,
    "is_tensor": lambda x: x * 2 if torch.is_tensor(x) else x * 3,
    "an attribute": lambda x: x * 2 if hasattr(x, "grad_fn") else x * 3,
    "a missing attribute": caught(lambda x: x.grad_fn),
    "a place in memory": caught(lambda x: x.data_ptr()),
    "a change": caught(lambda x: (x * 1)[0].__setitem__(0, 0)),
    "steps": caught(lambda x: x.stride()),
}
NOT_ASKING: dict[str, Callable[[Tensor], Any]] = {
    "a list": lambda x: x * 3 if isinstance(x, (list, tuple)) else x * 2,
    "a tensor or an octave map": lambda x: x * 2 if isinstance(x, (Tensor, OctTensor)) else x * 3,
    "a name that no tensor has": lambda x: x * 3 if hasattr(x, "boxes") else x * 2,
    "a shuffle": lambda x: x.view(x.shape[0], 2, 4, 16, 16).transpose(1, 2).reshape(x.shape),
    "a class": lambda x: x * 2 if x.__class__.__name__.endswith("Tensor") else x * 3,
}


@pytest.mark.parametrize("name", ASKING)
def test_code_that_would_go_another_way_gets_a_dense_map(name: str) -> None:
    net = Net(ASKING[name]).double()
    found = plan(net, 0.5, min_low=0, example=EXAMPLE)
    reason = next(d.reason for d in found.decisions if d.name == "a")
    assert found.alphas == {"a": 0, "b": 0.5}
    assert "test_lines.py:" in reason
    twice = octavize(Net(lambda x: x * 2).double(), found)
    twice.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(octavize(net, found)(x), twice(x))


@pytest.mark.parametrize("name", NOT_ASKING)
def test_other_questions_merge_nothing(name: str) -> None:
    assert plan(Net(NOT_ASKING[name]), 0.5, min_low=0, example=EXAMPLE).alphas == {"a": 0.5, "b": 0.5}


def test_only_the_maps_that_the_line_reads_are_merged() -> None:
    """The map of `skipped` is alive there, but `guard` gets the other one."""

    class Two(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            skipped, y = self.b(x), self.a(x)
            scripted_swish(y)
            return y.mean((2, 3)) + skipped.mean((2, 3))

    assert plan(Two(guard), 0.5, min_low=0, example=EXAMPLE).alphas == {"a": 0, "b": 0.5}


@pytest.mark.parametrize("read", [lambda x: x * float(x.sum()), lambda x: torch.from_numpy(x.numpy())])
def test_code_that_asks_for_values_is_named(read: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match=r"its code asks for values.*at convert/test_lines\.py:\d+\)$"):
        plan(Net(read), 0.5, example=EXAMPLE)
