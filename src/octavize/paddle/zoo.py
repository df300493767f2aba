"""Octave networks by name: `paddle.vision.models` builds each, `policies.py` says which layers are octave.

No architecture is written here. `oct_resnet50` is Paddle's `resnet50`, converted; at α = 0 it is the vanilla
network, bit for bit, so every baseline is the same code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import filter as match_names
from fnmatch import fnmatchcase
from typing import Any

from paddle import nn
from paddle.vision import models
from paddle.vision.models.resnet import BasicBlock, BottleneckBlock

from octavize.errors import InputError, number, whole
from octavize.paddle.cifar_resnet import CifarResNet
from octavize.paddle.convert import octavize
from octavize.paddle.initialize import add_path_biases
from octavize.paddle.planner import convolutions
from octavize.paddle.torch_names import torch_name
from octavize.paddle.trace import example_inputs
from octavize.plans.policies import SMALL, exchange_of, policy_of
from octavize.split import check_alpha

Names = Callable[[nn.Layer], Callable[[str], str]]
"""From a network to the function that translates its layers' names into those of `policies.py`."""


@dataclass(frozen=True)
class Recipe:
    """How a named network is built: its builder, its stem for 32-pixel images, and its layers' names.

    The stem is None where the network's own is for such images.
    """

    build: Callable[..., nn.Layer]
    small_stem: Callable[[Any], None] | None
    names: Names = torch_name


