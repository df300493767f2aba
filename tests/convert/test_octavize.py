"""plan() and octavize() on the networks people have: torchvision's and timm's families, and odd models."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from timm.models.densenet import DenseNet as TimmDenseNet
from timm.models.vgg import VGG as TimmVGG
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.models.vgg import VGG, make_layers

from octavize import DenseFallbackWarning, InputError, OctConv2d, OctConv3d, OctTensor, octavize, plan

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")


# ---- the families -----------------------------------------------------------------------------------------


def tv_vgg(batch_norm: bool) -> nn.Module:
    net = VGG(make_layers([16, "M", 32, "M", 32, 32, "M"], batch_norm=batch_norm), init_weights=False)
    net.classifier = nn.Linear(32 * 7 * 7, 10)
    return net


def timm_model(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=10, **arguments)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "torchvision resnet, basic blocks": lambda: tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], 10),
    "torchvision resnet, bottlenecks": lambda: tv.ResNet(tv.resnet.Bottleneck, [1, 1, 1, 1], 10),
    "torchvision resnext": lambda: tv.ResNet(
        tv.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=8, width_per_group=4
    ),
    "torchvision mobilenet v2": lambda: tv.mobilenet_v2(num_classes=10, width_mult=0.5),
    "torchvision mobilenet v3": lambda: tv.mobilenet_v3_small(num_classes=10),
    "torchvision efficientnet": lambda: tv.efficientnet_b0(num_classes=10),
    "torchvision densenet": lambda: tv.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10),
    "torchvision densenet, checkpointed": lambda: tv.DenseNet(
        8, (2, 2, 2, 2), 16, num_classes=10, memory_efficient=True
    ),
    "torchvision vgg": lambda: tv_vgg(False),
    "torchvision vgg, batch norm": lambda: tv_vgg(True),
    "timm resnet, basic blocks": timm_model("resnet10t"),
    "timm resnet, bottlenecks": timm_model("resnet26"),
    "timm resnet-d, average-pooled shortcut": timm_model("resnet14t"),
    "timm se-resnet": timm_model("seresnet18"),
    "timm mobilenet v1": timm_model("mobilenetv1_100"),
    "timm mobilenet v2": timm_model("mobilenetv2_050"),
    "timm efficientnet": timm_model("efficientnet_b0"),
    "timm efficientnet-lite": timm_model("efficientnet_lite0"),
    "timm densenet": lambda: TimmDenseNet(8, (2, 2, 2, 2), 10),
    "timm vgg": lambda: TimmVGG([16, "M", 32, "M", 32], 10, norm_layer=nn.BatchNorm2d, mlp_ratio=0.01),
}
SIZE = 64


def quietly(f: Callable[[], Any]) -> Any:
    """Converting any network may need dense fallbacks: they are no error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DenseFallbackWarning)
        return f()


