"""A file must not decide which code runs: what files may say about how their networks are built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import octavize
from octavize import InputError
from octavize.files import NETWORK
from octavize.zoo.checkpoint import load_checkpoint
from octavize.zoo.find import Origin
from octavize.zoo.storage import load_converted, save_converted
from octavize.zoo.weights import save_weights

ORIGIN = {"kind": "timm", "name": "resnet10t", "arguments": {"num_classes": 3}}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    origin = Origin(**ORIGIN)
    vanilla = origin.build()
    plan = octavize.plan(vanilla, 0.5, example=(1, 3, 64, 64))
    save_converted(folder, octavize.octavize(vanilla, plan), plan, origin, {})
    return folder


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "hf-hub:somebody/resnet"}, "wants timm to build 'hf-hub:somebody/resnet', which is none"),
        ({"name": "local-dir:/tmp/net"}, "which is none of its own names"),
        ({"name": "resnet10t.hf-hub:net"}, "which is none of its own names"),
        ({"kind": "torchvision"}, "wants torchvision to build 'resnet10t', which is none of its own names"),
        ({"kind": "huggingface"}, "wants a network of 'huggingface': a file may name one of octavize, "),
        ({"arguments": {"checkpoint_path": "/tmp/a.pth"}}, "checkpoint_path='/tmp/a.pth', which a file may"),
        ({"arguments": {"pretrained_cfg": {"url": "x"}}}, "which a file may not decide"),
        ({"arguments": {"num_classes": {"a": 1}}}, "which a file may not decide"),
        ({"arguments": [1]}, "the arguments of its network are"),
        ({"name": 3}, "which is none of its own names"),
        ({"kind": "function", "name": "os:abort"}, "made by os:abort, which is not run unasked"),
    ],
)
def test_network_json(changed: dict[str, Any], words: str, converted: Path, tmp_path: Path) -> None:
    for file in converted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    about = json.loads((tmp_path / NETWORK).read_text())
    (tmp_path / NETWORK).write_text(json.dumps(about | {"origin": {**ORIGIN, **changed}}))
    with pytest.raises(InputError, match=words) as caught:
        load_converted(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_we_write_is_read(converted: Path) -> None:
    assert load_converted(converted)(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_weights_of_runs(tmp_path: Path) -> None:
    """`pretrained` is left out: the weights are in the file."""
    model = octavize.create_model("oct_resnet26_small", 0.5, num_classes=2, width=0.25)
    facts = {"model": "oct_resnet26_small", "alpha": 0.5, "classes": ["a", "b"], "in_chans": 3}
    path = tmp_path / "best.safetensors"
    save_weights(path, model, {**facts, "arguments": {"width": 0.25, "pretrained": True}})
    assert load_checkpoint(path)[1]["arguments"] == {"width": 0.25}
    save_weights(path, model, {**facts, "arguments": {"width": 0.25, "checkpoint_path": "a.pth"}})
    with pytest.raises(InputError, match=r"checkpoint_path=.a\.pth., which a file may not decide"):
        load_checkpoint(path)


def test_files_that_run_code_are_only_read_if_trusted(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    octavize.export(torch.nn.Conv2d(3, 2, 1), path, (1, 3, 8, 8))
    with pytest.raises(InputError, match=r"may run code as it is read \(pickle\): .* trust=True"):
        octavize.load_runtime(path)
    assert octavize.load_runtime(path, trust=True)(torch.ones(1, 3, 8, 8)).shape == (1, 2, 8, 8)
