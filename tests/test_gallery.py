"""The gallery: each figure has its script and its place on the page; the scripts and the notebook run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GALLERY = ROOT / "examples/gallery"
NOTEBOOK = ROOT / "examples/octavize.ipynb"
SHARED = {"shared", "coins", "textures"}
SCRIPTS = {path.stem for path in GALLERY.glob("*.py")} - SHARED
QUICK = {"bands", "accuracy_time"}
OF_PADDLE = {"paddle_feature_map"}
"""tests/paddle runs it."""
NEEDED = {"grad_cam": "pytorch_grad_cam", "segmentation": "segmentation_models_pytorch"}
MOST_BYTES = 150_000
ELSEWHERE = re.compile(r"/(?:tmp|root|home|Users|work)/|\\\\Users\\\\")


def test_the_page_has_each_figure_and_its_command() -> None:
    page = (ROOT / "docs/gallery.md").read_text("utf-8")
    assert set(re.findall(r"\(gallery/(\w+)\.png\)", page)) == SCRIPTS
    assert set(re.findall(r"^python examples/gallery/(\w+)\.py$", page, re.MULTILINE)) == SCRIPTS


def test_figures_are_small() -> None:
    figures = list((ROOT / "docs/gallery").iterdir())
    assert {figure.name for figure in figures} == {f"{name}.png" for name in SCRIPTS}
    assert all(5_000 < figure.stat().st_size < MOST_BYTES for figure in figures)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where scripts run: they share trained networks."""
    return tmp_path_factory.mktemp("gallery")


RUN = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(SCRIPTS - OF_PADDLE)
]


@pytest.mark.parametrize("name", RUN)
def test_a_script_writes_its_figure(name: str, folder: Path) -> None:
    pytest.importorskip(NEEDED.get(name, "torch"))
    figure = folder / f"{name}.png"
    done = subprocess.run(
        [sys.executable, GALLERY / f"{name}.py", figure],
        env={**os.environ, "GALLERY_EPOCHS": "1", "GALLERY_STEPS": "2"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_notebook_holds_what_it_printed() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert all(cell.outputs for cell in code)
    kinds = {output.get("name", output.output_type) for cell in code for output in cell.outputs}
    assert kinds <= {"stdout", "display_data", "execute_result"}  # no warnings, no errors
    assert not ELSEWHERE.search(NOTEBOOK.read_text("utf-8"))
    assert NOTEBOOK.stat().st_size < 400_000


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, 4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=where).execute()
    told = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "OctTensor(shape=(1, 64, 256, 256), alpha=0.5" in told
    assert "kept.xml: error" in told
    assert not list(tmp_path.iterdir())
