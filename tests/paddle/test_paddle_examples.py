"""The example for the Paddle user runs as it stands, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, ROOT / "examples/paddle_train.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "scores: (5, 10)" in done.stdout
    assert "OctConv2D" in done.stdout
    assert "Cannot find suitable count function for <class 'octavize" not in done.stdout
    assert "Total Flops" in done.stdout
    assert "Eval samples: 64" in done.stdout
    if find_spec("visualdl"):
        assert list((tmp_path / "runs/visualdl").rglob("vdlrecords*"))
