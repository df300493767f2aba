"""The list of calls of a frozen network: the same function, and only where it may be used."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from tests.helpers.deploy import octave, shaken
from torch import nn

import octavize
from octavize.deploy.flat import CONVOLUTION, SUMS, add_upsampled_
from octavize.deploy.network import FrozenNetwork

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=5),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=5),
    "resnet20": lambda: octavize.create_model("oct_cifar_resnet20", 0, num_classes=5),
    "preactivation": lambda: timm.create_model("resnetv2_50", layers=(1, 1, 1, 1), num_classes=5),
    "squeeze": lambda: timm.create_model("efficientnet_b0", num_classes=5),
}


def kinds(frozen: FrozenNetwork) -> Counter[Any]:
    calls = frozen.calls()
    assert calls is not None
    return Counter(node.target for node in calls.graph.nodes if node.op == "call_function")


def check_against_float64(model: nn.Module, frozen: FrozenNetwork, *shapes: tuple[int, ...]) -> None:
    """The network itself in float64 is the reference."""
    exact = copy.deepcopy(model).double()
    for shape in shapes:
        x = torch.randn(shape)
        before = x.clone()
        with torch.no_grad():
            expected, got = exact(x.double()), frozen(x)
            again = frozen(x)
        assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()
        assert torch.equal(got, again)
        assert torch.equal(x, before)


@pytest.mark.parametrize("join", ["none", "low_in", "low_out"])
@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("size", [(16, 16), (17, 18), (2, 3)])
def test_same_function(size: tuple[int, int], alpha: float, join: str) -> None:
    model = octave(alpha)
    frozen = octavize.freeze(model, (1, 3, *size), join=join)
    assert frozen.calls() is not None
    check_against_float64(model, frozen, (1, 3, *size), (5, 3, *size), (2, 3, 16, 15))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "squeeze" else name for name in NETWORKS]
)
def test_networks(name: str) -> None:
    torch.manual_seed(0)
    model = shaken(octavize.octavize(NETWORKS[name](), 0.5, example=(1, 3, 64, 64)))
    frozen = octavize.freeze(model, (1, 3, 64, 64))
    assert kinds(frozen)[CONVOLUTION] > 0
    check_against_float64(model, frozen, (1, 3, 64, 64), (2, 3, 64, 64))


def test_what_is_fused() -> None:
    """A basic block: relu and both sums go into the convolutions, the up-sampled map is never made."""
    net = octavize.create_model("oct_cifar_resnet20", 0.5)
    found = kinds(octavize.freeze(net, (1, 3, 32, 32), join="none"))
    assert found[torch.ops.aten.conv2d.default] == found[torch.ops.aten.upsample_nearest2d.vec] == 0
    assert found[SUMS[0]] + found[SUMS[1]] > 12
    assert found[add_upsampled_] > 5
    vanilla = kinds(octavize.freeze(octavize.create_model("oct_cifar_resnet20", 0), (1, 3, 32, 32)))
    assert vanilla.keys() & {torch.ops.aten.relu.default, torch.ops.aten.relu_.default} == set()


class Aliases(nn.Module):
    """Maps that are read again after something could have been written over them."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.case = case

    def forward(self, x: Any) -> Any:
        a, b = self.a(x), self.b(x)
        if self.case == "input":
            return torch.relu(self.b(x) + x) + x
        if self.case == "sum read twice":
            y = a + b
            return torch.relu(y) + y
        if self.case == "view":
            return (a[:, 1:] + self.b(a)[:, :2]).sum() + a.sum()
        if self.case == "view of the whole":
            return (self.b(x) + a.view(a.shape)) * a
        if self.case == "changed in between":
            y = self.b(a)
            a.mul_(2)
            return y + a
        if self.case == "relu in between":
            y = self.b(x)
            z = torch.relu_(a)
            return y + a + z
        if self.case == "both convolutions":
            return self.b(torch.relu(a + b)) + torch.relu(a)
        if self.case == "same":
            return a + a
        return torch.add(a, b, alpha=2) + F.interpolate(a[:, :, ::2, ::2], scale_factor=2)


CASES = [
    *("input", "sum read twice", "view", "view of the whole", "changed in between", "relu in between"),
    *("both convolutions", "same", "scaled"),
]


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_written_over_that_is_read_again(case: str) -> None:
    torch.manual_seed(0)
    model = Aliases(case).eval()
    frozen = octavize.freeze(model, (1, 3, 8, 8))
    assert frozen.calls() is not None
    check_against_float64(model, frozen, (1, 3, 8, 8), (3, 3, 8, 8))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(4, 6), (5, 6), (1, 1)])
