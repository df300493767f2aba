"""Files in low precision: how a network is written for them, and how well they agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from octavize.deploy.agreement import Agreement, agreement_of
from octavize.deploy.difference import dense_leaves
from octavize.deploy.runtime import Runner, classes_of
from octavize.nn.tensor import OctTensor


def outputs_of(model: nn.Module, shape: Sequence[int]) -> int | None:
    """How many classes a network tells apart; None if it is no classifier, as one with a single output."""
    with torch.no_grad():
        return classes_of(dense_leaves(model.eval()(torch.zeros(tuple(shape)))))


class PoolsAsConvolutions(TorchFunctionMode):
    """Inside, averages of 2 × 2 pixels are depthwise convolutions by a quarter.

    Runtimes have integer convolutions, with the scale of their output included, but take the average of
    integers in float32 and quantize it again. Maps of odd size keep the average, which treats their last
    pixels in another way.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.avg_pool2d and not kwargs and len(args) > 2 and _is_half(*args):
            x: Tensor = args[0]
            quarter = torch.full((x.shape[1], 1, 2, 2), 0.25, dtype=x.dtype, device=x.device)
            return F.conv2d(x, quarter, stride=2, groups=x.shape[1])
        return func(*args, **(kwargs or {}))


def _is_half(x: Any, window: Any, stride: Any, padding: Any = 0, *how: Any) -> bool:
    """Whether a call of avg_pool2d, its arguments in torch's order, averages cells of 2 × 2 of a plain map.

    `how` is ceil_mode and count_include_pad, which make no difference to such cells, and divisor_override.
    """

    def are(each: Any, n: int) -> bool:
        return tuple(each) == (n, n) if isinstance(each, Sequence) else each == n

    cells = are(window, 2) and are(stride, 2) and are(padding, 0) and (len(how) < 3 or how[2] is None)
    plain = not isinstance(x, OctTensor) and x.dim() == 4
    return cells and plain and all(isinstance(n, int) and n % 2 == 0 for n in x.shape[2:])


def agreement(
    model: nn.Module, runner: Runner, batches: Iterable[Any], labels: Sequence[int] | None = None
) -> Agreement:
    """Compare an exported file with its network.

    Args:
        model: the network, in evaluation mode.
        batches: images (N, C, H, W), as the network takes them: tensors or arrays.
        labels: the classes of all of them, as indices.

    Raises:
        InputError: the network is no classifier.
    """
    with torch.no_grad():
        called = type(model).__name__
        return agreement_of(
            lambda x: dense_leaves(model(torch.as_tensor(x))), runner, batches, labels, called
        )
