"""The article's octave networks in PaddlePaddle, as its reader would write them, for `paddle_speed.py`.

An octave layer is four convolutions with a bias each, average pooling and nearest interpolation; a map is a
pair (high, low), and every norm and activation is written twice.
"""

from __future__ import annotations

from typing import Any

import paddle.nn.functional as F
from paddle import nn

ALPHA = 0.5


class OctaveConv(nn.Layer):
    """Four convolutions; α of the input and of the output say which of them there are."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        alpha_in: float = ALPHA,
        alpha_out: float = ALPHA,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        low_in, low_out = int(alpha_in * in_channels), int(alpha_out * out_channels)
        high_in, high_out = in_channels - low_in, out_channels - low_out

        def conv(source: int, target: int) -> Any:
            if not source or not target:
                return None
            groups = source if depthwise else 1
            return nn.Conv2D(source, target, kernel_size, padding=kernel_size // 2, groups=groups)

        self.conv_h2h, self.conv_l2l = conv(high_in, high_out), conv(low_in, low_out)
        self.conv_h2l = None if depthwise else conv(high_in, low_out)
        self.conv_l2h = None if depthwise else conv(low_in, high_out)

    def forward(self, x: Any) -> Any:
        high, low = x if isinstance(x, tuple) else (x, None)
        high = F.avg_pool2d(high, 2, 2) if self.stride == 2 else high
        y_high = self.conv_h2h(high)
        y_low = self.conv_h2l(F.avg_pool2d(high, 2, 2)) if self.conv_h2l is not None else None
        if low is None:
            return y_high if y_low is None else (y_high, y_low)
        if self.conv_l2h is not None:
            from_low = self.conv_l2h(low)
            if self.stride == 1:
                from_low = F.interpolate(from_low, scale_factor=2, mode="nearest")
            y_high = y_high + from_low
        if self.conv_l2l is None:
            return y_high
        own = self.conv_l2l(F.avg_pool2d(low, 2, 2) if self.stride == 2 else low)
        return y_high, own if y_low is None else y_low + own


class ConvBN(nn.Layer):
    """An octave convolution and a batch norm of each half."""

    def __init__(self, in_channels: int, out_channels: int, *args: Any, act: bool = True, **kwargs: Any):
        super().__init__()
        self.conv, self.act = OctaveConv(in_channels, out_channels, *args, **kwargs), act
        low = int(kwargs.get("alpha_out", ALPHA) * out_channels)
        self.bn_h, self.bn_l = nn.BatchNorm2D(out_channels - low), nn.BatchNorm2D(low) if low else None

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        high, low = y if isinstance(y, tuple) else (y, None)
        high = self.bn_h(high)
        high = F.relu(high) if self.act else high
        if low is None:
            return high
        low = self.bn_l(low)
        return high, F.relu(low) if self.act else low


class Bottleneck(nn.Layer):
    """A residual block of ResNet-50: 1×1, 3×3 with the stride, 1×1."""

    def __init__(self, inputs: int, width: int, stride: int, alpha_in: float, alpha_out: float) -> None:
        super().__init__()
        self.conv1 = ConvBN(inputs, width, 1, alpha_in=alpha_in, alpha_out=alpha_out)
        self.conv2 = ConvBN(width, width, 3, stride, alpha_in=alpha_out, alpha_out=alpha_out)
        self.conv3 = ConvBN(width, 4 * width, 1, alpha_in=alpha_out, alpha_out=alpha_out, act=False)
        self.shortcut = None
        if inputs != 4 * width:
            self.shortcut = ConvBN(
                inputs, 4 * width, 1, stride, alpha_in=alpha_in, alpha_out=alpha_out, act=False
            )

    def forward(self, x: Any) -> Any:
        y = self.conv3(self.conv2(self.conv1(x)))
        x = x if self.shortcut is None else self.shortcut(x)
        if isinstance(y, tuple):
            return F.relu(x[0] + y[0]), F.relu(x[1] + y[1])
        return F.relu(x + y)


class ResNet50(nn.Layer):
    """Oct-ResNet-50: the stem and the last stage are vanilla."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        stem = [nn.Conv2D(3, 64, 7, 2, 3), nn.BatchNorm2D(64), nn.ReLU()]
        self.stem = nn.Sequential(*stem, nn.MaxPool2D(3, 2, 1))
        blocks, inputs, before = [], 64, 0.0
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
            alpha = 0.0 if stage == 3 else ALPHA
            for block in range(count):
                stride = 2 if stage and not block else 1
                blocks.append(Bottleneck(inputs, width, stride, before, alpha))
                inputs, before = 4 * width, alpha
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(inputs, classes)

    def forward(self, x: Any) -> Any:
        x = self.blocks(self.stem(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class MobileNetV1(nn.Layer):
    """Oct-MobileNetV1: the stem and what follows block 11 are vanilla."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        outputs = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
        strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
        layers: list[nn.Layer] = [nn.Sequential(nn.Conv2D(3, 32, 3, 2, 1), nn.BatchNorm2D(32), nn.ReLU())]
        inputs, before = 32, 0.0
        for block, (outs, stride) in enumerate(zip(outputs, strides, strict=True), start=1):
            alpha = ALPHA if block < 11 else 0.0
            layers.append(
                ConvBN(inputs, inputs, 3, stride, alpha_in=before, alpha_out=before, depthwise=True)
            )
            layers.append(ConvBN(inputs, outs, 1, alpha_in=before, alpha_out=alpha))
            inputs, before = outs, alpha
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(inputs, classes)

    def forward(self, x: Any) -> Any:
        return self.fc(F.adaptive_avg_pool2d(self.layers(x), 1).flatten(1))


NETWORKS = {"resnet50": ResNet50, "mobilenet_v1": MobileNetV1}
