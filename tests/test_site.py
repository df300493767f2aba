"""The reference of the site has every public name."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import octavize

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs"))
import pages  # noqa: E402

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


@pytest.mark.parametrize(
    ("page", "language"), [("zh.md", "zh"), ("study.zh.md", "zh"), ("study.md", "en"), ("index.md", "en")]
)
def test_chinese_pages_say_so(page: str, language: str) -> None:
    made = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    html = pages.on_post_page('<!doctype html><html lang="en" class="no-js"><p lang="en">', made, None)
    assert html == f'<!doctype html><html lang="{language}" class="no-js"><p lang="en">'


def test_every_chinese_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    names = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {name for name in names if f": {name}\n" not in navigation} == set()
