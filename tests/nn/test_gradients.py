"""Gradients of inner maps: those of a dense map in the octave map's place.

The reference puts one there: a dense leaf D, of which the network reads the high channels, and the averages
(P) of the low ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from tests.helpers.maps import MAPS, equal, map_named
from torch import Tensor, nn

from octavize import InputError, OctTensor, octavize, plan
from octavize.nn.resample import halve

SIZES = [(16, 16), (15, 13)]


def net() -> Any:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)]
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())
    made = nn.Sequential(*layers, block, nn.Conv2d(8, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1))
    return octavize(made.double(), {"1": 0.5, "2.0": 0.5, "3": 0.25}, example=(1, 3, 16, 16))


def images(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def read(dense: Tensor, like: OctTensor) -> OctTensor:
    """What the network reads of a dense map in the place of `like`, whose last channels are low."""
    high, low = dense.split(like.counts, 1)
    return OctTensor(high, halve(low, like.octave_dims))


def gradients_of_dense_map(made: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's output as a dense map, and the gradient of the network's squared output by it."""
    leaves: list[Tensor] = []

    def replace(module: nn.Module, args: Any, output: Any) -> OctTensor:
        leaves.append(output.to_dense().detach().requires_grad_())
        return read(leaves[0], output)

    handle = layer.register_forward_hook(replace)
    made(x).square().sum().backward()
    handle.remove()
    made.zero_grad()
    assert leaves[0].grad is not None
    return leaves[0].detach(), leaves[0].grad


