"""Networks made octave: all of `paddle.vision.models`, plans, exchange, inputs that are dicts."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.vision import models
from tests.helpers.paddle_maps import make

from octavize import InputError, Plan
from octavize.paddle import DenseFallbackWarning, OctConv2D, OctConv2DTranspose, OctTensor, octavize, plan
from octavize.paddle import conv as convolutions
from octavize.paddle import conv_transpose as transposed_convolutions
from octavize.paddle.trace import trace

pytestmark = pytest.mark.filterwarnings("error::octavize.errors.DenseFallbackWarning")

QUICK = [
    "resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small",
    "densenet121", "googlenet", "squeezenet1_1", "shufflenet_v2_x0_25", "shufflenet_v2_swish",
]  # fmt: skip
FUNCTIONS = [name for name in models.__all__ if name.islower()]
SLOW = [name for name in FUNCTIONS if name not in QUICK]
NETWORKS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
SIDES = {"alexnet": 224, "googlenet": 224, "inception_v3": 224}


def build(name: str) -> tuple[nn.Layer, tuple[int, ...]]:
    """A small network of ten classes, its dropout off, and the shape of its input."""
    paddle.seed(0)
    net = getattr(models, name)(num_classes=10)
    for layer in net.sublayers():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    side = SIDES.get(name, 64)
    return net, (1, 3, side, side)


def outputs(net: nn.Layer, x: Any) -> list[np.ndarray]:
    y = net(x)
    return [part.numpy() for part in (y if isinstance(y, (list, tuple)) else [y])]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network(name: str) -> None:
    net, shape = build(name)
    decided = plan(net, 0.5, example=shape)
    assert not decided.fallbacks
    octave = octavize(net, 0.5, example=shape, strict=True)  # which refuses a dense fallback
    assert any(isinstance(layer, OctConv2D) and layer.alpha for layer in octave.sublayers())
    assert not any(isinstance(layer, OctConv2D) for layer in net.sublayers())
    assert list(octave.state_dict()) == list(net.state_dict())
    for ours, theirs in zip(octave.parameters(), net.parameters(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    x = paddle.randn([2, *shape[1:]])
    vanilla = octavize(net, 0.0, example=shape)
    for network in (net, vanilla, octave):
        network.eval()
    for ours, theirs in zip(outputs(vanilla, x), outputs(net, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    octave.train()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When training, we now always track")
        y = octave(x)
    sum(part.square().sum() for part in (y if isinstance(y, (list, tuple)) else [y])).backward()
    without = [n for n, p in octave.named_parameters() if not p.stop_gradient and p.grad is None]
    assert not without


def test_all_networks_of_paddle_are_tested_but_lenet_which_has_nothing_to_convert() -> None:
    assert len(FUNCTIONS) >= 25
    decided = plan(models.LeNet(), example=(1, 1, 28, 28))
    assert [d.alpha for d in decided.decisions] == [None, None]


# ---- plans ------------------------------------------------------------------------------------------------


class Residual(nn.Layer):
    """Two residual blocks, a strided one between them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1)
        self.first, self.second, self.third = Block(8, 16, 1), Block(16, 16, 1), Block(16, 32, 2)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Any) -> Any:
        x = self.third(self.second(self.first(F.relu(self.stem(x)))))
        return self.head(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Block(nn.Layer):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(c_in, c_out, 3, stride=stride, padding=1, bias_attr=False)
        self.bn = nn.BatchNorm2D(c_out)
        self.conv2 = nn.Conv2D(c_out, c_out, 3, padding=1)
        self.short = nn.Conv2D(c_in, c_out, 1, stride=stride) if c_in != c_out else None
        self.act = F.relu

    def forward(self, x: Any) -> Any:
        y = self.conv2(self.act(self.bn(self.conv1(x))))
        return self.act(y + (x if self.short is None else self.short(x)))


SHAPE = (1, 3, 16, 16)


def alphas(decided: Plan) -> dict[str, float | None]:
    return {d.name: d.alpha for d in decided.decisions}


def test_alpha_in_every_form() -> None:
    net = Residual()
    by_number = plan(net, 0.25, example=SHAPE)
    assert alphas(by_number)["stem"] is None
    assert {a for name, a in alphas(by_number).items() if name != "stem"} == {0.25}
    by_pattern = plan(net, {"*": 0.5, "third.*": 0}, example=SHAPE)
    assert alphas(by_pattern)["third.conv1"] == 0
    assert alphas(by_pattern)["second.conv1"] == 0.5
    by_function = plan(net, lambda name, layer: 0.5 if layer._kernel_size == [3, 3] else 0.0, example=SHAPE)
    assert alphas(by_function)["first.short"] == 0
    assert plan(net, budget=0.7, example=SHAPE).macs_ratio <= 0.7
    octave = octavize(net, by_pattern)
    assert octave.third.conv1.alpha == 0
    assert octave.second.conv1.alpha == 0.5


def test_plans_are_saved_edited_and_applied(tmp_path: Path) -> None:
    net, path = Residual(), tmp_path / "plan.yaml"
    plan(net, 0.5, exchange="block:high_to_low", downsample="stride", example=SHAPE).save(path)
    path.write_text(path.read_text().replace("alpha: 0.5", "alpha: 0.25"))
    octave = octavize(net, Plan.load(path))
    layer = octave.third.conv1
    assert (layer.alpha, layer.exchange, layer.downsample) == (0.25, "none", "stride")
    again = octavize(octave, 0.5, example=SHAPE)  # keeps exchange and downsample
    assert again.third.conv1.exchange == "none"
    assert again.third.conv1.alpha == 0.5
    with pytest.raises(InputError, match="it is for another network"):
        octavize(nn.Sequential(nn.Conv2D(3, 4, 3)), Plan.load(path))
    with pytest.raises(InputError, match="a plan are both given"):
        octavize(net, Plan.load(path), exchange="none")


@pytest.mark.parametrize(
    ("policy", "inner", "last"),
    [("block", "none", "both"), ("block:high_to_low", "none", "high_to_low"), ("every", "both", "both"),
     ("none", "none", "none"), ("every:low_to_high", "low_to_high", "low_to_high")],
)  # fmt: skip
def test_where_the_frequencies_meet(policy: str, inner: str, last: str) -> None:
    exchanges = {d.name: d.exchange for d in plan(Residual(), exchange=policy, example=SHAPE).decisions}
    for name in ("first", "second", "third"):
        assert exchanges[f"{name}.conv1"] == inner
        assert exchanges[f"{name}.conv2"] == last


def test_once_a_stage() -> None:
    exchanges = {d.name: d.exchange for d in plan(Residual(), exchange="stage", example=SHAPE).decisions}
    assert [exchanges[f"{name}.conv2"] for name in ("first", "second", "third")] == ["none", "both", "both"]


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_blocks_of_known_networks(name: str) -> None:
    net, shape = build(name)
    exchanges = {d.name: d.exchange for d in plan(net, exchange="block", example=shape).decisions}
    assert set(exchanges.values()) == {"none", "both"}
    if name == "resnet50":
        assert {exchanges[f"layer2.{i}.conv3"] for i in range(4)} == {"both"}
        assert {exchanges[f"layer2.{i}.conv2"] for i in range(4)} == {"none"}
    octave = octavize(net, exchange="block:high_to_low", example=shape)
    assert octave(paddle.randn(shape)).shape == [1, 10]


def test_a_network_without_blocks_says_so() -> None:
    net = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(8, 8, 3, padding=1), nn.Flatten())
    with pytest.warns(UserWarning, match="no residual block that can be told"):
        plan(net, exchange="block", example=SHAPE)


