"""What torch does not document, hidden: every result stays, only memory and speed may go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.channels import permute
from tests.helpers.versions import needs_torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import octavize
from octavize.bench.profile import count_activation_bytes
from octavize.calibration.coupling import find_coupling
from octavize.nn import _torch_internals as internals
from octavize.nn.conv import OctConv2d
from octavize.nn.resample import border
from octavize.nn.tensor import OctTensor
from octavize.split import KNOWN_WHILE_TRACING

SHAPE = (2, 3, 10, 10)
CALLED = [
    "_version",
    "_top_saved_tensors_default_hooks",
    "peek_interpreter_stack",
    "_current_level",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_conv_forward",
    "_schema",
    "tree_leaves",
    "tree_map",
    "WeakTensorKeyDictionary",
    "_reorder_convolution_weight.default",
    "_convolution_pointwise_.binary",
    "enabled",
    "freezing",
]
IMPORTED = {
    "ConvNd": "torch.nn.modules.conv._ConvNd",
    "BatchNorm": "torch.nn.modules.batchnorm._BatchNorm",
    "TorchDispatchMode": "torch.utils._python_dispatch.TorchDispatchMode",
}


@pytest.fixture(autouse=True)
def _looked_for_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was found before does not count here, nor what was hidden here afterwards."""
    forget = [internals.onednn.cache_clear, internals._found.cache_clear]
    _ = [clear() for clear in forget]
    yield
    _ = [clear() for clear in forget]


@pytest.fixture(params=CALLED)
def hidden(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """torch without one of its internals."""
    find, name, looked_for = internals._find, request.param, []

    def blind(path: str, home: Any = torch) -> Any:
        if path == name or path.endswith(f".{name}"):
            looked_for.append(path)
            return None
        return find(path, home)

    monkeypatch.setattr(internals, "_find", blind)
    yield name
    assert looked_for  # else hiding it tests nothing


def octave_net() -> nn.Module:
    """Plain, strided, grouped, depthwise and reflecting layers; two of them read one map."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(32),
        nn.Hardswish(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    return octavize.octavize(net.double(), example=SHAPE, min_low=0)  # in other processes too


def step(net: nn.Module, *, by_checkpoint: bool = False) -> list[Tensor]:
    """The output of a training step, and the gradients."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = checkpoint(net, x, use_reentrant=False) if by_checkpoint else net(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]


def reordered() -> Tensor:
    """The output of a network whose channels have changed places, where they may: the same as before."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 3)]
    net = nn.Sequential(*layers).eval()
    coupling = find_coupling(net, (1, 3, 8, 8))
    permute(net, coupling, [torch.arange(len(members)).flip(0) for members in coupling.sets])
    return net(torch.ones(1, 3, 8, 8)).detach()


def run_all() -> dict[str, list[Tensor]]:
    """Everything that uses an internal, and what it gives."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    frozen = octavize.freeze(octave_net().float().eval(), SHAPE)
    weight = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    layer = OctConv2d(8, 8, 3, padding=1, dtype=torch.float64)
    octave_map = OctTensor(weight[:4, :4] + 1, weight[4:, 4:][:4, :, :2, :2] + 1)

    def loss(weight: Tensor) -> Tensor:
        y = torch.func.functional_call(layer, {"weight": weight, "bias": weight[:, 0, 0, 0]}, (octave_map,))
        return y.high.square().sum() + y.low.square().sum()

    with torch.no_grad(), internals.constant_weights():
        outputs = [frozen(x), frozen(x[:1]), frozen(x)]
    return {
        "step": step(octave_net()),
        "checkpoint": step(octave_net(), by_checkpoint=True),
        "frozen": outputs,
        "transform": [torch.func.grad(loss)(weight)],
        "calibration": [reordered()],
        "activation bytes": [torch.tensor(count_activation_bytes(nn.Conv2d(3, 8, 3), (1, 3, 8, 8)))],
    }


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Tensor]]:
    return run_all()


