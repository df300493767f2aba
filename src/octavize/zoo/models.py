"""Octave networks by name: timm builds each, and `policies.py` says which layers are octave.

No architecture is written here. `oct_resnet50` is timm's `resnet50`, converted; at α = 0 it is the vanilla
network, bit for bit, so every baseline is the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import filter as match_names
from typing import Any

from torch import nn

from octavize.convert.octavize import octavize
from octavize.errors import InputError, number, require_extra, whole
from octavize.policies import SMALL, exchange_of, policy_of
from octavize.split import check_alpha


@dataclass(frozen=True)
class Recipe:
    """How a named network is built: its builder, and its stem for 32-pixel images."""

    build: Callable[..., nn.Module]
    small_stem: Callable[[nn.Module], None] | None  # None: its own stem is for small images


_REGISTRY: dict[str, Recipe] = {}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows and that match `pattern` (`oct_resnet*`), sorted.

    `…_small` is the same network with a stem for images of 32 pixels.
    """
    names = [*_REGISTRY, *(f"{name}{SMALL}" for name, recipe in _REGISTRY.items() if recipe.small_stem)]
    return sorted(match_names(names, pattern))


def create_model(
    name: str,
    alpha: float = 0.5,
    *,
    num_classes: int = 1000,
    strict: bool = True,
    exchange: str | None = None,
    downsample: str | None = None,
    **builder_arguments: Any,
) -> nn.Module:
    """Build a named octave network.

    Args:
        name: one of `list_models()`.
        alpha: share of low channels in the octave layers; 0 is the vanilla network.
        num_classes: size of the classifier.
        strict: refuse dense fallbacks; these networks have none.
        exchange: where the frequencies meet, such as `block:high_to_low`, see `octavize.plan`. Default: that
            of its family in `policies.py`: in `every` layer, as in the paper.
        downsample: for its octave layers, see `OctConv2d`. Default: `pool`, as in the paper.
        **builder_arguments: for timm's builder: `in_chans=1`, `pretrained=True` (the vanilla weights),
            `drop_path_rate=0.1` …; `width=0.75`, a multiple of the channels (of a ResNet's stages, not its
            stem).

    Returns:
        A network from (N, 3, H, W) to (N, num_classes), with the state dict of timm's network.

    Raises:
        InputError: the name, `downsample` or `exchange` is unknown, α is outside [0, 1], the builder does not
            take an argument, or timm is missing.
    """
    alpha = check_alpha(alpha)
    base = name.removesuffix(SMALL)
    if name not in list_models():
        close = get_close_matches(name, list_models(), n=3) or list_models()
        raise InputError(f"model {name!r} is unknown: did you mean {', '.join(close)}?")
    require_extra("timm", "models")
    recipe = _REGISTRY[base]
    whole("num_classes", num_classes, 0)  # in timm, 0 asks for features
    whole("in_chans", builder_arguments.get("in_chans", 3), 1)
    width = builder_arguments.get("width", 1)
    number("width", width, 0, 8, above=True, meaning="a multiple of the channels")
    try:
        model = recipe.build(num_classes=num_classes, **builder_arguments)
    except TypeError as error:
        raise InputError(f"model {name!r} does not take these arguments: {error}") from error
    if name != base and recipe.small_stem:
        recipe.small_stem(model)
    return octavize(
        model,
        policy_of(name, alpha),
        exchange=exchange_of(name, exchange),
        downsample=downsample,
        strict=strict,
        inplace=True,
    )


# ---- ResNets ---------------------------------------------------------------------------------------------


def _resnet(timm_name: str) -> Recipe:
    def build(width: float = 1.0, **arguments: Any) -> nn.Module:
        import timm
        from timm.layers.helpers import make_divisible

        if width != 1:
            if arguments.get("pretrained"):
                raise InputError(f"pretrained=True: there are no weights for width={width}; leave one out")
            arguments["channels"] = tuple(make_divisible(c * width, 8) for c in (64, 128, 256, 512))
        return timm.create_model(timm_name, **arguments)

    def small_stem(model: Any) -> None:
        """The usual stem for CIFAR: 3×3, stride 1, no max-pooling."""
        old = model.conv1
        model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm does
        model.maxpool = nn.Identity()

    return Recipe(build, small_stem)


for _depth in (18, 34, 26, 50, 101, 152, 200):
    _REGISTRY[f"oct_resnet{_depth}"] = _resnet(f"resnet{_depth}")
_REGISTRY["oct_wide_resnet50_2"] = _resnet("wide_resnet50_2")


def _cifar_resnet(depth: int) -> Recipe:
    """The ResNets for CIFAR of He et al. 2016, §4.2, with 1×1 convolutions where a shortcut changes width."""

    def build(width: float = 1.0, **arguments: Any) -> nn.Module:
        from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

        if arguments.pop("pretrained", False):
            raise InputError(
                f"pretrained=True: there are no weights for a CIFAR ResNet-{depth}; leave it out"
            )
        # timm rounds to multiples of 8 within blocks.
        channels = [8 * max(1, round(2 * width * factor)) for factor in (1, 2, 4)]
        blocks = tuple(
            ByoBlockCfg("basic", d=(depth - 2) // 6, c=c, s=1 if stage == 0 else 2, gs=0, br=1.0)
            for stage, c in enumerate(channels)
        )
        model: Any = ByobNet(
            ByoModelCfg(blocks, stem_chs=channels[0], stem_type="3x3", stem_pool=""), **arguments
        )
        model.stem.conv.stride = (1, 1)
        return model

    return Recipe(build, small_stem=None)


for _depth in (20, 26, 32, 44, 56):
    _REGISTRY[f"oct_cifar_resnet{_depth}"] = _cifar_resnet(_depth)


# ---- MobileNets ------------------------------------------------------------------------------------------


def _mobilenet(generation: int) -> Recipe:
    def build(width: float = 1.0, **arguments: Any) -> nn.Module:
        import timm
        from timm.models import efficientnet

        named = f"mobilenetv{generation}_{round(width * 100):03d}"
        if timm.is_model(named) and width * 100 == round(width * 100):
            return timm.create_model(named, **arguments)
        if arguments.get("pretrained"):
            raise InputError(f"pretrained=True: timm has no weights for width={width}; leave one of them out")
        # timm names only some widths; its generators make any.
        generate = getattr(efficientnet, f"_gen_mobilenet_v{generation}")
        return generate(f"mobilenetv{generation}_100", channel_multiplier=width, **arguments)

    def small_stem(model: Any) -> None:
        """The stem keeps the resolution: 32 pixels end as 2×2."""
        model.conv_stem.stride = (1, 1)

    return Recipe(build, small_stem)


for _generation in (1, 2):
    _REGISTRY[f"oct_mobilenet_v{_generation}"] = _mobilenet(_generation)
