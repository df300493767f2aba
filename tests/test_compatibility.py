"""What docs/compatibility.md says of other people's networks still holds, network by network."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "compatibility.py"
ROWS = json.loads((ROOT / "docs/results/compatibility.json").read_text("utf-8"))["rows"]
PACKAGES = {"smp": "segmentation_models_pytorch"}
"""Of collections that are not named like their package."""
STAGES = ("convert", "gradients", "freeze", "export")


@pytest.mark.slow
@pytest.mark.parametrize("known", ROWS, ids=[row["name"] for row in ROWS])
def test_what_worked_works(known: dict[str, Any]) -> None:
    """Each stage that is told to work does; as many layers become octave, without more dense fallbacks."""
    collection = known["name"].partition(":")[0]
    package = PACKAGES.get(collection, collection)
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--one", known["name"]], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    worked = [stage for stage in STAGES if known.get(stage) == "yes"]
    assert {stage: found.get(stage) for stage in worked} == dict.fromkeys(worked, "yes")
    assert found.get("octave") == known.get("octave")
    assert found.get("fallbacks") == known.get("fallbacks")
