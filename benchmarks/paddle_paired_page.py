# ruff: noqa: E501 (the notes of the tables stand here on few lines)
"""Table and figure of `paddle_paired.py` in docs/study-32.md and docs/study-32.zh.md, from its committed results.

python benchmarks/paddle_paired_page.py --publish FOLDER   # results and figure of a run, and the pages
python benchmarks/paddle_paired_page.py                    # the pages
python benchmarks/paddle_paired_page.py --check            # exit 1 if a page says anything else
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marked import between, check, write
from octavize.text import Table

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS = DOCS / "results/paddle-paired/results.json"
PAGES = {"en": DOCS / "study-32.md", "zh": DOCS / "study-32.zh.md"}
MARKS = "<!-- paired: written by benchmarks/paddle_paired_page.py -->\n", "<!-- /paired -->"
NETWORKS = {"mobilenet_v1": "MobileNetV1", "resnet50": "ResNet-50"}
FRAMEWORKS = ("torch", "paddle")
STARTS = ("torch", "paddle")
NAMES = {"torch": "torch", "paddle": "Paddle"}
SMOOTH = 20
"""Steps whose losses a curve averages."""
WORDS: dict[str, Any] = {
    "en": {
        "head": ("network", "kind", "initial weights of", "accuracy, torch", "Paddle", "first loss apart", f"later, mean of {SMOOTH} steps each"),
        "vanilla": "vanilla",
        "octave": "octave",
        "note": (
            "CIFAR-10 (JPEG), {train_images:,} training and {test_images:,} test images, {epochs} epochs, Adam at {learning_rate:g}, batch {batch}, "
            "α = {alpha:g}; MobileNetV1 of width {width_mobilenet_v1:g}, ResNet-50 of width {width_resnet50:g}; seed 0, one run each; float32, one thread, "
            "torch {torch}, Paddle {paddle}. [Data](results/paddle-paired/results.json) · `python benchmarks/paddle_paired.py CIFAR`"
        ),
    },
    "zh": {
        "head": ("网络", "类型", "初始权重来自", "测试准确率，torch", "Paddle", "第一步损失之差", f"之后每 {SMOOTH} 步平均损失之差"),
        "vanilla": "原始网络",
        "octave": "octave",
        "note": (
            "CIFAR-10（JPEG），{train_images:,} 张训练图像、{test_images:,} 张测试图像，{epochs} 轮，Adam，学习率 {learning_rate:g}，批 {batch}，"
            "α = {alpha:g}；MobileNetV1 宽度 {width_mobilenet_v1:g}，ResNet-50 宽度 {width_resnet50:g}；种子 0，各运行一次；float32，单线程，"
            "torch {torch}，Paddle {paddle}。[数据](results/paddle-paired/results.json) · `python benchmarks/paddle_paired.py CIFAR`"
        ),
    },
}  # fmt: skip


def table(results: Mapping[str, Any], language: str) -> str:
    """Test accuracy of every run, the frameworks side by side, and how far their losses are apart."""
    words, rows = WORDS[language], []
    runs = {(r["network"], r["alpha"], r["start"], r["seed"], r["framework"]): r for r in results["runs"]}
    for *key, framework in runs:
        pair = [runs.get((*key, f)) for f in FRAMEWORKS]
        if framework == FRAMEWORKS[0] and None not in pair:
            network, alpha, start, _ = key
            ours, theirs = (np.asarray(run["train_loss"]) for run in pair if run is not None)
            later = np.abs(smoothed(ours) - smoothed(theirs)).mean()
            accuracies = [f"{run['test'][-1]['accuracy']:.1%}" for run in pair if run is not None]
            kind = words["octave" if alpha else "vanilla"]
            apart = f"{abs(ours[0] - theirs[0]):.0e}", f"{later:.3f}"
            rows.append((NETWORKS[network], kind, NAMES[start], *accuracies, *apart))
    return Table(words["head"], sorted(rows), align="lllrrrr").markdown()


def smoothed(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """The mean of every so many steps."""
    every = min(SMOOTH, len(losses))
    return np.asarray(losses[: len(losses) // every * every]).reshape(-1, every).mean(1)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """A column a network, two rows an initialization; vanilla and octave, torch and Paddle."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from octavize.report.figures import COLOURS, DASHED, STYLE

    first = min(run["seed"] for run in results["runs"])
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(2 * len(STARTS), len(NETWORKS), figsize=(10, 12), sharex="col")
        for run in sorted(results["runs"], key=lambda run: (run["alpha"], run["framework"] == "paddle")):
            row, column = STARTS.index(run["start"]), list(NETWORKS).index(run["network"])
            style = {
                "color": COLOURS[1 if run["alpha"] else 0],
                "linestyle": "-" if run["framework"] == "torch" else DASHED,
                "label": f"{'octave' if run['alpha'] else 'vanilla'}, {NAMES[run['framework']]}"
                if run["seed"] == first
                else None,
            }
            losses, tests = smoothed(run["train_loss"]), run["test"]
            epochs = len(tests) - 1
            axes[2 * row, column].plot((np.arange(len(losses)) + 0.5) * epochs / len(losses), losses, **style)
            axes[2 * row + 1, column].plot(range(epochs + 1), [test["accuracy"] for test in tests], **style)
        for row, start in enumerate(STARTS):
            for column, network in enumerate(NETWORKS.values()):
                above, below = axes[2 * row, column], axes[2 * row + 1, column]
                above.set_title(f"{network}, initial weights of {NAMES[start]}")
                above.set_ylabel("training loss"), below.set_ylabel("test accuracy")
        axes[0, 0].legend()
        for column in range(len(NETWORKS)):
            axes[-1, column].set_xlabel("epochs")
        figure.tight_layout()
        figure.savefig(path, dpi=110, metadata={"Software": ""})
        pyplot.close(figure)


def page(language: str) -> Callable[[str], str]:
    """What a page becomes: the table and what it is of between its marks."""
    results = json.loads(RESULTS.read_text("utf-8"))
    settings = {**results["settings"], **results["settings"]["versions"]}
    settings["torch"] = settings["torch"].partition("+")[0]
    part = f"{table(results, language)}\n\n{WORDS[language]['note'].format_map(settings)}\n"
    return lambda text: between(text, *MARKS, part)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="of paddle_paired.py, to be committed")
    parser.add_argument("--check", action="store_true", help="only compare the pages with the results")
    given = parser.parse_args()
    if given.publish is not None:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", "curves.png"):
            shutil.copyfile(given.publish / name, RESULTS.with_name(name))
    pages = [(PAGES[language], page(language)) for language in PAGES]
    if given.check:
        check(*pages)
    for path, made in pages:
        write(path, made)


if __name__ == "__main__":
    main()
