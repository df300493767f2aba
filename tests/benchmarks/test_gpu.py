"""The benchmark for a GPU, as far as it goes without one."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module: Any = __import__("gpu")
    backend, batches = "eager", (2,)
    smallest = replace(module.gpu_times.SMOKE, exchanges=("every",), batches=batches, backend=backend)
    monkeypatch.setattr(module.gpu_times, "SMOKE", smallest)
    return module


def run(gpu: Any, monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    command = ["gpu.py", "--device", "cpu", "--smoke", "--out", str(out), *more]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    return int(str(ended.value.code)), json.loads(out.read_text("utf-8"))


@pytest.mark.slow
def test_times_are_kept_and_the_rest_is_named(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run(gpu, monkeypatch, tmp_path / "gpu.json", "--part", "times", "streams")
    assert (code, found["failed"]) == (0, [])
    ways = {(row["kind"], row["runtime"], row["precision"]) for row in found["times"]}
    runtimes = (
        ("forward", "eager"),
        ("forward", "compiled"),
        ("training", "eager"),
        ("training", "compiled"),
    )
    assert ways == {(*way, precision) for way in runtimes for precision in ("bf16", "float32")}
    assert {row["network"] for row in found["times"]} == {"vanilla", "α=0.5, every"}
    left_out = {row["what"]: row["why"] for row in found["left_out"]}
    assert left_out["two streams"] == gpu.NEEDS_CUDA
    assert left_out["oct_cifar_resnet20, forward graph, batch 2, bf16"] == gpu.NEEDS_CUDA
    assert left_out["checks"] == "not asked for (--part)"
    shown = capsys.readouterr().out
    assert "oct_cifar_resnet20, training, batch 2, cpu" in shown
    assert gpu.NEEDS_CUDA in shown


def test_what_does_not_fit_into_the_time_is_named(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, found = run(gpu, monkeypatch, tmp_path / "gpu.json", "--part", "times", "--minutes", "0")
    jobs = [str(job) for job in gpu.gpu_times.jobs(gpu.gpu_times.SMOKE)]
    assert (code, found["times"]) == (0, [])
    assert {row["what"] for row in found["left_out"]} == {"checks", "streams", *jobs}


def test_a_failure_is_named_and_stops_nothing(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(device: str) -> float:
        raise RuntimeError(f"no kernel on {device}")

    chosen = {"one": (broken, 1.0), "two": (lambda device: 0.5, 0.1), "three": (lambda device: 0.05, 0.1)}
    monkeypatch.setattr(gpu.gpu_checks, "checks", lambda whole: chosen)
    monkeypatch.setattr(gpu.gpu_times, "time_job", lambda *_: broken("cpu"))
    code, found = run(gpu, monkeypatch, tmp_path / "gpu.json", "--part", "checks", "times")
    assert code == 1
    outcomes = {row["check"]: row["outcome"] for row in found["checks"]}
    assert [outcomes[name] for name in chosen] == ["failed", "failed", "passed"]
    failed = {row["what"]: row["why"] for row in found["failed"]}
    assert failed["one"] == "RuntimeError: no kernel on cpu"
    assert failed["two"] == "error 0.5, tolerance 0.1"
    assert failed["oct_cifar_resnet20, training eager, batch 2, bf16"] == "RuntimeError: no kernel on cpu"


def test_layers_and_chains_equal_their_reference(gpu: Any) -> None:
    checks = gpu.gpu_checks
    chosen = {n: check for n, check in checks.checks().items() if n.startswith(("1-D", "3-D, odd"))}
    few = chosen | {"net": (partial(checks._network, "stage", train=True), checks.NETWORK_TOLERANCE)}
    rows = list(checks.run_checks("cpu", few | gpu.gpu_streams.CHECKS))
    assert [row for row in rows if row["outcome"] != "passed"] == []
    assert any(row["error"] > 0 for row in rows)


def test_a_wrong_layer_is_found(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = gpu.gpu_checks
    name = "2-D, odd size, stride 1, downsample pool, exchange both"
    right = checks.gradients

    def wrong(module: Any, x: Any, device: str, dtype: torch.dtype, **told: Any) -> Any:
        found = right(module, x, device, dtype, **told)
        if dtype is torch.float32:
            found["gradient of input 1"][0, 0, 0, 0] += 0.1
        return found

    monkeypatch.setattr(checks, "gradients", wrong)
    (row,) = checks.run_checks("cpu", {name: checks.checks()[name]})
    assert row["outcome"] == "failed"


def test_the_most_telling_comes_first_and_nothing_is_forgotten(gpu: Any) -> None:
    jobs = gpu.gpu_times.jobs(gpu.gpu_times.Scale())
    assert len(set(jobs)) == len(jobs) == 2 * 2 * (3 * 3 + 3 + 1)
    assert str(jobs[0]) == "oct_resnet50, training eager, batch 32, bf16"
    places = [(job.kind, job.runtime, job.batch, job.precision) for job in jobs]
    assert places.index(("training", "compiled", 32, "bf16")) < places.index(
        ("training", "eager", 256, "bf16")
    )


def test_ratios_to_the_fastest_vanilla(gpu: Any) -> None:
    place = {"model": "m", "kind": "forward", "batch": 1}
    rows: list[dict[str, Any]] = [
        place | {"alpha": alpha, "median_ms": ms, "runtime": runtime, "precision": "bf16"}
        for alpha, ms, runtime in ((0, 4.0, "eager"), (0, 2.0, "graph"), (0.5, 1.0, "graph"))
    ]
    gpu.gpu_times.with_fastest(rows)
    assert [row["fastest_ratio"] for row in rows] == [2.0, 1.0, 0.5]
    assert {row["fastest_vanilla"] for row in rows} == {"graph, bf16"}


def test_only_kernels_are_launches(gpu: Any) -> None:
    def event(name: str, device: str = "CUDA", note: bool = False) -> SimpleNamespace:
        kind = SimpleNamespace(name=device)
        return SimpleNamespace(name=name, device_type=kind, is_user_annotation=note)

    events = [
        event("conv"),
        event("conv"),
        event("Memcpy HtoD (Pageable -> Device)"),
        event("Memset (Device)"),
    ]
    events += [event("aten::conv2d", "CPU"), event("step", note=True)]
    assert gpu.gpu_times.kernels(events) == 2


def test_a_missing_device_is_said(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "no CUDA device is there; --device cpu --smoke tries the script" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_for_graphs_with_graphs_that_call_again(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a GPU's code but torch's own runs here: a replay calls again what was captured."""
    checks, streams, times = gpu.gpu_checks, gpu.gpu_streams, gpu.gpu_times
    for module in (checks, streams, times):
        monkeypatch.setattr(module, "capture", lambda call, pool=None: call() or call)
    monkeypatch.setattr(checks, "is_cuda", lambda device: True)
    monkeypatch.setattr(times, "is_cuda", lambda device: True)
    monkeypatch.setattr(times, "count_launches", lambda call, device: 7)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(streams, "CHAINS", ((16, 8, 6),))
    graphs = {name: check for name, check in checks.checks().items() if "CUDA graph" in name}
    rows = list(checks.run_checks("cpu", graphs | checks.last_checks()))
    assert len(rows) == 2 * len(checks.NETWORK_EXCHANGES) + 1
    assert [row for row in rows if row["outcome"] != "passed"] == []
    measured = streams.measure_streams("cpu", (1, 2), 3)
    assert {(row["batch"], row["precision"]) for row in measured} == {
        (batch, precision) for batch in (1, 2) for precision in ("bf16", "float32")
    }
    found = times.time_all(replace(times.SMOKE, batches=(1,)), "cpu", times.Budget(1))
    assert found.failed == []
    assert {row["launches"] for row in found.rows if row["runtime"] == "graph"} == {7}
    (table, *_) = gpu.tables({"environment": {}, "streams": measured, "times": []})
    assert len(table.rows) == 4
