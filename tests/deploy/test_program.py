"""torch.export of networks whose forward computes with shapes: symbols stay symbols, octave or not."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.deploy import shaken
from torch import nn

import octavize
from octavize import InputError, load_runtime
from octavize.deploy.program import export_program

OPEN = torch.export.Dim.DYNAMIC


class Net(nn.Module):
    """Three convolutions; `head` gets the module, the map after the second, and its third on a map."""

    def __init__(self, head: Callable[[Any, Any], Any], features: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.linear = nn.Linear(features, 5)
        self.head = head

    def forward(self, x: Any) -> Any:
        return self.head(self, F.relu(self.second(F.relu(self.first(x)))))

    def classify(self, x: Any) -> Any:
        return self.linear(self.last(x).mean((2, 3)))

    def last(self, x: Any) -> Any:
        return F.relu(self.norm(self.third(x)))


def shuffle(x: Any, groups: int = 2) -> Any:
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def permuted(x: Any, groups: int = 2) -> Any:
    n, c, *size = x.shape
    return x.reshape(n, groups, -1, *size).permute(0, 2, 1, 3, 4).reshape(n, c, *size)


ANY_SIZE: dict[str, Callable[[Any, Any], Any]] = {
    "shuffle": lambda net, x: net.classify(shuffle(x)),
    "permute": lambda net, x: net.classify(permuted(x)),
    "unflatten": lambda net, x: net.classify(x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)),
    "same view": lambda net, x: net.classify(x.view(x.shape)),
    "numel": lambda net, x: net.classify(x / (x.numel() // x.shape[0])),
    "pixels": lambda net, x: net.linear(net.last(x).view(x.size(0), x.size(1), -1).mean(2)),
    "global view": lambda net, x: net.linear(F.adaptive_avg_pool2d(net.last(x), 1).view(x.size(0), -1)),
    "spatial softmax": lambda net, x: net.classify(
        x * torch.softmax(x.view(x.size(0), -1), 1).view(*x.size())
    ),
}
ONE_SIZE: dict[str, Callable[[Any, Any], Any]] = {
    "view": lambda net, x: net.linear(F.avg_pool2d(net.last(x), 4).view(x.size(0), -1)),
    "view of rows": lambda net, x: net.linear(F.avg_pool2d(net.last(x), 4).view(-1, net.linear.in_features)),
    "reshape": lambda net, x: net.linear(F.avg_pool2d(net.last(x), 4).reshape(x.shape[0], -1)),
    "window of the size": lambda net, x: net.linear(
        F.avg_pool2d(net.last(x), x.size()[2:]).repeat(1, 9, 1, 1).view(x.size(0), -1)
    ),
}


def networks(name: str, alpha: float) -> nn.Module:
    torch.manual_seed(0)
    head, features = (ANY_SIZE[name], 32) if name in ANY_SIZE else (ONE_SIZE[name], 32 * 9)
    return shaken(octavize.octavize(Net(head, features), alpha, example=(1, 3, 12, 12), min_low=0))


@pytest.mark.parametrize("alpha", [0, 0.5])
@pytest.mark.parametrize("name", [*ANY_SIZE, *ONE_SIZE])
def test_batch_and_size_stay_open(name: str, alpha: float) -> None:
    """By torch.export itself, of the network as it is."""
    model = networks(name, alpha)
    axes = {0: OPEN, 2: OPEN, 3: OPEN} if name in ANY_SIZE else {0: OPEN}
    made = torch.export.export(model, (torch.randn(2, 3, 12, 12),), dynamic_shapes=(axes,), strict=False)
    sizes = [(12, 12), (13, 12), (15, 18)] if name in ANY_SIZE else [(12, 12)]
    for shape in [(batch, 3, *size) for batch in (1, 5) for size in sizes]:
        x = torch.randn(shape)
        torch.testing.assert_close(made.module(check_guards=False)(x), model(x))


@pytest.mark.parametrize("alpha", [0, 0.5])
@pytest.mark.parametrize("name", [*ANY_SIZE, *ONE_SIZE])
def test_frozen_into_one_list(name: str, alpha: float) -> None:
    """Also where a view merges channels and space, which maps in channels-last order do not allow."""
    model = networks(name, alpha)
    frozen = octavize.freeze(model, (1, 3, 12, 12))
    assert frozen.calls(3) is not None
    x = torch.randn(3, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), model(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(frozen.net(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("name", [*ANY_SIZE, *ONE_SIZE])
def test_files_take_any_batch(name: str, suffix: str, tmp_path: Path) -> None:
    if find_spec("openvino" if suffix == ".xml" else "onnxruntime") is None:
        pytest.skip("the runtime is not installed")
    model = networks(name, 0.5)
    settings: dict[str, Any] = {"dynamic_size": name in ANY_SIZE}
    assert octavize.export(model, tmp_path / f"net{suffix}", (1, 3, 12, 12), **settings) < 1e-5
    x = torch.randn(7, 3, 12, 12)
    with torch.no_grad():
        expected = model(x)
    got = torch.from_numpy(load_runtime(tmp_path / f"net{suffix}", trust=True)(x))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_numbers_of_shapes_are_explained() -> None:
    """torch itself makes a number of `len(x)`, and of a map's size given as a window."""
    counted = Net(lambda net, x: net.classify(x.view(len(x), 32, x.size(2), x.size(3)))).eval()
    with pytest.raises(InputError, match=r"makes a number of the batch, as len\(x\) .*dynamic_batch=False"):
        export_program(counted, (1, 3, 12, 12), True, False)
    export_program(counted, (1, 3, 12, 12), False, False)
    window = Net(lambda net, x: net.linear(F.avg_pool2d(x, x.shape[2:]).flatten(1))).eval()
    with pytest.raises(InputError, match=r"a number of the size of a map, so .*dynamic_size=False"):
        export_program(window, (1, 3, 12, 12), True, True)
    export_program(window, (1, 3, 12, 12), True, False)
