"""The networks of the paper's own code, where timm's differ: timm's, with parts exchanged.

Their weights are published, see `zoo/published.py`, so they have to be these networks to the layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from octavize.errors import InputError

Builder = Callable[..., nn.Module]


def _without_weights(arguments: dict[str, Any], network: str) -> None:
    if arguments.pop("pretrained", False):
        raise InputError(f"pretrained=True: there are no vanilla weights for this {network}; leave it out")


# ---- ResNet-152 ------------------------------------------------------------------------------------------


def _stride_last(model: Any) -> nn.Module:
    """Strides in the last 1×1 of a block, not in its 3×3."""
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv2.stride, stage[0].conv3.stride = (1, 1), (2, 2)
    return model


def resnet152_v1f(**arguments: Any) -> nn.Module:
    """A stem of three 3×3, and a residual block in the place of max-pooling."""
    import timm
    from timm.models.resnet import Bottleneck, downsample_conv

    _without_weights(arguments, "ResNet-152")
    model: Any = timm.create_model("resnet152", **arguments)
    widths, strides = (model.conv1.in_channels, 8, 32, 64), (1, 2, 1)
    layers: list[nn.Module] = []
    for c_in, c_out, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(True)]
    model.conv1 = nn.Sequential(*layers[:-2])  # bn1 and act1 follow
    for layer in model.conv1:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    shortcut = downsample_conv(64, 64, 1, stride=2)
    model.maxpool = Bottleneck(64, 16, stride=2, downsample=shortcut, base_width=128)
    return _stride_last(model)


def seresnet152_v1e(**arguments: Any) -> nn.Module:
    """With squeeze-and-excitation; a stem of three 3×3, then max-pooling; and a norm before each block."""
    import timm

    _without_weights(arguments, "SE-ResNet-152")
    model: Any = timm.create_model("seresnet152", stem_type="deep", stem_width=32, **arguments)
    for block in (block for n in "1234" for block in getattr(model, f"layer{n}")):
        channels = block.conv1.in_channels
        norm = nn.BatchNorm2d(channels, affine=False)
        block.conv1 = nn.Sequential(OrderedDict(norm=norm, conv=block.conv1))
        if block.downsample is not None:
            block.downsample = nn.Sequential(nn.BatchNorm2d(channels, affine=False), *block.downsample)
    return _stride_last(model)


# ---- ResNets that activate first ---------------------------------------------------------------------------


def resnet_v2(layers: Sequence[int], *, cardinality: int = 1, use_se: bool = False) -> Builder:
    """The paper's ablation study: the stem has a norm, and each shortcut convolution one of its own.

    Args:
        layers: blocks a stage.
        cardinality: groups of the 3×3; with more than one they are twice as wide.
    """

    def build(**arguments: Any) -> nn.Module:
        from timm.layers.create_conv2d import create_conv2d
        from timm.layers.norm_act import BatchNormAct2d
        from timm.models.resnetv2 import ResNetV2

        def conv(c_in: int, c_out: int, kernel_size: int, **given: Any) -> nn.Module:
            groups = cardinality if kernel_size == 3 else 1
            return create_conv2d(c_in, c_out, kernel_size, **{**given, "groups": groups})

        _without_weights(arguments, "ResNet v2")
        ratio = 0.25 if cardinality == 1 else 0.5
        model: Any = ResNetV2(
            [*layers], conv_layer=conv, norm_layer=BatchNormAct2d, bottle_ratio=ratio, **arguments
        )
        stem = OrderedDict(model.stem.named_children())
        stem |= {"norm": BatchNormAct2d(stem["conv"].out_channels), "pool": stem.pop("pool")}
        model.stem = nn.Sequential(stem)
        for stage in model.stages:
            _own_norms(stage.blocks[0])
            if use_se:
                _excite(stage.blocks)
        return model

    return build


def _own_norms(block: Any) -> None:
    """timm's shortcut convolution reads what the first norm of the block gives."""
    channels = block.conv1.in_channels
    shared, block.norm1 = block.norm1, nn.Identity()
    own = type(shared)(channels)
    block.conv1 = nn.Sequential(OrderedDict(norm=shared, conv=block.conv1))
    block.downsample = nn.Sequential(OrderedDict(norm=own, conv=block.downsample.conv))


def _excite(blocks: Any) -> None:
    """At the end of a block's residual branch, where timm has its stochastic depth."""
    from timm.layers.squeeze_excite import SEModule

    for block in blocks:
        excite = SEModule(block.conv3.out_channels, rd_ratio=1 / 16, rd_divisor=1)
        block.drop_path = nn.Sequential(OrderedDict(se=excite, drop=block.drop_path))


# ---- MobileNetV2 -------------------------------------------------------------------------------------------

STAGES = (
    (1, 16, 1, 1),
    (2, 24, 2, 6),
    (3, 32, 2, 6),
    (4, 64, 2, 6),
    (3, 96, 1, 6),
    (3, 160, 2, 6),
    (1, 320, 1, 6),
)
"""Of MobileNetV2: blocks, channels, stride of the first block, expansion."""


def mobilenet_v2(width: float = 1.0, **arguments: Any) -> nn.Module:
    """The first block expands, too, by a factor of 1; widths are cut down to whole numbers."""
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    _without_weights(arguments, "MobileNetV2")
    model: Any = EfficientNet(
        decode_arch_def([[f"ir_r{n}_k3_s{stride}_e{e}_c{c}"] for n, c, stride, e in STAGES]),
        num_features=int(1280 * max(width, 1)),
        stem_size=32,
        round_chs_fn=lambda channels: int(channels * width),
        act_layer=nn.ReLU6,
        **arguments,
    )
    for (*_, expansion), stage in zip(STAGES, model.blocks, strict=True):
        for block in stage:
            _expand(block, expansion * block.conv_pw.in_channels)
    return model


def _expand(block: Any, channels: int) -> None:
    """Give a block this expanded width, which timm rounds to a multiple of 8."""
    from timm.models._efficientnet_builder import efficientnet_init_weights

    if block.conv_pw.out_channels == channels:
        return
    c_in, c_out, conv = block.conv_pw.in_channels, block.conv_pwl.out_channels, block.conv_dw
    block.conv_pw = nn.Conv2d(c_in, channels, 1, bias=False)
    block.conv_dw = nn.Conv2d(channels, channels, 3, conv.stride, 1, conv.dilation, channels, bias=False)
    block.conv_pwl = nn.Conv2d(channels, c_out, 1, bias=False)
    for name in ("bn1", "bn2"):
        old = getattr(block, name)
        made = type(old)(channels, eps=old.eps, momentum=old.momentum)
        made.act, made.drop = old.act, old.drop
        setattr(block, name, made)
    efficientnet_init_weights(block)
