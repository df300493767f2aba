"""What autograd keeps: the pooled halves are made again, and gradients are those of keeping them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import octavize.nn.recompute
from octavize import OctConv1d, OctConv2d, OctConv3d, OctTensor, create_model
from octavize.bench.profile import count_activation_bytes

LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": 2},
    "stride kept": {"stride": 2, "downsample": "stride"},
    "stride along one axis": {"stride": (1, 2)},
    "groups": {"groups": 2},
    "all low": {"alpha": 1.0},
    "low to high": {"alpha": 0.25},
}


def layer_and_map(**settings: Any) -> tuple[OctConv2d, OctTensor]:
    torch.manual_seed(0)
    layer = OctConv2d(8, 4, 3, padding=1, dtype=torch.float64, **settings)
    high = torch.randn(2, 4, 7, 9, dtype=torch.float64, requires_grad=True)
    low = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    return layer, OctTensor(high * 1, low * 1)


def gradients(layer: OctConv2d, x: OctTensor, call: Any) -> list[torch.Tensor]:
    y = call(x)
    return list(torch.autograd.grad((y.high**2).sum() + (y.low**3).sum(), [x.high, x.low, layer.weight]))


@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS)
def test_gradients_are_those_of_keeping(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_and_map(**settings)
    found = gradients(layer, x, layer)
    under_checkpoint = gradients(layer, x, lambda x: checkpoint(layer, x, use_reentrant=False))
    monkeypatch.setattr(octavize.nn.recompute, "_free_to_keep", lambda: False)
    layer, x = layer_and_map(**settings)
    for kept, *others in zip(gradients(layer, x, layer), found, under_checkpoint, strict=True):
        for other in others:
            assert torch.equal(kept, other)


@pytest.mark.parametrize("size", [1, 6, 7])
def test_gradients_of_a_strided_1d_layer(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps 2-D views of 1-D maps."""

    def run() -> list[torch.Tensor]:
        torch.manual_seed(0)
        layer = OctConv1d(4, 4, 3, 2, padding=1, dtype=torch.float64)
        x = torch.randn(2, 4, size, dtype=torch.float64, requires_grad=True)
        y = layer(OctTensor.from_dense(x, 0.5))
        return list(torch.autograd.grad((y.high**2).sum() + (y.low**3).sum(), [x, layer.weight]))

    found = run()
    monkeypatch.setattr(octavize.nn.recompute, "_free_to_keep", lambda: False)
    for kept, other in zip(run(), found, strict=True):
        assert torch.equal(kept, other)


def test_second_derivatives() -> None:
    layer, x = layer_and_map()

    def run(high: torch.Tensor, low: torch.Tensor, weight: torch.Tensor) -> Any:
        y = torch.func.functional_call(layer, {"weight": weight}, (OctTensor(high, low),))
        return y.high, y.low

    inputs = [t.detach().requires_grad_() for t in (x.high, x.low, layer.weight)]
    assert torch.autograd.gradgradcheck(run, inputs)


def test_transforms_that_allow_no_hooks() -> None:
    layer, x = layer_and_map()

    def loss(weight: torch.Tensor) -> torch.Tensor:
        y = torch.func.functional_call(layer, {"weight": weight}, (x,))
        return (y.high**2).sum() + (y.low**3).sum()

    weight = layer.weight.detach()
    assert torch.allclose(torch.func.grad(loss)(weight), gradients(layer, x, layer)[2])


@pytest.mark.parametrize("stride", [1, 2])
def test_many_layers_at_once(stride: int) -> None:
    layer, x = layer_and_map(stride=stride)
    weights = torch.stack([layer.weight.detach() * scale for scale in (1, 2, 3)])

    def output(weight: torch.Tensor) -> torch.Tensor:
        read = OctTensor(x.high * weight.sum(), x.low * weight.sum())
        return torch.func.functional_call(layer, {"weight": weight}, (read,)).to_dense()

    torch.testing.assert_close(torch.vmap(output)(weights), torch.stack([output(w) for w in weights]))


@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("what", ["high", "low", "weight"])
def test_what_is_changed_in_place_afterwards_is_refused(what: str, settings: Any) -> None:
    layer, x = layer_and_map(**settings)
    y = layer(x)
    with torch.no_grad():
        {"high": x.high, "low": x.low, "weight": layer.weight}[what].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (y.high.sum() + y.low.sum()).backward()


def test_a_map_without_gradient_changed_in_place_is_refused() -> None:
    layer, x = layer_and_map(stride=2)
    high = x.high.detach().clone()
    y = layer(OctTensor(high, x.low.detach()))
    high.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.high.sum().backward()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [OctConv2d, OctConv3d])
def test_autocast(kind: Any, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It pools some bfloat16 maps in float32, which backward, outside of it, has to do as well."""

    def run() -> list[torch.Tensor]:
        torch.manual_seed(0)
        layers = kind(4, 8, 3, padding=1), kind(8, 8, 3, stride, padding=1)
        x = torch.randn(2, 4, *[8] * (len(layers[0].kernel_size)), requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = layers[1](layers[0](x))
        weights = [layer.weight for layer in layers]
        return list(torch.autograd.grad(y.high.float().sum() + y.low.float().sum(), [x, *weights]))

    found = run()
    monkeypatch.setattr(octavize.nn.recompute, "_free_to_keep", lambda: False)
    for kept, other in zip(run(), found, strict=True):
        assert torch.equal(kept, other)


@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"stride": 2, "downsample": "stride"}])
@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_a_layer_keeps_the_share_of_the_paper(alpha: float, settings: Any) -> None:
    """1 − ¾α (Table 1): what an octave layer reads, nothing besides."""
    x = OctTensor(torch.randn(1, 32 - int(32 * alpha), 16, 16), torch.randn(1, int(32 * alpha), 8, 8))
    layer = OctConv2d(32, 32, 3, padding=1, bias=False, alpha=alpha, **settings)
    parameters = {p.untyped_storage()._cdata for p in layer.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        layer(OctTensor(x.high.requires_grad_() * 1, x.low.requires_grad_() * 1))
    found = sum(storage.nbytes() for key, storage in kept.items() if key not in parameters)
    assert found == (1 - 0.75 * alpha) * 32 * 16 * 16 * 4


def test_a_network_keeps_no_more() -> None:
    shape = (1, 3, 224, 224)
    vanilla = count_activation_bytes(create_model("oct_resnet50", 0), shape)
    octave = count_activation_bytes(create_model("oct_resnet50", 0.5), shape)
    assert octave / vanilla < 0.69  # 0.686 if all but stem and last stage, which are vanilla, kept 1 − ¾α
