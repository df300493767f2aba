"""Networks saved and loaded by the hub's own mixin, in local folders: no test needs a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from octavize import InputError, OctaveNetwork, create_model, octavize, plan
from octavize.zoo import hub
from octavize.zoo.find import Origin
from octavize.zoo.storage import save_converted
from octavize.zoo.weights import save_weights

FACTS = {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 32, "classes": ["cat", "dog"]}


@pytest.fixture
def converted(tmp_path: Path) -> tuple[nn.Module, Path]:
    origin = Origin("timm", "resnet10t", {"num_classes": 2})
    vanilla = origin.build()
    decided = plan(vanilla, 0.5, example=(1, 3, 64, 64), exchange="block")
    net = octavize(vanilla, decided).eval()
    save_converted(tmp_path / "converted", net, decided, origin, FACTS)
    return net, tmp_path / "converted"


def same(a: nn.Module, b: nn.Module, size: int = 64) -> None:
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(a.eval()(x), b.eval()(x))


def test_a_converted_network(converted: tuple[nn.Module, Path], tmp_path: Path) -> None:
    net, folder = converted
    OctaveNetwork.load(folder).save_pretrained(tmp_path / "saved")
    for name in ("plan.yaml", "weights.safetensors", "network.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes(), name
    card = (tmp_path / "saved/README.md").read_text("utf-8")
    assert "library_name: octavize" in card
    assert "OctaveNetwork.from_pretrained" in card
    again = OctaveNetwork.from_pretrained(str(tmp_path / "saved"))
    same(net, again)
    assert {key: again.about[key] for key in FACTS} == FACTS
    assert not again.training


def test_a_trained_run(tmp_path: Path) -> None:
    net = create_model("oct_cifar_resnet20", 0.5, num_classes=2)
    facts = {"model": "oct_cifar_resnet20", "alpha": 0.5, "in_chans": 3, "arguments": {}, **FACTS}
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run/best.safetensors", net, facts)
    OctaveNetwork.load(tmp_path / "run").save_pretrained(tmp_path / "saved")
    again = OctaveNetwork.from_pretrained(tmp_path / "saved")
    same(net, again, 32)
    assert again.about["classes"] == ["cat", "dog"]


def test_push_and_download_move_these_files(
    converted: tuple[nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub would be sent, and what is asked of it."""
    net, folder = converted
    asked: dict[str, Any] = {}

    def download(repo: str, **given: Any) -> str:
        asked.update(given, repo=repo)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    saved = tmp_path / "saved"
    OctaveNetwork.load(folder).save_pretrained(saved)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **_: str(saved / "config.json"))
    same(net, OctaveNetwork.from_pretrained("me/oct-resnet10", revision="v1", local_files_only=True))
    assert (asked["repo"], asked["revision"], asked["local_files_only"]) == ("me/oct-resnet10", "v1", True)
    assert set(asked["allow_patterns"]) == set(hub.FILES)


def test_mistakes(converted: tuple[nn.Module, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no network.json and no best.safetensors"):
        OctaveNetwork.load(tmp_path)
    _, folder = converted
    about = json.loads((folder / "network.json").read_text("utf-8"))
    about["origin"]["arguments"] = {"checkpoint_path": "evil.pth"}
    (folder / "network.json").write_text(json.dumps(about), "utf-8")
    with pytest.raises(InputError, match="may not decide"):
        OctaveNetwork.from_pretrained(str(folder))
