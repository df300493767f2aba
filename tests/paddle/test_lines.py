"""Code that fails on octave maps, or would go another way, gets a dense one, and the plan names the line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.autograd import PyLayer

from octavize import InputError
from octavize.paddle import DenseFallbackWarning, OctTensor, octavize, plan

EXAMPLE = (1, 3, 16, 16)
TENSORS = (paddle.Tensor, int)


class Net(nn.Layer):
    def __init__(self, between: Callable[[Any], Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2D(8, 8, 3, padding=1), nn.Conv2D(8, 8, 3, padding=1)
        self.between = between

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        skipped = self.b(x)
        return self.between(self.a(x)).mean([2, 3]) + skipped.mean([2, 3])


def guard(x: Any) -> Any:
    if not isinstance(x, paddle.Tensor):
        raise TypeError("this is no tensor")
    return x


def caught(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Code that goes another way where a call fails."""

    def between(x: Any) -> Any:
        try:
            call(x)
        except Exception:
            return x * 3
        return x * 2

    return between


FAILING: dict[str, Callable[[Any], Any]] = {
    "a guard": guard,
    "a property of one tensor": lambda x: x if x.is_leaf is not None else -x,
    "a place in memory": lambda x: x if x.data_ptr() >= 0 else -x,
}
ASKING: dict[str, Callable[[Any], Any]] = {
    "isinstance": lambda x: x * 2 if isinstance(x, paddle.Tensor) else x * 3,
    "one of several": lambda x: x * 2 if isinstance(x, TENSORS) else x * 3,
    "is_tensor": lambda x: x * 2 if paddle.is_tensor(x) else x * 3,
    "a tensor of a program": lambda x: x * 2 if isinstance(x, (paddle.pir.Value, paddle.Tensor)) else x * 3,
    "a variable": lambda x: x * 2 if isinstance(x, paddle.static.Variable) else x * 3,
    "an attribute": lambda x: x * 2 if hasattr(x, "grad_fn") else x * 3,
    "a missing attribute": caught(lambda x: x.grad),
    "a place in memory": caught(lambda x: x.data_ptr()),
    "a change": caught(lambda x: (x * 1)[0].__setitem__(0, 0)),
}
NOT_ASKING: dict[str, Callable[[Any], Any]] = {
    "a list": lambda x: x * 3 if isinstance(x, (list, tuple)) else x * 2,
    "a tensor or an octave map": lambda x: x * 2 if isinstance(x, (paddle.Tensor, OctTensor)) else x * 3,
    "a name that no tensor has": lambda x: x * 3 if hasattr(x, "boxes") else x * 2,
    "a shuffle": lambda x: x.reshape([-1, 2, 4, 16, 16]).transpose([0, 2, 1, 3, 4]).reshape([-1, 8, 16, 16]),
    "a class": lambda x: x * 2 if x.__class__.__name__.endswith("Tensor") else x * 3,
}


def reason_of_a(net: nn.Layer) -> str:
    found = plan(net, 0.5, min_low=0, example=EXAMPLE)
    assert found.alphas == {"a": 0, "b": 0.5}
    return next(d.reason for d in found.decisions if d.name == "a")


@pytest.mark.parametrize("name", FAILING)
def test_a_line_that_fails_on_an_octave_map_gets_a_dense_one(name: str) -> None:
    reason = reason_of_a(Net(FAILING[name]))
    assert "paddle/test_lines.py:" in reason
    assert len(reason) < 220
    octave = octavize(Net(FAILING[name]), 0.5, min_low=0, example=EXAMPLE)
    assert octave(paddle.randn([2, 3, 16, 16])).isfinite().all()


@pytest.mark.parametrize("name", ASKING)
def test_code_that_would_go_another_way_gets_a_dense_map(name: str) -> None:
    net = Net(ASKING[name])
    assert "paddle/test_lines.py:" in reason_of_a(net)
    found = plan(net, 0.5, min_low=0, example=EXAMPLE)
    twice = octavize(Net(lambda x: x * 2), found)
    twice.set_state_dict(net.state_dict())
    x = paddle.randn([2, 3, 16, 16])
    np.testing.assert_array_equal(octavize(net, found)(x).numpy(), twice(x).numpy())


@pytest.mark.parametrize("name", NOT_ASKING)
def test_other_questions_merge_nothing(name: str) -> None:
    assert plan(Net(NOT_ASKING[name]), 0.5, min_low=0, example=EXAMPLE).alphas == {"a": 0.5, "b": 0.5}


def test_only_the_maps_that_the_line_reads_are_merged() -> None:
    """The map of `skipped` is alive there, but `guard` gets the other one."""

    class Two(Net):
        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            skipped, y = self.b(x), self.a(x)
            guard(y)
            return y.mean([2, 3]) + skipped.mean([2, 3])

    reason_of_a(Two(guard))


class Mean(PyLayer):
    """A function with a backward of its own, whose output is a tensor even of an octave map."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x.mean([2, 3])

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        (x,) = ctx.saved_tensor()
        return paddle.ones_like(x) * dy[:, :, None, None] / (x.shape[2] * x.shape[3])


class Double(PyLayer):
    """A function with a backward of its own, which would give a map."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        return dy * 2


@pytest.mark.parametrize("function", [Mean, Double])
def test_functions_with_a_backward_of_their_own_get_dense_maps(function: Any) -> None:
    """Paddle sees no tensor in an octave map: the layers before it would get no gradient, without a word."""

    class Own(Net):
        def forward(self, x: Any) -> Any:
            y = function.apply(self.a(self.stem(x)))
            return (y if y.ndim == 2 else y.mean([2, 3])) + self.b(self.stem(x)).mean([2, 3])

    net = Own(lambda x: x)
    assert f"{function.__name__}.apply needs the dense map, at paddle/test_lines.py" in reason_of_a(net)
    octave = octavize(net, 0.5, min_low=0, example=EXAMPLE)
    octave(paddle.randn([2, 3, 16, 16])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in octave.parameters())
    loose = octavize(net, plan(net, 0.5, min_low=0, example=EXAMPLE).with_alphas({"a": 0.5}))
    with pytest.warns(DenseFallbackWarning, match="apply has no octave rule"):
        loose(paddle.randn([2, 3, 16, 16])).square().sum().backward()
    assert all(p.grad is not None for p in loose.parameters())


def test_planning_leaves_no_ear_behind() -> None:
    kind: Any = type(paddle.static.Variable)
    before = vars(kind)["__instancecheck__"]
    plan(Net(lambda x: x), 0.5, example=EXAMPLE)
    assert vars(kind)["__instancecheck__"] is before


def test_a_network_that_does_not_run_is_told_with_its_line() -> None:
    def wrong(x: Any) -> Any:
        return x.reshape([7, 7])

    with pytest.raises(InputError, match=r"does not run on an input .* at paddle/test_lines\.py:\d+\)$"):
        plan(Net(wrong), 0.5, example=EXAMPLE)
