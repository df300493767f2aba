"""Networks by name: the article's, with its own figures, and those of `paddle.vision.models`."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle.vision import models

from octavize import InputError
from octavize.paddle import OctConv2D, create_model, list_models
from octavize.paddle.trace import trace

ARTICLE = {  # MACs with ten classes, as counted in the article's own code
    "oct_mobilenet_v1": 317_153_920,
    "oct_resnet50": 2_365_116_416,
    "oct_resnet101": 3_989_213_184,
    "oct_resnet152": 5_613_309_952,
    "oct_resnet200": 7_141_871_616,
}
QUICK = ("oct_mobilenet_v1", "oct_resnet50")


@pytest.mark.usual_min_low
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ARTICLE]
)
def test_networks_of_the_article_cost_what_its_own_cost(name: str) -> None:
    net = create_model(name, num_classes=10)
    assert trace(net, (1, 3, 224, 224)).macs == ARTICLE[name]


def test_names() -> None:
    names = list_models()
    assert set(ARTICLE) <= set(names)
    assert {f"{name}_small" for name in ARTICLE} <= set(names)
    assert "densenet121" in names
    assert "LeNet" not in names
    assert "oct_cifar_resnet20" in names
    assert "oct_cifar_resnet20_small" not in names
    assert list_models("oct_mobilenet*small") == ["oct_mobilenet_v1_small", "oct_mobilenet_v2_small"]


def alphas(net: Any) -> dict[str, float]:
    return {n: layer.alpha for n, layer in net.named_sublayers() if isinstance(layer, OctConv2D)}


def test_the_policy_is_the_paper_s() -> None:
    found = alphas(create_model("oct_mobilenet_v1", 0.5, width=0.5))
    assert found["conv5_4._pointwise_conv.0"] == 0.5
    assert found["conv2_1._pointwise_conv.0"] == 0.5
    assert found["conv5_5._pointwise_conv.0"] == 0
    assert found["conv5_6._pointwise_conv.0"] == 0
    found = alphas(create_model("oct_mobilenet_v2", 0.5))
    assert found["features.3.conv.0.0"] == found["features.12.conv.0.0"] == 0.5
    assert found["features.3.conv.2"] == found["features.14.conv.0.0"] == 0
    found = alphas(create_model("oct_resnet26", 0.25, exchange="block"))
    assert found["layer1.0.conv1"] == 0.25
    assert found["layer4.0.conv1"] == 0


def test_exchange_of_a_family_without_residual_blocks() -> None:
    net: Any = create_model("oct_mobilenet_v1", exchange="block:high_to_low")
    assert net.conv2_2._pointwise_conv[0].exchange == "none"
    assert net.conv3_1._pointwise_conv[0].exchange == "high_to_low"


@pytest.mark.parametrize("name", ["oct_resnet18_small", "oct_mobilenet_v1_small"])
def test_stems_for_small_images_keep_the_resolution(name: str) -> None:
    net: Any = create_model(name, num_classes=5)
    seen = []
    stem = net.conv1 if isinstance(net, models.ResNet) else net.conv1[0]
    stem.register_forward_post_hook(lambda layer, args, y: seen.append(tuple(y.shape[2:])))
    assert net(paddle.randn([2, 3, 32, 32])).shape == [2, 5]
    assert seen == [(32, 32)]
    assert net.fc.weight.shape[1] == 5


def test_alpha_zero_is_paddle_s_own_network() -> None:
    net, own = create_model("oct_resnet18", 0, num_classes=7), models.resnet18(num_classes=7)
    own.set_state_dict(net.state_dict())
    x = paddle.randn([1, 3, 64, 64])
    for each in (net, own):
        each.eval()
    np.testing.assert_array_equal(net(x).numpy(), own(x).numpy())


def test_width() -> None:
    net: Any = create_model("oct_resnet26", width=0.5, num_classes=10)
    assert net.layer4[0].conv3._out_channels == 1024
    assert net.fc.weight.shape == [1024, 10]
    assert (
        create_model("oct_resnet26", width=0.5, num_classes=0)(paddle.randn([1, 3, 64, 64])).shape[1] == 1024
    )


def test_a_network_of_paddle_without_a_policy() -> None:
    net = create_model("squeezenet1_1", 0.5, num_classes=10)
    assert 0.5 in alphas(net).values()
    assert net(paddle.randn([1, 3, 64, 64])).shape == [1, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "oct_resnet51"}, "model 'oct_resnet51' is unknown: did you mean oct_resnet50"),
        ({"name": "oct_resnet26", "alpha": 2}, "alpha=2"),
        ({"name": "oct_resnet26", "pretrained": True}, "pretrained=True: Paddle has no such weights"),
        ({"name": "oct_resnet18", "no_such": 1}, "does not take these arguments"),
        ({"name": "oct_resnet18", "width": 0}, "width=0"),
        ({"name": "oct_resnet18", "exchange": "h2l"}, "exchange='h2l'"),
        ({"name": "oct_resnet18", "num_classes": -1}, "num_classes=-1"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        create_model(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "name", ["oct_cifar_resnet20", "oct_resnet18_small", "oct_mobilenet_v1_small", "squeezenet1_0"]
)
def test_images_of_other_channels(name: str) -> None:
    net: Any = create_model(name, num_classes=5, in_chans=1)
    net.eval()
    assert net(paddle.ones([1, 1, 64, 64])).shape == [1, 5]
    color, gray = (create_model(name, num_classes=5, in_chans=c).parameters()[0] for c in (3, 1))
    assert gray.shape == [color.shape[0], 1, *color.shape[2:]]
    with pytest.raises(InputError, match="in_chans"):
        create_model(name, in_chans=0)


def test_no_weights_for_images_of_other_channels() -> None:
    with pytest.raises(InputError, match="pretrained=True"):
        create_model("oct_cifar_resnet20", pretrained=True)