@pytest.mark.parametrize("family", FAMILIES)
def test_family_converts_runs_and_learns(family: str) -> None:
    vanilla = FAMILIES[family]()
    before = copy.deepcopy(vanilla.state_dict())
    octave = octavize(vanilla, 0.5, example=(1, 3, SIZE, SIZE))
    layers = [m for m in octave.modules() if isinstance(m, OctConv2d)]
    assert len(layers) >= 3
    assert any(m.alpha > 0 and m.octave.out_layout[1] > 0 for m in layers)

    octave.train()
    y = quietly(lambda: octave(torch.randn(4, 3, SIZE, SIZE)))
    assert type(y) is Tensor
    assert y.shape == (4, 10)
    y.square().sum().backward()
    without = [n for n, p in octave.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in octave.parameters())

    # The vanilla network has been left alone, and the two state dicts are interchangeable.
    assert not any(isinstance(m, OctConv2d) for m in vanilla.modules())
    for name, value in vanilla.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in vanilla.parameters())
    octave.load_state_dict(before)
    vanilla.load_state_dict(octave.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_0_gives_the_vanilla_output_bit_for_bit(family: str) -> None:
    vanilla = FAMILIES[family]().eval()
    octave = octavize(vanilla, 0, example=(1, 3, SIZE, SIZE))
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(octave(x), vanilla(x))


@pytest.mark.parametrize("alpha", [0.25, 1.0])
@pytest.mark.parametrize("size", [33, 50])
@pytest.mark.parametrize(
    "family",
    ["torchvision resnet, basic blocks", "timm se-resnet", "torchvision densenet", "timm mobilenet v2"],
)
def test_any_alpha_and_any_size(family: str, size: int, alpha: float) -> None:
    octave = octavize(FAMILIES[family](), alpha, example=(1, 3, SIZE, SIZE)).eval()
    with torch.no_grad():
        y = quietly(lambda: octave(torch.randn(1, 3, size, size)))
    assert y.shape == (1, 10)
    assert y.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_plan_foretells_the_conversion(family: str) -> None:
    vanilla = FAMILIES[family]()
    decided = quietly(lambda: plan(vanilla, 0.5, example=(1, 3, SIZE, SIZE)))
    octave = octavize(vanilla, 0.5, example=(1, 3, SIZE, SIZE))
    converted = {n: m for n, m in octave.named_modules() if isinstance(m, OctConv2d)}
    assert {d.name for d in decided.decisions if d.alpha is not None} == set(converted)
    assert {d.name for d in decided.decisions} == {
        n for n, m in vanilla.named_modules() if isinstance(m, nn.Conv2d)
    }
    assert decided.decisions[0].reason == "stem: reads the network's input"
    assert all(d.reason for d in decided.decisions)
    assert decided.macs_after < decided.macs_before
    assert decided.input_shape == (1, 3, SIZE, SIZE)


# ---- plan -------------------------------------------------------------------------------------------------


class Unusual(nn.Module):
    """One layer for every reason to stay vanilla."""

    def __init__(self) -> None:
        super().__init__()

        class OwnConv(nn.Conv2d):
            def forward(self, input: Tensor) -> Tensor:
                return 2 * super().forward(input)

        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.octave = nn.Conv2d(8, 8, 3, padding=1)
        self.valid = nn.Conv2d(8, 8, 3)
        self.patches = nn.Conv2d(8, 8, 3, stride=3, padding=1)
        self.own = OwnConv(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.narrow = nn.Conv2d(8, 1, 1)
        self.unused = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(1, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(self.valid(self.octave(self.stem(x))))
        x = self.up(self.depthwise(self.own(x)))
        x = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(self.narrow(x).mean((2, 3)))


def reasons(net: nn.Module, **arguments: Any) -> dict[str, str]:
    decided = quietly(lambda: plan(net, **{"alpha": 0.5, "example": (1, 3, 32, 32), **arguments}))
    return {d.name: d.reason for d in decided.decisions}


def test_plan_gives_reasons() -> None:
    found = reasons(Unusual())
    assert found["octave"] == "octave"
    for name, words in {
        "stem": "network's input",
        "valid": "padding=1",
        "patches": "stride=(3, 3)",
        "own": "OwnConv",
        "depthwise": "depthwise",
        "up": "multiply",
        "squeeze": "single pixel",
        "narrow": "no low output",
        "unused": "not reached",
    }.items():
        assert words in found[name], name


def test_unusual_network_runs() -> None:
    octave = octavize(Unusual(), 0.5, example=(1, 3, 32, 32))
    y = quietly(lambda: octave(torch.randn(2, 3, 32, 32)))
    assert y.shape == (2, 5)


def test_plan_prints_a_table_and_touches_nothing() -> None:
    net = Unusual().train()
    before = copy.deepcopy(net.state_dict())
    text = str(quietly(lambda: plan(net, 0.5, example=(1, 3, 32, 32))))
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["layer", "kind", "alpha"]
    assert "all layers" in lines[-1]
    assert "(1, 3, 32, 32)" in lines[-1]
    assert len(lines) == 10 + 4
    assert net.training
    assert not any(isinstance(m, OctConv2d) for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


def test_plan_counts_what_the_network_costs() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1))
    net.append(nn.AdaptiveAvgPool2d(1))
    decided = plan(net, 0.5, example=(2, 3, 8, 8))
    pixels = 2 * 8 * 8
    before = [d.macs_before for d in decided.decisions]
    assert before == [pixels * 48, pixels * 16 * 16 * 9, pixels * 16 * 16]
    assert decided.macs_before == sum(before)
    after = [d.macs_after for d in decided.decisions]
    # α_in = 0: half of the outputs at full, half at quarter resolution; then the octave ratio of Table 1.
    assert after == [before[0], before[1] * 5 // 8, before[2] * 7 // 16]
    assert decided.macs_after == sum(after)


def test_example_is_found_by_itself() -> None:
    net = nn.Sequential(nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
    assert plan(net).input_shape == (1, 5, 224, 224)
    line = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 4, 1))
    assert plan(line).input_shape == (1, 2, 224)
    video = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 4, 1))
    assert plan(video).input_shape == (1, 3, 8, 112, 112)
    assert plan(timm.create_model("efficientnet_b1", num_classes=3)).input_shape[-1] == 240
    assert plan(net, example=torch.zeros(2, 5, 8, 8)).input_shape == (2, 5, 8, 8)
    assert plan(net, example=torch.Size([2, 5, 8, 8])).input_shape == (2, 5, 8, 8)


