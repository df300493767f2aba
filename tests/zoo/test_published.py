"""Networks that others published: files in each layout, written here, give the outputs of the original."""

from __future__ import annotations

import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.cli import run
from tests.helpers.official import (
    Official,
    OfficialDenseNet,
    OfficialMobileNetV2,
    gluon_arrays,
    resnet152,
    resnet_v1,
    resnet_v2,
    settled,
    symbol_arrays,
)
from tests.helpers.published import TheirMobileNet, TheirResNet, randomized, write_mxnet
from torch import nn

from octavize import InputError, load_published
from octavize.published.layouts import recognize
from octavize.published.mxnet import read_mxnet
from octavize.zoo.checkpoint import load_checkpoint
from octavize.zoo.published import build, read_published

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


def write_gluon(net: nn.Module, folder: Path) -> Path:
    made = gluon_arrays(net)
    unused = {key: array * 2 for key, array in made.items() if re.search(r"bn[14]a\..*gamma", key)}
    write_mxnet(folder / "net.params", made | unused)  # MXNet takes 1 for them
    return folder / "net.params"


def write_symbol(net: nn.Module, folder: Path) -> Path:
    write_mxnet(folder / "net-0000.params", symbol_arrays(net))
    return folder / "net-0000.params"


R26, R50, R101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)
ABLATION = {
    "oct_resnetv2_26_official": lambda: resnet_v2(R26, 0.75, eps=1e-4),
    "oct_resnetv2_50_official": lambda: resnet_v2(R50, 0.125, eps=1e-4),
    "oct_seresnetv2_50_official": lambda: resnet_v2(R50, 0.5, se=True, eps=1e-4),
    "oct_resnextv2_50_32x4d_official": lambda: resnet_v2(R50, 0.5, groups=32, eps=1e-4),
    "oct_resnextv2_101_32x4d_official": lambda: resnet_v2(R101, 0.25, groups=32, eps=1e-4),
    "oct_densenet121_vanilla_stem": lambda: OfficialDenseNet(0.125, octave_stem=False, eps=1e-4),
}
"""Those of the paper's ablation study whose weights are published, and its other depths alike."""
DEEP = pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(n, marks=DEEP) if "101" in n else n for n in ABLATION])
def test_networks_of_the_symbol_code(name: str, tmp_path: Path) -> None:
    net = randomized(ABLATION[name]())
    path = write_symbol(net, tmp_path)
    assert read_published(path).model == name
    agrees(net, path, size=128)


GLUON: dict[str, tuple[str, Callable[[], Official]]] = {
    "v1b": ("oct_resnet50", lambda: resnet_v1(R50, 0.5)),
    "v1b with SE": ("oct_seresnet50", lambda: resnet_v1(R50, 0.25, se=True)),
    "v2b": ("oct_resnetv2_50_official", lambda: resnet_v2(R50, 0.5, bias=True)),
    "v2b, groups": ("oct_resnextv2_50_32x4d_official", lambda: resnet_v2(R50, 0.25, groups=32, bias=True)),
    "densenet121": ("oct_densenet121", lambda: OfficialDenseNet(0.25, octave_stem=True)),
    "mobilenet_v2_100": ("oct_mobilenet_v2_official", lambda: OfficialMobileNetV2(0.375, 1.0)),
    "mobilenet_v2_1125": ("oct_mobilenet_v2_official", lambda: OfficialMobileNetV2(0.5, 1.125)),
    "resnet152_v1f": ("oct_resnet152_official", lambda: resnet152(0.125, se=False)),
    "resnet152_v1e with SE": ("oct_seresnet152_official", lambda: resnet152(0.125, se=True)),
}


@pytest.mark.parametrize("which", [pytest.param(n, marks=DEEP) if n == "resnet152_v1f" else n for n in GLUON])
def test_networks_of_the_gluon_code(which: str, tmp_path: Path) -> None:
    name, build = GLUON[which]
    net = randomized(build())
    extra = [norm for key, norm in net.named_modules() if key.endswith(("bn1a", "bn4a"))]
    for half in [half for norm in extra for half in norm.children()]:
        half.weight.data.fill_(1), half.bias.data.fill_(0)
    assert bool(extra) == (which == "resnet152_v1e with SE")
    path = write_gluon(settled(net, 128), tmp_path)
    assert read_published(path).model == name
    agrees(net, path, size=128)


