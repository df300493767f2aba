"""Plans: no avoidable dense fallback, saved and edited, applied to the right network; handlers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from octavize import (
    InputError,
    OctConv2d,
    OctConvTranspose2d,
    OctTensor,
    Plan,
    freeze,
    oct_handler,
    octavize,
    plan,
)
from octavize.convert import swap as swap_module

EXAMPLE = (1, 3, 64, 64)


def test_a_chain_of_identity_shortcuts_merges_instead_of_falling_back() -> None:
    """ResNet-18 adds its first blocks to the dense map of the stem."""
    found = plan(tv.resnet18(num_classes=10), 0.5, example=EXAMPLE)
    assert found.fallbacks == {}
    assert found.alphas["layer1.0.conv2"] == found.alphas["layer1.1.conv2"] == 0
    reason = next(d.reason for d in found.decisions if d.name == "layer1.0.conv2")
    assert reason == "merges: __iadd__ needs the dense map" or "add" in reason
    assert found.alphas["layer1.0.conv1"] == found.alphas["layer2.0.conv2"] == 0.5


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        return {"out": self.out(torch.cat([x, self.up(self.depthwise(self.down(x)).relu())], 1))}


def test_what_the_network_returns_is_dense() -> None:
    octave = octavize(Segmenter(), 0.5, example=(1, 3, 16, 16))
    assert octave.out.alpha == 0
    assert octave.up.alpha == 0.5
    assert isinstance(octave.up, OctConvTranspose2d)
    assert type(octave(torch.randn(1, 3, 16, 18))["out"]) is Tensor


def test_a_depthwise_layer_on_a_dense_map_is_not_octave() -> None:
    """Its α would say that there is a split where there is none."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.b, self.c = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(self.stem(x)))).mean((2, 3))

    found = plan(Net(), 0.5, example=(1, 3, 8, 8))
    assert found.alphas == {"a": 0, "b": 0.5, "c": 0.5}
    assert "dense map" in found.decisions[1].reason


def test_what_is_no_network_is_refused() -> None:
    for refuse in (plan, octavize, freeze):
        with pytest.raises(InputError, match=r"'resnet50'.*build the network"):
            refuse("resnet50")
    with pytest.raises(InputError, match=r"OrderedDict.*build the network"):
        octavize(tv.resnet18().state_dict(), plan(tv.resnet18()))


def test_a_refused_change_in_place_merges_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.b(self.a(x).add_(x)).mean((2, 3))

    found = plan(Net(), 0.5, example=(1, 3, 8, 8))
    assert found.alphas == {"a": 0, "b": 0.5}
    assert octavize(Net(), found, strict=True)(torch.randn(1, 3, 8, 8)).shape == (1, 8)


def test_save_edit_load_apply(tmp_path: Path) -> None:
    net = tv.resnet18(num_classes=10)
    made = plan(net, 0.25, downsample="stride", example=EXAMPLE)
    made.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml") == made
    text = (tmp_path / "plan.yaml").read_text()
    before = "name: layer3.0.conv2\n  kind: Conv2d\n  alpha: 0.25"
    assert before in text
    (tmp_path / "plan.yaml").write_text(text.replace(before, before[:-4] + "null"))
    octave = octavize(net, Plan.load(tmp_path / "plan.yaml"))
    assert type(octave.layer3[0].conv2) is nn.Conv2d
    assert octave.layer3[0].conv1.alpha == 0.25
    assert octave.layer3[0].conv1.downsample == "stride"


def test_exchange_is_saved_edited_and_applied(tmp_path: Path) -> None:
    made = plan(chain(), 0.5, exchange={"1": "none"}, example=EXAMPLE)
    assert [line.endswith("exchange=none") for line in str(made).splitlines()[2:6]] == [
        False,
        True,
        False,
        False,
    ]
    path = tmp_path / "plan.yaml"
    made.save(path)
    assert Plan.load(path) == made
    path.write_text(path.read_text("utf-8").replace("exchange: none", "exchange: low_to_high"), "utf-8")
    assert octavize(chain(), Plan.load(path))[1].exchange == "low_to_high"
    path.write_text(path.read_text("utf-8").replace("exchange: low_to_high", "exchange: up"), "utf-8")
    with pytest.raises(InputError, match=r"plan.yaml': layer '1' has exchange='up': give one of both"):
        Plan.load(path)


