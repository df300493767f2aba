"""Large depthwise kernels: what plans say of them, the page, and a round of its timing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("timm", reason="pip install timm")
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def large_kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__("large_kernels")


@pytest.fixture
def results(large_kernels: Any) -> Any:
    return json.loads(large_kernels.OUT.read_text("utf-8"))


def test_the_page_is_that_of_the_results(large_kernels: Any) -> None:
    text = large_kernels.PAGE.read_text("utf-8")
    assert large_kernels.page(text) == text


@pytest.mark.usual_min_low
@pytest.mark.parametrize(
    "name", ["RepLKNet-like, 31 × 31", "convnext_atto, changed", "fastvit_t8, branches merged"]
)
def test_plans_are_as_they_were_counted(large_kernels: Any, results: Any, name: str) -> None:
    found = large_kernels.count(name)
    assert found in results["plans"]
    deep = {kernel: row for kernel, row in found["kernels"].items() if kernel.startswith("depthwise")}
    large = [row for kernel, row in deep.items() if large_kernels._side(kernel) >= large_kernels.LARGE]
    assert large
    assert all(row["octave"] == row["layers"] for row in large)
    assert found["reasons"] == {}


def test_the_layers_that_split_change_nothing_at_first(
    large_kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = large_kernels.convnext_of_batch_norms().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        changed = net(x)
        for layers in (net.stem, *(stage.downsample for stage in net.stages[1:])):
            layers[-1] = torch.nn.Identity()
        torch.testing.assert_close(net(x), changed)


@pytest.mark.parametrize("kernel", [31, 7])
def test_a_large_kernel_is_octave_on_maps_smaller_than_it(large_kernels: Any, kernel: int) -> None:
    import octavize

    net = large_kernels.replk((kernel,), 16).eval()
    octave = octavize.octavize(net, 0.5, example=(1, 3, 40, 40)).eval()
    assert octave(torch.randn(1, 3, 40, 40)).shape == (1, 1000)
    plan = octavize.plan(net, 0.5, example=(1, 3, 40, 40))
    row = next(d for d in plan.decisions if d.name == "4.inner.2.0")
    assert row.alpha == 0.5
    assert row.macs_before == 16 * kernel**2 * 10**2
    assert row.macs_after == 8 * kernel**2 * (10**2 + 5**2)


@pytest.mark.slow
def test_every_network_is_timed(large_kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    monkeypatch.setattr(large_kernels, "SIZE", 32)
    monkeypatch.setitem(large_kernels.NETWORKS, "tiny", lambda: large_kernels.replk((7,), 16))
    times = large_kernels.time_all(["tiny"], 1)
    assert [row["exchange"] for row in times["rows"]] == [None, *large_kernels.EXCHANGES]
    assert times["rows"][1]["macs"] < times["rows"][0]["macs"]
    table = large_kernels.times_table({"times": times})
    assert table.count("| tiny |") == 3
    assert "n = 1 rounds" in table
    assert "Not measured" in large_kernels.times_table({})
