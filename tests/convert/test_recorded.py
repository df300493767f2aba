"""What passes a map by torch's dispatcher: no gradient is lost, and the plan names layer and line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from octavize import InputError, OctConv2d, Plan, octavize, plan

EXAMPLE = (1, 3, 16, 16)


class Swish(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * s * (1 + x * (1 - s))


class Reversed(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Rounded(Function):
    """Straight through; `setup_context` keeps `ctx` out of forward."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Untouched(Reversed):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x


aliased = Swish.apply  # torch's own documentation advises so


class Net(nn.Module):
    """Three octave layers and one that merges; `between` acts after the first."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.between(self.a(self.stem(x))))).mean((2, 3))


def alphas(net: nn.Module) -> dict[str, float]:
    return plan(net, 0.5, min_low=0, example=EXAMPLE).alphas


def reason(net: nn.Module, layer: str = "a") -> str:
    found = plan(net, 0.5, min_low=0, example=EXAMPLE)
    return next(d.reason for d in found.decisions if d.name == layer)


def gradients(net: nn.Module) -> list[Tensor]:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    net(x).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    return [p.grad for p in net.parameters() if p.grad is not None]


BY_FUNCTION: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "swish": (lambda x: Swish.apply(x), nn.functional.silu),
    "aliased": (lambda x: aliased(x), nn.functional.silu),
    "straight through": (lambda x: Rounded.apply(x), lambda x: x + (x.round() - x).detach()),
    "gradient reversal": (lambda x: Reversed.apply(x), lambda x: 2 * x.detach() - x),
    "reentrant checkpoint": (lambda x: checkpoint(torch.relu, x, use_reentrant=True), torch.relu),
}


@pytest.mark.parametrize("name", BY_FUNCTION)
def test_maps_are_merged_before_functions_that_autograd_runs_itself(name: str) -> None:
    hides, plain = BY_FUNCTION[name]
    net = Net(hides)
    assert alphas(net) == {"a": 0, "b": 0.5, "c": 0.5}
    assert "test_recorded.py:" in reason(net)
    octave = octavize(net, 0.5, min_low=0, example=EXAMPLE)
    same = octavize(Net(plain), {"a": 0, "b": 0.5, "c": 0.5}, example=EXAMPLE)
    same.load_state_dict(octave.state_dict())
    for own, expected in zip(gradients(octave), gradients(same), strict=True):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("name", BY_FUNCTION)
def test_a_plan_is_checked_when_it_is_applied_too(name: str, tmp_path: Path) -> None:
    """A hand may have raised an α, or the network may have another forward since."""
    hides, plain = BY_FUNCTION[name]
    net = Net(hides)
    made = plan(net, 0.5, min_low=0, example=EXAMPLE)
    octavize(net, made)
    made.with_alphas({"a": 0.25}).save(tmp_path / "edited.yaml")
    edited = Plan.load(tmp_path / "edited.yaml")
    for model in (net, octavize(net, made)):
        with pytest.raises(
            InputError, match=r"layer 'a' has alpha=0.25, but .* needs the dense map, at"
        ) as e:
            octavize(model, edited)
        assert "test_recorded.py:" in str(e.value)
        assert "\n" not in str(e.value)
    other = plan(Net(plain), 0.5, min_low=0, example=EXAMPLE)
    with pytest.raises(InputError, match=r"layer 'a' has alpha=0.5"):
        octavize(net, other)
    assert octavize(Net(plain), edited)(torch.randn(EXAMPLE)).shape == (1, 8)


def test_a_plan_by_hand_for_two_inputs_cannot_be_checked() -> None:
    class Two(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # pyright: ignore
            return super().forward(x + y)

    x, net = torch.randn(EXAMPLE), Two(torch.relu)
    made = plan(net, 0.5, min_low=0, example=(x, x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        octavize(net, made)
    with pytest.warns(UserWarning, match="alpha of layer 'b' was given by hand"):
        octavize(net, made.with_alphas({"b": 0.25}))


def test_a_plan_by_hand_does_not_send_the_forward_another_way(tmp_path: Path) -> None:
    """No error would tell: the octave map is no tensor, so the line below the question is left out."""

    def doubled(x: Any) -> Any:
        return 2 * x if isinstance(x, Tensor) else x

    net = Net(doubled)
    made = plan(net, 0.5, min_low=0, example=EXAMPLE)
    assert made.alphas["a"] == 0
    made.save(tmp_path / "plan.yaml")
    text = (tmp_path / "plan.yaml").read_text("utf-8")
    text, edits = re.subn(r"(name: a\n  kind: Conv2d\n  alpha: )0.0", r"\g<1>0.25", text)
    assert edits == 1
    (tmp_path / "plan.yaml").write_text(text, "utf-8")
    with pytest.raises(
        InputError, match=r"layer 'a' has alpha=0.25, but isinstance needs the dense map, at .*"
    ):
        octavize(net, Plan.load(tmp_path / "plan.yaml"))
    octave, same = octavize(net, made), octavize(Net(lambda x: 2 * x), made)
    same.load_state_dict(octave.state_dict())
    x = torch.randn(EXAMPLE)
    torch.testing.assert_close(octave(x), same(x))


@pytest.mark.parametrize("name", BY_FUNCTION)
def test_what_is_switched_on_after_planning_is_refused_in_training(name: str) -> None:
    """As gradient checkpointing is, often."""
    hides, _ = BY_FUNCTION[name]
    octave = octavize(Net(torch.relu), 0.5, min_low=0, example=EXAMPLE)
    octave.between = hides
    x = torch.randn(EXAMPLE)
    with pytest.raises(InputError, match=r"\.apply gets an octave map, .* would get no gradient") as error:
        octave(x)
    assert "\n" not in str(error.value)
    with torch.no_grad():
        octave(x)
    for p in octave.parameters():
        p.requires_grad_(False)
    octave(x)


def test_maps_without_autograd_are_not_refused() -> None:
    octave = octavize(Net(lambda x: x), 0.5, min_low=0, example=EXAMPLE)

    def stopped(x: Any) -> Any:
        with torch.no_grad():
            return x / x.abs().mean((2, 3), keepdim=True)

    octave.between = lambda x: x + stopped(x)
    octave(torch.randn(EXAMPLE)).sum().backward()
    assert octave.a.weight.grad is not None


def test_a_function_that_does_nothing_to_the_map_is_refused() -> None:
    """Autograd would follow the map itself, and never reach the function's backward."""
    with pytest.raises(InputError, match="autograd does not see Untouched on octave maps"):
        plan(Net(lambda x: Untouched.apply(x)), 0.5, min_low=0, example=EXAMPLE)
    assert plan(Net(lambda x: Untouched.apply(x)), {"a": 0}, example=EXAMPLE).alphas["b"] == 0.5