# ---- α ----------------------------------------------------------------------------------------------------


def net3() -> nn.Module:
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(3, 8, 3, padding=1))
    for i in range(3):
        net.add_module(f"layer{i}", nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    return net


def alphas(net: nn.Module) -> dict[str, float]:
    return {n: m.alpha for n, m in net.named_modules() if isinstance(m, OctConv2d)}


def test_alpha_as_number_mapping_and_function() -> None:
    example = (1, 3, 8, 8)
    assert alphas(octavize(net3(), 0.25, example=example)) == dict.fromkeys(
        ["layer0.0", "layer1.0", "layer2.0"], 0.25
    )
    assert alphas(octavize(net3(), example=example))["layer0.0"] == 0.5
    by_pattern = {"*": 0.25, "layer[12].*": 0.75, "layer2.*": 0}
    assert alphas(octavize(net3(), by_pattern, example=example)) == {
        "layer0.0": 0.25,
        "layer1.0": 0.75,
        "layer2.0": 0,
    }
    assert alphas(octavize(net3(), {"layer2.*": 0}, example=example))["layer0.0"] == 0.5
    seen: dict[str, nn.Module] = {}

    def choose(name: str, module: nn.Module) -> float:
        seen[name] = module
        return 1 if name == "layer1.0" else 0.125

    assert alphas(octavize(net3(), choose, example=example)) == {
        "layer0.0": 0.125,
        "layer1.0": 1,
        "layer2.0": 0.125,
    }
    assert all(isinstance(m, nn.Conv2d) for m in seen.values())


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (1.5, "alpha=1.5"),
        (-0.1, "alpha=-0.1"),
        ("0.5", "alpha='0.5'"),
        (True, "alpha=True"),
        ([0.5], r"alpha=\[0.5\]"),
        ({"*": 2}, "alpha=2"),
        ({"layer*": 0.5, "lyer4.*": 0}, r"'lyer4.\*' matches no convolution; names are such as stem"),
        (lambda name, module: 7, "alpha=7"),
        (lambda name, module: None, "alpha=None"),
    ],
)
@pytest.mark.parametrize("function", [plan, octavize])
def test_bad_alpha(function: Callable[..., Any], alpha: Any, message: str) -> None:
    net = net3()
    with pytest.raises(InputError, match=message):
        function(net, alpha, example=(1, 3, 8, 8))
    with pytest.raises(InputError, match=message):
        octavize(net, alpha, example=(1, 3, 8, 8), inplace=True)
    assert alphas(net) == {}, "nothing is half converted"


