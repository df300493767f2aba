"""Which functions of torch take an octave map of three bands: as the library is, and with two changes.

An octave map whose low half is an octave map is no map that the library makes. Its rules ask the halves, and
a half that is an octave map asks its own. Where that ends, it does so for two reasons, and `changed` removes
both: a rule calls `Tensor.__add__` itself, which does not ask octave maps; and the constructor refuses a half
that is no tensor of torch's.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize import OctTensor
from octavize.nn import dispatch, tensor

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
draft: Any = import_module("three_bands")

COUNTS, SIDE = (4, 2, 2), 16
CHANNELS = sum(COUNTS)
GATE = torch.linspace(0, 1, CHANNELS).view(1, CHANNELS, 1, 1)
Call = Callable[[Any, Any], Any]

DENSE: dict[str, dict[str, Call]] = {
    "elementwise": {
        "F.relu": lambda x, y: F.relu(x),
        "x.relu()": lambda x, y: x.relu(),
        "nn.ReLU(inplace=True)": lambda x, y: nn.ReLU(inplace=True)(x),
        "F.silu": lambda x, y: F.silu(x),
        "F.gelu": lambda x, y: F.gelu(x),
        "F.hardswish": lambda x, y: F.hardswish(x),
        "torch.sigmoid": lambda x, y: torch.sigmoid(x),
        "torch.clamp": lambda x, y: torch.clamp(x, -1, 1),
        "-x": lambda x, y: -x,
        "x.clone()": lambda x, y: x.clone(),
        "x.detach()": lambda x, y: x.detach(),
        "x.to(torch.float64)": lambda x, y: x.to(torch.float64),
        "deepcopy": lambda x, y: deepcopy(x),
        "F.dropout": lambda x, y: F.dropout(x, 0.5, False),
        "x + y": lambda x, y: x + y,
        "torch.add": lambda x, y: torch.add(x, y),
        "x += y": lambda x, y: x.__iadd__(y),
        "2 * x": lambda x, y: 2 * x,
        "x * gate": lambda x, y: x * GATE,
        "torch.mul(x, gate)": lambda x, y: torch.mul(x, GATE),
        "torch.where": lambda x, y: torch.where(x > 0, x, y),
        "torch.flatten": lambda x, y: torch.flatten(x, 1),
        "F.conv2d": lambda x, y: F.conv2d(x, torch.ones(1, CHANNELS, 3, 3), padding=1),
    },
    "norm": {
        "nn.BatchNorm2d, training": lambda x, y: nn.BatchNorm2d(CHANNELS)(x),
        "nn.BatchNorm2d, evaluation": lambda x, y: nn.BatchNorm2d(CHANNELS).eval()(x),
        "nn.InstanceNorm2d": lambda x, y: nn.InstanceNorm2d(CHANNELS)(x),
        "nn.GroupNorm, a channel each": lambda x, y: nn.GroupNorm(CHANNELS, CHANNELS)(x),
        "nn.GroupNorm, over bands": lambda x, y: nn.GroupNorm(2, CHANNELS)(x),
        "nn.PReLU": lambda x, y: nn.PReLU(CHANNELS)(x),
        "torch.softmax": lambda x, y: torch.softmax(x, 1),
    },
    "channels": {
        "torch.cat, channels": lambda x, y: torch.cat([x, y], 1),
        "torch.cat, batch": lambda x, y: torch.cat([x, y], 0),
        "torch.chunk": lambda x, y: torch.chunk(x, 2, 1)[1],
        "torch.split": lambda x, y: torch.split(x, 3, 1)[1],
        "x[:, 2:6]": lambda x, y: x[:, 2:6],
        "x[:1]": lambda x, y: x[:1],
    },
    "spatial": {
        "F.interpolate, nearest": lambda x, y: F.interpolate(x, scale_factor=2),
        "F.pad": lambda x, y: F.pad(x, (4, 4, 4, 4)),
        "F.adaptive_avg_pool2d(x, 1)": lambda x, y: F.adaptive_avg_pool2d(x, 1),
        "x.mean((2, 3))": lambda x, y: x.mean((2, 3)),
        "torch.mean": lambda x, y: torch.mean(x, (2, 3)),
        "torch.sum": lambda x, y: torch.sum(x, (2, 3)),
        "x.amax((2, 3))": lambda x, y: x.amax((2, 3)),
    },
    "grid": {
        "F.pixel_shuffle": lambda x, y: F.pixel_shuffle(x, 2),
        "shuffled channels": lambda x, y: (
            x.view(2, 2, -1, SIDE, SIDE).transpose(1, 2).reshape(2, -1, SIDE, SIDE)
        ),
    },
}
"""Calls that are right if they give what the dense maps give."""
EACH: dict[str, dict[str, Call]] = {
    "spatial": {
        "F.max_pool2d": lambda x, y: F.max_pool2d(x, 2),
        "F.max_pool2d, overlapping": lambda x, y: F.max_pool2d(x, 3, 2, 1),
        "F.avg_pool2d": lambda x, y: F.avg_pool2d(x, 2),
        "F.interpolate, bilinear": lambda x, y: F.interpolate(x, scale_factor=2, mode="bilinear"),
    },
}
"""Calls that are right if they give what each band alone gives."""


def census() -> list[dict[str, str]]:
    """A row a call: the file of its rule, and what came of it, `right`, `wrong` or `refused`."""
    rows = []
    for calls, expected in ((DENSE, _dense_result), (EACH, _results_of_bands)):
        for file, named in calls.items():
            for name, call in named.items():
                with changed():
                    after = outcome(call, expected)
                rows.append({"rule": file, "call": name, "now": outcome(call, expected), "changed": after})
    return rows


@contextmanager
def changed() -> Iterator[None]:
    """Inside, the rules' functions ask octave halves, and a half may be an octave map."""
    plain = dispatch._by_rule

    def by_rule(rule: Any, func: Any, args: Any, kwargs: Any) -> Any:
        return plain(rule, _Asking(func), args, kwargs)

    with patch.object(dispatch, "_by_rule", by_rule), patch.object(tensor, "Tensor", (Tensor, OctTensor)):
        yield


