"""Pruned networks: refitted like octave ones, and matched in the study of compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torch_pruning", reason="pip install torch-pruning")
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
SHAPE = (1, 3, 32, 32)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__


class Net(nn.Module):
    """A residual network with a depthwise layer, whose running statistics are those of random images."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 32, 3, padding=1, bias=False)]
        layers += [nn.Conv2d(32, 32, 3, padding=1, bias=False, groups=groups) for groups in (1, 32)]
        self.convs = nn.ModuleList(layers)
        self.norms = nn.ModuleList([nn.BatchNorm2d(32) for _ in layers])
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = torch.relu(norm(conv(x)))
            x = y if number == 0 else x + y
        return self.head(x.mean((2, 3)))


def trained() -> Net:
    torch.manual_seed(0)
    net = Net()
    for norm in net.norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    net(images(64))
    return net.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(seed))


def test_the_channels_that_stay_are_known(module: Any) -> None:
    net = trained()
    small, kept = module("pruned").pruned_with_places(net, SHAPE, 0.5)
    for number in range(3):
        places = kept[f"convs.{number}"]
        assert 0 < len(places) < 32
        own, old = small.norms[number], net.norms[number]
        torch.testing.assert_close(own.weight, old.weight[places])
        torch.testing.assert_close(own.running_mean, old.running_mean[places])
    assert torch.equal(
        net.norms[0].running_mean, trained().norms[0].running_mean
    )  # the network is left alone


def test_refitting_brings_a_pruned_network_closer_also_on_other_images(module: Any) -> None:
    net = trained()
    small, kept = module("pruned").pruned_with_places(net, SHAPE, 0.3)

    def distance(x: Tensor) -> float:
        with torch.no_grad():
            return float((small(x) - net(x)).square().mean())

    before = distance(images(32, seed=2))
    module("pruned").Pair(small, net, kept).refit(images(48, seed=1).split(16))
    assert distance(images(32, seed=2)) < 0.9 * before


def test_smaller_images_are_what_the_recipe_would_make(module: Any) -> None:
    from octavize.data.augment import to_input

    net = trained()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (0.5,) * 3, (0.2,) * 3
    smaller = module("compress_arms").Smaller(net, 24)
    with torch.no_grad():
        found = smaller(to_input(pixels, mean, std))
        expected = net(to_input(pixels, mean, std, 24))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_tables_tell_each_arm(module: Any, tmp_path: Path) -> None:
    tables = module("compress_tables")
    exported = {"float32": 0.8, "bf16": 0.79, "int8": 0.7}
    runs = [
        {
            "task": "flowers", "arm": arm.name, "seed": seed, "side": 160, "macs": 10**8, "before": {},
            "teacher": 0.8, "exported": {k: v + 0.01 * seed for k, v in exported.items()},
            "settings": {"epochs": 6}, "environment": {"torch": "2", "processor": "a"},
        }
        for arm in tables.ARMS
        for seed in range(2)
    ]  # fmt: skip
    matched = {"size": 96, "size_time": 1.0, "ratio": 0.3, "ratio_time": 0.98, "vanilla_time": 1.5}
    times = {arm.name: {p: {"1": 2.0, "8": 1.5} for p in exported} for arm in tables.ARMS}
    timed = {"rounds": 5, "environment": {"openvino": "1"}, "arms": times}
    results = {"matched": matched, "times": timed, "runs": runs}
    text = tables.table(results)
    assert all(arm.name in text for arm in tables.ARMS)
    assert "80.5 ± 0.7 (2)" in text
    assert "2.00 / 1.50" in text
    assert "96 pixels" in tables.conditions(results)
    tables.draw(results, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size > 1000