def test_no_alpha_is_refused_and_to_plan_without_one_means_a_half() -> None:
    example = (1, 3, 8, 8)
    with pytest.raises(InputError, match=r"alpha=None: give a share .* or an octavize\.Plan"):
        octavize(net3(), None, example=example)  # type: ignore[arg-type]
    assert plan(net3(), example=example) == plan(net3(), 0.5, example=example)


@pytest.mark.parametrize(
    ("net", "example", "message"),
    [
        (nn.Linear(3, 4), None, "Linear has no convolution"),
        (net3(), (1, 4, 8, 8), r"Sequential does not run on an input of shape \(1, 4, 8, 8\)"),
        (net3(), (3, 8), "give an example"),
        (net3(), 8, "example"),
        (net3(), "small", "example"),
        (net3(), (1, 3, 0, 0), "example="),
    ],
)
def test_bad_network_or_example(net: nn.Module, example: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan(net, example=example)
    assert "\n" not in str(caught.value)


# ---- what survives ----------------------------------------------------------------------------------------


def test_copy_or_in_place() -> None:
    net = net3()
    octave = octavize(net, example=(1, 3, 8, 8))
    assert octave is not net
    assert not {id(p) for p in octave.parameters()} & {id(p) for p in net.parameters()}
    parameters = list(net.parameters())
    layer = net.get_submodule("layer0.0")
    assert octavize(net, example=(1, 3, 8, 8), inplace=True) is net
    assert net.get_submodule("layer0.0") is layer
    assert isinstance(layer, OctConv2d)
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))


def test_converting_again_sets_the_new_alpha() -> None:
    """A network made at α = 0 is vanilla; to ask for α = 0.5 and silently get 0 would be a trap."""
    vanilla = octavize(net3(), 0, example=(1, 3, 8, 8))
    assert alphas(octavize(vanilla, 0.5, example=(1, 3, 8, 8)))["layer0.0"] == 0.5


def ways(net: nn.Module) -> dict[str, tuple[str, str]]:
    return {n: (m.exchange, m.downsample) for n, m in net.named_modules() if isinstance(m, OctConv2d)}


def test_converting_again_keeps_exchange_and_downsample_unless_told_otherwise() -> None:
    example = (1, 3, 8, 8)
    first = octavize(
        net3(),
        0.5,
        exchange={"layer1.*": "none", "layer2.*": "low_to_high"},
        downsample=lambda name, layer: "stride" if name == "layer0.0" else "pool",
        example=example,
    )
    expected = {
        "layer0.0": ("both", "stride"),
        "layer1.0": ("none", "pool"),
        "layer2.0": ("low_to_high", "pool"),
    }
    assert ways(first) == expected
    again = octavize(first, 0.25, example=example)
    assert ways(again) == expected
    assert set(alphas(again).values()) == {0.25}
    told = octavize(first, 0.25, exchange="high_to_low", downsample={"layer0.*": "pool"}, example=example)
    assert set(ways(told).values()) == {("high_to_low", "pool")}


def test_an_octave_layer_that_a_plan_leaves_vanilla_is_vanilla() -> None:
    stem = OctConv2d(3, 8, 3, padding=1, alpha=0.5)
    net = nn.Sequential(stem, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    example = torch.randn(1, 3, 16, 16)
    decided = plan(net, 0.0, example=example)
    assert (decided.alphas, decided.macs_after) == ({"2": 0.0}, decided.macs_before)
    vanilla = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    vanilla.load_state_dict(net.state_dict())
    for octave in (octavize(net, 0.0, example=example), octavize(net, decided)):
        assert type(octave[0]) is nn.Conv2d
        assert torch.equal(octave(example), vanilla(example))
    assert stem.alpha == 0.5


def test_null_undoes_an_octave_layer() -> None:
    net = nn.Sequential(*(nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8)), nn.Conv2d(8, 4, 1))
    decided = plan(net, 0.5, example=(1, 3, 16, 16))
    octave = octavize(octavize(net, decided), decided.with_alphas({"1": None}))
    assert type(octave[1]) is nn.Conv2d
    assert octave[2].alpha == 0.5


