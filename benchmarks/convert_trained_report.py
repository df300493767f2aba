"""Tables and figures of `convert_trained.py` and `conversion_choices.py`, from their rows.

python benchmarks/convert_trained_report.py RUN_FOLDER            # figures and CSV beside the rows
python benchmarks/convert_trained_report.py RUN_FOLDER --publish  # into docs/, with the guide's tables
python benchmarks/convert_trained_report.py --check               # exit 1 if the guide is stale
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from convert_trained import ROWS, Row, read_rows
from octavize.report.figures import (
    MARKERS,
    add_legend,
    blank_figure,
    color,
    marker_handle,
    styled,
    write_figure,
)
from octavize.report.naming import pretty
from octavize.text import Table, to_csv

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs/results/convert-trained"
GUIDE = ROOT / "docs/convert-trained.md"
CHOICES = "choices.jsonl"
COLUMNS = (
    "source", "model", "stage", "alpha", "channels", "seed", "epochs", "test_accuracy", "val_accuracy",
    "macs", "seconds",
)  # fmt: skip


def column(row: Row) -> tuple[str, int]:
    """Which column of the table a row belongs to."""
    return row["stage"], row["epochs"]


def heading(key: tuple[str, int]) -> str:
    stage, epochs = key
    plural = "s" if epochs != 1 else ""
    return {
        "converted": "at once",
        "norms": "norms measured anew",
        "adapted": f"{epochs} epoch{plural} of fine-tuning",
        "scratch": f"from scratch, {epochs} epochs",
    }[stage]


def accuracy(rows: list[Row]) -> str:
    """Mean and, for several seeds, standard deviation of the test accuracy, in per cent."""
    if not rows:
        return ""
    values = [100 * row["test_accuracy"] for row in rows]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def markdown(rows: list[Row]) -> str:
    """The table of every network, one below the other."""
    return "\n\n".join(_table([row for row in rows if row["source"] == source]) for source in sources(rows))


def sources(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["source"] for row in rows))


def _table(rows: list[Row]) -> str:
    vanilla = next(row for row in rows if row["stage"] == "vanilla")
    others = [row for row in rows if row["stage"] != "vanilla"]
    order = ("converted", "norms", "adapted", "scratch")
    keys = sorted({column(row) for row in others}, key=lambda key: (order.index(key[0]), key[1]))
    head = ["α", "low channels", "MACs", *map(heading, keys)]
    lines: list[list[str]] = []
    for alpha in sorted({row["alpha"] for row in others}):
        for channels in sorted({row["channels"] for row in others if row["channels"]}):
            own = [r for r in others if r["alpha"] == alpha and r["channels"] in (channels, None)]
            if not any(row["channels"] for row in own):
                continue
            ratio = next(row for row in own if row["channels"])["macs"] / vanilla["macs"]
            cells = [accuracy([row for row in own if column(row) == key]) for key in keys]
            lines.append([f"{alpha:g}", channels, f"× {ratio:.3f}", *cells])
    seeds = sorted({row["seed"] for row in others if row["seed"] is not None})
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± standard deviation over seeds {seeds}"
    caption = (
        f"**{pretty(vanilla['model'])}**, test accuracy in per cent, vanilla {accuracy([vanilla])} with "
        f"{vanilla['macs'] / 1e6:.1f} M multiply–accumulates; training: {told if seeds else 'none'}."
    )
    return f"{caption}\n\n{Table(head, lines, align='rlr').markdown()}"


def draw(rows: list[Row], folder: Path) -> None:
    """A figure per network: test accuracy against epochs of fine-tuning."""
    with styled():
        for source in sources(rows):
            own = [row for row in rows if row["source"] == source]
            write_figure(_figure(own), folder / f"accuracy-{source}.png")


def _figure(rows: list[Row]) -> Figure:
    figure, axes = blank_figure()
    vanilla = next(row for row in rows if row["stage"] == "vanilla")
    alphas = sorted({row["alpha"] for row in rows} - {0.0})
    choices = sorted({row["channels"] for row in rows if row["channels"]})
    axes.axhline(100 * vanilla["test_accuracy"], color=color(0), linestyle=(0, (4, 2)))
    for position, alpha in enumerate(alphas, 1):
        for number, channels in enumerate(choices):
            own = [r for r in rows if r["alpha"] == alpha and r["channels"] == channels]
            line = [r for r in own if r["stage"] in ("norms", "adapted")]
            points = sorted({r["epochs"] for r in line})
            means = [
                100 * statistics.fmean(r["test_accuracy"] for r in line if r["epochs"] == e) for e in points
            ]
            style: Any = "-" if channels == "calibrated" else (0, (1, 1.5))
            axes.plot(points, means, color=color(position), marker=MARKERS[number], linestyle=style)
    axes.set_xlabel("epochs of fine-tuning; 0: norms measured anew")
    axes.set_ylabel("test accuracy, %")
    axes.set_xticks(sorted({0} | {r["epochs"] for r in rows if r["stage"] == "adapted"}))
    handles = [Line2D([], [], color=color(0), linestyle=(0, (4, 2)), label="vanilla")]
    handles += [
        Line2D([], [], color=color(i), linewidth=4, label=f"α = {a:g}") for i, a in enumerate(alphas, 1)
    ]
    handles += [marker_handle(MARKERS[i], c) for i, c in enumerate(choices)]
    add_legend(axes, handles)
    return figure


def markdown_choices(rows: list[Row]) -> str:
    """Test accuracy without any training, by choice of channels and by how strides are taken."""
    tables = []
    for source in sources(rows):
        own = [row for row in rows if row["source"] == source]
        kinds = list(dict.fromkeys(row["channels"].split(", ")[0] for row in own))
        lines: list[list[str]] = []
        for alpha, kind in product(sorted({row["alpha"] for row in own}), kinds):
            cells = [
                accuracy([r for r in own if (r["alpha"], r["stage"], r["channels"]) == (alpha, *key)])
                for key in product(("converted", "norms"), (f"{kind}, pool", f"{kind}, stride"))
            ]
            lines.append([f"{alpha:g}", kind, *cells])
        ways = (f"{stage}, {how}" for stage in ("at once", "norms anew") for how in ("pooled", "strided"))
        table = Table(("α", "low channels", *ways), lines, align="rlr").markdown()
        tables.append(f"**{pretty(own[0]['model'])}**\n\n{table}")
    return "\n\n".join(tables)


def rendered_guide(rows: list[Row], choices: list[Row]) -> str:
    """The guide with its tables written anew; without rows it has none."""
    text = GUIDE.read_text("utf-8")
    for name, table in (
        ("convert-trained", markdown(rows) if rows else ""),
        ("choices", markdown_choices(choices) if choices else ""),
    ):
        block = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        written = f"{table}\n" if table else ""
        text, found = block.subn(rf"\g<1>{written}\g<2>", text)
        if found != 1:
            raise SystemExit(f"{GUIDE.name} has no place for the table {name!r}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DOCS, help="holds rows.jsonl")
    parser.add_argument("--publish", action="store_true", help="into docs/ and its guide")
    parser.add_argument("--check", action="store_true", help="only compare the guide with docs/results")
    options = parser.parse_args()
    if options.check:
        if rendered_guide(read_rows(DOCS / ROWS), read_rows(DOCS / CHOICES)) != GUIDE.read_text("utf-8"):
            raise SystemExit(f"{GUIDE.name} does not say what docs/results says: run {Path(__file__).name}")
        return
    rows = read_rows(options.folder / ROWS)
    if not any(row["stage"] == "vanilla" for row in rows):
        raise SystemExit(f"{options.folder / ROWS} holds no rows: run convert_trained.py first")
    folder = DOCS if options.publish else options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if options.publish and options.folder.resolve() != DOCS.resolve():
        for name in (ROWS, CHOICES, "environment.json"):
            if (options.folder / name).is_file():
                shutil.copyfile(options.folder / name, DOCS / name)
    draw(rows, folder)
    if not options.publish:
        (folder / "results.csv").write_text(to_csv(COLUMNS, rows), "utf-8")
    else:
        GUIDE.write_text(rendered_guide(rows, read_rows(DOCS / CHOICES)), "utf-8")
    sys.stdout.write(markdown(rows) + "\n")


if __name__ == "__main__":
    main()