def check(found: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> None:
    assert found.keys() == expected.keys()
    for what, values in expected.items():
        for own, wanted in zip(found[what], values, strict=True):
            tolerance = 1e-9 if wanted.dtype == torch.float64 else 1e-4
            torch.testing.assert_close(own, wanted, rtol=tolerance, atol=0.1 * tolerance, msg=what)


def test_nothing_is_missing_here(expected: Any) -> None:
    assert internals.counts_changes()
    assert internals.onednn() is not None or not torch.backends.mkldnn.is_available()


def test_hidden_one_changes_no_result(expected: dict[str, list[Tensor]], hidden: str) -> None:
    check(run_all(), expected)


def test_without_versions_changes_in_place_are_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    find = internals._find
    monkeypatch.setattr(
        internals, "_find", lambda path, home=torch: None if "_version" in path else find(path, home)
    )
    layer, high = OctConv2d(4, 4, 3, padding=1), torch.randn(1, 2, 8, 8)
    y = layer(OctTensor(high, torch.randn(1, 2, 4, 4)))
    high.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.high.sum().backward()
    x = OctTensor(high + 1, torch.randn(1, 2, 4, 4))
    with torch.no_grad():
        assert layer(x).low.shape == (1, 2, 4, 4)
        first = x.pooled_high().clone()
        x.high.add_(1)
        torch.testing.assert_close(x.pooled_high(), first + 1)


@pytest.mark.parametrize("name", IMPORTED)
def test_base_class_that_is_gone(name: str, tmp_path: Path, expected: dict[str, list[Tensor]]) -> None:
    """It is looked up as octavize is imported, so a process of its own comes without it."""
    home, _, attribute = IMPORTED[name].rpartition(".")
    code = f"""
import sys, torch, torch._dynamo, torch.export, torch.utils.flop_counter, {home}
del sys.modules[{home!r}].{attribute}
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_torch_internals as tests
torch.save(tests.run_all(), sys.argv[1])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = tmp_path / "found.pt"
    given = [sys.executable, "-c", code, str(out)]
    run = subprocess.run(given, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = torch.load(out)
    check(found, expected)


def test_hidden_batch_norm_still_knows_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "_find", lambda path, home=torch: None)
    known = internals._base_of_batch_norms()
    assert all(
        isinstance(norm, known) for norm in (nn.BatchNorm1d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2))
    )
    assert not isinstance(nn.GroupNorm(1, 2), known)
    assert internals._base_of_convolutions() is nn.Module


def test_containers_without_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = [1, (2, {"a": 3, "b": [4]}), torch.Size([5])]
    wanted = internals.tree_leaves(tree)
    monkeypatch.setattr(internals, "_find", lambda path, home=torch: None)
    assert internals.tree_leaves(tree) == wanted
    assert internals.tree_map(str, [1, (2, {"a": 3})]) == ["1", ("2", {"a": "3"})]


def test_tensors_as_keys_without_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "_find", lambda path, home=torch: None)
    held, a, b = internals.mapping_from_tensors(), torch.zeros(2), torch.zeros(2)
    held[a] = "a"
    assert held.get(b) is None
    assert a in held
    assert len(held) == 1
    del held[a]
    assert list(held) == []


def run_compiled() -> None:
    layers = [OctConv2d(4, 8, 3, padding=1).eval(), OctConv2d(8, 8, 3, padding=1).eval()]

    def run(x: Tensor) -> Tensor:
        a = layers[0](x)
        return layers[1](torch.cat([a, a], 1)[:, :8]).to_dense()

    torch._dynamo.reset()
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(torch.compile(run, backend="eager", fullgraph=True)(x), run(x))


def test_results_are_constants_to_the_compiler() -> None:
    assert KNOWN_WHILE_TRACING
    assert all(getattr(function, "_dynamo_marked_constant", False) for function in KNOWN_WHILE_TRACING)
    run_compiled()


@needs_torch("2.10", "the compiler of torch 2.9 knows the mark, and could not follow these functions")
def test_a_compiler_that_does_not_know_the_mark_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in KNOWN_WHILE_TRACING:
        monkeypatch.delattr(function, "_dynamo_marked_constant")
    run_compiled()


@pytest.mark.parametrize("kernel", [(3, 5), (2, 4)])
@pytest.mark.parametrize("padding", ["same", "valid", (1, 2)])
def test_border_is_torchs(padding: Any, kernel: tuple[int, int]) -> None:
    conv = nn.Conv2d(2, 2, kernel, padding=padding, dilation=(1, 3), padding_mode="circular")
    x = torch.randn(1, 2, 16, 16)
    padded = torch.nn.functional.pad(x, border(conv), mode="circular")
    expected = conv(x)
    plain = torch.nn.functional.conv2d(padded, conv.weight, conv.bias, dilation=(1, 3))
    torch.testing.assert_close(plain, expected)
