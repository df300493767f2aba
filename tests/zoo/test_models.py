"""The named networks: the paper's arithmetic to the unit, and the vanilla networks at α = 0."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import timm
import torch
from torch import nn

from octavize import DenseFallbackWarning, InputError, OctConv2d, create_model, list_models
from octavize.convert.trace import trace
from octavize.zoo.models import usual_input

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")

IMAGE = (1, 3, 224, 224)


def on_meta(name: str, alpha: float = 0.5, **arguments: Any) -> nn.Module:
    """A network without values: nothing is initialized or computed."""
    with torch.device("meta"):
        return create_model(name, alpha, **arguments)


def macs(model: nn.Module) -> int:
    return trace(model, IMAGE).macs


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---- multiply–accumulates ---------------------------------------------------------------------------------

ALPHAS = (0, 0.125, 0.25, 0.5, 0.75)
GIGA_MACS = {
    "oct_resnet26": (2.342, 2.087, 1.858, 1.480, 1.208),
    "oct_resnet50": (4.089, 3.565, 3.104, 2.367, 1.880),
    "oct_resnet101": (7.801, 6.625, 5.598, 3.991, 2.982),
    "oct_resnet152": (11.514, 9.685, 8.092, 5.615, 4.084),
    "oct_resnet200": (15.007, 12.564, 10.439, 7.144, 5.121),
}


DEEP = ("oct_resnet152", "oct_resnet200")
FIGURES = [(name, alpha) for name in GIGA_MACS for alpha in ALPHAS]


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        pytest.param(name, alpha, marks=pytest.mark.slow if name in DEEP and alpha != 0.5 else ())
        for name, alpha in FIGURES
    ],
)
def test_giga_macs_of_the_resnets(name: str, alpha: float) -> None:
    model = on_meta(name, alpha)
    assert round(macs(model) / 1e9, 3) == GIGA_MACS[name][ALPHAS.index(alpha)]


@pytest.mark.parametrize("name", ["oct_resnet26", "oct_mobilenet_v1", "oct_mobilenet_v2"])
def test_alpha_does_not_change_the_parameters(name: str) -> None:
    counts = {parameters(on_meta(name, alpha)) for alpha in (*ALPHAS, 1)}
    assert len(counts) == 1


def test_figures_to_the_unit() -> None:
    resnet = on_meta("oct_resnet50", 0.5)
    assert macs(resnet) == 2_367_143_936
    assert parameters(resnet) == 25_557_032
    assert macs(on_meta("oct_mobilenet_v1", 0.5, num_classes=10)) == 317_153_920
    assert macs(on_meta("oct_mobilenet_v1", 0, num_classes=10)) == 567_726_592
    assert macs(on_meta("oct_resnet50", 0.5, num_classes=10)) == 2_365_116_416
    assert macs(on_meta("oct_resnet50", 0, num_classes=10)) == 4_087_156_736


def test_mega_macs_of_mobilenet_v1() -> None:
    def mega(alpha: float, width: float = 1.0) -> float:
        return round(macs(on_meta("oct_mobilenet_v1", alpha, width=width)) / 1e6, 1)

    assert mega(0.5) == 318.2
    assert mega(0) == 568.7
    assert mega(0.375, width=0.75) == 211.4


def test_mega_macs_of_the_wider_mobilenet_v2() -> None:
    """Its widths are no multiples of 8."""
    octave = on_meta("oct_mobilenet_v2_official", 0.5, width=1.125)
    assert round(macs(octave) / 1e6, 1) == 292.8
    assert [octave.blocks[s][0].conv_dw.groups for s in (1, 2)] == [6 * 18, 6 * 27]
    torch.manual_seed(0)
    real = create_model("oct_mobilenet_v2_official", 0.5, width=1.125)
    deviation = real.blocks[1][0].conv_pw.weight.detach().std()
    assert float(deviation) == pytest.approx((2 / 108) ** 0.5, rel=0.1), "it starts as timm's other layers do"


@pytest.mark.parametrize(("alpha", "mega"), [(0, 313.6), (0.375, 254.0)])
def test_mega_macs_of_the_official_mobilenet_v2(alpha: float, mega: float) -> None:
    octave = on_meta("oct_mobilenet_v2_official", alpha)
    assert round(macs(octave) / 1e6, 1) == mega
    expansion = 32 * 32 + 2 * 32  # of the first block, which the usual network has not
    assert parameters(octave) == parameters(on_meta("oct_mobilenet_v2", 0)) + expansion


def wide_resnet_parameters(depth: int, width: int, classes: int) -> int:
    """Zagoruyko & Komodakis 2016, Table 1: stem, blocks of two 3×3 with a norm before each, shortcuts."""
    total, into = 3 * 16 * 9, 16
    for channels in (16 * width, 32 * width, 64 * width):
        for block in range((depth - 4) // 6):
            total += 2 * into + into * channels * 9 + 2 * channels + channels**2 * 9
            total += into * channels if block == 0 else 0
            into = channels
    return total + 2 * into + into * classes + classes


def test_wide_resnet_28_10() -> None:
    model = on_meta("oct_wide_resnet28_10", 0.5, num_classes=10)
    assert parameters(model) == wide_resnet_parameters(28, 10, 10)
    assert round(parameters(model) / 1e6, 1) == 36.5


def test_octave_halves_space_and_never_time() -> None:
    layers = {layer.name: layer for layer in trace(on_meta("oct_i3d_resnet50"), (1, 3, 8, 224, 224)).layers}
    assert layers["layer2.1.conv1.0"].output == ((1, 64, 4, 28, 28), (1, 64, 4, 14, 14))
    frames = {name: layer.output[0][2] for name, layer in layers.items() if layer.name != "fc"}
    assert set(frames.values()) == {8, 4}
    assert frames["layer1.2.conv3.0"] == 8
    assert frames["layer2.0.conv1.0"] == 4


def test_stem_of_densenet_is_octave() -> None:
    layers = {layer.name: layer for layer in trace(on_meta("oct_densenet121", 0.25), IMAGE).layers}
    assert layers["features.conv0"].output == ((1, 48, 112, 112), (1, 16, 56, 56))
    assert layers["features.transition3.conv"].output[1] is None

    layers = {layer.name: layer for layer in trace(on_meta("oct_densenet121_vanilla_stem"), IMAGE).layers}
    assert layers["features.conv0"].output[1] is None
    assert layers["features.denseblock1.denselayer1.conv1"].output == ((1, 64, 56, 56), (1, 64, 28, 28))


def test_the_papers_own_pre_activation_networks() -> None:
    """A norm in the stem, and one more in each shortcut; the arithmetic of the usual ones."""
    ours, usual = (on_meta(f"oct_resnetv2_50{kind}", 0.25) for kind in ("_official", ""))
    assert macs(ours) == macs(usual)
    norms = 2 * (64 + 64 + 256 + 512 + 1024)
    assert parameters(ours) - parameters(usual) == norms
    excited = on_meta("oct_seresnetv2_50_official", 0.25)
    reduced = [2 * c * c // 16 + c + c // 16 for c in (256, 512, 1024, 2048)]
    assert parameters(excited) - parameters(ours) == sum(
        n * c for n, c in zip((3, 4, 6, 3), reduced, strict=True)
    )
    wide = on_meta("oct_resnextv2_50_32x4d_official", 0.25)
    assert wide.stages[2].blocks[1].conv2.weight.shape == (512, 16, 3, 3)


def test_mobilenet_v2_of_the_registry() -> None:
    assert round(macs(on_meta("oct_mobilenet_v2", 0)) / 1e6, 1) == 300.8
    assert macs(on_meta("oct_mobilenet_v2", 0.375)) < 255e6


def test_the_papers_policy() -> None:
    """The stem is vanilla, the first octave layers read plain maps, the last stage is plain and merges."""
    layers = {layer.name: layer for layer in trace(on_meta("oct_resnet50"), IMAGE).layers}
    assert layers["conv1"].kind == "Conv2d"
    first = layers["layer1.0.conv1"]
    assert (first.input, first.output) == (
        ((1, 64, 56, 56), None),
        ((1, 32, 56, 56), (1, 32, 28, 28)),
    )
    assert layers["layer4.0.conv1"].input == ((1, 512, 14, 14), (1, 512, 7, 7))
    assert layers["layer4.0.downsample.0"].input == ((1, 512, 14, 14), (1, 512, 7, 7))
    plain = [layer for name, layer in layers.items() if name.startswith("layer4.")]
    assert all(layer.output[1] is None for layer in plain)
    layers = {layer.name: layer for layer in trace(on_meta("oct_mobilenet_v1"), IMAGE).layers}
    assert layers["blocks.3.5.conv_pw"].input[1] is not None
    assert layers["blocks.3.5.conv_pw"].output[1] is None
    assert all(layer.output[1] is None for name, layer in layers.items() if name.startswith("blocks.4"))


# ---- α = 0 is timm's network ------------------------------------------------------------------------------

TIMM_NAMES = {
    "oct_resnet18": "resnet18",
    "oct_resnet26": "resnet26",
    "oct_resnet34": "resnet34",
    "oct_resnet50": "resnet50",
    "oct_mobilenet_v1": "mobilenetv1_100",
    "oct_mobilenet_v2": "mobilenetv2_100",
}


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_alpha_0_is_timms_network_bit_for_bit(name: str) -> None:
    torch.manual_seed(1)
    vanilla = timm.create_model(TIMM_NAMES[name], num_classes=7).eval()
    torch.manual_seed(1)
    octave = create_model(name, 0, num_classes=7).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(octave(x), vanilla(x)), "the same seed"
        other = create_model(name, 0.5, num_classes=7)
        other.load_state_dict(vanilla.state_dict())
        octave = create_model(name, 0, num_classes=7).eval()
        octave.load_state_dict(other.state_dict())
        assert torch.equal(octave(x), vanilla(x)), "its state dict, by way of an octave network"


LONG = ("00", "101", "52", "3d", "2d")
VERY_DEEP = ("101", "152", "200")
"""Each has a shallower network of the same kind."""


def small_input(name: str, side: int) -> tuple[int, ...]:
    """An image, or a clip of four frames."""
    return (3, *([4] if len(usual_input(name)) == 5 else []), side, side)


# ---- every name -------------------------------------------------------------------------------------------


def test_names() -> None:
    names = list_models()
    assert names == sorted(names)
    families = ["mobilenet_v1", "mobilenet_v2", "mobilenet_v2_official", "wide_resnet50_2"]
    families += [f"resnet{n}" for n in (18, 26, 34, 50, 101, 152, 200)]
    families += [f"resnetv2_{n}" for n in (26, 50, 101, 152, 200)]
    families += ["resnext50_32x4d", "resnext101_32x4d", "seresnet50", "seresnet152"]
    with_small = {f"oct_{f}{small}" for f in families for small in ("", "_small")}
    others = {
        "oct_resnet152_official",
        "oct_seresnet152_official",
        *(f"oct_resnetv2_{n}_official" for n in (26, 50, 101, 152, 200)),
        *(f"oct_resnextv2_{n}_32x4d_official" for n in (50, 101)),
        "oct_seresnetv2_50_official",
        "oct_densenet121",
        "oct_densenet121_vanilla_stem",
        "oct_wide_resnet28_10",
        "oct_c2d_resnet50",
        "oct_i3d_resnet50",
    }
    assert set(names) == with_small | others | {f"oct_cifar_resnet{n}" for n in (20, 26, 32, 44, 56)}
    assert list_models("oct_resnet5*") == ["oct_resnet50", "oct_resnet50_small"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        pytest.param(name, alpha, marks=pytest.mark.slow if any(n in name for n in VERY_DEEP) else ())
        for name in list_models()
        for alpha in ((0.5,) if any(n in name for n in LONG) else (0.25, 1))
    ],
)
def test_every_network_runs_and_every_parameter_gets_a_gradient(name: str, alpha: float) -> None:
    """On the meta device, where even the deep ones take no time; strict, so no fallback is hidden."""
    model = on_meta(name, alpha, num_classes=5).train()
    y = model(torch.empty(2, *small_input(name, 65), device="meta"))
    assert y.shape == (2, 5)
    y.sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    "name",
    ["oct_resnet18", "oct_resnet26", "oct_resnet18_small", "oct_mobilenet_v1", "oct_mobilenet_v2_small"],
)
def test_networks_learn_on_small_images(name: str) -> None:
    torch.manual_seed(0)
    # timm starts the last batch norm of a residual branch at zero, which stops gradients within it.
    start = {"zero_init_last": False} if "resnet" in name else {}
    model = create_model(name, 0.5, num_classes=5, **start).train()
    y = model(torch.randn(4, 3, 32, 32))
    y.square().sum().backward()
    for parameter_name, p in model.named_parameters():
        assert p.grad is not None, parameter_name
        assert p.grad.isfinite().all(), parameter_name
        assert p.grad.abs().sum() > 0, parameter_name


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network_really_computes(name: str) -> None:
    model = create_model(name, 0.5, num_classes=5).train()
    y = model(torch.randn(2, *small_input(name, 64)))
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "name", [f"oct_{n}_small" for n in ("resnet18", "resnet50", "mobilenet_v1", "mobilenet_v2")]
)
def test_small_stems_keep_the_resolution(name: str) -> None:
    model = on_meta(name, 0.5, num_classes=5)
    layers = trace(model, (1, 3, 32, 32)).layers
    assert layers[0].output[0][2:] == (32, 32)
    assert layers[0].reads_input
    side = 2 if "mobilenet" in name else 4
    assert layers[-2].output[0][2:] == (side, side)
    if "resnet" in name:
        assert layers[0].params == 64 * 3 * 9
        vanilla = on_meta(name.removesuffix("_small"), num_classes=5)
        assert parameters(vanilla) - parameters(model) == 64 * 3 * (49 - 9)


def test_small_networks_at_alpha_0_start_like_the_octave_ones() -> None:
    """The two arms of a comparison begin with the same weights."""
    for name in ("oct_resnet26_small", "oct_mobilenet_v1_small"):
        torch.manual_seed(3)
        vanilla = create_model(name, 0, num_classes=5).state_dict()
        torch.manual_seed(3)
        octave = create_model(name, 0.5, num_classes=5).state_dict()
        assert list(vanilla) == list(octave)
        assert all(torch.equal(vanilla[key], octave[key]) for key in vanilla)


def test_arguments_reach_the_builder() -> None:
    model = create_model("oct_mobilenet_v2", 0.5, num_classes=3, in_chans=1, width=0.35, drop_rate=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DenseFallbackWarning)
        assert model(torch.randn(2, 1, 40, 40)).shape == (2, 3)
    small = on_meta("oct_resnet26_small", 0.5, in_chans=1)
    assert small(torch.empty(1, 1, 32, 32, device="meta")).shape == (1, 1000)
    for width in (0.25, 0.5, 0.75, 1.4, 2):
        for version in (1, 2):
            net = on_meta(f"oct_mobilenet_v{version}", 0.5, width=width).eval()
            assert net(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 1000)
    wide = {w: parameters(on_meta("oct_mobilenet_v1", width=w)) for w in (0.5, 1, 1.4)}
    assert wide[0.5] < wide[1] < wide[1.4]


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0, 1.4])
def test_width_is_that_of_timms_named_networks(width: float) -> None:
    with torch.device("meta"):
        vanilla = timm.create_model(f"mobilenetv2_{round(100 * width):03d}")
    octave = on_meta("oct_mobilenet_v2", 0.5, width=width)
    assert {k: v.shape for k, v in vanilla.state_dict().items()} == {
        k: v.shape for k, v in octave.state_dict().items()
    }


# ---- bad arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("oct_resnet5", "oct_resnet50"),
        ("resnet50", "oct_resnet50"),
        ("oct_mobilenet", "oct_mobilenet_v1"),
        ("oct_resnet50_smal", "oct_resnet50_small"),
        ("oct_resnet50_small_small", "oct_resnet50_small"),
        ("?", "oct_resnet18"),
        ("", "oct_resnet18"),
    ],
)
def test_unknown_name_gets_suggestions(name: str, suggestion: str) -> None:
    with pytest.raises(InputError, match=f"is unknown.*{suggestion}"):
        create_model(name)


@pytest.mark.parametrize(
    ("name", "arguments", "word"),
    [
        ("oct_resnet50", {"alpha": 1.5}, "alpha=1.5"),
        ("oct_resnet50", {"alpha": "0.5"}, "alpha='0.5'"),
        ("oct_resnet26", {"color": "red"}, "color"),
        ("oct_resnet26", {"width": 0.5, "pretrained": True}, "width"),
        ("oct_resnet26", {"width": 0}, "width"),
        ("oct_mobilenet_v1", {"color": "red"}, "color"),
        ("oct_mobilenet_v1", {"width": 0}, "width"),
        ("oct_mobilenet_v1", {"width": -1}, "width"),
        ("oct_mobilenet_v1", {"width": "wide"}, "width"),
        ("oct_resnet26", {"num_classes": -3}, "num_classes"),
        ("oct_resnet26", {"num_classes": "ten"}, "num_classes"),
        ("oct_resnet26", {"in_chans": 0}, "in_chans"),
        ("oct_mobilenet_v1", {"width": 0.75, "pretrained": True}, "pretrained"),
    ],
)
def test_bad_arguments(name: str, arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        create_model(name, **arguments)
    assert "\n" not in str(caught.value)


def test_strict_by_default() -> None:
    model = on_meta("oct_resnet26")
    layers = [m for m in model.modules() if isinstance(m, OctConv2d)]
    assert all(layer.strict for layer in layers)
    assert not any(
        m.strict for m in on_meta("oct_resnet26", strict=False).modules() if isinstance(m, OctConv2d)
    )