def test_one_way_for_all_is_said_once() -> None:
    lines = str(plan(chain(), 0.5, downsample="stride", example=EXAMPLE)).splitlines()
    assert ["downsample=stride" in line for line in lines] == [False] * (len(lines) - 1) + [True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers: 3", "lacks 'decisions'"),
        ("decisions: []", "lacks 'input_shape'"),
        ("- 1", "is not a plan"),
        ("{", "not valid YAML .*: mend it"),
        ("decisions: []\ndecisions: []", "'decisions' is there twice, again in line 2: keep one"),
        (
            "decisions: [{name: a, kind: Conv2d, reason: r, alpha: high}]\ninput_shape: [1]\nmacs_before: 1\n"
            "macs_after: 1",
            r"layer 'a': alpha='high'.*0 to 1",
        ),
        (
            "decisions: [{name: a, kind: Conv2d, reason: r, alpha: 2}]\ninput_shape: [1]\nmacs_before: 1\n"
            "macs_after: 1",
            "alpha=2",
        ),
    ],
)
def test_bad_plan_files(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        Plan.load(tmp_path / "p.yaml")
    assert "\n" not in str(error.value)


def test_plans_for_other_networks_and_other_things() -> None:
    made = plan(tv.resnet18(num_classes=10), example=EXAMPLE)
    with pytest.raises(InputError, match="another network: Segmenter has no layer 'conv1'"):
        octavize(Segmenter(), made)
    with pytest.raises(InputError, match=r"another network: it lacks layer 'layer1.2.conv1' of this ResNet"):
        octavize(tv.resnet34(num_classes=10), made)  # which has all layers of a ResNet-18, and more
    other = tv.resnet18(num_classes=10)
    other.layer1[0].conv1 = nn.Conv1d(64, 64, 3)
    with pytest.raises(InputError, match="is a Conv1d in this ResNet and a Conv2d in the plan"):
        octavize(other, made)
    with pytest.raises(InputError, match=r"or an octavize\.Plan"):
        octavize(other, "plan.yaml")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'nowhere' is not in this plan"):
        made.with_alphas({"nowhere": 0.5})
    with pytest.raises(InputError, match="alpha=2"):
        made.with_alphas({"conv1": 2})
    with pytest.raises(InputError, match="downsample='max'"):
        plan(tv.resnet18(), downsample="max", example=EXAMPLE)


def test_a_conversion_that_changes_nothing_says_so() -> None:
    with pytest.warns(UserWarning, match="changed no layer of Sequential: stem"):
        octavize(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), 0.5, example=(1, 3, 8, 8))


