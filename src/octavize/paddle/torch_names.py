"""What torch calls the layers of Paddle's own networks, where the two differ.

ResNets, VGGs and MobileNetV2 have the same names in `paddle.vision` and in torchvision. MobileNetV1 is
compared with timm's, as torchvision has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from paddle import nn
from paddle.vision import models

from octavize.paddle.cifar_resnet import CifarResNet

Rule = tuple[str, "str | Callable[[re.Match[str]], str]"]
"""A pattern of the whole of Paddle's name, and torch's name for it, as in `re.sub`."""

_NORM_AFTER = {"0": "conv", "1": "bn"}
_MIXED = "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c"
_ALEXNET = ("features.0", "features.3", "features.6", "features.8", "features.10")
_FIRES = {"1.0": (3, 4, 5, 7, 8, 9, 10, 12), "1.1": (3, 4, 6, 7, 9, 10, 11, 12)}
_FIRE = {"_conv": "squeeze", "_conv_path1": "expand1x1", "_conv_path2": "expand3x3"}
_BRANCHES = {
    "_conv_dw_1": ("branch1", 0),
    "_conv_linear_1": ("branch1", 2),
    "_conv_pw_2": ("branch2", 0),
    "_conv_dw_2": ("branch2", 3),
    "_conv_linear_2": ("branch2", 5),
    "_conv_pw": ("branch2", 0),
    "_conv_dw": ("branch2", 3),
    "_conv_linear": ("branch2", 5),
}


def torch_name(model: nn.Layer) -> Callable[[str], str]:
    """The function from the names of a network's layers to those of torch's network; most keep theirs."""
    rules = next((rules for kind, rules in _FAMILIES.items() if isinstance(model, kind)), None)
    return partial(_renamed, [] if rules is None else list(rules(model)))


def _renamed(rules: Sequence[Rule], name: str) -> str:
    for pattern, torch in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(torch) if isinstance(torch, str) else torch(found)
    return name


def _mobilenet_v1(model: nn.Layer) -> Iterable[Rule]:
    """timm has its blocks by stages; Paddle's first number is the stage, and `conv5_6` begins the last."""
    yield r"conv1\.0", "conv_stem"
    yield r"conv1\.1", "bn1"
    yield r"fc", "classifier"
    places = {"conv2_1": (0, 0), "conv5_6": (4, 0), "conv6": (4, 1)}
    places |= {"conv2_2": (1, 0), "conv3_1": (1, 1), "conv3_2": (2, 0), "conv4_1": (2, 1), "conv4_2": (3, 0)}
    places |= {f"conv5_{i}": (3, i) for i in range(1, 6)}
    for block, (stage, i) in places.items():
        for part, conv, norm in (
            ("_depthwise_conv", "conv_dw", "bn1"),
            ("_pointwise_conv", "conv_pw", "bn2"),
        ):
            yield rf"{block}\.{part}\.0", f"blocks.{stage}.{i}.{conv}"
            yield rf"{block}\.{part}\.1", f"blocks.{stage}.{i}.{norm}"


def _mobilenet_v3(model: nn.Layer) -> Iterable[Rule]:
    """torchvision numbers the parts of a block, of which some blocks have all and others not."""
    blocks: nn.Sequential = model.blocks  # type: ignore[assignment]
    yield r"conv\.(\d)", r"features.0.\1"
    yield r"lastconv\.(\d)", rf"features.{len(blocks) + 1}.\1"
    for i, block in blocks.named_children():
        for place, (part, _) in enumerate(block.named_children()):
            yield rf"blocks\.{i}\.{part}\.(\w+)", rf"features.{int(i) + 1}.block.{place}.\1"


def _densenet(model: nn.Layer) -> Iterable[Rule]:
    kinds = {"_conv": "conv", "_batch_norm": "norm"}
    yield r"conv1_func\.(\w+)", lambda m: f"features.{kinds[m[1]]}0"
    yield (
        r"db_conv_\d+\.conv(\d+)_(\d+)\.bn_ac_func(\d)\.(\w+)",
        lambda m: f"features.denseblock{int(m[1]) - 1}.denselayer{m[2]}.{kinds[m[4]]}{m[3]}",
    )
    yield (
        r"tr_conv(\d+)_blk\.conv_ac_func\.(\w+)",
        lambda m: f"features.transition{int(m[1]) - 1}.{kinds[m[2]]}",
    )
    yield r"batch_norm", "features.norm5"
    yield r"out", "classifier"


def _alexnet(model: nn.Layer) -> Iterable[Rule]:
    yield r"_conv(\d)(?:\._conv)?", lambda m: _ALEXNET[int(m[1]) - 1]
    yield r"_fc(\d)", lambda m: f"classifier.{ {'6': 1, '7': 4, '8': 6}[m[1]] }"


def _squeezenet(model: nn.Layer) -> Iterable[Rule]:
    places = _FIRES[str(model.version)]
    yield r"_conv", "features.0"
    yield r"_conv9", "classifier.1"
    yield r"_conv(\d)\.(\w+)\._conv", lambda m: f"features.{places[int(m[1]) - 1]}.{_FIRE[m[2]]}"


def _shufflenet(model: nn.Layer) -> Iterable[Rule]:
    yield r"_conv1\.(\d)", r"conv1.\1"
    yield r"_last_conv\.(\d)", r"conv5.\1"
    yield r"_fc", "fc"

    def unit(found: re.Match[str]) -> str:
        branch, place = _BRANCHES[found[3]]
        return f"stage{found[1]}.{int(found[2]) - 1}.{branch}.{place + int(found[4])}"

    yield r"(\d)_(\d+)\.(\w+)\.(\d)", unit


def _inception(model: nn.Layer) -> Iterable[Rule]:
    """torchvision has an auxiliary classifier as well, unless it is built with `aux_logits=False`."""
    mixed = _MIXED.split()
    yield r"inception_stem\.conv_(\w+)\.(\d)", lambda m: f"Conv2d_{m[1]}.{_NORM_AFTER[m[2]]}"
    yield (
        r"inception_block_list\.(\d+)\.(\w+?)(?:_conv)?\.(\d)",
        lambda m: f"{mixed[int(m[1])]}.{m[2]}.{_NORM_AFTER[m[3]]}",
    )


def _cifar_resnet(model: nn.Layer) -> Iterable[Rule]:
    """timm's, as `octavize.create_model` builds them."""
    yield r"conv1", "stem.conv"
    yield r"bn1", "stem.bn"
    yield r"fc", "head.fc"

    kinds = {f"{kind}{i}": f"conv{i}_kxk.{kind}" for kind in ("conv", "bn") for i in (1, 2)}
    kinds |= {r"downsample\.0": "shortcut.conv", r"downsample\.1": "shortcut.bn"}
    for stage in range(3):
        for ours, theirs in kinds.items():
            yield rf"layer{stage + 1}\.(\d+)\.{ours}", rf"stages.{stage}.\1.{theirs}"


_FAMILIES: dict[type[nn.Layer], Callable[[nn.Layer], Iterable[Rule]]] = {
    CifarResNet: _cifar_resnet,
    models.MobileNetV1: _mobilenet_v1,
    models.MobileNetV3Small: _mobilenet_v3,
    models.MobileNetV3Large: _mobilenet_v3,
    models.DenseNet: _densenet,
    models.AlexNet: _alexnet,
    models.SqueezeNet: _squeezenet,
    models.ShuffleNetV2: _shufflenet,
    models.InceptionV3: _inception,
}