class TakesADict(Residual):
    def forward(self, inputs: Any) -> Any:
        return {"scores": super().forward(inputs["image"]) * inputs["scale"]}


def test_a_network_that_takes_a_dict() -> None:
    net = TakesADict()
    example = {"image": SHAPE, "scale": paddle.to_tensor([2.0])}
    decided = plan(net, exchange="block", example=example)
    assert decided.input_shape == SHAPE
    assert alphas(decided)["stem"] is None
    assert {d.exchange for d in decided.decisions if d.name == "first.conv1"} == {"none"}
    octave = octavize(net, example=example)
    inputs = {"image": paddle.randn(SHAPE), "scale": paddle.to_tensor([2.0])}
    assert octave(inputs)["scores"].shape == [1, 4]
    with pytest.raises(InputError, match="does not run on an input of shape"):
        plan(net, example=SHAPE)


class ReadsADenseMap(nn.Layer):
    """A cumulative sum has no rule; the layer before it merges the frequencies itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2D(3, 8, 3, padding=1)
        self.two, self.three, self.four = (nn.Conv2D(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x: Any) -> Any:
        x = F.relu(self.three(F.relu(self.two(self.one(x)))))
        return self.four(paddle.cumsum(x, axis=2)).mean([2, 3])


def test_layers_that_a_dense_map_follows_merge() -> None:
    decided = plan(ReadsADenseMap(), example=SHAPE)
    assert alphas(decided) == {"one": None, "two": 0.5, "three": 0.0, "four": 0.5}
    reasons = {d.name: d.reason for d in decided.decisions}
    assert reasons["three"].startswith("merges: cumsum needs the dense map, at paddle/test_octavize.py:")
    assert not decided.fallbacks
    net = octavize(ReadsADenseMap(), example=SHAPE, strict=True)
    assert net(paddle.randn(SHAPE)).shape == [1, 8]


def test_a_fallback_is_announced_once_or_refused() -> None:
    net = ReadsADenseMap()
    decided = plan(net, example=SHAPE).with_alphas({"three": 0.5})
    octave = octavize(net, decided)
    with pytest.warns(DenseFallbackWarning, match="cumsum") as told:
        octave(paddle.randn(SHAPE))
    assert len(told) == 1
    octave(paddle.randn(SHAPE))
    with pytest.raises(InputError, match="cumsum has no octave rule and strict=True"):
        octavize(net, decided, strict=True)(paddle.randn(SHAPE))


class WritesByIndex(ReadsADenseMap):
    def forward(self, x: Any) -> Any:
        x = F.relu(self.three(F.relu(self.two(self.one(x)))))
        x[:, :1] = 0.0
        return self.four(x).mean([2, 3])


def test_a_map_that_is_written_by_index_is_dense() -> None:
    assert alphas(plan(WritesByIndex(), example=SHAPE))["three"] == 0.0


def test_the_network_keeps_its_mode_and_hooks_and_is_left_alone() -> None:
    net, calls = Residual(), []
    net.first.register_forward_post_hook(lambda *args: calls.append(1))
    net.train()
    before = {name: p.numpy().copy() for name, p in net.named_buffers()}
    octave = octavize(net, example=SHAPE)
    assert not calls
    assert octave.training
    octave(paddle.randn(SHAPE))
    assert calls == [1]
    for name, p in net.named_buffers():
        np.testing.assert_array_equal(p.numpy(), before[name])
    assert octavize(net, example=SHAPE, inplace=True) is net


def test_narrow_layers_stay_dense_where_asked() -> None:
    reasons = {d.name: d.reason for d in plan(Residual(), example=SHAPE, min_low=16).decisions}
    assert reasons["first.conv1"].startswith("narrow: 8 low channels")
    assert reasons["third.conv1"] == "octave"


class OwnConv(nn.Conv2D):
    def forward(self, x: Any) -> Any:
        return super().forward(x) * 2


class SameConv(nn.Conv2D):
    """A subclass that keeps Paddle's forward."""


