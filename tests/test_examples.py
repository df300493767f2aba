"""The examples run as they stand."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# tests/paddle runs the example for Paddle
EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[!p]*.py"))
NEEDED = {"segmentation": "segmentation_models_pytorch"}
LAST = {
    "convert_your_network": "torch.Size([1, 1000])",
    "use_the_layer": "torch.Size([1, 10])",
    "detection": "exported: backbone.onnx",
    "segmentation": "exported: unet.onnx",
    "super_resolution": "exported: enlarge.onnx",
    "three_bands": "0.499 of vanilla's",
    "video": "exported: video.onnx",
}
"""What ends each one's last line, or begins it."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    if path.stem in NEEDED and find_spec(NEEDED[path.stem]) is None:
        pytest.skip(f"pip install {NEEDED[path.stem]}")
    command = [sys.executable, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert LAST[path.stem] in done.stdout.splitlines()[-1]
