"""Rules of functions with parameters per channel, such as batch norm: each half gets its share.

They follow the law of `elementwise.py`. Statistics are those of the pixels that a half stores.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, assign

from octavize.paddle.channels import merge_channels
from octavize.paddle.dispatch import oct_rule
from octavize.paddle.functions import Function
from octavize.paddle.tensor import OctTensor
from octavize.split import high_indices, low_indices


@oct_rule("batch_norm")
def batch_norm(
    func: Function,
    x: OctTensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    data_format: str = "NCHW",
    use_global_stats: bool | None = None,
    name: str | None = None,
) -> Any:
    """Batch norm of each half with its share of parameters and running statistics.

    Statistics are those of the pixels that a half stores, as in the official code. The running ones move as
    Paddle moves them: its running variance is that of the batch itself, the biased one. On even sizes, all of
    them equal those of the dense map.
    """
    if data_format[1] != "C":
        return NotImplemented
    learns = training and not use_global_stats
    running = [_parts(x, statistic, learns) for statistic in (running_mean, running_var)]
    per_channel = [(None, None) if p is None else x.split_channels(p) for p in (weight, bias)]
    settings: dict[str, Any] = {"use_global_stats": use_global_stats}

    def norm(half: Tensor, *parts: Any) -> Tensor:
        return func(half, *parts, training, momentum, epsilon, data_format, **settings)

    y = x.each_half(norm, *running, *per_channel)
    if learns:
        for statistic, parts in zip((running_mean, running_var), running, strict=True):
            _write_back(statistic, parts, x)
    return y


def _parts(x: OctTensor, statistic: Tensor, learns: bool) -> tuple[Tensor | None, Tensor | None]:
    """The running statistics of each half."""
    if paddle.in_dynamic_mode():
        return x.split_channels(statistic)
    if not learns:  # the operator would list a slice as its output too, and Paddle saves no program with that
        high, low = x.split_channels(statistic)
        return _copy(high), _copy(low)
    # `to_static` follows a gather where it would lose track of a slice that the operator writes.
    high, low = (
        paddle.gather(statistic, paddle.to_tensor(index, "int64")) if index else None
        for index in (high_indices(x.channel_layout), low_indices(x.channel_layout))
    )
    return high, low


def _copy(part: Tensor | None) -> Tensor | None:
    return None if part is None else assign(part)


def _write_back(statistic: Tensor, parts: tuple[Tensor | None, Tensor | None], x: OctTensor) -> None:
    """Bring new statistics into those of the layer, unless the parts are slices, which share its memory."""
    dynamic = paddle.in_dynamic_mode()
    if dynamic and all(part is None or part._is_shared_buffer_with(statistic) for part in parts):
        return
    with paddle.no_grad():
        assign(merge_channels(*parts, x.channel_layout, dim=0), statistic)


@oct_rule("instance_norm")
def instance_norm(
    func: Function,
    x: OctTensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Instance norm of each half, with the statistics of the pixels that it stores. Exact on even sizes.

    Paddle computes it from the map alone, and leaves running statistics as they are.
    """
    pairs = [
        (None, None) if p is None else x.split_channels(p) for p in (running_mean, running_var, weight, bias)
    ]
    return x.each_half(lambda half, *parts: func(half, *parts, *args, **kwargs), *pairs)


@oct_rule("prelu")
def prelu(func: Function, x: OctTensor, weight: Tensor, data_format: str = "NCHW", name: Any = None) -> Any:
    """PReLU with its slopes split like the channels. Exact."""
    if data_format[1] != "C":
        return NotImplemented
    slopes = (weight, weight) if weight.shape[0] == 1 else x.split_channels(weight)
    return x.each_half(lambda half, slope: func(half, slope, data_format), slopes)


@oct_rule("group_norm")
def group_norm(
    func: Function,
    x: OctTensor,
    num_groups: int,
    epsilon: float = 1e-5,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    data_format: str = "NCHW",
    name: Any = None,
) -> Any:
    """Group norm with the statistics of the stored pixels, in which every channel weighs the same.

    Exact on even sizes. Groups may mix high and low channels.
    """
    channels, space = x.shape[1], list(range(2, x.ndim))
    if channels % num_groups or data_format[1] != "C":
        return NotImplemented

    def of_groups(values: Tensor) -> Tensor:
        """The mean over the channels of a group, for each of them: (N, C, 1, 1)."""
        grouped = values.reshape([-1, num_groups, channels // num_groups])
        return grouped.mean(2, keepdim=True).expand_as(grouped).reshape([-1, channels, *[1] * len(space)])

    y = x.subtract(of_groups(x.mean(space, keepdim=True)))
    scale = (of_groups((y * y).mean(space, keepdim=True)) + epsilon).rsqrt()
    per_channel = [channels, *[1] * len(space)]
    y = y * (scale if weight is None else scale * weight.reshape(per_channel))
    return y if bias is None else y + bias.reshape(per_channel)
