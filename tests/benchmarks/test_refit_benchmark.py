"""The benchmark of refitting: its rows are measured once, and its table says what they hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.training import make_folder

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    module = __import__("refit")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("".join(module.MARKS), "utf-8")
    Path("refit_bench_net.py").write_text(NET)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def test_rows_are_measured_once(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(Path("made"), train=12) / "train"
    for label, name in enumerate(sorted(p.name for p in folder.iterdir())):
        (folder / name).rename(folder / f"{label}_{name}")
    command = ["refit.py", "refit_bench_net:build", "--images", str(folder), "--size", "16", "--seen", "6"]
    command += ["--alpha", "0.5", "--exchange", "every", "--min-low", "0", "--other", f"again={folder}"]
    monkeypatch.setattr(sys, "argv", command)
    bench.main()
    (path,) = Path("results").glob("*.json")
    rows = json.loads(path.read_text("utf-8"))["rows"]
    assert [row["seen"] for row in rows] == ["every n-th", "half of the classes", "less sharp", "again"]
    assert [row["test_images"] for row in rows] == [18, 12, 18, 18]
    page = Path("page.md").read_text("utf-8")
    assert f"| less sharp | every | 0.5 | {rows[2]['macs']:.3f} |" in page
    monkeypatch.setattr(bench.Bench, "row", lambda *_: pytest.fail("a row was measured again"))
    bench.main()
    monkeypatch.setattr(sys, "argv", [*command, "--check"])
    with pytest.raises(SystemExit) as done:
        bench.main()
    assert done.value.code == 0
