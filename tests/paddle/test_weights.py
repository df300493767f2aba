"""Weights from torch, to torch, and from the article's own checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.vision import models
from tests.helpers.article_checkpoint import as_the_article

from octavize import InputError
from octavize.paddle import create_model, octavize
from octavize.paddle.article import from_article
from octavize.paddle.weights import from_torch, read_safetensors, to_torch, torch_state
from octavize.published.pdparams import read_pdparams


class Small(nn.Layer):
    """A layer of each kind whose tensors torch has otherwise; one of them is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.norm, self.older = nn.BatchNorm2D(8), nn.BatchNorm(8)
        self.instance = nn.InstanceNorm2D(8)
        self.up = nn.Conv2DTranspose(8, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)
        self.again = self.conv

    def forward(self, x: Any) -> Any:
        return self.head(self.older(self.norm(self.conv(x))).mean([2, 3]))


def randomized(net: nn.Layer) -> nn.Layer:
    for key, value in net.state_dict().items():
        value.set_value(paddle.rand(value.shape, value.dtype) + ("variance" in key))
    return net


def same_state(ours: nn.Layer, theirs: nn.Layer) -> None:
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=key)


def test_names_and_shapes_are_torch_s() -> None:
    state = torch_state(Small())
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    for name in ("norm", "older"):
        assert {key.removeprefix(f"{name}.") for key in state if key.startswith(f"{name}.")} == norm
    assert {"instance.weight", "again.weight"} <= state.keys()
    assert state["head.weight"].shape == (5, 8)
    assert state["norm.num_batches_tracked"].dtype == np.int64


def test_there_and_back(tmp_path: Path) -> None:
    path, net, other = tmp_path / "net.safetensors", randomized(Small()), Small()
    to_torch(net, path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    from_torch(other, path)
    same_state(other, net)
    np.testing.assert_array_equal(read_safetensors(path)["head.weight"], net.head.weight.numpy().T)


def test_an_octave_network_has_the_file_of_its_vanilla_network(tmp_path: Path) -> None:
    path, net = tmp_path / "net.safetensors", randomized(models.resnet18(num_classes=3))
    to_torch(paddle.DataParallel(net), path)
    octave = octavize(models.resnet18(num_classes=3), example=(1, 3, 64, 64))
    from_torch(octave, path)
    same_state(octave, net)
    before = torch_state(net)
    from_torch(octave, {f"module.{key}": value for key, value in before.items()})


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("mobilenet_v1", ["conv_stem.weight", "blocks.3.5.conv_pw.weight", "blocks.4.0.bn1.running_var"]),
        ("mobilenet_v3_small", ["features.1.block.1.fc1.bias", "features.4.block.3.1.weight",
                                "features.12.0.weight", "classifier.3.bias"]),
        ("densenet121", ["features.denseblock4.denselayer16.conv2.weight", "features.transition3.norm.bias",
                         "features.norm5.running_mean", "features.conv0.weight", "classifier.weight"]),
        ("squeezenet1_0", ["features.12.expand3x3.bias", "classifier.1.weight"]),
        ("shufflenet_v2_x0_5", ["stage2.0.branch1.2.weight", "stage4.3.branch2.6.bias", "conv5.0.weight"]),
        ("inception_v3", ["Mixed_7c.branch3x3dbl_3b.conv.weight", "Mixed_5b.branch_pool.bn.running_var",
                          "Conv2d_1a_3x3.conv.weight"]),
        ("alexnet", ["features.10.weight", "classifier.6.bias"]),
    ],
)  # fmt: skip
def test_names_of_networks_that_torch_calls_otherwise(name: str, keys: list[str]) -> None:
    state = torch_state(getattr(models, name)())
    assert set(keys) <= state.keys()
    assert not [key for key in state if key.startswith("_")]


@pytest.mark.parametrize("names", [{"conv": "stem"}, lambda name: {"conv": "stem"}.get(name, name)])
def test_names_of_one_s_own(names: Any) -> None:
    net, other = randomized(Small()), Small()
    state = torch_state(net, names=names)
    assert "stem.weight" in state
    from_torch(other, state, names=names)
    same_state(other, net)


def test_dtypes_are_kept() -> None:
    net = Small().to(dtype="float64")
    from_torch(net, torch_state(Small()))
    assert net.conv.weight.dtype == paddle.float64


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    net, state = Small(), torch_state(Small())
    del state["head.bias"]
    with pytest.raises(InputError, match=r"they lack head\.bias and 0 more differ"):
        from_torch(net, state)
    with pytest.raises(InputError, match=r"they have extra\.weight"):
        from_torch(net, {**torch_state(net), "extra.weight": np.zeros(1)})
    with pytest.raises(InputError, match=r"another shape of head\.weight"):
        from_torch(net, {**torch_state(net), "head.weight": np.zeros((8, 5))})
    with pytest.raises(InputError, match="to two tensors"):
        torch_state(net, names={"norm": "older"})
    with pytest.raises(InputError, match=r"do not exist: give the path of a \.safetensors file"):
        from_torch(net, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"give a \.safetensors file"):
        to_torch(net, tmp_path / "net.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InputError, match="cannot be read"):
        from_torch(net, tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="bfloat16"):
        torch_state(Small().to(dtype="bfloat16"))


def test_dropouts_that_scale_in_evaluation_are_told_of() -> None:
    net = models.squeezenet1_1(num_classes=4)
    with pytest.warns(UserWarning, match="SqueezeNet has a Dropout with mode='downscale_in_infer'"):
        from_torch(net, torch_state(net))


def test_torch_loads_it(tmp_path: Path) -> None:
    torch, zoo = pytest.importorskip("torch"), pytest.importorskip("torchvision.models")
    from safetensors.torch import load_file, save_file

    theirs = zoo.resnet18(num_classes=6).eval()
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = models.resnet18(num_classes=6)
    from_torch(ours, tmp_path / "theirs.safetensors")
    ours.eval()
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype("float32")
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(paddle.to_tensor(x)).numpy(), wanted, rtol=1e-4, atol=1e-5)
    to_torch(ours, tmp_path / "ours.safetensors")
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"))


