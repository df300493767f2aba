"""READMEs and guides say what the committed results say, and link to what is there."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = (
    *("readme_tables.py", "realized_saving.py", "fastest.py", "study_tables.py"),
    *(
        "convert_trained_report.py",
        "zoo.py",
        "paper_tables.py",
        "refit.py",
        "pruned.py",
        "low_precision.py",
        "narrow.py",
        "compile_time.py",
        "counters.py",
        "compatibility.py",
        "bands.py",
        "large_kernels.py",
        "paddle_speed_table.py",
        "paddle_paired_page.py",
    ),
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_tables_are_those_of_the_results(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(ROOT / "benchmarks" / script)
    monkeypatch.setattr(sys, "argv", [path, "--check"])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr("octavize.bench.process.settle_process", lambda: None)  # it would be for good
    said = None
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        said = ended.code
    assert not said


NAMES = {
    *(
        "Adam",
        "CIFAR",
        "M",
        "MB",
        "MobileNetV",
        "ONNX",
        "OpenVINO",
        "Paddle",
        "PyTorch",
        "ResNet",
        "Runtime",
        "SGD",
    ),
    *("bf", "e", "float", "framework", "he", "int", "ms", "octave", "stem", "torch"),
}
"""What Chinese readers of this field write in Latin letters."""


@pytest.mark.parametrize("page", ["README", "docs/measured", "docs/study", "docs/study-32"])
def test_chinese_tables_say_the_same_in_chinese(page: str) -> None:
    marked = re.compile(r"<!-- [\w-]+: written by benchmarks/\w+\.py -->(.*?)<!-- /", re.DOTALL)
    ours, theirs = (marked.findall((ROOT / f"{page}{end}").read_text("utf-8")) for end in (".zh.md", ".md"))
    assert len(ours) == len(theirs) > 0
    for chinese, english in zip(ours, theirs, strict=True):
        rows = [[line for line in text.splitlines() if line.startswith("| ")] for text in (chinese, english)]
        numbers = [[re.findall(r"\d+(?:\.\d+)?", row) for row in table] for table in rows]
        assert numbers[0] == numbers[1]
        plain = re.sub(r"`[^`]*`", "", "\n".join(rows[0]))
        assert not set(re.findall(r"[A-Za-z]+", plain)) - NAMES


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_dead(page: Path) -> None:
    text = page.read_text("utf-8")
    for link in LINK.findall(re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, mark = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if mark:
            assert mark in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


CHINESE = [page for page in PAGES if page.name.endswith(".zh.md") and page.name != "article.zh.md"]
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+")


def numbers(page: Path) -> set[str]:
    """The decimal numbers of a page, those of its code left out."""
    return set(NUMBER.findall(re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)))


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_chinese_page_has_the_numbers_of_the_english_one(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh.md", ".md"))
    assert numbers(page) - numbers(english) == set()
    assert len(numbers(ROOT / "README.zh.md")) > 20, "numbers are found"


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_a_readme_is_short_and_fits_a_phone(name: str) -> None:
    """A screen and a half: one figure, one table of few columns."""
    text = (ROOT / name).read_text("utf-8")
    tables = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    assert len(text.splitlines()) < 130
    assert len(re.findall(r"^\|(?:---:?\|)+$", text, re.MULTILINE)) == 1
    assert len(re.findall(r"!\[", text)) == 1
    assert max(row.count("|") - 1 for row in tables) <= 5


def test_every_result_is_used() -> None:
    """A page shows or links it, or a script reads data of this name."""
    results = ROOT / "docs/results"
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    scripts = "".join(file.read_text("utf-8") for file in ROOT.glob("benchmarks/*.py"))
    kept = [file for file in results.rglob("*") if file.is_file() and file.name != "README.md"]
    for file in kept:
        linked = f"results/{file.relative_to(results).as_posix()}" in pages
        assert linked or (file.suffix in (".json", ".jsonl") and file.name in scripts), file
    assert 20 < len(kept) < 60