def test_subclasses() -> None:
    convs = nn.Conv2D(3, 8, 3, padding=1), OwnConv(8, 8, 3, padding=1), SameConv(8, 8, 3, padding=1)
    net = nn.Sequential(*convs, nn.AdaptiveAvgPool2D(1))
    decided = plan(net, example=SHAPE)
    assert [d.alpha for d in decided.decisions] == [None, None, 0.5]
    octave = octavize(net, example=SHAPE)
    assert isinstance(octave[2], (OctConv2D, SameConv))
    assert type(octave[2]).__name__ == "OctSameConv"
    assert isinstance(copy.deepcopy(octave)(paddle.randn(SHAPE)), paddle.Tensor)


def test_decoders() -> None:
    net = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(8, 8, 3, stride=2, padding=1), nn.ReLU(),
                        nn.Conv2DTranspose(8, 8, 4, stride=2, padding=1), nn.Conv2D(8, 4, 1))  # fmt: skip
    decided = plan(net, example=(1, 3, 15, 15))
    assert [d.alpha for d in decided.decisions] == [None, 0.5, 0.5, 0.0]
    octave = octavize(net, example=(1, 3, 15, 15), strict=True)
    assert isinstance(octave[3], OctConv2DTranspose)
    assert octave(paddle.randn([1, 3, 15, 15])).shape == [1, 4, 16, 16]


@pytest.mark.parametrize("size", [(16, 16), (17, 19), (33, 8), (9, 9)])
@pytest.mark.parametrize("training", [False, True])
def test_any_size(size: Any, training: bool) -> None:
    net = octavize(Residual(), example=SHAPE, strict=True)
    net.train() if training else net.eval()
    assert net(paddle.randn([2, 3, *size])).shape == [2, 4]