def test_a_plan_counts_from_the_vanilla_network() -> None:
    """Also that of a network which is octave already, or a budget would be a share of something else."""
    example = (1, 3, 8, 8)
    vanilla, octave = net3(), octavize(net3(), 0.75, example=example)
    found, wanted = (plan(net, budget=0.7, example=example) for net in (octave, vanilla))
    assert (found.macs_before, found.macs_after) == (wanted.macs_before, wanted.macs_after)
    assert found.alphas == wanted.alphas
    assert alphas(octave)["layer0.0"] == 0.75


def test_converting_again_keeps_the_octave_axes() -> None:
    net = nn.Sequential(nn.Conv3d(3, 8, 1), OctConv3d(8, 8, 1, octave_dims=3), nn.AdaptiveAvgPool3d(1))
    octave = octavize(net, 0.5, example=(1, 3, 4, 4, 4))
    assert octave[1].octave_dims == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exchange": "h2l"}, "exchange='h2l': give every, block, stage"),
        ({"exchange": {"layer9.*": "none"}}, r"exchange: the pattern 'layer9.\*' matches no convolution"),
        ({"downsample": "max"}, "downsample='max'"),
        ({"downsample": {3: "pool"}}, "downsample: the pattern 3 is no text"),
    ],
)
@pytest.mark.parametrize("function", [plan, octavize])
def test_bad_exchange_and_downsample(function: Callable[..., Any], given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(net3(), 0.5, example=(1, 3, 8, 8), **given)


@pytest.mark.parametrize("given", [{"exchange": "none"}, {"downsample": "pool"}, {"example": (1, 3, 8, 8)}])
def test_what_a_plan_has_is_not_given_beside_it(given: dict[str, Any]) -> None:
    decided = plan(net3(), 0.5, example=(1, 3, 8, 8))
    with pytest.raises(
        InputError, match=rf"^{next(iter(given))}\b.* and a plan are both given: leave it out"
    ):
        octavize(net3(), decided, **given)


@pytest.mark.parametrize("inplace", [False, True])
def test_everything_on_a_layer_survives(inplace: bool) -> None:
    net = net3().double()
    layer: Any = net.get_submodule("layer1.0")
    layer.weight.requires_grad_(False)
    layer.weight.grad = torch.ones_like(layer.weight)
    layer.register_buffer("mine", torch.arange(3.0))
    layer.note = "kept"
    layer.eval()
    calls: list[str] = []
    layer.register_forward_hook(lambda *_: calls.append("forward"))
    layer.register_forward_pre_hook(lambda *_: calls.append("pre"))
    octave = octavize(net, example=(1, 3, 8, 8), inplace=inplace)
    new: Any = octave.get_submodule("layer1.0")
    assert isinstance(new, OctConv2d)
    assert not new.weight.requires_grad
    assert new.bias.requires_grad
    assert new.weight.dtype == torch.float64
    assert torch.equal(new.mine, torch.arange(3.0))
    assert new.note == "kept"
    assert not new.training
    assert octave.training
    assert octave.get_submodule("layer0.0").training
    assert calls == [], "the trace does not run the user's hooks"
    octave(torch.randn(1, 3, 8, 8).double())
    assert calls == ["pre", "forward"]


def test_planning_runs_no_hook_of_the_users() -> None:
    """A hook that logs values cannot work on a tensor without values."""
    net = net3()
    seen: list[float] = []
    net.get_submodule("layer0").register_forward_hook(lambda m, i, o: seen.append(o.mean().item()))
    net.register_forward_pre_hook(lambda m, i: seen.append(i[0].sum().item()))
    plan(net, example=(1, 3, 8, 8))
    octavize(net, example=(1, 3, 8, 8))
    assert seen == []


def test_shared_layers_stay_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.a = nn.Conv2d(8, 8, 3, padding=1)
            self.b = self.a
            self.c = nn.Conv2d(8, 8, 3, padding=1)
            self.c.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(self.stem(x)))).mean((2, 3))

    octave: Any = octavize(Twice(), example=(1, 3, 8, 8))
    assert octave.a is octave.b
    assert octave.a.weight is octave.c.weight
    assert isinstance(octave.c, OctConv2d)
    decided = plan(Twice(), example=(1, 3, 8, 8))
    assert decided.macs_before == sum(d.macs_before for d in decided.decisions)
    octave(torch.randn(1, 3, 8, 8)).sum().backward()


