"""Rules of functions with parameters per channel, such as batch norm: each half gets its share.

They follow the law of `elementwise.py`. Statistics are those of the pixels that a half stores.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from octavize.nn.channels import merge_channels
from octavize.nn.dispatch import functions_named, oct_rule
from octavize.nn.rules.elementwise import Function
from octavize.nn.tensor import OctTensor


@oct_rule(F.batch_norm)
def batch_norm(
    func: Function,
    x: OctTensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> OctTensor:
    """Batch norm of each half with its share of parameters and running statistics.

    Statistics are those of the pixels that a half stores, as in the official code. On even sizes, mean and
    (biased) variance equal those of the dense map; the running variance has the n/(n−1) of its smaller n.
    """
    return _by_half(
        func, x, x.high.shape[0], running_mean, running_var, weight, bias, training, momentum, eps
    )


def _by_half(
    func: Function,
    x: OctTensor,
    images: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> OctTensor:
    """Normalize each half; `images` are those that share statistics."""
    per_channel = (running_mean, running_var, weight, bias)
    parts = [(None, None) if p is None else x.split_channels(p) for p in per_channel]

    def normalized(half: Tensor, i: int) -> Tensor:
        if half.shape[1] == 0:
            return half.clone()  # what follows may change the result in place, and not what is read here
        settings = (*(part[i] for part in parts), training, momentum, eps)
        if training and images * half.shape[2:].numel() == 1 < images * x.shape[2:].numel():
            # torch refuses the variance of one value. This one stands for several: it is 0.
            return func(half.expand(*half.shape[:-1], 2), *settings)[..., :1]
        return func(half, *settings)

    high, low = normalized(x.high, 0), normalized(x.low, 1)
    if training and len(x.channel_layout) > 2:
        # For a layout of more than two counts the parts are copies: write the new statistics back.
        for statistic, (of_high, of_low) in zip(per_channel[:2], parts[:2], strict=True):
            if statistic is not None and of_high is not None and of_low is not None:
                statistic.copy_(merge_channels(of_high, of_low, x.channel_layout, dim=0))
    return x.trusted_like(high, low)


@oct_rule(F.instance_norm)
def instance_norm(
    func: Function,
    x: OctTensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> OctTensor:
    """Instance norm of each half, with the statistics of the pixels that it stores. Exact on even sizes."""
    return _by_half(func, x, 1, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


@oct_rule(*functions_named("prelu"))
def prelu(func: Function, x: OctTensor, weight: Tensor) -> OctTensor:
    """PReLU with its slopes split like the channels. Exact."""
    slopes = (weight, weight) if weight.numel() == 1 else x.split_channels(weight)
    high, low = (
        half if half.shape[1] == 0 else func(half, slope)
        for half, slope in zip((x.high, x.low), slopes, strict=True)
    )
    return x.trusted_like(high, low)


@oct_rule(F.group_norm)
def group_norm(
    func: Function,
    x: OctTensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """Group norm with the statistics of the stored pixels, in which every channel weighs the same.

    Exact on even sizes. Groups may mix high and low channels.
    """
    n, c = x.shape[:2]
    if c % num_groups:
        return func(x.to_dense(), num_groups)  # torch's own error
    space, dtype = tuple(range(2, x.dim())), x.dtype
    if dtype in (torch.float16, torch.bfloat16):  # torch too computes the statistics in float32
        x = x.float()

    def of_groups(values: Tensor) -> Tensor:
        """The mean over the channels of a group, for each of them: (N, C, 1, 1)."""
        grouped = values.view(n, num_groups, c // num_groups, *values.shape[2:])
        return grouped.mean(2, keepdim=True).expand_as(grouped).reshape(values.shape)

    x = x.sub(of_groups(x.mean(space, keepdim=True)))
    scale = (of_groups(x.square().mean(space, keepdim=True)) + eps).rsqrt()
    per_channel = (c, *[1] * len(space))
    x = x.mul(scale if weight is None else scale * weight.view(per_channel))
    return (x if bias is None else x.add(bias.view(per_channel))).to(dtype)
