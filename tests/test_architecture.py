"""Arrows only point down: rooms import from rooms below them, nothing runs in circles, and the foundation
knows no framework.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))
import architecture  # noqa: E402

MOST_AT_THE_TOP = 20


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "octavize", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def modules(graph: grimp.ImportGraph) -> list[str]:
    """All of octavize but the package itself, whose list of public names reaches into every room."""
    return sorted(m for m in graph.modules if m.startswith("octavize."))


def test_no_arrow_points_up(graph: grimp.ImportGraph) -> None:
    order = [*architecture.ROOMS, architecture.FOUNDATION]
    up = [
        f"{module} imports {imported}"
        for module in modules(graph)
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.startswith("octavize.")
        and order.index(architecture.room_of(imported)) < order.index(architecture.room_of(module))
    ]
    assert not up, "\n".join(up)


def test_no_imports_run_in_circles(graph: grimp.ImportGraph) -> None:
    own = set(modules(graph))
    # A package that imports its own modules, to register what they hold, is no circle.
    below = {
        m: {i for i in graph.find_modules_directly_imported_by(m) if i in own and not i.startswith(f"{m}.")}
        for m in own
    }
    try:
        TopologicalSorter(below).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]))


def test_no_framework_below_the_line(graph: grimp.ImportGraph) -> None:
    for module in modules(graph):
        if architecture.room_of(module) in architecture.WITHOUT_FRAMEWORK:
            assert not graph.find_modules_directly_imported_by(module) & {"torch", "paddle"}, module


def test_only_the_command_prints(graph: grimp.ImportGraph) -> None:
    """The library logs. Examples in docstrings and tables for the command's own console are no exceptions."""
    for module in modules(graph):
        if architecture.room_of(module) != "cli" and module != "octavize.report.tables":
            assert not graph.find_modules_directly_imported_by(module) & {"rich", "tqdm", "typer"}, module
    for file in (ROOT / "src/octavize").rglob("*.py"):
        calls = (
            node.func for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)
        )
        prints = any(isinstance(called, ast.Name) and called.id == "print" for called in calls)
        assert not prints or file.parent.name == "cli", file


def test_few_rooms_at_the_top() -> None:
    package = ROOT / "src/octavize"
    top = [p for p in package.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name != "__pycache__")]
    assert len(top) <= MOST_AT_THE_TOP


def test_every_room_is_described() -> None:
    found = {p.parent.name for p in (ROOT / "src/octavize").glob("*/__init__.py")}
    assert found == set(architecture.ROOMS)


def test_the_page_says_what_the_code_says() -> None:
    command = [sys.executable, str(ROOT / "docs/architecture.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