def test_a_layer_that_reads_the_input_and_later_maps_is_a_stem() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.conv(self.conv(x)))

    decided = plan(Loop(), example=(1, 8, 8, 8))
    assert "stem" in decided.decisions[0].reason


def test_parallel_stems_and_preprocessing() -> None:
    """A stem need not read the very input: it may be scaled first, or be one of two."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
            self.next = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.next(self.a(2 * x - 1) + self.b(x)).mean((2, 3))

    decided = {d.name: d.reason for d in plan(Net(), example=(1, 3, 8, 8)).decisions}
    assert "stem" in decided["a"]
    assert "stem" in decided["b"]
    assert decided["next"] == "octave"


def test_a_convolution_called_by_keyword() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.next(input=self.stem(input=x)).mean((2, 3))

    assert [d.reason for d in plan(Net(), example=(1, 3, 8, 8)).decisions][1] == "octave"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_meta_device(dtype: torch.dtype) -> None:
    octave = octavize(net3().to(dtype), example=(1, 3, 8, 8))
    assert {p.dtype for p in octave.parameters()} == {dtype}
    assert octave(torch.randn(1, 3, 8, 8).to(dtype)).dtype == dtype
    with torch.device("meta"):
        net = net3()
    octave = octavize(net, example=(1, 3, 8, 8))
    assert {p.device.type for p in octave.parameters()} == {"meta"}
    y = octave(torch.empty(1, 3, 8, 8, device="meta"))
    assert isinstance(octave[:2](torch.empty(1, 3, 8, 8, device="meta")), OctTensor)
    assert y.device.type == "meta"


def test_networks_with_tensors_that_are_no_buffers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            self.scale = torch.full((1, 8, 1, 1), 2.0)  # many networks keep constants so

        def forward(self, x: Tensor) -> Tensor:
            return (self.next(self.stem(x)) * self.scale).mean((2, 3))

    octave = octavize(Net(), example=(1, 3, 8, 8))
    assert octave.next.alpha == 0.5
    assert octave(torch.randn(1, 3, 8, 8)).shape == (1, 8)


def test_forward_that_makes_tensors_without_a_device() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.next(self.stem(x)) * torch.ones(1, 8, 1, 1)).mean((2, 3))

    assert plan(Net(), example=(1, 3, 8, 8)).alphas == {"next": 0.5}


def test_parametrized_weights() -> None:
    net = net3()
    torch.nn.utils.parametrizations.weight_norm(net.get_submodule("layer0.0"))
    decided = plan(net, example=(1, 3, 8, 8))
    octave = octavize(net, example=(1, 3, 8, 8))
    assert octave(torch.randn(1, 3, 8, 8)).shape == (1, 8, 1, 1)
    assert len(decided.decisions) == 4
    octave(torch.randn(1, 3, 8, 8)).sum().backward()


def test_random_state_is_left_alone() -> None:
    net = tv.efficientnet_b0(num_classes=10)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    octavize(net, example=(1, 3, 32, 32))
    plan(net, example=(1, 3, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)


def test_strict_network_refuses_a_fallback() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.local_response_norm(self.next(self.stem(x)), 2)

    edited = plan(Net(), example=(1, 3, 8, 8)).with_alphas({"next": 0.5})
    octave = octavize(Net(), edited, strict=True)
    with pytest.raises(InputError, match=r"local_response_norm.*strict=True"):
        octave(torch.randn(1, 3, 8, 8))
    octave = octavize(Net(), edited)
    with pytest.warns(DenseFallbackWarning, match="local_response_norm"):
        octave(torch.randn(1, 3, 8, 8))


def test_planning_does_not_use_up_the_announcement() -> None:
    """The trace of a plan must not silence the warning of the first real run."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.local_response_norm(self.next(self.stem(x)), 2)

    edited = plan(Net(), example=(1, 3, 8, 8)).with_alphas({"next": 0.5})
    octave = octavize(Net(), edited)
    with pytest.warns(DenseFallbackWarning, match="local_response_norm"):
        octave(torch.randn(1, 3, 8, 8))


