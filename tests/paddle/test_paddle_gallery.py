"""The gallery's figure of PaddlePaddle, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
del sys.argv[0]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_script_writes_its_figure(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    figure, script = tmp_path / "figure.png", ROOT / "examples/gallery/paddle_feature_map.py"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, script, figure],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "GALLERY_EPOCHS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert figure.read_bytes().startswith(b"\x89PNG")