def test_what_runs_in_training_only_counts() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(torch.relu, x, use_reentrant=True) if self.training else x.relu()

    assert alphas(Net(Block()))["a"] == 0


def test_calls_without_autograd_that_the_vanilla_network_makes_too_merge_nothing() -> None:
    def gate(x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.sigmoid()
        return Swish.apply(x.mean((2, 3), keepdim=True)) + x * scale

    assert alphas(Net(gate))["a"] == 0.5


def test_layers_inside_of_a_reentrant_checkpoint_are_vanilla() -> None:
    inner = nn.Conv2d(8, 8, 3, padding=1)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=True)

    net = Net(Block())
    assert alphas(net) == {"a": 0, "between.inner": 0, "b": 0.5, "c": 0.5}
    gradients(octavize(net, 0.5, min_low=0, example=EXAMPLE))


class Checkpointed(nn.Module):
    """A layer that writes a dense map; in a reentrant checkpoint layers that may make it octave; a reader."""

    def __init__(self, inside: nn.Module, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.first, self.inside, self.read = nn.Conv2d(3, 8, 3, padding=1), inside, read

    def forward(self, x: Tensor) -> Any:
        return self.read(checkpoint(self.inside, self.first(x), use_reentrant=True))


def octave_block(*before: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    octave = OctConv2d(8, 8, 3, padding=1, alpha=0.5)
    return nn.Sequential(*before, octave, nn.BatchNorm2d(8), nn.ReLU()).eval()


READERS = {
    "function": lambda y: y.mean((2, 3)),
    "method": lambda y: y.to_dense(),
    "layer": OctConv2d(8, 8, 1, alpha=0.5),
    "list": lambda y: torch.cat([y, y], dim=1),
}


@pytest.mark.parametrize("read", READERS.values(), ids=list(READERS))
@pytest.mark.parametrize("before", [(), (nn.Conv2d(8, 8, 1),)], ids=["octave first", "vanilla first"])
def test_an_octave_map_that_leaves_a_reentrant_checkpoint_is_refused(
    before: tuple[nn.Module, ...], read: Callable[[Any], Any]
) -> None:
    net, x = Checkpointed(octave_block(*before), read), torch.randn(EXAMPLE)
    with pytest.raises(InputError, match=r"CheckpointFunction\.apply returned an octave map, .* no gradient"):
        net(x)
    with torch.no_grad():
        net(x)
    net.inside.requires_grad_(False)
    net.first.requires_grad_(False)
    net(x)


def test_an_octave_map_that_stays_in_a_reentrant_checkpoint_learns() -> None:
    inside = nn.Sequential(octave_block(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net, x = Checkpointed(inside, lambda y: y), torch.randn(EXAMPLE)
    net(x).square().sum().backward()
    mine = [p.grad for p in net.parameters()]
    wanted = torch.autograd.grad(inside(net.first(x)).square().sum(), list(net.parameters()))
    for own, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(own, other)
