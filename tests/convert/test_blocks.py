"""Residual blocks, found by what modules add up; and exchange that depends on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octavize import create_model, octavize, plan
from octavize.convert.blocks import residual_blocks
from octavize.nn.conv import OctConv


class Plain(nn.Module):
    """A block by its structure alone; its names say nothing."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.x1 = nn.Conv2d(width, out, 3, stride, 1)
        self.x2 = nn.Conv2d(out, out, 3, padding=1)
        self.x0 = nn.Conv2d(width, out, 1, stride) if (width, stride) != (out, 1) else nn.Identity()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(out, out, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.x2(self.x1(x).relu())
        return torch.add(y * self.gate(y), self.x0(x)).relu_()


class Net(nn.Module):
    """Two stages of blocks, with a sum of its own that is no block's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.more = nn.Conv2d(16, 16, 3, padding=1)
        self.body = nn.Sequential(Plain(16, 16), Plain(16, 16), Plain(16, 32, 2), Plain(32, 32))
        self.head = nn.Conv2d(32, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.more(x)
        return self.head(self.body(x)).mean((2, 3))


def exchanges(net: nn.Module) -> dict[str, str]:
    return {name: m.exchange for name, m in net.named_modules() if isinstance(m, OctConv)}


def test_blocks_are_found_by_their_sums() -> None:
    first, second, third, _ = residual_blocks(Net(), (1, 3, 16, 16))
    assert first.layers == {"body.0.x1", "body.0.x2"}  # gates have one pixel and no frequency
    assert (first.last, first.size) == ({"body.0.x2"}, (16, 16))
    assert second.last == {"body.1.x2"}
    assert third.layers == {"body.2.x0", "body.2.x1", "body.2.x2"}  # its shortcut comes last, and is shorter
    assert (third.last, third.size) == ({"body.2.x2"}, (8, 8))


@pytest.mark.parametrize(
    ("exchange", "meeting"),
    [("block", {f"body.{i}.x2" for i in range(4)}), ("stage", {"body.1.x2", "body.3.x2"})],
)
def test_layers_meet_in_blocks_or_stages(exchange: str, meeting: set[str]) -> None:
    found = exchanges(octavize(Net(), 0.5, exchange=f"{exchange}:high_to_low", example=(1, 3, 16, 16)))
    blocks = {name for name in found if name.startswith("body") and ".gate" not in name}
    assert {name for name in blocks if found[name] == "high_to_low"} == meeting
    assert all(found[name] == "none" for name in blocks - meeting)
    assert found["more"] == found["head"] == "both"


def test_one_pattern_may_meet_by_block_and_another_in_every_layer() -> None:
    by_name = {"*": "block", "body.2.*": "every"}
    found = exchanges(octavize(Net(), 0.5, exchange=by_name, example=(1, 3, 16, 16)))
    assert found["body.0.x1"] == "none"
    assert {found[f"body.2.{x}"] for x in ("x0", "x1", "x2")} == {"both"}


def test_a_plan_keeps_it(tmp_path: Any) -> None:
    made = plan(Net(), 0.5, exchange="block", example=(1, 3, 16, 16))
    assert made.macs_ratio < plan(Net(), 0.5, example=(1, 3, 16, 16)).macs_ratio
    made.save(tmp_path / "plan.yaml")
    assert exchanges(octavize(Net(), type(made).load(tmp_path / "plan.yaml"))) == exchanges(
        octavize(Net(), made)
    )


def test_the_blocks_of_an_octave_network_are_those_of_the_vanilla_one() -> None:
    net = octavize(Net(), 0.5, example=(1, 3, 16, 16))
    again = octavize(net, 0.5, exchange="block", example=(1, 3, 16, 16))
    assert exchanges(again) == exchanges(octavize(Net(), 0.5, exchange="block", example=(1, 3, 16, 16)))


def test_without_blocks_it_is_said_and_all_layers_exchange() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1))
    with pytest.warns(UserWarning, match="Sequential has no residual block"):
        found = exchanges(octavize(net, 0.5, exchange="block", example=(1, 3, 8, 8)))
    assert set(found.values()) == {"both"}


@pytest.mark.parametrize(
    ("name", "blocks", "last"),
    [
        ("resnet18", 8, "layer2.0.conv2"),
        ("seresnet50", 16, "layer2.0.conv3"),
        ("mobilenetv2_100", 16, "blocks.2.0.conv_pwl"),  # its strided blocks have no sum
        ("res2net50_26w_4s", 16, "layer2.0.conv3"),  # it adds within blocks too
        ("regnety_008", 14, "s2.b1.conv3.conv"),
        ("densenet121", 0, None),
        ("vgg11", 0, None),
    ],
)
def test_families(name: str, blocks: int, last: str | None) -> None:
    import timm

    found = residual_blocks(timm.create_model(name), (1, 3, 224, 224))
    assert len(found) == blocks
    assert last is None or any(last in block.last for block in found)


def test_repvgg_has_several_last_layers() -> None:
    import timm

    found = residual_blocks(timm.create_model("repvgg_a0"), (1, 3, 64, 64))
    assert {"stages.0.1.conv_1x1.conv", "stages.0.1.conv_kxk.conv"} in [block.last for block in found]


def test_named_networks_meet_once_a_block() -> None:
    found = exchanges(create_model("oct_resnet26", 0.5, exchange="block:high_to_low"))
    assert {name for name, paths in found.items() if paths == "high_to_low"} == {
        f"layer{stage}.{block}.conv3" for stage in (1, 2, 3, 4) for block in (0, 1)
    }
    # MobileNetV1 has no sums; its policy names the layers.
    found = exchanges(create_model("oct_mobilenet_v1", 0.5, exchange="block"))
    meeting = {name for name, paths in found.items() if paths == "both"}
    assert meeting == {f"blocks.{b}.conv_pw" for b in ("1.1", "2.1", "3.1", "3.3")}


def test_blocks_that_are_called_by_keyword() -> None:
    class ByName(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.body:
                x = block(x=x)
            return self.head(x).mean((2, 3))

    assert residual_blocks(ByName(), (1, 3, 16, 16)) == residual_blocks(Net(), (1, 3, 16, 16))
