"""Table and figure of `compress`, from its committed results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import against_time
from against_time import with_deviation
from compress_arms import ARMS
from octavize.deploy.formats import PRECISIONS
from octavize.files import read_json
from octavize.study.analysis import minus, paired
from octavize.study.report import interval
from octavize.text import Table

RESULTS = Path(__file__).resolve().parent / "results/compress"
PAGE = RESULTS / "tables.md"
TITLES = {
    "flowers": "EfficientNet-Lite0, from ImageNet to five flowers, 160 pixels",
    "imagenette": "ResNet-26, Imagenette, 128 pixels",
}


def page(_: str) -> str:
    """All of the page; draws the figure of each task, too."""
    parts = [
        "# A trained network made cheaper, with a short fine-tuning",
        "Written by `benchmarks/compress.py`.",
    ]
    for task, title in TITLES.items():
        results: Any = read_json(RESULTS / f"{task}.json")
        if results is None:
            continue
        parts += [f"## {title}", conditions(results)]
        if results["times"]:
            draw(results, RESULTS / f"{task}.svg")
            parts.append(f"![Accuracy against milliseconds]({task}.svg)")
        parts.append(table(results))
    return "\n\n".join(parts) + "\n"


def accuracies(results: dict[str, Any], arm: str, precision: str) -> dict[int, float]:
    """Test accuracy of an arm's files by seed."""
    return {run["seed"]: run["exported"][precision] for run in results["runs"] if run["arm"] == arm}


def milliseconds(results: dict[str, Any], arm: str, precision: str, batch: int = 1) -> float | None:
    """An image; None where it was not timed."""
    times = (results["times"] or {"arms": {}})["arms"]
    return times.get(arm, {}).get(precision, {}).get(str(batch))


def table(results: dict[str, Any]) -> str:
    """A row an arm: MACs, accuracy before fine-tuning, and in each precision accuracy and time."""
    rows = []
    for arm in ARMS:
        runs = [run for run in results["runs"] if run["arm"] == arm.name]
        if not runs:
            continue
        before = [run["before"].get("refitted", run["before"].get("converted")) for run in runs]
        told = with_deviation(dict(enumerate(before))) if None not in before else "–"
        row = [arm.name, f"{runs[0]['macs'] / 1e6:.0f} M", told]
        for precision in PRECISIONS:
            own = accuracies(results, arm.name, precision)
            vanilla = accuracies(results, ARMS[0].name, precision)
            difference = minus(own, vanilla) if arm is not ARMS[0] else {}
            times = [milliseconds(results, arm.name, precision, batch) for batch in (1, 8)]
            row += [
                with_deviation(own),
                interval(paired(difference)) if difference else "",
                " / ".join("–" if ms is None else f"{ms:.2f}" for ms in times),
            ]
        rows.append(row)
    head = ["arm", "MACs", "before training"]
    for precision in PRECISIONS:
        head += [precision, "− vanilla", "ms, batch 1 / 8"]
    return Table(head, rows, align="lr").markdown()


def conditions(results: dict[str, Any]) -> str:
    """What a reader has to know about the numbers."""
    first, matched = results["runs"][0], results["matched"]
    settings, where = first["settings"], first["environment"]
    teacher = with_deviation({run["seed"]: run["teacher"] for run in results["runs"]})
    text = (
        f"The trained network, which all arms start from and which teaches them: {teacher}. Each arm is "
        f"fine-tuned for {settings['epochs']} epochs. In brackets behind an accuracy the number of seeds, "
        "behind a difference its 95 % interval, paired by seed. Accuracies are those of the exported files, "
        f"in percent. Smaller images: {matched['size']} pixels, {matched['size_time']:.2f} of the time of "
        f"octave, once a block; pruned: {matched['ratio']:.0%} of the channels, {matched['ratio_time']:.2f}; "
        f"vanilla as it is {matched['vanilla_time']:.2f}. torch {where['torch']}, {where['processor']}."
    )
    if results["times"]:
        timed = results["times"]
        text += (
            f" Times: OpenVINO {timed['environment']['openvino']}, one thread, CPU time, an image, medians "
            f"of {timed['rounds']} rounds in which all arms and precisions take turns."
        )
    return text


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracy against milliseconds, a panel a precision."""
    done = {run["arm"] for run in results["runs"]}
    arms = [arm.name for arm in ARMS if arm.name in done]
    panels = [
        [(milliseconds(results, arm, name), accuracies(results, arm, name)) for arm in arms]
        for name in PRECISIONS
    ]
    against_time.draw({"accuracy, %": panels}, arms, "ms an image", path)
