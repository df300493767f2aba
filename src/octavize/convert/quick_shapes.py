"""Outputs by shape alone, for a run on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from octavize.nn._torch_internals import TorchDispatchMode


class QuickShapes(TorchDispatchMode):
    """Gives the outputs of some operations without values at once, by the shape of what they read.

    torch's own kernels of the meta device are dozens of Python calls for each activation, batch norm and
    nearest resizing: most of the time of a trace.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].is_meta and args[0].is_floating_point():
            if func in _ACTIVATIONS:
                return torch.empty_like(args[0])
            if func in _IN_PLACE:
                return args[0]
            if func in _NORMS:
                statistics = args[0].new_empty(args[0].shape[1])
                return torch.empty_like(args[0]), statistics, statistics.clone()
            if func in _NEAREST and len(args) > 1:
                like = torch.channels_last if _is_channels_last(args[0]) else torch.contiguous_format
                return args[0].new_empty((*args[0].shape[:2], *args[1])).to(memory_format=like)
        return func(*args, **(kwargs or {}))


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _aten(*names: str) -> set[Any]:
    """The default overloads of torch's operations of these names; those that it lacks are left out."""
    found = (getattr(getattr(torch.ops.aten, name, None), "default", None) for name in names)
    return {operation for operation in found if operation is not None}


_NAMES = ("elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "softplus")
_ACTIVATIONS = _aten(*_NAMES)
_IN_PLACE = _aten(*(f"{name}_" for name in _NAMES))
_NEAREST = _aten("upsample_nearest2d")
_NORMS = _aten("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
