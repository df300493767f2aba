"""How networks start under the article's settings, against the counts and deviations of its own code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from octavize import OctConv2d, create_model
from octavize.zoo.checkpoint import build_model, load_checkpoint
from octavize.zoo.initialize import add_path_biases, initialize
from octavize.zoo.weights import save_weights


def biases(model: nn.Module) -> int:
    """Elements of all biases of convolutions."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    total = 0
    for layer in layers:
        total += sum(p.numel() for name, p in layer.named_parameters() if "bias" in name)
    return total


@pytest.mark.parametrize(("name", "count"), [("oct_mobilenet_v1", 14_784), ("oct_resnet50", 44_032)])
def test_as_many_biases_as_in_the_article(name: str, count: int) -> None:
    with torch.device("meta"):
        octave, vanilla = create_model(name, 0.5, num_classes=10), create_model(name, 0, num_classes=10)
    add_path_biases(octave)
    add_path_biases(vanilla)
    assert (biases(octave), biases(vanilla)) == (count, 0)


def test_the_biases_of_both_paths_are_added() -> None:
    model = create_model("oct_cifar_resnet20", 0.5, num_classes=3, width=0.25)
    add_path_biases(model)
    layer = next(m for m in model.modules() if getattr(m, "parametrizations", None))
    assert isinstance(layer, OctConv2d)
    assert layer.bias is not None
    assert layer.bias.abs().max() == 0
    first, second = layer.parametrizations["bias"].parameters()
    first.data.fill_(1)
    second.data.fill_(2)
    assert layer.bias.tolist() == [3] * layer.out_channels
    layer.bias.sum().backward()
    assert first.grad is not None
    assert second.grad is not None


@pytest.mark.parametrize("name", ["oct_mobilenet_v1", "oct_resnet50"])
def test_biases_change_nothing_since_batch_norms_follow(name: str) -> None:
    model = create_model(name, 0.5, num_classes=3, width=0.25).double()
    add_path_biases(model)
    x = torch.randn(2, 3, 33, 32, dtype=torch.float64)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    parameters = [p for m in convolutions for name, p in m.named_parameters() if "bias" in name]
    assert len(parameters) > 20
    with torch.no_grad():
        before = model(x)
        for parameter in parameters:
            parameter.normal_()
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)


def test_a_network_with_biases_is_loaded_again(tmp_path: Any) -> None:
    arguments = {"width": 0.125, "octave_bias": True, "exchange": "none"}
    model = build_model("oct_mobilenet_v1_small", 0.5, 2, 1, arguments)
    facts = {"model": "oct_mobilenet_v1_small", "alpha": 0.5, "classes": ["a", "b"], "in_chans": 1}
    save_weights(tmp_path / "net.safetensors", model, {**facts, "arguments": arguments})
    again, _ = load_checkpoint(tmp_path / "net.safetensors")
    assert list(again.state_dict()) == list(model.state_dict())
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(again(x), model.eval()(x))


def deviation(layer: Any, rows: slice = slice(None), columns: slice = slice(None)) -> float:
    return layer.weight[rows, columns].std().item()


def mobilenet(alpha: float, ordinary: str, depthwise: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = create_model("oct_mobilenet_v1", alpha, num_classes=2)
    initialize(model, ordinary, depthwise)
    return dict(model.named_modules())


def test_a_vanilla_network_starts_alike_path_by_path_and_by_he() -> None:
    """Studies count on it, and train one of the two."""
    he, framework = (mobilenet(0, way, "builder") for way in ("he", "framework"))
    for name, layer in he.items():
        if isinstance(layer, nn.Conv2d):
            assert torch.equal(layer.weight, framework[name].weight), name


def test_the_frameworks_depthwise_layers_start_small() -> None:
    """The article's 0.030 for 256 channels, where He gives 0.47."""
    small = mobilenet(0, "builder", "framework")["blocks.2.1.conv_dw"]
    assert small.in_channels == 256
    assert deviation(small) == pytest.approx(0.0295, rel=0.05)
    assert deviation(mobilenet(0, "builder", "he")["blocks.2.1.conv_dw"]) == pytest.approx(0.471, rel=0.05)
    torch_way = mobilenet(0, "builder", "torch")["blocks.2.1.conv_dw"]
    assert deviation(torch_way) == pytest.approx(1 / math.sqrt(27), rel=0.05)


def test_the_framework_draws_each_path_by_its_own_channels() -> None:
    modules = mobilenet(0.25, "framework", "framework")
    pointwise, depthwise = modules["blocks.2.1.conv_pw"], modules["blocks.2.1.conv_dw"]
    high, low = slice(192), slice(192, 256)
    assert deviation(pointwise, columns=high) == pytest.approx(math.sqrt(2 / 192), rel=0.05)
    assert deviation(pointwise, columns=low) == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    assert deviation(depthwise, high) == pytest.approx(math.sqrt(2 / (9 * 192)), rel=0.1)
    assert deviation(depthwise, low) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.1)
    # At α = 0 it is He's for ordinary layers.
    assert deviation(mobilenet(0, "framework", "he")["blocks.2.1.conv_pw"]) == pytest.approx(
        math.sqrt(2 / 256), rel=0.05
    )


def test_the_framework_draws_grouped_paths_too() -> None:
    model = create_model("oct_resnet26", 0.5, cardinality=4, base_width=32)
    initialize(model, "framework", "framework")
    layer = next(m for m in model.modules() if isinstance(m, OctConv2d) and m.groups == 4)
    high, low = layer.weight.chunk(2, dim=1)  # of either path half the channels of a group
    expected = math.sqrt(2 / (9 * high.shape[1]))
    for part in (high, low):
        assert part.std().item() == pytest.approx(expected, rel=0.05)


def test_builder_leaves_everything_alone() -> None:
    torch.manual_seed(0)
    expected = create_model("oct_mobilenet_v1", 0.5, num_classes=2).state_dict()
    for name, module in mobilenet(0.5, "builder", "builder").items():
        if isinstance(module, nn.Conv2d):
            assert torch.equal(module.weight, expected[f"{name}.weight"])