def test_a_network_whose_sums_are_in_the_same_order_agrees_to_the_last_bit(tmp_path: Path) -> None:
    """No layer of MobileNetV2 reads two halves and writes two. Up to the classifier, there a convolution."""
    net = randomized(OfficialMobileNetV2(0.5, 1.125))
    ours, x = load_published(write_gluon(net, tmp_path)), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.forward_features(x), net.features(x))


def test_how_images_are_normalized_is_that_of_each_code() -> None:
    """In its scores: Gluon as usual for ImageNet, Symbol by one factor."""
    net = resnet_v2(R26, 0.5)
    found = {"Gluon": recognize(gluon_arrays(net)), "Symbol": recognize(without_prefixes(symbol_arrays(net)))}
    usual = {"mean": [0.485, 0.458, 0.408], "std": [0.229, 0.224, 0.225]}
    assert found["Gluon"].input == {key: pytest.approx(values, abs=1e-3) for key, values in usual.items()}
    assert found["Symbol"].input["std"] == pytest.approx([0.2348] * 3, abs=1e-4)


def without_prefixes(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key.partition(":")[2]: array for key, array in made.items()}


def test_an_archive_is_read_where_it_is(tmp_path: Path) -> None:
    net = randomized(resnet_v2(R26, 0.5, eps=1e-4))
    path = write_symbol(net, tmp_path)
    (tmp_path / "net-symbol.json").write_text("{}")
    with tarfile.open(tmp_path / "net.tar", "w") as archive:
        archive.add(path, "../../net-0000.params")  # a hostile name, which is not used
        archive.add(tmp_path / "net-symbol.json", "net-symbol.json")
    agrees(net, tmp_path / "net.tar", size=64)
    with tarfile.open(tmp_path / "two.tar", "w") as archive:
        archive.add(path, "a.params"), archive.add(path, "b.params")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "net.tar").read_bytes()[:5000])
    for name in ("two.tar", "cut.tar"):
        with pytest.raises(
            InputError, match=r"^checkpoint .* is no file of MXNet's arrays \(.*archive"
        ) as caught:
            load_published(tmp_path / name)
        assert "\n" not in str(caught.value)


def shapes_differ(state: dict[str, np.ndarray]) -> None:
    state["L2_B01_conv1_conv-h2l_weight"] = state["L2_B01_conv1_conv-h2l_weight"][:, :-1]


MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no blocks left but one": (lambda s: [s.pop(k) for k in list(s) if k[:2] in ("L3", "L4")], "blocks"),
    "a norm is missing": (lambda s: s.pop("L2_B02_conv2_bn-l_gamma"), "of another network"),
    "a path is missing": (lambda s: s.pop("L2_B02_conv2_conv-l2h_weight"), "do not fit each other"),
    "dimensions": (lambda s: s.update({"tail_bn_gamma": np.ones((2, 2), "<f4")}), "not 1 dimensions"),
    "no array": (lambda s: s.update({"conv1_conv_weight": np.float32(1)}), "not 4 dimensions"),
    "shapes": (shapes_differ, "do not fit"),
    "more": (
        lambda s: s.update({"L2_B01_conv5_conv-h2h_weight": np.ones((1, 1, 1, 1), "<f4")}),
        "has L1_B0.conv5",
    ),
    "twice": (lambda s: s.update({"conv1.0.weight": np.ones((64, 3, 7, 7), "<f4")}), "has a second conv1"),
    "no classifier": (lambda s: s.pop("classifier_bias"), "no classifer"),
    "classifier": (lambda s: s.update({"classifier_weight": np.ones((0, 2), "<f4")}), "the shape"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_like_the_papers_and_is_not(mistake: str, tmp_path: Path) -> None:
    change, words = MISTAKES[mistake]
    state = without_prefixes(symbol_arrays(resnet_v2(R26, 0.5)))
    change(state)
    with pytest.raises(InputError, match=words) as caught:
        build(recognize(state))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"extra": True}, "has a beta"),
        ({"last": True, "deep": True}, "deep stem"),
        ({"se": True, "groups": 32}, "ResNeXt with squeeze-and-excitation"),
    ],
)
def test_what_the_papers_code_can_make_and_is_not_read(changed: dict[str, Any], words: str) -> None:
    deep, groups = changed.pop("deep", False), changed.pop("groups", 1)
    net = resnet_v1(R26, 0.5, groups, **changed)
    if deep:
        net.conv1 = resnet152(0.5, se=True).conv1
    with pytest.raises(InputError, match=words):
        recognize(gluon_arrays(randomized(net)))


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