def test_adding_where_it_lies(size: tuple[int, int], layout: torch.memory_format) -> None:
    y = torch.randn(2, 3, *size).contiguous(memory_format=layout)
    low = torch.randn(2, 3, *[-(-n // 2) for n in size]).contiguous(memory_format=layout)
    rows, columns = (torch.arange(n) // 2 for n in size)
    expected = y + low[:, :, rows][:, :, :, columns]
    assert add_upsampled_(y, low) is y
    assert torch.equal(y, expected)


def test_it_is_written_anew_when_weights_change() -> None:
    frozen, x = octavize.freeze(octave(), (1, 3, 16, 16)), torch.randn(2, 3, 16, 16)
    before = frozen(x)
    first = frozen.calls()
    assert frozen.calls() is first
    with torch.no_grad():
        next(frozen.parameters()).mul_(2)
    assert not torch.allclose(frozen(x), before)
    torch.testing.assert_close(frozen(x), frozen.net(x))
    assert torch.equal(copy.deepcopy(frozen)(x), frozen(x))
    assert torch.equal(pickle.loads(pickle.dumps(frozen))(x), frozen(x))


def test_weights_and_layers_that_are_replaced_count() -> None:
    frozen, x = octavize.freeze(octave(), (1, 3, 16, 16)), torch.randn(2, 3, 16, 16)
    before = frozen(x)
    assert frozen.calls() is not None
    tripled = {name: 3 * value for name, value in frozen.net.state_dict().items()}
    frozen.net.load_state_dict(tripled, assign=True)
    assert not torch.allclose(frozen(x), before)
    torch.testing.assert_close(frozen(x), frozen.net(x))
    name, last = list(frozen.net.named_children())[-1]
    setattr(frozen.net, name, nn.Sequential(last, nn.Softmax(1)))
    torch.testing.assert_close(frozen(x), frozen.net(x))
    torch.testing.assert_close(frozen(x).sum(1), torch.ones(2))


def test_hooks_on_layers_get_their_maps() -> None:
    x, seen = torch.randn(2, 3, 16, 16), []
    for first in (False, True):
        frozen = octavize.freeze(octave(), (1, 3, 16, 16))
        if first:  # before there is a list of calls
            frozen(x)
        layer = next(frozen.net.children())
        hook = layer.register_forward_hook(lambda _, args, y: seen.append(y))
        expected = frozen(x)
        assert len(seen) == 1
        hook.remove()
        torch.testing.assert_close(frozen(x), expected)
        assert len(seen) == 1
        assert frozen.calls() is not None
        seen.clear()


def test_weights_are_laid_out_for_the_batch() -> None:
    model = octave()
    frozen, x = octavize.freeze(model, (1, 3, 16, 16)), torch.randn(8, 3, 16, 16)

    def copies() -> list[torch.Tensor]:
        calls = frozen.calls(8)
        assert calls is not None
        return [buffer for name, buffer in calls.named_buffers() if name.startswith("laid_out")]

    with torch.inference_mode():
        frozen(x)
        first = copies()
        frozen(x)
    assert len(first) > 3
    assert all(a is b for a, b in zip(first, copies(), strict=True))
    check_against_float64(model, frozen, (8, 3, 16, 16), (3, 3, 16, 16), (8, 3, 16, 16))
    assert not any(a is b for a, b in zip(first, copies(), strict=True))


def test_everything_else_goes_through_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = octavize.freeze(octave(), (1, 3, 16, 16))
    monkeypatch.setattr(frozen, "calls", lambda _: pytest.fail("used the list of calls"))
    x = torch.randn(2, 3, 16, 16)
    frozen(torch.randn(2, 3, 18, 16))
    frozen(x[:0])
    frozen(x.clone().requires_grad_()).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        frozen(x)
    frozen.double()(x.double())
    frozen.float().train()(x)


def test_compiled_like_its_layers() -> None:
    frozen, x = octavize.freeze(octave(), (1, 3, 16, 16)), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(frozen, fullgraph=True, backend="eager")(x), frozen(x))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        return y * 2 if not x.is_meta and bool(y.sum() > 0) else y


def test_a_network_that_cannot_be_exported_still_runs() -> None:
    model = Branching().eval()
    frozen = octavize.freeze(model, (1, 3, 8, 8))
    with pytest.warns(UserWarning, match="Branching runs layer by layer, .*a branch on values"):
        assert frozen.calls() is None
    check_against_float64(model, frozen, (1, 3, 8, 8))


class Layout(nn.Module):
    """Reads a map in the order of its memory, whatever that is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.conv(x).as_strided((4 * 64,), (1,))


class Shuffled(nn.Module):
    """Channels in an order that is the same at every call of the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.conv(x)[:, torch.randperm(8, generator=torch.Generator().manual_seed(0))]


def test_a_list_that_computes_the_same_only_once_is_not_used() -> None:
    model, x = Shuffled().eval(), torch.randn(1, 3, 8, 8)
    frozen = octavize.freeze(model, (1, 3, 8, 8))
    with pytest.warns(UserWarning, match="Shuffled runs layer by layer"):
        frozen(x)
    for _ in range(3):
        torch.testing.assert_close(frozen(x), model(x))


def test_a_list_that_computes_something_else_is_not_used() -> None:
    """Maps in the list are channels-last; layers keep torch's order where the network needs it."""
    model = Layout().eval()
    frozen = octavize.freeze(model, (1, 3, 8, 8))
    with pytest.warns(UserWarning, match="Layout runs layer by layer, .*gives other outputs"):
        assert frozen.calls() is None
    check_against_float64(model, frozen, (1, 3, 8, 8))


def test_inference_mode_and_freezing_in_it() -> None:
    model, x = octave(), torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        frozen = octavize.freeze(model, (1, 3, 16, 16))
        got = frozen(x)
    with torch.no_grad():
        torch.testing.assert_close(got.clone(), model(x))
