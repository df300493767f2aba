"""What users of Paddle do with a network besides calling it: own layers, several inputs, flops, parallel …"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.vision import models
from tests.helpers.paddle_maps import make

from octavize import InputError
from octavize.paddle import (
    DenseFallbackWarning,
    OctConv2D,
    OctTensor,
    create_model,
    flops_ops,
    oct_handler,
    octavize,
    plan,
    recompute,
)
from octavize.paddle import swap as swapping
from octavize.paddle.trace import trace

pytestmark = pytest.mark.filterwarnings("error::octavize.errors.DenseFallbackWarning")
SHAPE = (1, 3, 16, 16)


class Standardized(nn.Conv2D):
    """A convolution that computes its weight."""

    def standardized(self) -> Any:
        axes = [1, 2, 3]
        return (self.weight - self.weight.mean(axes, keepdim=True)) / self.weight.std(axes, keepdim=True)

    def forward(self, x: Any) -> Any:
        return F.conv2d(x, self.standardized(), self.bias, self._stride, self._padding)


class OctStandardized(OctConv2D, Standardized):
    def kernel(self) -> Any:
        return self.standardized()


class Net(nn.Layer):
    """Layers of one's own, one of them shared and one in a list besides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1)
        self.one = Standardized(8, 8, 3, padding=1)
        self.again = self.one
        self.order = [self.one]
        self.head = nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        x = self.order[0](F.relu(self.stem(x)))
        return self.head(self.again(F.relu(x)).mean([2, 3]))


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swapping, "_HANDLERS", {})


def in_place(layer: Any, *, alpha: float, **settings: Any) -> nn.Layer:
    layer.__class__ = OctStandardized
    layer.become_octave(alpha, **settings)
    return layer


def anew(layer: Any, *, alpha: float, **settings: Any) -> nn.Layer:
    made = OctStandardized(8, 8, 3, padding=1, alpha=alpha, **settings)
    made.set_state_dict(layer.state_dict())
    return made


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("handler", [in_place, anew])
def test_layers_of_one_s_own(handler: Any) -> None:
    net = Net()
    assert [d.alpha for d in plan(net, example=SHAPE).decisions] == [None, None]
    oct_handler(Standardized)(handler)
    decided = plan(net, example=SHAPE)
    assert {d.name: d.alpha for d in decided.decisions}["one"] == 0.5
    octave = octavize(net, example=SHAPE, strict=True)
    assert octave.one is octave.again is octave.order[0]
    assert isinstance(octave.one, OctStandardized)
    assert octave.one.strict
    assert type(net.one) is Standardized
    assert list(octave.state_dict()) == list(net.state_dict())
    x = paddle.randn(SHAPE)
    np.testing.assert_allclose(octavize(net, 0.0, example=SHAPE)(x).numpy(), net(x).numpy(), rtol=1e-5)
    wanted = octave.one(paddle.ones([1, 8, 8, 8]))
    with paddle.no_grad():
        octave.one.weight.set_value(octave.one.weight * 2 + 1)
    np.testing.assert_allclose(
        octave.one(paddle.ones([1, 8, 8, 8])).low.numpy(), wanted.low.numpy(), atol=1e-3
    )


@pytest.mark.usefixtures("handlers")
def test_a_handler_that_returns_nothing_is_told_of() -> None:
    nothing: Any = lambda layer, **settings: None  # noqa: E731
    oct_handler(Standardized)(nothing)
    with pytest.raises(InputError, match="@oct_handler of Standardized returned None for layer 'one'"):
        octavize(Net(), example=SHAPE)


# ---- inputs -----------------------------------------------------------------------------------------------


