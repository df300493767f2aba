"""`import octavize` stays light: the core needs torch alone."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.perf_counter()
import octavize
for name in octavize.__all__:
    getattr(octavize, name)
seconds = time.perf_counter() - start
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"seconds": seconds, "roots": sorted(roots)}))
"""
HEAVY = {
    "timm", "torchvision", "lightning", "pytorch_lightning", "matplotlib", "typer", "rich", "torchmetrics",
    "skimage", "tensorboard", "jinja2", "PIL", "pandas", "scipy", "pydantic",
}  # fmt: skip


def test_import_is_light_and_quick() -> None:
    command = [sys.executable, "-c", PROGRAM]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert set(runs[0]["roots"]) & HEAVY == set()
    assert min(run["seconds"] for run in runs) < 0.5, "seconds added to `import torch` by all public names"


def test_public_names_exist() -> None:
    import octavize

    assert all(hasattr(octavize, name) for name in octavize.__all__)
    assert len(set(octavize.__all__)) == len(octavize.__all__)