# ---- the article ------------------------------------------------------------------------------------------


class ArticleUnit(nn.Layer):
    """The article's convolution, with its four layers and their biases, batch norm and activation."""

    def __init__(self, c_in: int, c_out: int, size: int, stride: int, alphas: tuple[float, float]) -> None:
        super().__init__()
        self.stride, self.depthwise = stride, size == 3
        ins, outs = ([c - int(a * c), int(a * c)] for c, a in zip((c_in, c_out), alphas, strict=True))
        self.conv, self.bn_h = nn.Layer(), nn.BatchNorm2D(outs[0])
        if outs[1]:
            self.bn_l = nn.BatchNorm2D(outs[1])
        for i, source in enumerate("hl"):
            for j, target in enumerate("hl"):
                if ins[i] and outs[j] and (i == j or not self.depthwise):
                    groups = ins[i] if self.depthwise else 1
                    layer = nn.Conv2D(ins[i], outs[j], size, padding=size // 2, groups=groups)
                    self.conv.add_sublayer(f"conv_{source}2{target}", layer)

    def forward(self, maps: Any) -> Any:
        high, low = maps
        if self.stride == 2:
            high, low = F.avg_pool2d(high, 2, 2), None if low is None else F.avg_pool2d(low, 2, 2)
        paths = dict(self.conv.named_children())

        def path(name: str, x: Any) -> Any:
            return paths[name](x) if name in paths else 0

        from_low = path("conv_l2h", low)
        y_high = path("conv_h2h", high) + (F.interpolate(from_low, scale_factor=2) if low is not None and
                                           not isinstance(from_low, int) else 0)  # fmt: skip
        y_low = None
        if "conv_h2l" in paths or "conv_l2l" in paths:
            pooled = F.avg_pool2d(high, 2, 2) if "conv_h2l" in paths else high
            y_low = F.relu(self.bn_l(path("conv_h2l", pooled) + path("conv_l2l", low)))
        return F.relu(self.bn_h(y_high)), y_low


class ArticleMobileNet(nn.Layer):
    """The article's Oct-MobileNetV1, a quarter as wide."""

    CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False), nn.BatchNorm2D(8), nn.ReLU()
        )
        self.features, c_in, a_in = nn.LayerList([stem]), 8, 0.0
        for i, (channels, stride) in enumerate(zip(self.CHANNELS, self.STRIDES, strict=True), 1):
            c_out, a_out = channels // 4, 0.5 if i < 11 else 0.0
            first = ArticleUnit(c_in, c_in, 3, stride, (a_in, a_in))
            self.features.append(nn.Sequential(first, ArticleUnit(c_in, c_out, 1, 1, (a_in, a_out))))
            c_in, a_in = c_out, a_out
        self.fc = nn.Linear(c_in, 10)

    def forward(self, x: Any) -> Any:
        maps = self.features[0](x), None
        for block in self.features[1:]:
            maps = block(maps)
        return self.fc(maps[0].mean([2, 3]))


def test_a_checkpoint_of_the_article(tmp_path: Path) -> None:
    theirs, path = ArticleMobileNet(), tmp_path / "oct_mobilenet.pdparams"
    for key, value in theirs.state_dict().items():
        if "weight" not in key:
            value.set_value(paddle.rand(value.shape) * 0.2 + ("variance" in key))
        elif len(value.shape) == 4:
            value.set_value(value * (8 if value.shape[1] == 1 else 2))
    paddle.save(theirs.state_dict(), str(path))
    ours = create_model("oct_mobilenet_v1", 0.5, num_classes=10, width=0.25)
    from_article(ours, path)
    theirs.eval(), ours.eval()
    x = paddle.randn([2, 3, 64, 64])
    wanted = theirs(x).numpy()
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(ours(x).numpy(), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"in blocks\.0\.conv2, and the network"):
        from_article(create_model("oct_mobilenet_v1", 0.25, num_classes=10, width=0.25), path)
    with pytest.raises(InputError, match=r"checkpoint does not fit MobileNetV1: see fc\."):
        from_article(create_model("oct_mobilenet_v1", 0.5, num_classes=9, width=0.25), path)


def test_a_resnet_of_the_article() -> None:
    net = randomized(create_model("oct_resnet26", 0.5, num_classes=4, width=0.25))
    other = create_model("oct_resnet26", 0.5, num_classes=4, width=0.25)
    net.eval()
    from_article(other, as_the_article(net, np.random.default_rng(0)))
    for (key, a), b in zip(other.state_dict().items(), net.state_dict().values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-5, err_msg=key)


class Harm:
    def __reduce__(self) -> Any:
        return print, ("harm",)


def test_a_checkpoint_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pdparams"
    path.write_bytes(pickle.dumps({"fc.weight": Harm()}))
    with pytest.raises(InputError, match=r"it wants builtins\.print"):
        read_pdparams(path)
    assert "harm" not in capsys.readouterr().out
    with pytest.raises(InputError, match="does not exist"):
        read_pdparams(tmp_path / "none.pdparams")
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="holds a list"):
        read_pdparams(path)