class TwoImages(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(1, 8, 3, padding=1)
        self.both = nn.Conv2D(16, 8, 3, padding=1)

    def forward(self, image: Any, depth: Any = None, scale: Any = 1.0) -> Any:
        x = paddle.concat([self.left(image), self.right(depth)], axis=1)
        return self.both(x).mean([2, 3]) * scale


@pytest.mark.parametrize(
    "example",
    [
        (SHAPE, (1, 1, 16, 16)),
        [paddle.zeros(SHAPE), paddle.zeros([1, 1, 16, 16])],
        {"image": SHAPE, "depth": (1, 1, 16, 16), "scale": 2.0},
    ],
)
def test_several_inputs(example: Any) -> None:
    decided = plan(TwoImages(), example=example, exchange="every:high_to_low")
    assert {d.name: d.alpha for d in decided.decisions} == {"left": None, "right": None, "both": 0.5}
    assert decided.input_shape == SHAPE
    octave = octavize(TwoImages(), example=example, strict=True)
    assert octave(paddle.randn(SHAPE), paddle.randn([1, 1, 16, 16])).shape == [1, 8]


class OfADict(TwoImages):
    def forward(self, inputs: Any) -> Any:
        return super().forward(inputs["maps"][0], inputs["maps"][1], inputs["scale"])


def test_a_dict_that_holds_a_list() -> None:
    example = {"maps": [SHAPE, (1, 1, 16, 16)], "scale": paddle.to_tensor([2.0])}
    assert plan(OfADict(), example=example).macs_ratio < 1


@pytest.mark.parametrize("example", ["image", 3, (), (0, 3, 8, 8), {"image": "a"}, (1, 3.5)])
def test_examples_that_are_none(example: Any) -> None:
    with pytest.raises(InputError, match="example="):
        plan(TwoImages(), example=example)


def test_an_example_without_a_map() -> None:
    with pytest.raises(InputError, match=r"does not run on an input of shape \(2, 3\): give an example"):
        plan(TwoImages(), example=(2, 3))


# ---- flops and summary ------------------------------------------------------------------------------------


def flops(net: nn.Layer, shape: Any) -> int:
    return paddle.flops(net, shape, custom_ops=flops_ops(net))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v1", "densenet121"])
def test_flops_of_a_vanilla_network_are_paddle_s(name: str) -> None:
    net, shape = getattr(models, name)(num_classes=10), (1, 3, 64, 64)
    assert flops(net, shape) == paddle.flops(net, shape) > 0
    octave = octavize(net, 0.5, example=shape)
    assert flops(octavize(net, 0.0, example=shape), shape) == paddle.flops(net, shape)
    assert trace(octave, shape).macs < flops(octave, shape) < 0.7 * paddle.flops(net, shape)


def test_flops_count_multiplications_biases_and_stored_values() -> None:
    net = nn.Sequential(
        nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(8, 8, 1), nn.BatchNorm2D(8), nn.AdaptiveAvgPool2D(1)
    )
    octave = octavize(net, 0.5, example=SHAPE)
    stored = 4 * 256 + 4 * 64
    stem, second = 8 * 256 * (27 + 1), 8 * 4 * 256 + 8 * 4 * 64 + stored
    layers = {"stem": stem, "second": second, "norm": 2 * stored}
    without_pool = nn.Sequential(*list(octave.children())[:3])
    assert flops(without_pool, SHAPE) == sum(layers.values())
    assert flops(octave, SHAPE) > sum(layers.values())


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    net = create_model("oct_resnet18_small", num_classes=10, width=0.25)
    vanilla = create_model("oct_resnet18_small", 0, num_classes=10, width=0.25)
    shape = (1, 3, 32, 32)
    assert paddle.summary(net, shape) == paddle.summary(vanilla, shape)
    assert "OctConv2D" in capsys.readouterr().out


# ---- batch norms of several devices, recomputing, mixed precision, parallel --------------------------------


def test_sync_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator is not in Paddle for processors, so that of one device stands in for it."""

    def alone(x: Any, mean: Any, var: Any, weight: Any, bias: Any, test: bool, *rest: Any) -> Any:
        momentum, epsilon, data_format, *_ = rest
        return (F.batch_norm(x, mean, var, weight, bias, not test, momentum, epsilon, data_format),)

    monkeypatch.setattr(paddle._C_ops, "sync_batch_norm_", alone, raising=False)
    plain = nn.BatchNorm2D(4).to(dtype="float64")
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    x = make((3, 1), 5, 7)
    for training in (True, False):
        for norm in (plain, sync):
            norm.train() if training else norm.eval()
        ours, theirs = sync(x), plain(x)
        assert isinstance(ours, OctTensor)
        np.testing.assert_array_equal(ours.to_dense().numpy(), theirs.to_dense().numpy())
    np.testing.assert_array_equal(sync._mean.numpy(), plain._mean.numpy())
    np.testing.assert_array_equal(sync._variance.numpy(), plain._variance.numpy())
    assert not np.allclose(plain._mean.numpy(), 0)


def small() -> Any:
    paddle.seed(0)
    return create_model("oct_resnet18_small", num_classes=4, width=0.25)


def stages(net: Any, x: Any, call: Any) -> Any:
    x = net.layer1(net.relu(net.bn1(net.conv1(x))))
    for stage in (net.layer2, net.layer3, net.layer4):
        x = call(stage, x)
    return net.fc(paddle.flatten(net.avgpool(x), 1))


def test_recomputing_gives_the_same_gradients() -> None:
    x, found = paddle.randn([2, 3, 32, 32]), []
    for call in (lambda f, x: f(x), recompute):
        net = small()
        stages(net, x, call).square().sum().backward()
        found.append({name: p.grad.numpy() for name, p in net.named_parameters() if not p.stop_gradient})
    for name, grad in found[0].items():
        np.testing.assert_allclose(found[1][name], grad, rtol=1e-4, atol=1e-6, err_msg=name)


def test_recomputing_takes_and_gives_several_values() -> None:
    x, y = make((2, 2), 4, 4), paddle.rand([2, 4, 4, 4], "float64")
    total, again = recompute(lambda a, b, scale: (a + a, b * scale), x, y, scale=2.0)
    assert isinstance(total, OctTensor)
    np.testing.assert_array_equal(total.to_dense().numpy(), 2 * x.to_dense().numpy())
    np.testing.assert_array_equal(again.numpy(), 2 * y.numpy())
    only_low = make((0, 4), 5, 4)
    np.testing.assert_array_equal(recompute(F.relu, only_low).low.numpy(), F.relu(only_low.low).numpy())


def test_data_parallel_of_one_process() -> None:
    net, x = small(), paddle.randn([2, 3, 32, 32])
    net.eval()
    wanted = net(x).numpy()
    with pytest.warns(UserWarning, match="single-card"):
        parallel = paddle.DataParallel(net)
    np.testing.assert_array_equal(parallel(x).numpy(), wanted)


def test_double_precision() -> None:
    """Paddle has no convolution of lower precision on a processor."""
    net, x = small(), paddle.randn([2, 3, 32, 32])
    net.eval()
    wanted = net(x).numpy()
    y = net.to(dtype="float64")(x.astype("float64"))
    assert y.dtype == paddle.float64
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_mixed_precision_as_paddle_casts(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor Paddle's `auto_cast` does nothing but warn; the network has to run inside it."""
    net = small()
    if level == "O2":
        net = paddle.amp.decorate(net, level=level, dtype="bfloat16")
    with (
        pytest.warns(UserWarning, match="makes no effect"),
        paddle.amp.auto_cast(level=level, dtype="bfloat16"),
    ):
        loss = net(paddle.randn([2, 3, 32, 32])).square().mean()
    scaler = paddle.amp.GradScaler(init_loss_scaling=2.0, enable=False)
    scaler.scale(loss).backward()
    assert all(p.grad is not None for p in net.parameters() if not p.stop_gradient)


def test_a_cast_of_a_map_is_of_both_halves() -> None:
    x = make((3, 1), 5, 7)
    assert x.astype("float32").low.dtype == paddle.float32
    assert paddle.cast(x, "float16").high.dtype == paddle.float16
    with pytest.warns(DenseFallbackWarning):
        x.cumsum(2)
