"""ResNet-50 for video, as the paper used it: torchvision's, with the kernels of Wang et al., CVPR 2018.

Octave convolution halves height and width only, never time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from octavize.errors import InputError

CLIP = (3, 8, 224, 224)
"""Channels, frames, height and width of a clip: 8 frames of Kinetics."""
BLOCKS = (3, 4, 6, 3)
SEES_TIME = ((True, True, True), (True, False, True, False), (True, False) * 3, (False, True, False))
"""By stage and block of I3D: whether the first 1 × 1 convolution covers three frames."""


def video_resnet(
    inflated: bool, num_classes: int = 400, in_chans: int = 3, pretrained: bool = False
) -> nn.Module:
    """C2D, whose kernels see one frame each, or I3D, some of whose kernels are inflated in time.

    Args:
        inflated: I3D. Its stem covers five frames, and every second block three.

    Returns:
        A network from (N, 3, T, H, W) to (N, num_classes). In both, pooling halves the frames after the first
        stage.

    Raises:
        InputError: pretrained weights are asked for: nobody publishes them for these builders.
    """
    from torchvision.models.video.resnet import Bottleneck, Conv3DNoTemporal, VideoResNet

    if pretrained:
        raise InputError("pretrained=True: torchvision has no weights for C2D and I3D; leave it out")
    stem = partial(_stem, in_chans, 5 if inflated else 1)
    model: Any = VideoResNet(Bottleneck, [Conv3DNoTemporal] * len(BLOCKS), [*BLOCKS], stem, num_classes)
    if inflated:
        stages = (model.layer1, model.layer2, model.layer3, model.layer4)
        for stage, wanted in zip(stages, SEES_TIME, strict=True):
            for block, sees_time in zip(stage, wanted, strict=True):
                if sees_time:
                    block.conv1[0] = _over_three_frames(block.conv1[0])
    model.layer1.append(nn.MaxPool3d((2, 1, 1)))
    return model


def _stem(in_chans: int, frames: int) -> nn.Sequential:
    kernel, padding = (frames, 7, 7), (frames // 2, 3, 3)
    return nn.Sequential(
        nn.Conv3d(in_chans, 64, kernel, stride=(1, 2, 2), padding=padding, bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
    )


def _over_three_frames(conv: nn.Conv3d) -> nn.Conv3d:
    made = nn.Conv3d(conv.in_channels, conv.out_channels, (3, 1, 1), padding=(1, 0, 0), bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    return made
