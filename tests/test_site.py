"""The reference of the site has every public name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import octavize

ROOT = Path(__file__).parent.parent
SHOWN = re.compile(r"^::: (\S+)$", re.MULTILINE)


def shown(page: str) -> set[str]:
    """Names that a page of the reference shows."""
    return {name.rpartition(".")[2] for name in SHOWN.findall((ROOT / "docs/api" / page).read_text("utf-8"))}


def test_the_reference_has_every_public_name() -> None:
    pages = ("octavize.md", "layers.md", "networks.md", "deploy.md")
    assert set().union(*map(shown, pages)) >= set(octavize.__all__)


def test_the_reference_has_every_public_name_for_paddle() -> None:
    tree = ast.parse((ROOT / "src/octavize/paddle/__init__.py").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if (node.module or "").startswith("octavize.paddle.")]
    assert shown("paddle.md") == {alias.name for node in own for alias in node.names}


@pytest.mark.parametrize("page", sorted((ROOT / "docs/api").glob("*.md")), ids=lambda page: page.stem)
def test_what_the_reference_shows_is_there(page: Path) -> None:
    """In the code, without running it: Paddle's is not installed here."""
    for name in SHOWN.findall(page.read_text("utf-8")):
        module, _, last = name.rpartition(".")
        file = ROOT / "src" / module.replace(".", "/")
        source = file.with_suffix(".py") if file.with_suffix(".py").is_file() else file / "__init__.py"
        assert re.search(rf"\b{last}\b", source.read_text("utf-8")), name
