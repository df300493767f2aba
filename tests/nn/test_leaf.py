"""torch.fx on octave networks: their layers are leaves, as torch's own are."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.helpers.deploy import octave, shaken
from torch import fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import octavize
from octavize import InputError, OctTensor
from octavize.nn.conv import OctConv


def same(a: Any, b: Any) -> None:
    dense = [x.to_dense() if isinstance(x, OctTensor) else x for x in (a, b)]
    torch.testing.assert_close(*dense)


def resnet(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return shaken(octavize.octavize(torchvision.models.resnet18(num_classes=5), 0.5, **settings))


def test_traced() -> None:
    model, x = resnet(), torch.randn(2, 3, 64, 64)
    traced = fx.symbolic_trace(model)
    same(traced(x), model(x))
    calls = [n.target for n in traced.graph.nodes if n.op == "call_module"]
    octave_layers = [name for name, m in model.named_modules() if isinstance(m, OctConv)]
    assert set(octave_layers) <= set(calls)
    traced.train()
    traced(x).sum().backward()
    assert all(p.grad is not None for p in traced.parameters())
    same(pickle.loads(pickle.dumps(traced.eval()))(x), traced(x))


def test_inner_maps_of_a_feature_extractor() -> None:
    model, x = resnet(), torch.randn(2, 3, 64, 64)
    assert "layer2.0.conv1" in get_graph_node_names(model)[1]
    expected: dict[str, Any] = {}
    for name in ("layer2.0.conv1", "layer3"):
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: expected.update({name: o}))
    model(x)
    found = create_feature_extractor(resnet(), ["layer2.0.conv1", "layer3"])(x)
    for name, value in expected.items():
        same(found[name], value)


def test_extractors_before_and_after() -> None:
    x = torch.randn(2, 3, 64, 64)
    extractor = timm.create_model("resnet18", features_only=True, feature_cls="fx")
    for value in octavize.octavize(extractor, 0.5, example=(1, 3, 64, 64)).eval()(x):
        assert isinstance(value, torch.Tensor)  # the plan merges what the network returns


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_every_kind_of_layer(alpha: float) -> None:
    x = torch.randn(2, 3, 16, 16)
    model = octave(alpha)
    same(fx.symbolic_trace(model)(x), model(x))
    frozen = octavize.freeze(model, (1, 3, 16, 16))
    same(fx.symbolic_trace(frozen.net)(x), model(x))
    up = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ConvTranspose2d(8, 8, 2, stride=2),
        nn.Hardswish(),
        nn.Conv2d(8, 4, 1),
    )
    up = octavize.octavize(up, alpha, example=(1, 3, 8, 8), min_low=0)
    same(fx.symbolic_trace(up)(x), up(x))


def test_quantizers_are_told_what_to_do() -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_fx

    with pytest.raises(InputError, match=r"two frequencies; quantize a file, by octavize.export") as caught:
        prepare_fx(resnet(), get_default_qconfig_mapping("x86"), (torch.randn(1, 3, 64, 64),))
    assert "\n" not in str(caught.value)