_REGISTRY: dict[str, Recipe] = {}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows and that match `pattern` (`oct_resnet*`), sorted.

    Names that begin with `oct_` follow the paper's policy; `…_small` is the same network with a stem for
    images of 32 pixels. The others are those of `paddle.vision.models`.
    """
    small = (f"{name}{SMALL}" for name, recipe in _REGISTRY.items() if recipe.small_stem)
    names = [*_REGISTRY, *small, *_vision()]
    return sorted(match_names(names, pattern))


def create_model(
    name: str,
    alpha: float = 0.5,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    strict: bool = True,
    exchange: str | None = None,
    downsample: str | None = None,
    **builder_arguments: Any,
) -> nn.Layer:
    """Build a named octave network.

    Args:
        name: one of `list_models()`. A network of `paddle.vision.models` without a policy of the paper is
            converted as `octavize` does by itself.
        alpha: share of low channels in the octave layers; 0 is the vanilla network.
        num_classes: size of the classifier; 0 asks for features.
        in_chans: channels of its images.
        strict: refuse dense fallbacks; these networks have none.
        exchange: where the frequencies meet, such as `block:high_to_low`, see `octavize.paddle.plan`.
            Default: in `every` layer, as in the paper.
        downsample: for its octave layers, see `OctConv2D`. Default: `pool`, as in the paper.
        **builder_arguments: for Paddle's builder: `pretrained=True` (the vanilla weights), `with_pool=False`
            …; `width=0.75`, a multiple of the channels (of a ResNet's stages, not its stem).

    Returns:
        A network from (N, in_chans, H, W) to (N, num_classes), with Paddle's own initial weights and names.
        Its depthwise layers start small: Paddle takes their fan-in for that of an ordinary layer.

    Raises:
        InputError: the name, `downsample` or `exchange` is unknown, α is outside [0, 1], or the builder does
            not take an argument.
    """
    alpha = check_alpha(alpha)
    model = build_vanilla(name, num_classes=num_classes, in_chans=in_chans, **builder_arguments)
    ways: dict[str, Any] = {"downsample": downsample, "strict": strict, "inplace": True}
    if _recipe_of(name) is not None:
        side = 32 if name.endswith(SMALL) else 64  # what becomes of a layer does not depend on it
        ways["example"] = (1, in_chans, side, side)
    alphas = alphas_of(name, model, alpha)
    return octavize(model, alphas, exchange=exchanges_of(name, model, exchange), **ways)


def build_model(
    name: str, alpha: float, classes: int, in_chans: int, arguments: Mapping[str, Any]
) -> nn.Layer:
    """`create_model` with the arguments of a recipe, see `Recipe.arguments_of`."""
    rest = {k: v for k, v in arguments.items() if k != "octave_bias"}
    model = create_model(name, alpha, num_classes=classes, in_chans=in_chans, **rest)
    if arguments.get("octave_bias", False):
        add_path_biases(model, example_inputs(model).shape)
    return model


def build_vanilla(
    name: str, *, num_classes: int = 1000, in_chans: int = 3, **builder_arguments: Any
) -> nn.Layer:
    """The vanilla network of a name; see `create_model`."""
    if name not in list_models():
        close = get_close_matches(name, list_models(), n=3)
        names = "give a name from `octavize models --backend paddle`, or octavize.paddle.list_models()"
        told = f"did you mean {', '.join(close)}?" if close else names
        raise InputError(f"model {name!r} is unknown: {told}")
    whole("num_classes", num_classes, 0)
    whole("in_chans", in_chans, 1)
    recipe = _recipe_of(name)
    if recipe is None:
        model = _built(name, getattr(models, name), num_classes=num_classes, **builder_arguments)
        return _reading(model, in_chans, builder_arguments)
    width = builder_arguments.get("width", 1)
    number("width", width, 0, 8, above=True, meaning="a multiple of the channels")
    model = _built(name, recipe.build, num_classes=num_classes, **builder_arguments)
    if name.endswith(SMALL) and recipe.small_stem:
        recipe.small_stem(model)
    return _reading(model, in_chans, builder_arguments)


def _reading(model: nn.Layer, in_chans: int, arguments: Mapping[str, Any]) -> nn.Layer:
    """The network with a first convolution for images of so many channels."""
    if in_chans == 3:
        return model
    if arguments.get("pretrained"):
        raise InputError(f"pretrained=True: Paddle has no such weights for in_chans={in_chans}")
    name, old = next(iter(convolutions(model).items()))
    old: Any
    fresh = type(old)(
        in_chans, old._out_channels, old._kernel_size, stride=old._stride, padding=old._padding,
        dilation=old._dilation, weight_attr=old._param_attr, bias_attr=old._bias_attr,
    )  # fmt: skip
    *path, leaf = name.split(".")
    parent = model
    for part in path:
        parent = parent._sub_layers[part]
    parent._sub_layers[leaf] = fresh
    return model


def alphas_of(name: str, model: nn.Layer, alpha: float) -> float | dict[str, float]:
    """A share of low channels as `octavize` takes it: by the paper's policy for networks that have one."""
    recipe = _recipe_of(name)
    if recipe is None:
        return alpha
    alphas = _by_layer(policy_of(name, alpha), model, recipe.names)
    del alphas[next(iter(alphas))]  # the stem: under its own name it would become octave
    return alphas


def exchanges_of(name: str, model: nn.Layer, exchange: str | None) -> str | dict[str, str] | None:
    """Where the frequencies meet, as `octavize` takes it: by the family's policy where there is one."""
    recipe = _recipe_of(name)
    if recipe is None:
        return exchange
    where = exchange_of(name, exchange)
    return where if isinstance(where, str) else _by_layer(where, model, recipe.names)


def _recipe_of(name: str) -> Recipe | None:
    return _REGISTRY.get(name.removesuffix(SMALL))


def _vision() -> list[str]:
    return [name for name in models.__all__ if name.islower()]


def _built(name: str, build: Callable[..., nn.Layer], **arguments: Any) -> nn.Layer:
    try:
        return build(**arguments)
    except (TypeError, AssertionError) as error:
        raise InputError(f"model {name!r} does not take these arguments: {error}") from error


def _by_layer(patterns: Mapping[str, Any], model: nn.Layer, names: Names) -> dict[str, Any]:
    """A mapping from name patterns of `policies.py`, of which the last that matches counts, by layer."""
    rename = names(model)
    return {
        name: [v for pattern, v in patterns.items() if fnmatchcase(rename(name), pattern)][-1]
        for name in convolutions(model)
    }


# ---- ResNets ---------------------------------------------------------------------------------------------


def _resnet(block: Any, blocks: tuple[int, ...], function: str = "", base_width: int = 64) -> Recipe:
    def build(num_classes: int, width: float = 1.0, pretrained: bool = False, **arguments: Any) -> nn.Layer:
        if function and width == 1:
            return getattr(models, function)(pretrained=pretrained, num_classes=num_classes, **arguments)
        if pretrained:
            raise InputError(
                f"pretrained=True: Paddle has no such weights for {blocks} blocks, width={width}"
            )
        net: Any = models.ResNet(block, 50, base_width, num_classes, **arguments)
        net.inplanes = 64  # Paddle's class knows five depths, so its stages are built anew
        for stage, count in enumerate(blocks):
            planes = _divisible(64 * 2**stage * width)
            layer = net._make_layer(block, planes, count, stride=1 if stage == 0 else 2)
            setattr(net, f"layer{stage + 1}", layer)
        if num_classes:
            net.fc = nn.Linear(net.inplanes, num_classes)
        return net

    return Recipe(build, _small_resnet)


def _divisible(channels: float) -> int:
    """Rounded to a multiple of 8, and by at most a tenth down, as in timm."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _small_resnet(model: Any) -> None:
    """The usual stem for CIFAR: 3×3, stride 1, no max-pooling."""
    model.conv1 = nn.Conv2D(3, model.conv1._out_channels, 3, padding=1, bias_attr=False)
    model.maxpool = nn.Identity()


for _depth, _block, _blocks in (
    (18, BasicBlock, (2, 2, 2, 2)),
    (34, BasicBlock, (3, 4, 6, 3)),
    (26, BottleneckBlock, (2, 2, 2, 2)),
    (50, BottleneckBlock, (3, 4, 6, 3)),
    (101, BottleneckBlock, (3, 4, 23, 3)),
    (152, BottleneckBlock, (3, 8, 36, 3)),
    (200, BottleneckBlock, (3, 24, 36, 3)),
):
    _function = f"resnet{_depth}" if hasattr(models, f"resnet{_depth}") else ""
    _REGISTRY[f"oct_resnet{_depth}"] = _resnet(_block, _blocks, _function)
_REGISTRY["oct_wide_resnet50_2"] = _resnet(BottleneckBlock, (3, 4, 6, 3), "wide_resnet50_2", base_width=128)


def _cifar_resnet(depth: int) -> Recipe:
    def build(num_classes: int, width: float = 1.0, pretrained: bool = False) -> nn.Layer:
        if pretrained:
            raise InputError(
                f"pretrained=True: there are no weights for a CIFAR ResNet-{depth}; leave it out"
            )
        return CifarResNet(depth, num_classes, width)

    return Recipe(build, None)


for _depth in (20, 26, 32, 44, 56):
    _REGISTRY[f"oct_cifar_resnet{_depth}"] = _cifar_resnet(_depth)


# ---- MobileNets ------------------------------------------------------------------------------------------


def _timm_v2(model: nn.Layer) -> Callable[[str], str]:
    """timm's names for MobileNetV2, which has its blocks by stages; Paddle's are torchvision's."""
    stages = [(stage, i) for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(count)]
    layers = {"0.0": "conv_pw", "1.0": "conv_dw", "2": "conv_pwl"}

    def rename(name: str) -> str:
        found = re.fullmatch(r"features\.(\d+)\.conv\.(\d(?:\.0)?)", name)
        if not found or found[1] == "1" or found[2] not in layers:
            return name
        stage, i = stages[int(found[1]) - 1]
        return f"blocks.{stage}.{i}.{layers[found[2]]}"

    return rename


def _mobilenet(function: str, stem: Callable[[Any], Any], names: Names) -> Recipe:
    def build(num_classes: int, width: float = 1.0, **arguments: Any) -> nn.Layer:
        return getattr(models, function)(scale=width, num_classes=num_classes, **arguments)

    def small_stem(model: Any) -> None:
        """The stem keeps the resolution: 32 pixels end as 2×2."""
        stem(model)._stride = [1, 1]

    return Recipe(build, small_stem, names)


_REGISTRY["oct_mobilenet_v1"] = _mobilenet("mobilenet_v1", lambda net: net.conv1[0], torch_name)
_REGISTRY["oct_mobilenet_v2"] = _mobilenet("mobilenet_v2", lambda net: net.features[0][0], _timm_v2)
