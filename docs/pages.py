"""Makes pages that GitHub shows into pages of the site (a hook of mkdocs, see mkdocs.yml).

The READMEs and a few files outside docs/ become pages, and figures of benchmarks come along. Links keep
working: those to files of the repository that the site does not show become the path, as text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "README.zh.md": "zh.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files of the repository, and the pages that they become."""
NOTEBOOKS = {"examples/octavize.ipynb": "notebook.md"}
"""Notebooks become pages with the outputs that they hold; nothing is executed."""
FIGURES = "benchmarks/results/**/*.svg"
TABLES = "benchmarks/results/**/*.md"
# Code comes first, so that what looks like a link in it stays as it is.
CODE = r"^```.*?^```|`[^`\n]*`"
COMMENT = r"<!--.*?-->"
# A line that ends between two Chinese characters: browsers would show a space.
BREAK = r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])"
IMAGE = r"!\[[^\]]*\]\([^)]*\)"
FLAGS = re.DOTALL | re.MULTILINE
LINK = re.compile(rf"({CODE})|(!?)\[((?:{IMAGE}|[^\[\]])*)\]\(([^)\s]+)\)", FLAGS)


def on_files(files: Files, config: Any) -> Files:
    """Pages and figures that lie outside docs/."""
    from mkdocs.structure.files import File  # here: tests read this file without the site's packages
    from nbconvert import MarkdownExporter

    found = [path for pattern in (FIGURES, TABLES) for path in ROOT.glob(pattern)]
    outside = OUTSIDE | {name: name for name in (path.relative_to(ROOT).as_posix() for path in found)}
    for name, page in outside.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for name, page in NOTEBOOKS.items():
        text, resources = MarkdownExporter().from_filename(str(ROOT / name))
        folder = posixpath.dirname(name)
        figures = {f"{folder}/{figure}": drawn for figure, drawn in resources["outputs"].items()}
        for path, content in {page: text, **figures}.items():
            files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The page with links as the site needs them, and without comments, which tables cannot follow."""
    markdown = re.sub(rf"({CODE})|{COMMENT}|({BREAK})", _without, markdown, flags=FLAGS)
    here = page.file.src_uri
    name = next((name for name, made in (OUTSIDE | NOTEBOOKS).items() if made == here), None)
    folder = posixpath.dirname(name or _in_repository(here))

    def mend(match: re.Match[str]) -> str:
        code, image, text, target = match.groups()
        if code:
            return code
        text = LINK.sub(mend, text)
        link = _link(target, here, folder, files)
        if link is not None:
            return f"{image}[{text}]({link})"
        path = posixpath.normpath(posixpath.join(folder, target))
        return text if path in text else f"{text} (`{path}`)"

    return LINK.sub(mend, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """A Chinese page says that it is: fonts, line breaks and the voices of screen readers go by it."""
    chinese = page.file.src_uri.endswith("zh.md")
    return re.sub(r'<html lang="\w+"', '<html lang="zh"', output, count=1) if chinese else output


def _without(match: re.Match[str]) -> str:
    code, line_break = match.groups()
    return code or ("" if line_break else "\n")


def _in_repository(page: str) -> str:
    return page if page.startswith("benchmarks/") else f"docs/{page}"


def _link(target: str, here: str, folder: str, files: Files) -> str | None:
    """The same link from a page of the site; None if it leads to what the site does not show."""
    if re.match(r"[a-z]+:|#", target):
        return target
    name, _, mark = target.partition("#")
    name = posixpath.normpath(posixpath.join(folder, name))
    page = (OUTSIDE | NOTEBOOKS).get(name, name.removeprefix("docs/"))
    file = files.get_file_from_path(page)
    if file is None or file.inclusion.is_excluded():
        return None
    return posixpath.relpath(page, posixpath.dirname(here) or ".") + (f"#{mark}" if mark else "")
