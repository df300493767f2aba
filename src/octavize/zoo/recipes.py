"""How named networks are built: by timm and torchvision. No architecture is written here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from octavize.errors import InputError
from octavize.zoo import official
from octavize.zoo.video import CLIP, video_resnet

IMAGE, SMALL_IMAGE = (3, 224, 224), (3, 32, 32)


@dataclass(frozen=True)
class Recipe:
    """How a named network is built: its builder, its stem for 32-pixel images, and what it usually reads."""

    build: Callable[..., nn.Module]
    small_stem: Callable[[nn.Module], None] | None  # None: its own stem is for small images, or for video
    input: tuple[int, ...] = IMAGE
    """(C, H, W) of an image, or (C, T, H, W) of a clip."""
    downsample: str | Mapping[str, str] = "pool"
    """See `octavize.plan`; where nothing else is said."""


REGISTRY: dict[str, Recipe] = {}
"""By name, without the names that end in `policies.SMALL`."""


# ---- ResNets ---------------------------------------------------------------------------------------------


def _widened(channels: Sequence[int], width: float) -> tuple[int, ...]:
    from timm.layers.helpers import make_divisible

    return tuple(make_divisible(c * width, 8) for c in channels)


def _resnet(timm_name: str) -> Recipe:
    def build(width: float = 1.0, **arguments: Any) -> nn.Module:
        import timm

        if width != 1:
            if arguments.get("pretrained"):
                raise InputError(f"pretrained=True: there are no weights for width={width}; leave one out")
            arguments["channels"] = _widened((64, 128, 256, 512), width)
        return timm.create_model(timm_name, **arguments)

    def small_stem(model: Any) -> None:
        """The usual stem for CIFAR: 3×3, stride 1, no max-pooling."""
        old = model.conv1
        model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm does
        model.maxpool = nn.Identity()

    return Recipe(build, small_stem)


for _depth in (18, 34, 26, 50, 101, 152, 200):
    REGISTRY[f"oct_resnet{_depth}"] = _resnet(f"resnet{_depth}")
for _name in ("wide_resnet50_2", "resnext50_32x4d", "resnext101_32x4d", "seresnet50", "seresnet152"):
    REGISTRY[f"oct_{_name}"] = _resnet(_name)


# The stem is no octave layer: its strides are its own. Elsewhere the paper's code averages first.
_AVERAGE = {"*": "pool_always", "conv1.*": "pool"}
REGISTRY["oct_resnet152_official"] = Recipe(
    official.resnet152_v1f, None, downsample=_AVERAGE | {"maxpool.*": "pool"}
)
REGISTRY["oct_seresnet152_official"] = Recipe(official.seresnet152_v1e, None, downsample=_AVERAGE)


def _resnet_v2(depth: int, *layers: int) -> Recipe:
    """Of He et al., ECCV 2016: norm and activation before each convolution, stride in the 3×3."""

    def build(width: float = 1.0, **arguments: Any) -> nn.Module:
        import timm

        if timm.is_model(f"resnetv2_{depth}") and width == 1:
            return timm.create_model(f"resnetv2_{depth}", **arguments)
        if arguments.pop("pretrained", False):
            raise InputError(f"pretrained=True: timm has no weights for this ResNet-{depth} v2; leave it out")
        return _preactivated(layers, _widened((256, 512, 1024, 2048), width), **arguments)

    def small_stem(model: Any) -> None:
        _small_v2_stem(model, model.stem.conv.out_channels)

    return Recipe(build, small_stem)


def _preactivated(layers: Sequence[int], channels: Sequence[int], **arguments: Any) -> nn.Module:
    from timm.layers.create_conv2d import create_conv2d
    from timm.layers.norm_act import BatchNormAct2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(
        [*layers], tuple(channels), conv_layer=create_conv2d, norm_layer=BatchNormAct2d, **arguments
    )


def _small_v2_stem(model: Any, channels: int) -> None:
    """As of a ResNet: 3×3, stride 1, no max-pooling."""
    model.stem.conv = nn.Conv2d(model.stem.conv.in_channels, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.stem.conv.weight, mode="fan_out", nonlinearity="relu")
    model.stem.pool = nn.Identity()


_BLOCKS = {
    26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)
}  # fmt: skip


def _official_v2(depth: int, **how: Any) -> Recipe:
    return Recipe(official.resnet_v2(_BLOCKS[depth], **how), None, downsample="pool_always")


for _depth, _layers in _BLOCKS.items():
    REGISTRY[f"oct_resnetv2_{_depth}"] = _resnet_v2(_depth, *_layers)
    REGISTRY[f"oct_resnetv2_{_depth}_official"] = _official_v2(_depth)
for _depth in (50, 101):
    REGISTRY[f"oct_resnextv2_{_depth}_32x4d_official"] = _official_v2(_depth, cardinality=32)
REGISTRY["oct_seresnetv2_50_official"] = _official_v2(50, use_se=True)


def _wide_resnet28_10(width: float = 1.0, **arguments: Any) -> nn.Module:
    """Of Zagoruyko & Komodakis, BMVC 2016, for CIFAR: twelve blocks of two 3×3, ten times as wide."""
    if arguments.pop("pretrained", False):
        raise InputError("pretrained=True: there are no weights for Wide-ResNet-28-10; leave it out")
    model = _preactivated(
        (4, 4, 4), _widened((160, 320, 640), width), basic=True, bottle_ratio=1.0, stem_chs=16, **arguments
    )
    _small_v2_stem(model, 16)
    return model


REGISTRY["oct_wide_resnet28_10"] = Recipe(_wide_resnet28_10, None, SMALL_IMAGE)


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

    return Recipe(build, None, SMALL_IMAGE)


for _depth in (20, 26, 32, 44, 56):
    REGISTRY[f"oct_cifar_resnet{_depth}"] = _cifar_resnet(_depth)


# ---- MobileNets ------------------------------------------------------------------------------------------


def _small_mobilenet_stem(model: Any) -> None:
    """The stem keeps the resolution: 32 pixels end as 2×2."""
    model.conv_stem.stride = (1, 1)


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

    return Recipe(build, _small_mobilenet_stem)


for _generation in (1, 2):
    REGISTRY[f"oct_mobilenet_v{_generation}"] = _mobilenet(_generation)


REGISTRY["oct_mobilenet_v2_official"] = Recipe(official.mobilenet_v2, _small_mobilenet_stem)


# ---- others ----------------------------------------------------------------------------------------------


def _densenet121(**arguments: Any) -> nn.Module:
    import timm

    return timm.create_model("densenet121", **arguments)


REGISTRY["oct_densenet121"] = Recipe(_densenet121, None)
REGISTRY["oct_densenet121_vanilla_stem"] = Recipe(_densenet121, None)
REGISTRY["oct_c2d_resnet50"] = Recipe(partial(video_resnet, False), None, CLIP)
REGISTRY["oct_i3d_resnet50"] = Recipe(partial(video_resnet, True), None, CLIP)
