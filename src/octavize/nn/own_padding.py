"""How a convolution pads whose forward pads by code of its own, as TensorFlow does: read from one call.

timm, efficientnet-pytorch, segmentation-models-pytorch and others have such a class each. What they have in
common is what they call: `F.pad` by zeros, then torch's convolution of their own weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from octavize.nn._torch_internals import computes_as

Padding = tuple[int, ...] | None
"""Pixels (left, right) per axis, last axis first; None is as many as the size ⌈size / stride⌉ needs."""
KEPT = "own_padding"
"""Attribute of an octave layer: the padding of the layer that it was."""
_TORCH: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NAMES = ("conv1d", "conv2d", "conv3d")
_OF_TORCH = frozenset([*vars(nn.Conv2d(1, 1, 1)), "weight", "bias"])
_SETTINGS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def pads_by_itself(conv: nn.Module) -> bool:
    """Whether a convolution's own forward pads, by zeros and to ⌈size / stride⌉, and only convolves else."""
    return KEPT in vars(conv) or bool(_found(conv))


def own_padding(conv: nn.Module) -> Padding:
    """How a layer of which `pads_by_itself` holds pads. A fixed padding may fit even sizes only."""
    return vars(conv)[KEPT] if KEPT in vars(conv) else _found(conv)[0]


def same_pads(
    size: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """(left, right) pixels per axis, last axis first, for ⌈size / stride⌉: an odd one is on the right."""
    totals = [
        max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(size, kernel_size, stride, dilation, strict=True)
    ]
    return tuple(n for total in reversed(totals) for n in (total // 2, total - total // 2))


def _found(conv: nn.Module) -> list[Padding]:
    """The padding in a list, which is empty if the layer is of another kind."""
    if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or any(
        computes_as(type(conv), kind) for kind in _TORCH
    ):
        return []
    kernel_size, stride, dilation = tuple(conv.kernel_size), tuple(conv.stride), tuple(conv.dilation)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]
    even = 4 * max(spans) + 4
    sizes = [(n,) * len(spans) for n in (even, even + 1)]
    used = [_pads_of_call(conv, size) for size in sizes]
    same = [same_pads(size, kernel_size, stride, dilation) for size in sizes]
    if used == same:
        return [None]
    if used[0] is not None and used[0] == used[1] and used[0] in same:
        return [used[0]]  # made for sizes of one parity
    return []


def _pads_of_call(conv: Any, size: Sequence[int]) -> tuple[int, ...] | None:
    """The zeros that a call puts around a map of this size; None if it does, or may do, anything else."""
    layer, read = _observed(conv)
    before, x = dict(vars(layer)), torch.empty(1, conv.in_channels, *size, device="meta")
    seen = _Call(layer)
    try:
        with torch.no_grad(), seen:
            output = type(conv).forward(layer, x)
    except Exception:  # a forward that cannot be tried is one that is not known
        return None
    keeps = vars(layer).keys() == before.keys() and all(vars(layer)[k] is v for k, v in before.items())
    if seen.other or seen.output is None or output is not seen.output or not keeps:
        return None
    return tuple(seen.pads) if all(_is_fixed(conv, name) for name in read) else None


def _observed(conv: nn.Module) -> tuple[Any, set[str]]:
    """A shallow copy of a layer, and the names of its attributes that have been read."""
    read: set[str] = set()

    def note(self: Any, name: str) -> Any:
        read.add(name)
        return super(watching, self).__getattribute__(name)

    watching = type(type(conv).__name__, (type(conv),), {"__getattribute__": note})
    layer = object.__new__(watching)
    layer.__dict__.update({name: dict(v) if isinstance(v, dict) else v for name, v in vars(conv).items()})
    read.clear()
    return layer, read


def _is_fixed(conv: nn.Module, name: str) -> bool:
    """Whether an attribute that a forward reads makes it do the same later on.

    A flag, a mask that is still None, and whether the layer trains may make it do something else.
    """
    if name in _OF_TORCH:
        return name != "training"
    value = getattr(conv, name, None)
    if isinstance(value, (tuple, list)):
        return all(isinstance(n, (int, str)) for n in value)
    number = isinstance(value, (int, str)) and not isinstance(value, bool)
    return number or callable(value) or name.startswith("__")


class _Call(TorchFunctionMode):
    """Notes what a layer's forward does with its input: zeros around it, one convolution, or something else.

    The convolution is not computed: weights may be on any device.
    """

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.conv = conv
        self.weights = (conv.weight, conv.bias)
        self.pads = [0] * (2 * len(conv.kernel_size))
        self.output: Tensor | None = None
        self.other = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _NAMES:
            return self._convolved(dict(zip(_SETTINGS, args, strict=False)) | kwargs)
        result = func(*args, **kwargs)
        if func is F.pad:
            self._padded(args, kwargs)
        elif isinstance(result, Tensor) and not any(result is x for x in (*args, *self.weights)):
            self.other = True
        return result

    def _padded(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
        if given.get("mode", "constant") != "constant" or given.get("value"):
            self.other = True
        self._add(given["pad"])

    def _convolved(self, given: dict[str, Any]) -> Tensor:
        conv = self.conv
        own = given["weight"] is conv.weight and given.get("bias") is conv.bias
        strides = (given.get("stride", 1), given.get("dilation", 1), given.get("groups", 1))
        wanted = (conv.stride, conv.dilation, conv.groups)
        same = [_per_axis(a, conv) == _per_axis(b, conv) for a, b in zip(strides, wanted, strict=True)]
        padding = given.get("padding", 0)
        if self.output is not None or not own or not all(same) or isinstance(padding, str):
            self.other = True
        else:
            self._add([n for n in reversed(_per_axis(padding, conv)) for _ in "lr"])
        self.output = torch.empty(0, device="meta")
        return self.output

    def _add(self, pads: Sequence[int]) -> None:
        if len(pads) > len(self.pads) or min(pads, default=0) < 0:
            self.other = True
        else:
            for i, n in enumerate(pads):
                self.pads[i] += int(n)


def _per_axis(value: Any, conv: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(conv.kernel_size)