class Twice(nn.Module):
    """A depthwise layer that reads a dense map first, and an octave one then."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.each = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.each(self.wide(self.each(self.stem(x)))))


def test_a_depthwise_layer_is_octave_if_it_is_so_once() -> None:
    net, example = Twice(), (1, 3, 8, 8)
    (found,) = [d for d in plan(net, 0.5, example=example).decisions if d.name == "each"]
    assert (found.alpha, found.reason) == (0.5, "depthwise: keeps the split of its input")
    assert found.macs_after < found.macs_before
    net.wide = nn.Identity()
    (found,) = [d for d in plan(net, 0.5, example=example).decisions if d.name == "each"]
    assert (found.alpha, found.reason) == (0, "depthwise: reads a dense map, which has no split to keep")


def test_a_layer_that_writes_one_pixel_merges() -> None:
    found = {d.name: d for d in plan(tv.resnet18(), 0.5, example=(1, 3, 32, 32)).decisions}
    assert found["layer4.0.conv1"].alpha == 0
    assert "writes a single pixel" in found["layer4.0.conv1"].reason
    assert found["layer3.1.conv2"].alpha == 0.5
    clips = plan(tv.video.r3d_18(), 0.5, example=(1, 3, 16, 16, 16)).decisions
    assert not any(d.alpha for d in clips if d.name.startswith("layer4"))


# ---- handlers ---------------------------------------------------------------------------------------------


class Standardized(nn.Conv2d):
    def standardize(self, w: Tensor) -> Tensor:
        mean, std = w.mean((1, 2, 3), keepdim=True), w.std((1, 2, 3), keepdim=True)
        return (w - mean) / std

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.standardize(self.weight), self.bias, padding=self.padding)


class OctStandardized(OctConv2d, Standardized):
    def kernel(self) -> Tensor:
        return self.standardize(self.weight)


def test_a_handler_makes_a_subclass_octave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap_module, "_HANDLERS", dict(swap_module._HANDLERS))
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        Standardized(8, 8, 3, padding=1),
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
    )
    example = (1, 3, 8, 8)
    assert "without an @oct_handler" in plan(net, example=example).decisions[1].reason

    @oct_handler(Standardized)
    def handle(layer: Any, alpha: float, **settings: Any) -> nn.Module:
        layer.__class__ = OctStandardized
        layer.become_octave(alpha, **settings)
        return layer

    assert plan(net, example=example).decisions[1].reason == "octave"
    assert octavize(net, 0.5, exchange="none", example=example)[1].exchange == "none"
    octave = octavize(net, 0.5, example=example)
    assert type(net[1]) is Standardized
    assert type(octave[1]) is OctStandardized
    plain = OctConv2d(8, 8, 3, padding=1, alpha=0.5)
    plain.load_state_dict({"weight": net[1].standardize(net[1].weight), "bias": net[1].bias})
    x = torch.randn(1, 8, 8, 8)
    assert torch.equal(octave[1](x).low, plain(x).low)


def test_a_handler_may_return_another_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap_module, "_HANDLERS", dict(swap_module._HANDLERS))

    @oct_handler(Standardized)
    def handle(layer: Any, alpha: float, **settings: Any) -> nn.Module:
        new = OctConv2d(8, 8, 3, padding=1, alpha=alpha, **settings)
        new.load_state_dict(layer.state_dict())
        return new

    shared = Standardized(8, 8, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), shared, shared, nn.AdaptiveAvgPool2d(1))
    octave = octavize(net, 0.5, example=(1, 3, 8, 8))
    assert type(octave[1]) is OctConv2d
    assert octave[1] is octave[2]


# ---- downsample -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 7])
def test_keeping_the_stride_on_the_high_path(size: int) -> None:
    torch.manual_seed(0)
    layer = OctConv2d(4, 6, 3, stride=2, padding=1, alpha=0.5, downsample="stride", bias=False)
    pooling = OctConv2d(4, 6, 3, stride=2, padding=1, alpha=0.5, bias=False)
    pooling.load_state_dict(layer.state_dict())
    half = (size + 1) // 2
    x = OctTensor(torch.randn(2, 2, size, size), torch.zeros(2, 2, half, half))
    y, pooled = layer(x), pooling(x)
    strided = nn.functional.conv2d(x.high, layer.weight[:3, :2], stride=2, padding=1)
    assert torch.allclose(y.high, strided, atol=1e-6)
    assert torch.equal(y.low, pooled.low)
    assert "downsample='stride'" in repr(layer)

    each = OctConv2d(4, 4, 3, stride=2, padding=1, groups=4, downsample="stride", bias=False)
    y = each(x)
    expected = nn.functional.conv2d(x.high, each.weight[:2], stride=2, padding=1, groups=2)
    assert torch.allclose(y.high, expected)
    with pytest.raises(InputError, match="downsample='max'"):
        OctConv2d(4, 4, 1, downsample="max")


def chain() -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8)), nn.Conv2d(8, 4, 1))


def test_numbers_of_numpy_can_be_saved(tmp_path: Path) -> None:
    half = np.float64(0.5)
    decided = plan(chain(), {"*": half}, example=EXAMPLE).with_alphas({"2": np.float64(0.25)})
    decided.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml").alphas == decided.alphas == {"1": 0.5, "2": 0.25, "3": 0.0}
    assert {type(alpha) for alpha in decided.alphas.values()} == {float}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("kind: Conv2d", "kind: null"), "both are text"),
        (("name: '1'", "name: 1"), "both are text"),
        (("name: '2'", "name: '1'"), "2 times"),
        (("macs_before: ", "macs_before: x"), "macs_before"),
        (("  alpha: ", "  alfa: "), r"layer '0' has an unknown 'alfa': choose from name, kind, alpha, "),
        (("macs_after: ", "macs: "), "layer '0' has an unknown 'macs': choose from name"),
        (
            ("decisions:", "speed: 1\ndecisions:"),
            "it has an unknown 'speed': choose from decisions, input_sh",
        ),
        (("decisions:", "decisions:\n- 3"), "decisions: 3 is no layer: give a mapping"),
        (("input_shape:\n- 1", "input_shape:\n- a"), "input_shape"),
    ],
)
def test_what_a_hand_may_have_spoilt_is_named(edit: tuple[str, str], words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    plan(chain(), 0.5, example=EXAMPLE).save(path)
    path.write_text(path.read_text("utf-8").replace(*edit), "utf-8")
    with pytest.raises(InputError, match=words):
        Plan.load(path)


def test_no_order_may_be_said(tmp_path: Path) -> None:
    path, made = tmp_path / "plan.yaml", plan(chain(), 0.5, example=EXAMPLE)
    made.save(path)
    path.write_text(path.read_text("utf-8") + "permutation: null\nreordering: null\n", "utf-8")
    assert Plan.load(path) == made


def test_where_a_plan_cannot_be_saved(tmp_path: Path) -> None:
    made = plan(chain(), 0.5, example=EXAMPLE)
    with pytest.raises(InputError, match=r"there is no folder .*nope: make it"):
        made.save(tmp_path / "nope" / "x.yaml")
    with pytest.raises(InputError, match=r"is a folder: give a file"):
        made.save(tmp_path)


@pytest.mark.parametrize("beside", [{}, {"budget": 0.5}])
def test_a_plan_is_no_alpha(beside: dict[str, float]) -> None:
    made = plan(chain(), 0.5, example=EXAMPLE)
    with pytest.raises(InputError, match=r"^alpha is an octavize.Plan: give it to octavize\(model, plan\)"):
        plan(chain(), made, example=EXAMPLE, **beside)  # type: ignore[arg-type]
    for given in ({"alpha": {"*": made}}, {"budget": made}, {"exchange": made}, {"example": made}):
        with pytest.raises(InputError) as error:
            plan(chain(), **{"example": EXAMPLE, **given})  # type: ignore[arg-type]
        assert len(str(error.value)) < 250


def test_a_folder_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder: give the plan\.yaml"):
        Plan.load(tmp_path)


def test_an_impossible_alpha_is_named_before_anything_changes() -> None:
    net = chain()
    decided = plan(net, 0.5, example=EXAMPLE)
    net[2] = nn.Conv2d(8, 8, 3)
    with pytest.raises(InputError, match=r"layer '2' has alpha=0\.5"):
        octavize(net, decided, inplace=True)
    assert type(net[1]) is nn.Conv2d


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_parametrized_layers_stay_parametrized(name: str) -> None:
    net = chain()
    getattr(parametrizations, name)(net[1])
    net.eval()
    octave = octavize(net, 0.5, example=EXAMPLE)
    assert isinstance(octave[1], OctConv2d)
    assert octave[1].alpha == 0.5
    assert octave.state_dict().keys() == net.state_dict().keys()
    plain = octavize(copy.deepcopy(octave), plan(octave, 0, example=EXAMPLE))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(plain(x), net(x))
    octave(x).sum().backward()
    assert all(p.grad is not None for p in octave.parameters())
    parametrize.remove_parametrizations(octave[1], "weight")
    assert type(octave[1]) is OctConv2d


def test_what_a_handler_returns_needs_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is made in several turns where layers have to merge."""
    monkeypatch.setattr(swap_module, "_HANDLERS", dict(swap_module._HANDLERS))

    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    @oct_handler(Own)
    def wrap(layer: Own, alpha: float, **settings: Any) -> nn.Module:
        return nn.Sequential(OctConv2d(8, 8, 3, padding=1, alpha=alpha, **settings))

    net = chain()
    net[1] = Own(8, 8, 3, padding=1)
    decided = plan(net, 0.5, example=EXAMPLE)  # the last layer merges in a second turn
    assert decided.alphas == {"1": 0.5, "2": 0.5, "3": 0}

    oct_handler(Own)(lambda layer, **settings: None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="oct_handler of Own returned None for layer '1'"):
        plan(net, 0.5, example=EXAMPLE)


@dataclass
class Returned:
    map: Tensor


def test_a_dataclass_that_the_network_returns_holds_dense_maps() -> None:
    class Net(nn.Sequential):
        def forward(self, input: Tensor) -> Returned:
            return Returned(super().forward(input))

    net = Net(*chain(), nn.Conv2d(4, 8, 1))
    assert type(octavize(net, 0.5, example=EXAMPLE)(torch.randn(1, 3, 8, 8)).map) is Tensor


def test_a_module_that_gets_a_parameter() -> None:
    """As class tokens in timm's CaiT: torch's counter of arithmetic fails at such a one without autograd."""

    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 16, 1, 1))
            self.stem, self.a, self.b = (nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16))
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.stem(x)) * self.act(self.token)).mean((2, 3))

    assert plan(Token(), 0.5, min_low=0, example=(1, 3, 16, 16)).alphas["a"] == 0.5