class _Asking:
    """A function of torch that asks octave maps even if it is a method; it equals the function itself."""

    def __init__(self, func: Any) -> None:
        self.func = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if dispatch.oct_tensors((args, kwargs)):
            return dispatch.apply_rule(self.func, args, kwargs)
        return self.func(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return other is self.func or other is self

    def __hash__(self) -> int:
        return hash(self.func)


def outcome(call: Call, expected: Callable[[Call], list[Tensor]]) -> str:
    """Whether a call on maps of three bands gives the expected tensors."""
    with warnings.catch_warnings(), dispatch.unannounced():
        warnings.simplefilter("ignore")
        try:
            found = call(*_maps())
        except TypeError:
            return "refused"
        wanted = expected(call)
    got = draft.bands(found) if len(wanted) > 1 else [draft.dense(found)]
    same = len(got) == len(wanted) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(got, wanted, strict=True)
    )
    return "right" if same else "wrong"


def _maps() -> list[Any]:
    """Two random maps of three bands, the same at every call."""
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        full, half, quarter = (
            torch.randn(2, n, SIDE >> level, SIDE >> level, generator=random)
            for level, n in enumerate(COUNTS)
        )
        low: Any = OctTensor(half, quarter)
        found.append(OctTensor.trusted(full, low, (COUNTS[0], CHANNELS - COUNTS[0]), 2, False))
    return found


def _dense_result(call: Call) -> list[Tensor]:
    return [call(*map(draft.dense, _maps()))]


def _results_of_bands(call: Call) -> list[Tensor]:
    return [call(x, y) for x, y in zip(*map(draft.bands, _maps()), strict=True)]
