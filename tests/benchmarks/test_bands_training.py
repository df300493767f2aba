"""A network of three bands, and its training beside two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.training import make_folder

import octavize

pytest.importorskip("lightning", reason="pip install lightning")
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__


def resnet(alpha: float, **told: Any) -> Any:
    return octavize.create_model("oct_cifar_resnet20", alpha, num_classes=4, **told)


def test_a_whole_network_without_a_third_band_is_the_octave_network(module: Any) -> None:
    net, x = resnet(0.5), torch.randn(2, 3, 32, 32)
    expected = net(x)
    with module("bands_rules").changed():
        found = module("bands_network").three_bands_of(net, (0.5, 0.0))(x)
    torch.testing.assert_close(found, expected)


def test_a_whole_network_of_three_bands_trains(module: Any) -> None:
    net, x = resnet(0.5), torch.randn(2, 3, 32, 32)
    names = list(net.state_dict())
    three = module("bands_network").three_bands_of(net, (0.25, 0.25))
    assert list(three.state_dict()) == names
    with module("bands_rules").changed():
        three(x).square().mean().backward()
    assert all(p.grad is not None for p in three.parameters())


def test_three_bands_begin_with_the_weights_of_two(module: Any) -> None:
    torch.manual_seed(0)
    two, after = resnet(0.5), torch.rand(1)
    torch.manual_seed(0)
    three = module("bands_network").three_bands_of(resnet(0.5), (0.25, 0.25))
    assert torch.equal(torch.rand(1), after)
    for own, other in zip(three.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.slow
def test_arithmetic_is_matched(module: Any) -> None:
    from octavize.bench.profile import count_macs

    network, shape = module("bands_network"), (1, 3, 32, 32)
    shares = network.matching(resnet, 0.5, shape)
    wanted = count_macs(resnet(0.5), shape)
    assert network.macs_of_three(resnet(0.5), shares, shape) == pytest.approx(wanted, rel=0.03)
    assert sum(shares) < 0.5


@pytest.mark.slow
def test_every_arm_is_trained(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = module("bands_training")
    data = make_folder(tmp_path / "images")
    monkeypatch.setattr(training, "MODEL", "oct_cifar_resnet20")
    monkeypatch.setattr(training, "SETTINGS", {**training.SETTINGS, "size": 16, "epochs": 1, "batch_size": 8})
    monkeypatch.setattr(training, "TRAINED", tmp_path / "trained.json")
    monkeypatch.setattr(training, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(training, "page", lambda text: "page")
    command = [str(data), "--out", str(tmp_path / "runs"), "--seed", "0", "--precision", "bf16-mixed"]
    training.main(command)
    results = json.loads((tmp_path / "trained.json").read_text("utf-8"))
    arms = ["vanilla", "two bands", "three bands", "two bands of its time"]
    assert [run["arm"] for run in results["runs"]] == arms
    vanilla, two, three, dearer = (run["macs"] for run in results["runs"])
    assert three == pytest.approx(two, rel=0.03)
    assert two < dearer < vanilla
    table = module("bands").training_table(results)
    assert table.count("| 1 |") == 4
    monkeypatch.setattr(training, "train_run", None)  # what was trained is not trained again
    training.main(command)
    with pytest.raises(SystemExit, match="other settings"):
        training.main([*command, "--epochs", "2"])
