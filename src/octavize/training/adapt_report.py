"""What an adaptation tells: a table, a CSV file, a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from octavize.files import write_text
from octavize.report.figures import blank_figure, color, save_figures, styled
from octavize.text import Table, to_csv
from octavize.training.prepare import Stage

COLUMNS = ("stage", "epoch", "test_accuracy", "test_loss", "val_accuracy", "macs")
"""Of `results.csv`: a line per stage, accuracies 0 … 1, multiply–accumulates of one image."""
NAMES = {
    "vanilla": "vanilla",
    "converted": "converted",
    "norms": "norms measured anew",
    "refitted": "refitted",
}


def stage_name(stage: Stage) -> str:
    """As people read it."""
    return NAMES.get(stage["stage"], f"epoch {stage['epoch']}")


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write `results.csv` and `accuracy.svg`, `accuracy.png` into `out`."""
    write_text(out / "results.csv", to_csv(COLUMNS, _with_macs(results)))
    with styled():
        save_figures({"accuracy": _figure(results["stages"])}, out)


def _with_macs(results: dict[str, Any]) -> list[Stage]:
    return [
        {**stage, "macs": results["macs_before" if stage["stage"] == "vanilla" else "macs_after"]}
        for stage in results["stages"]
    ]


def table(results: dict[str, Any]) -> Table:
    """The stages for a terminal of 80 columns."""
    vanilla = results["stages"][0]["test_accuracy"]
    rows = [
        (
            stage_name(stage),
            f"{stage['test_accuracy']:.2%}",
            "" if stage["stage"] == "vanilla" else f"{100 * (stage['test_accuracy'] - vanilla):+.2f}",
            f"{stage['val_accuracy']:.2%}",
            f"{stage['macs'] / 1e6:,.1f} M",
        )
        for stage in _with_macs(results)
    ]
    best = results["best_epoch"]
    kept = f"epoch {best}" if best else "the network before fine-tuning"
    ratio = results["macs_after"] / results["macs_before"]
    return Table(
        ("stage", "test", "to vanilla", "validation", "MACs"),
        rows,
        title=f"Accuracy by stage; arithmetic × {ratio:.3f} of vanilla",
        note=f"kept: {kept}, best on validation, test accuracy {results['test_accuracy']:.2%}",
    )


def _figure(stages: list[Stage]) -> Figure:
    """Test accuracy against epoch: at 0 the converted network, before and after its norms were measured."""
    figure, axes = blank_figure()
    vanilla, later = stages[0], [s for s in stages if s["stage"] in ("norms", "epoch")]
    converted = next(s for s in stages if s["stage"] == "converted")
    axes.axhline(100 * vanilla["test_accuracy"], color=color(0), linestyle=(0, (4, 2)), label="vanilla")
    axes.plot(0, 100 * converted["test_accuracy"], "x", color=color(1), label="at once", clip_on=False)
    epochs, accuracies = [s["epoch"] for s in later], [100 * s["test_accuracy"] for s in later]
    axes.plot(epochs, accuracies, "o-", color=color(1), label="norms, fine-tuned")
    axes.set_xlabel("epochs of fine-tuning")
    axes.set_ylabel("test accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)
    return figure
