"""The ResNets for CIFAR of He et al. 2016, §4.2, of the parts of `paddle.vision.models`."""

from __future__ import annotations

from typing import Any

from paddle import nn
from paddle.vision.models.resnet import BasicBlock, ResNet


class CifarResNet(ResNet):
    """Three stages of basic blocks; 1×1 convolutions where a shortcut changes width, as in torch's."""

    def __init__(self, depth: int, num_classes: int, width: float = 1.0) -> None:
        super().__init__(BasicBlock, 18, num_classes=0)
        # In steps of 8, as `oct_cifar_resnet…` of torch has them.
        channels = [8 * max(1, round(2 * width * factor)) for factor in (1, 2, 4)]
        self.conv1 = nn.Conv2D(3, channels[0], 3, padding=1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(channels[0])
        self.maxpool = nn.Identity()
        self.inplanes = channels[0]
        for stage, planes in enumerate(channels):
            blocks: Any = self._make_layer(
                BasicBlock, planes, (depth - 2) // 6, stride=1 if stage == 0 else 2
            )
            setattr(self, f"layer{stage + 1}", blocks)
        self.layer4 = nn.Identity()
        self.num_classes = num_classes
        if num_classes:
            self.fc = nn.Linear(channels[-1], num_classes)