# ---- costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "mobilenet_v2", "shufflenet_v2_x0_25"])
@pytest.mark.parametrize("exchange", ["every", "every:high_to_low"])
@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_counted_costs_are_those_of_the_convolutions_that_run(
    name: str, exchange: str, downsample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = build(name)
    octave = octavize(net, exchange=exchange, downsample=downsample, example=(1, 3, 65, 71))
    run = trace(octave, (1, 3, 65, 71))
    inside = count_convolutions(monkeypatch)
    octave.eval()
    octave(paddle.zeros([1, 3, 65, 71]))
    by_formula = sum(layer.macs for layer in run.layers if layer.input[1] or layer.output[1])
    assert by_formula == sum(inside)


def test_costs_of_transposed_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({}, {"groups": 8}, {"groups": 2}, {"exchange": "none"}, {"alpha": 0}):
        net = nn.Sequential(OctConv2DTranspose(8, 8, 4, stride=2, padding=1, **settings))
        x = make((4, 4), 5, 7).astype("float32")
        with monkeypatch.context() as patch:
            inside = count_convolutions(patch)
            y = net(x)
        from octavize.paddle.costs import octave_macs

        assert octave_macs(net[0], x, y) == sum(inside), settings


def count_convolutions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The multiply–accumulates of the convolutions inside octave layers, as they run."""
    counted: list[int] = []

    def counting(function: Any, transposed: bool) -> Any:
        def call(x: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
            y = function(x, weight, *args, **kwargs)
            a_pixel = int(np.prod(weight.shape[1:]))
            counted.append(int(np.prod((x if transposed else y).shape)) * a_pixel)
            return y

        return call

    for module, transposed in ((convolutions, False), (transposed_convolutions, True)):
        for dims, function in list(module._CONV.items()):
            monkeypatch.setitem(module._CONV, dims, counting(function, transposed))
    return counted


# ---- to_static --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full_graph", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_25"])
def test_to_static_equals_dygraph(name: str, full_graph: bool) -> None:
    net, shape = build(name)
    octave = octavize(net, example=shape)
    octave.eval()
    x = paddle.randn([2, *shape[1:]])
    wanted = octave(x).numpy()
    spec = [paddle.static.InputSpec([None, *shape[1:]], "float32")] if full_graph else None
    static = paddle.jit.to_static(copy.deepcopy(octave), input_spec=spec, full_graph=full_graph)
    np.testing.assert_allclose(static(x).numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (17, 20), (9, 11)])
def test_a_program_of_unknown_height_and_width(size: tuple[int, int]) -> None:
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32")]
    net = octavize(Residual(), example=SHAPE)
    net.eval()
    static = paddle.jit.to_static(copy.deepcopy(net), input_spec=spec, full_graph=True)
    x = paddle.randn([2, 3, *size])
    np.testing.assert_allclose(static(x).numpy(), net(x).numpy(), rtol=1e-4, atol=1e-5)


class Joined(nn.Layer):
    """Two octave maps joined over their channels, and normalized: their low channels do not lie together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1)
        self.one, self.two = nn.Conv2D(8, 4, 3, padding=1), nn.Conv2D(8, 8, 1)
        self.norm, self.last = nn.BatchNorm2D(12), nn.Conv2D(12, 4, 1)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        return self.last(F.relu(self.norm(paddle.concat([self.one(x), self.two(x)], axis=1)))).mean([2, 3])


@pytest.mark.parametrize("network", [Residual, Joined])
def test_training_through_to_static(network: Any) -> None:
    net = octavize(network(), example=SHAPE, strict=True)
    static = paddle.jit.to_static(copy.deepcopy(net), full_graph=True)
    x = paddle.randn([2, 3, 16, 16])
    for each in (net, static):
        each.train()
        for _ in range(2):
            each(x).square().sum().backward()
    for (name, ours), theirs in zip(static.named_parameters(), net.parameters(), strict=True):
        if theirs.grad is not None:
            np.testing.assert_allclose(
                ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-3, atol=1e-4, err_msg=name
            )
    for (name, ours), (_, theirs) in zip(static.named_buffers(), net.named_buffers(), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_octave_map_may_be_the_output_of_a_layer_that_is_called_alone() -> None:
    assert isinstance(octavize(Residual(), example=SHAPE).first(paddle.randn([1, 8, 16, 16])), OctTensor)