def by_grad(made: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    maps: list[Any] = []
    layer.register_forward_hook(lambda module, args, output: maps.append(output))
    (found,) = torch.autograd.grad(made(x).square().sum(), maps[0])
    return found


def by_retained(made: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    maps: list[Any] = []
    layer.register_forward_hook(lambda module, args, output: (output.retain_grad(), maps.append(output))[1])
    made(x).square().sum().backward()
    return maps[0].grad


def by_backward_to(made: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    maps: list[Any] = []
    layer.register_forward_hook(lambda module, args, output: (output.retain_grad(), maps.append(output))[1])
    torch.autograd.backward(made(x).square().sum(), inputs=maps)
    return maps[0].grad


def by_tensor_hook(made: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda module, args, output: (output.register_hook(seen.append), None)[1])
    made(x).square().sum().backward()
    (found,) = seen
    return found


def by_module_hook(made: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    seen: list[Any] = []
    layer.register_full_backward_hook(lambda module, gradients, of_output: seen.append(of_output))
    made(x).square().sum().backward()
    ((found,),) = seen
    return found


def by_module_pre_hook(made: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    seen: list[Any] = []
    layer.register_full_backward_pre_hook(lambda module, of_output: seen.append(of_output))
    made(x).square().sum().backward()
    ((found,),) = seen
    return found


def by_hook_of_the_reader(made: Any, layer: nn.Module, x: Tensor) -> Tensor:
    seen: list[Any] = []
    made[3].register_full_backward_hook(lambda module, gradients, of_output: seen.append(gradients))
    made(x).square().sum().backward()
    ((found,),) = seen
    return found


WAYS = [by_grad, by_retained, by_backward_to, by_tensor_hook, by_module_hook, by_module_pre_hook]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", [*WAYS, by_hook_of_the_reader])
def test_the_gradient_of_an_inner_map_is_that_of_the_dense_map(
    way: Callable[..., Tensor], size: tuple[int, int]
) -> None:
    made, x = net(), images(size)
    _, expected = gradients_of_dense_map(made, made[2], x)
    found = way(made, made[2], x)
    assert type(found) is Tensor
    equal(found, expected)


@pytest.mark.parametrize("size", SIZES)
def test_backward_hooks_change_nothing(size: tuple[int, int]) -> None:
    hooked, plain = net(), net()
    hooked[2].register_full_backward_hook(lambda module, gradients, of_output: None)
    for made in (hooked, plain):
        made(images(size)).square().sum().backward()
    equal(hooked(images(size)), plain(images(size)))
    for own, expected in zip(hooked.parameters(), plain.parameters(), strict=True):
        equal(own.grad, expected.grad)


def test_a_backward_hook_of_a_module_may_change_gradients() -> None:
    turned, plain = net(), net()
    turned[2].register_full_backward_hook(lambda module, gradients, of_output: (-gradients[0],))
    for made in (turned, plain):
        made(images((16, 16))).square().sum().backward()
    equal(turned[1].weight.grad, -plain[1].weight.grad)
    equal(turned[3].weight.grad, plain[3].weight.grad)


def test_a_hook_of_a_map_may_not() -> None:
    made = net()
    made[2].register_forward_hook(lambda module, args, output: (output.register_hook(torch.neg), None)[1])
    with pytest.raises(InputError, match="returned another gradient"):
        made(images((16, 16))).sum().backward()


def test_a_removed_hook_does_not_fire() -> None:
    x = OctTensor.from_dense(torch.randn(1, 4, 4, 4, requires_grad=True), 0.5)
    seen: list[Tensor] = []
    x.register_hook(seen.append).remove()
    x.mean((2, 3)).sum().backward()
    assert not seen


@pytest.mark.parametrize("name", MAPS)
def test_backward_from_a_map(name: str) -> None:
    """A gradient of the dense map goes to the halves as through `to_dense`."""
    x, upon = map_named(name), map_named(name, seed=1).to_dense()
    for half in (x.high, x.low):
        half.requires_grad_()
    (x * 2).backward(upon)
    halves = (x.high, x.low)
    expected = torch.autograd.grad(x.to_dense(), halves, 2 * upon, allow_unused=True, materialize_grads=True)
    for half, gradient in zip(halves, expected, strict=True):
        equal(half.grad, gradient if half.numel() else None)
    # The mean of a cell's gradients is what each of its pixels gets.
    assert x.grad is not None
    equal(x.grad.sum(), 2 * upon.sum())


def test_maps_without_gradients() -> None:
    x = map_named("even")
    assert x.grad is None
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        x.register_hook(print)
    x.high.requires_grad_()
    (found,) = torch.autograd.grad(x.sum(), x)
    assert not found[:, 3:].any()
    (found,) = torch.autograd.grad(torch.ones(1, requires_grad=True), x, allow_unused=True)
    assert found is None


def test_grad_cam_of_an_octave_layer() -> None:
    """The package weighs the maps that it would see in a network with the dense map in the layer's place."""
    cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    torch.manual_seed(0)
    made = octavize(torchvision.models.resnet50(num_classes=5).eval(), 0.5, example=(1, 3, 64, 64))
    layer, x = made.layer3[-1], torch.randn(1, 3, 64, 64)
    with cam.GradCAM(made, [layer]) as explain:
        (image,) = explain(x, [targets.ClassifierOutputTarget(3)])
        activation = explain.activations_and_grads.activations[0]
        gradient = explain.activations_and_grads.gradients[0]
    made.zero_grad()
    leaves: list[Tensor] = []

    def replace(module: nn.Module, args: Any, output: Any) -> OctTensor:
        leaves.append(output.to_dense().detach().requires_grad_())
        return read(leaves[0], output)

    layer.register_forward_hook(replace)
    made(x)[0, 3].backward()
    (dense,) = leaves
    assert image.shape == (64, 64)
    assert isinstance(activation, OctTensor)
    assert torch.equal(activation.to_dense(), dense)
    torch.testing.assert_close(gradient, dense.grad)
    assert gradient.any()


def test_a_forward_that_puts_hooks_on_its_map_is_planned_with_gradients() -> None:
    """As in tutorials on Grad-CAM: without autograd torch refuses the hook, in the vanilla network too."""

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(self.stem(x))
            x.register_hook(self.seen.append)
            return self.b(x).mean((2, 3))

    net = Watching()
    made = plan(net, 0.5, min_low=0, example=(1, 3, 8, 8), exchange="every")
    assert made.alphas["a"] == 0.5
    octave = octavize(net, made)
    octave(torch.randn(2, 3, 8, 8)).sum().backward()
    assert [tuple(x.shape) for x in octave.seen] == [(2, 8, 8, 8)]
    with pytest.raises(RuntimeError, match="doesn't require gradient"), torch.no_grad():
        octave(torch.randn(2, 3, 8, 8))
