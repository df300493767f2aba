"""Networks with large kernels are trained, vanilla beside octave, on generated images."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.training import make_folder

pytest.importorskip("lightning", reason="pip install lightning")
pytest.importorskip("timm", reason="pip install timm")
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    training = __import__("large_kernels_training")
    small = partial(training.replk, (13, 7), 16)
    monkeypatch.setitem(training.NETWORKS, "replk", lambda classes: small(num_classes=classes))
    monkeypatch.setattr(training, "SETTINGS", {**training.SETTINGS, "size": 32, "epochs": 1, "batch_size": 8})
    monkeypatch.setattr(training, "TRAINED", tmp_path / "trained.json")
    monkeypatch.setattr(training, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(training, "page", lambda text: "page")
    return training


def test_every_arm_is_trained_once(training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_folder(tmp_path / "images")
    command = [str(data), "--out", str(tmp_path / "runs"), "--network", "replk", "--epochs", "1"]
    training.main(command)
    results = json.loads((tmp_path / "trained.json").read_text("utf-8"))
    assert [run["arm"] for run in results["runs"]] == [arm.name for arm in training.ARMS]
    vanilla, every, sparse = (run["macs"] for run in results["runs"])
    assert sparse <= every < vanilla
    assert results["epochs"] == 1
    table = __import__("large_kernels").training_table(results)
    assert table.count("% | 1 |") == len(training.ARMS)
    monkeypatch.setattr(training, "train_run", None)  # what was trained is not trained again
    training.main(command)
    with pytest.raises(SystemExit, match="runs with other settings"):
        training.main([*command, "--epochs", "2"])


def test_its_large_kernels_are_octave(training: Any) -> None:
    from octavize import OctConv2d

    for network in training.NETWORKS:
        net = training.octavize.octavize(
            training.NETWORKS[network](4), 0.5, example=(1, 3, 64, 64), min_low=1
        )
        deep = [m for m in net.modules() if getattr(m, "groups", 1) > 1 and m.kernel_size[0] > 5]
        assert deep
        assert all(isinstance(layer, OctConv2d) and layer.alpha for layer in deep)
