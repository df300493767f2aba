"""Outputs that are given by shape alone are those of torch's own kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from octavize.convert.quick_shapes import QuickShapes

STATISTICS = torch.zeros(4, device="meta"), torch.ones(4, device="meta")
CALLS: dict[str, Callable[[Tensor], Any]] = {
    **{
        name: getattr(F, name)
        for name in ("elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu")
    },
    "softplus": F.softplus,
    "relu6": F.relu6,
    "norm in training": lambda x: F.batch_norm(x, *STATISTICS, training=True),
    "norm in evaluation": lambda x: F.batch_norm(x, *STATISTICS),
    "nearest by factor": lambda x: F.interpolate(x, scale_factor=2.0),
    "nearest to a size": lambda x: F.interpolate(x, (5, 9)),
}
IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    **{name: getattr(F, name) for name in ("elu_", "hardtanh_", "leaky_relu_", "relu_")},
    **{
        name: lambda x, name=name: getattr(F, name)(x, inplace=True)
        for name in ("hardsigmoid", "hardswish", "mish", "relu6")
    },
}


def maps() -> list[Tensor]:
    """In both memory formats, in half precision, and a slice."""
    x = torch.empty(2, 4, 6, 6, device="meta")
    return [x, x.to(memory_format=torch.channels_last), x.bfloat16(), x[:, :, 1:-1, 1:-1]]


def told(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.stride(), value.dtype, value.device.type


@pytest.mark.parametrize("name", CALLS)
def test_outputs_are_torchs(name: str) -> None:
    for x in maps():
        plain = CALLS[name](x)
        with QuickShapes():
            quick = CALLS[name](x)
        assert told(quick) == told(plain)
        assert quick is not x


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_is_changed_in_place_is_returned(name: str) -> None:
    x = torch.empty(2, 4, 6, 6, device="meta")
    version = x._version
    with QuickShapes():
        assert IN_PLACE[name](x) is x
    assert x._version > version


def test_values_are_computed() -> None:
    x = torch.randn(2, 4, 6, 6)
    for name in ("elu", "hardswish", "relu"):
        with QuickShapes():
            assert torch.equal(CALLS[name](x), CALLS[name](x.clone()))