def test_one_dimensional_and_video_networks() -> None:
    line = nn.Sequential(
        nn.Conv1d(2, 8, 7, 2, 3), nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.AdaptiveAvgPool1d(1)
    )
    y = octavize(line, example=(1, 2, 65))(torch.randn(3, 2, 65))
    assert y.shape == (3, 8, 1)
    video = tv.video.r3d_18(num_classes=5)
    octave = octavize(video, example=(1, 3, 4, 32, 32))
    y = quietly(lambda: octave(torch.randn(2, 3, 4, 32, 32)))
    assert y.shape == (2, 5)


class Keeps(nn.Module):
    """A network that keeps its maps, as code does that visualizes them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.maps: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.conv(self.stem(x))
        self.maps = [{"conv": self.kept}]
        return self.kept.mean((2, 3))


HOLDS: dict[str, Callable[[Any], Any]] = {
    "maps": lambda net: None,
    "pruned": lambda net: prune.l1_unstructured(net.conv, "weight", 0.5),
    "weight norm": lambda net: nn.utils.weight_norm(net.conv),
    "spectral norm": lambda net: nn.utils.spectral_norm(net.conv),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", HOLDS)
def test_networks_that_hold_what_autograd_made(name: str) -> None:
    torch.manual_seed(0)
    x, net = torch.randn(2, 3, 16, 16), Keeps()
    HOLDS[name](net)
    net(x)
    octave = octavize(net, {"*": 0.5}, example=(1, 3, 16, 16))
    twice = octavize(octave, {"*": 0.25}, example=(1, 3, 16, 16))
    octave(x).sum().backward()
    assert all(p.grad is not None for p in octave.parameters())
    assert octavize(octave, {"*": 0}, example=(1, 3, 16, 16)).conv.alpha == 0  # with the maps it keeps
    again = octavize(twice.eval(), {"*": 0}, example=(1, 3, 16, 16))
    assert torch.equal(again(x), net.eval()(x))
    assert twice.conv.alpha == 0.25


def test_what_an_octave_network_was_told_is_kept_unless_told_anew() -> None:
    net, ways = Keeps(), {"example": (1, 3, 16, 16)}
    first = octavize(net, {"*": 0.5}, strict=True, exchange="high_to_low", downsample="stride", **ways)
    kept = octavize(first, {"*": 0.25}, **ways).conv
    assert (kept.alpha, kept.strict, kept.exchange, kept.downsample) == (0.25, True, "high_to_low", "stride")
    told = octavize(first, {"*": 0.25}, strict=False, exchange="none", downsample="pool", **ways).conv
    assert (told.strict, told.exchange, told.downsample) == (False, "none", "pool")
    assert not octavize(net, {"*": 0.5}, **ways).conv.strict


@pytest.mark.parametrize("parametrized", [False, True])
def test_null_makes_an_octave_layer_vanilla_again(parametrized: bool) -> None:
    """A depthwise octave layer keeps the split of its input; a vanilla one reads the dense map."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
    )
    if parametrized:
        nn.utils.parametrizations.weight_norm(net[2])
    found = plan(net, {"*": 0.5}, example=(1, 3, 16, 16))
    without = found.with_alphas({"2": None})
    at_once, later = octavize(net, without), octavize(octavize(net, found), without)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(at_once(x), octavize(net, found)(x))
    assert torch.equal(later(x), at_once(x))
    assert isinstance(later[2], nn.Conv2d)
    assert not isinstance(later[2], OctConv2d)
    assert octavize(later, found)[2].alpha == 0.5
