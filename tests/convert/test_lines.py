"""Code that fails on octave maps gets a dense one, and the plan names the line; other errors name it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octavize import InputError, octavize, plan

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
