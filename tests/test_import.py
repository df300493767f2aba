"""`import octavize` stays light: the core needs torch alone, and what lies below the line not even that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

PROGRAM = """
import json, sys, time
begun = time.perf_counter()
import torch
torch_seconds = time.perf_counter() - begun
before = set(sys.modules)
start = time.perf_counter()
import octavize
for name in octavize.__all__:
    getattr(octavize, name)
seconds = time.perf_counter() - start
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"share": seconds / torch_seconds, "roots": sorted(roots)}))
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
    # A share, since processors differ: a third of a second beside a second of torch.
    assert min(run["share"] for run in runs) < 0.5, "time added to that of `import torch` by all public names"


def test_public_names_exist() -> None:
    import octavize

    assert all(hasattr(octavize, name) for name in octavize.__all__)
    assert len(set(octavize.__all__)) == len(octavize.__all__)


HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def without(hidden: Sequence[str], program: str) -> subprocess.CompletedProcess[str]:
    """Run a program where these packages are not installed."""
    code = HIDE.replace("{hidden}", repr(set(hidden))) + program
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "module",
    [
        *(f"plans.{name}" for name in ("plan", "deciding", "planning", "policies", "exchanging")),
        *("plans.reordering", "plans.geometry", "split", "files", "errors", "text"),
    ],
)
def test_below_the_line_no_framework_is_needed(module: str) -> None:
    program = f"""
import octavize.{module}
from octavize.plans.plan import Plan
assert octavize.Plan is Plan
assert not {{"torch", "paddle", "numpy"}} & set(sys.modules), "a framework is loaded"
"""
    done = without(["torch", "paddle"], program)
    assert done.returncode == 0, done.stderr


def test_without_torch_a_name_says_what_to_install() -> None:
    import octavize

    program = """
import octavize
for name in octavize.__all__:
    try:
        getattr(octavize, name)
    except ImportError as error:
        print(error)
"""
    done = without(["torch"], program)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    below = {"load_runtime", "Decision", "DenseFallbackWarning", "InputError", "Plan", "Reordering"}
    names = [name for name in octavize.__all__ if name not in below]
    assert lines == [f"octavize.{name} needs torch: run `pip install 'octavize[torch]'`" for name in names]


def test_another_import_error_is_not_hidden() -> None:
    done = without([], "sys.modules['octavize.convert.swap'] = None\nfrom octavize import oct_handler")
    assert "octavize.convert.swap" in done.stderr
    assert "octavize[torch]" not in done.stderr


def test_public_names_are_shown() -> None:
    import octavize

    assert set(octavize.__all__) <= set(dir(octavize))
    assert {"plan", "tune", "calibrate", "octavize", "create_model"} <= set(octavize.__all__)


@pytest.mark.parametrize("module", ["training.recipe", "study.load"])
def test_recipes_and_studies_say_what_to_install(module: str) -> None:
    done = without([], f"sys.modules['pydantic'] = None\nimport octavize.{module}")
    line = "octavize.errors.InputError: pydantic is not installed: run `pip install 'octavize[experiment]'`"
    assert done.stderr.splitlines()[-1] == line


@pytest.mark.parametrize(
    ("hidden", "extra"), [("typer", "cli"), ("rich", "cli"), ("yaml", "cli"), ("torch", "torch")]
)
def test_the_command_says_what_to_install(hidden: str, extra: str) -> None:
    program = f"sys.modules[{hidden!r}] = None; sys.argv = ['octavize', 'models']\n"
    done = without([], program + "from octavize.cli import run; run()")
    assert done.returncode == 2
    assert done.stderr == f"Error: {hidden} is not installed: run `pip install 'octavize[{extra}]'`\n"
    assert done.stdout == ""
