"""Networks that others published: files in each layout, written here, give the outputs of the original."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.cli import run
from tests.helpers.published import TheirMobileNet, TheirResNet, randomized, write_mxnet
from torch import nn

from octavize import InputError, load_published
from octavize.published.mxnet import read_mxnet
from octavize.zoo.checkpoint import load_checkpoint

Write = Callable[[nn.Module, Path], Path]


def arrays(net: nn.Module) -> dict[str, np.ndarray]:
    state = net.state_dict()
    return {key: v.numpy() for key, v in state.items() if not key.endswith("num_batches_tracked")}


def as_pytorch(net: nn.Module, folder: Path) -> Path:
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, folder / "net.pth.tar")
    return folder / "net.pth.tar"


def as_article(net: nn.Module, folder: Path) -> Path:
    names = {"running_mean": "_mean", "running_var": "_variance"}
    state: dict[str, Any] = {"StructuredToParameterName@@": {}}
    for key, array in arrays(net).items():
        name, _, leaf = key.rpartition(".")
        state[f"{name}.{names.get(leaf, leaf)}"] = array.T if key == "fc.weight" else array
    (folder / "net.pdparams").write_bytes(pickle.dumps(state, protocol=4))
    return folder / "net.pdparams"


def gluon_name(key: str) -> str:
    """As the paper's own code names it."""
    if key.startswith("features."):
        _, number, rest = key.split(".", 2)
        block = int(number) - 1
        places = [(1, 1), (2, 0), (2, 1), (3, 0), (3, 1), *((4, n) for n in range(6)), (5, 0), (5, 1)]
        if block < 0:
            return f"conv1.{rest}"
        stage, place = places[block]
        key = re.sub(r"^(\d)", lambda m: f"L{stage}_B{place}.conv{int(m[1]) + 1}", rest)
    key = re.sub(r"^layer(\d)\.(\d+)\.", r"L\1_B\2.", key).replace("downsample.0", "conv4")
    key = re.sub(r"\.conv(\d)\.bn_", r".bn\1.bn_", key).replace(".conv.conv_", ".conv_")
    return re.sub(r"^bn1", "conv1.1", re.sub(r"^conv1\.weight", "conv1.0.weight", key)).replace(
        "fc.", "classifer."
    )


def as_gluon(net: nn.Module, folder: Path) -> Path:
    made = {}
    for key, array in arrays(net).items():
        name = gluon_name(key)
        if re.search(r"bn_[hl]\.|^conv1\.1\.", name):
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        made[name] = array.reshape(*array.shape, 1, 1) if name == "classifer.weight" else array
    write_mxnet(folder / "net.params", made)
    return folder / "net.params"


def agrees(net: nn.Module, path: Path, size: int = 64) -> nn.Module:
    """In float64: what differs is the mean that takes in the biases, and is rounded to float32."""
    ours = load_published(path)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = net.double()(x), ours.double()(x)
    net.float(), ours.float()
    assert wanted.std() > 1e-2
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))
    return ours


@pytest.mark.parametrize(("write", "bias"), [(as_pytorch, False), (as_article, True), (as_gluon, False)])
def test_mobilenets(write: Write, bias: bool, tmp_path: Path) -> None:
    net = randomized(TheirMobileNet(0.375, width=0.5, bias=bias))
    ours = agrees(net, write(net, tmp_path))
    assert ours.blocks[1][0].conv_pw.alpha == 0.375


@pytest.mark.parametrize(("write", "bias"), [(as_pytorch, False), (as_article, True)])
def test_resnets(write: Write, bias: bool, tmp_path: Path) -> None:
    net = randomized(TheirResNet((2, 2, 2, 2), 0.5, bias=bias))
    ours = agrees(net, write(net, tmp_path), size=128)
    assert ours.layer4[0].conv2.downsample == "pool_always"
    ours.layer4[0].conv2.become_octave(downsample="pool")
    x = torch.randn(1, 3, 128, 128)
    assert not torch.allclose(ours(x), net(x), atol=1e-3), "the original averages before its last stride"


@pytest.mark.parametrize("groups", [1, 32])
def test_resnets_of_the_papers_code(groups: int, tmp_path: Path) -> None:
    net = randomized(TheirResNet((3, 4, 6, 3), 0.25, groups=groups))
    ours = agrees(net, as_gluon(net, tmp_path), size=64)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in net.parameters())


def test_a_layer_that_pools_always_agrees_to_the_last_bit(tmp_path: Path) -> None:
    """The layers of the last stage, whose order of operations is the original's."""
    net = randomized(TheirResNet((2, 2, 2, 2), 0.5))
    ours = load_published(as_pytorch(net, tmp_path))
    x = torch.randn(1, 512, 14, 14)
    theirs = net.layer4[0].conv2.conv((x, None))[0]
    assert torch.equal(ours.layer4[0].conv2(x), theirs)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = randomized(TheirMobileNet(0.5, width=0.25))
    out = tmp_path / "ours.safetensors"
    code, said, _ = run(capsys, "import", as_gluon(net, tmp_path), "--to", out)
    assert code == 0
    assert said.startswith("the paper's Gluon code: oct_mobilenet_v1, α = 0.5, 10 classes; written to ")
    ours, facts = load_checkpoint(out)
    assert facts["mean"][0] == pytest.approx(0.486, abs=1e-3)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), net(x), rtol=1e-4, atol=1e-5)
    code, _, err = run(capsys, "import", tmp_path / "none.params", "--to", out)
    assert (code, err.count("\n")) == (2, 1)


class Harm:
    def __reduce__(self) -> Any:
        return print, ("harm",)


def test_hostile_and_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = randomized(TheirMobileNet(0.5, width=0.25))
    whole = as_gluon(net, tmp_path).read_bytes()
    path = tmp_path / "broken.params"
    for content in (
        b"",
        whole[:100],
        whole[:-7],
        whole + b"x",
        b"PK" + whole,
        whole.replace(b"fer", b"\xff\xfe\xfd"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="no file of MXNet's arrays"):
            load_published(path)
    for suffix in (".pdparams", ".pth"):
        path = tmp_path / f"harm{suffix}"
        path.write_bytes(pickle.dumps({"layer1.0.conv1.conv.conv_h2h.weight": Harm()}))
        with pytest.raises(InputError):
            load_published(path)
    assert "harm" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("fc.bias"), "no fc.bias"),
        (lambda s: s.update(extra=np.zeros(3, np.float32)), "has extra"),
        (lambda s: s.pop("features.3.0.bn_h.weight"), "of another network"),
        (lambda s: [s.pop(k) for k in list(s) if "conv_" in k], "no octave network that is known"),
    ],
)
def test_other_networks_are_refused(change: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    state = {key: torch.from_numpy(v) for key, v in arrays(TheirMobileNet(0.5, width=0.25)).items()}
    change(state)
    torch.save({k: torch.as_tensor(v) for k, v in state.items()}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=words):
        load_published(tmp_path / "net.pth")


@pytest.mark.parametrize("version", [0xF993FAC9, 0xF993FAC8, 0])
def test_versions_of_mxnet(version: int, tmp_path: Path) -> None:
    made = {
        "arg:a": np.arange(6, dtype="<f4").reshape(2, 3),
        "aux:b": np.ones(4, "<f2"),
        "c": np.ones(1, "<f8"),
    }
    write_mxnet(tmp_path / "a.params", made, version)
    found = read_mxnet(tmp_path / "a.params")
    assert list(found) == ["a", "b", "c"]
    for array, wanted in zip(found.values(), made.values(), strict=True):
        np.testing.assert_array_equal(array, wanted)
        assert array.dtype == wanted.dtype
