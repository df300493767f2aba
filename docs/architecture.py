"""Draws the rooms of octavize and who imports whom, read from the code.

    python docs/architecture.py           # writes docs/architecture.svg and the table in docs/architecture.md
    python docs/architecture.py --check   # only compares

Rooms lie in the order of `tests/test_architecture.py`, which fails where an arrow points up.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import grimp

DOCS = Path(__file__).resolve().parent
BEGIN, END = "<!-- rooms: written by docs/architecture.py -->", "<!-- /rooms -->"
ROOMS = {
    "cli": "the command, one file a group of commands",
    "study": "grids of training runs: design, engines, analysis, report",
    "training": "recipes, runs, comparison, adaptation with a teacher",
    "bench": "what networks cost: arithmetic, memory, time; α tuned by measured time",
    "deploy": "networks that no longer train: frozen, exported, run elsewhere",
    "calibration": "which channels of a trained network become low, and what its weights become",
    "zoo": "networks by name, found, built and stored",
    "paddle": "the same for PaddlePaddle: OctTensor, rules, layers, plans, files",
    "convert": "a network is traced, planned, and its layers swapped",
    "data": "images: sets by name, folders, decoding, augmentation",
    "report": "templates, tables and figures of every report; how far a long function is",
    "nn": "OctTensor, the rules by which torch acts on it, and the layers",
    "published": "octave networks that others published: their files and layouts, as arrays",
    "plans": "what becomes octave, decided from numbers: plans, policies, exchange, geometry",
}
"""From top to bottom: a room imports only from those below it. Whatever is none of them is foundation."""
FOUNDATION = "foundation"
ABOUT_FOUNDATION = "channel layouts, files, errors, text"
WITHOUT_FRAMEWORK = ("plans", FOUNDATION)
"""They lie below the line: neither torch nor paddle."""


def room_of(module: str) -> str:
    """The room of a module of octavize, by its second name."""
    name = module.split(".")[1] if "." in module else ""
    return name if name in ROOMS else FOUNDATION


def imports() -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another; the package's own list of public names is left out."""
    graph = grimp.build_graph("octavize", exclude_type_checking_imports=True, cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules - {"octavize"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"octavize"}:
            found[room_of(module), room_of(imported)] += 1
    return Counter({pair: n for pair, n in found.items() if pair[0] != pair[1]})


def table() -> str:
    """Rooms, and what each imports, as Markdown."""
    arrows = imports()
    lines = ["| room | what is in it | imports |", "|---|---|---|"]
    for room, about in {**ROOMS, FOUNDATION: ABOUT_FOUNDATION}.items():
        below = ", ".join(to for to in ROOMS if (room, to) in arrows) or "–"
        lines.append(f"| {f'`{room}/`' if room in ROOMS else room} | {about} | {below} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """An arc a pair of rooms, from the importing room down to the imported one; wide for many imports."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    about = {**ROOMS, FOUNDATION: ABOUT_FOUNDATION}
    rooms = list(about)
    with mpl.rc_context({"svg.hashsalt": "octavize", "svg.fonttype": "none", "font.size": 11}):
        figure = Figure(figsize=(10.4, 7.5))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 10.4), ylim=(-len(rooms) + 0.3, 0.8))
        axes.axis("off")
        for i, room in enumerate(rooms):
            low = room in WITHOUT_FRAMEWORK
            color = "#e8e2d4" if low else "#dfe9f3"
            box = FancyBboxPatch(
                (0.4, -i - 0.28), 2.0, 0.56, boxstyle="round,pad=0.02", fc=color, ec="#5b6b7a"
            )
            axes.add_patch(box)
            axes.text(1.4, -i, room, ha="center", va="center")
            axes.text(4.9, -i, about[room], va="center", size=9, color="#444444")
        axes.axhline(-len(rooms) + len(WITHOUT_FRAMEWORK) + 0.5, color="#b08d57", lw=1, ls="--")
        for (above, below), n in sorted(imports().items()):
            if below in WITHOUT_FRAMEWORK:
                continue  # all rooms stand on them
            start, end = rooms.index(above), rooms.index(below)
            span = end - start
            axes.add_patch(
                FancyArrowPatch(
                    (2.46, -start - 0.1),
                    (2.46, -end + 0.12),
                    connectionstyle=f"arc3,rad={-min(0.9, 0.35 + 0.05 * span) if span > 0 else 0.6}",
                    arrowstyle="-|>",
                    mutation_scale=9,
                    lw=0.5 + min(n, 30) / 14,
                    color="#c0392b" if span < 0 else "#4a6fa5",
                    alpha=0.75,
                )
            )
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare the table with the code")
    options = parser.parse_args()
    page = DOCS / "architecture.md"
    text = page.read_text("utf-8")
    before, rest = text.split(BEGIN)
    written = f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
    if options.check:
        if written != text:
            sys.exit("docs/architecture.md does not say what the code says: run python docs/architecture.py")
        return
    page.write_text(written, "utf-8")
    draw(DOCS / "architecture.svg")


if __name__ == "__main__":
    main()
