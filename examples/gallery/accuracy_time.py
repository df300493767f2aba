"""Accuracy against time: the study of ResNet-26 on photographs of 128 pixels (docs/study.md).

pip install 'octavize[experiment]'
python examples/gallery/accuracy_time.py
"""

import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from shared import WIDTH, destination, save

from octavize.study.deployed import deployed_rows

STUDY = Path(__file__).resolve().parents[2] / "docs/results/study-resolution"
NAMES = {
    "vanilla": "vanilla",
    "α=0.5, every layer": "octave, every layer",
    "α=0.5, once a block, down": "octave, once a block",
    "smaller, time of once a block": "vanilla, smaller images",
    "thinner, time of once a block": "vanilla, thinner",
}
COLORS = dict(zip(NAMES, ("#475569", "#e8590c", "#0d9488", "#7c3aed", "#db2777"), strict=True))
MARKERS = {"int8": "o", "bf16": "s", "float32": "D"}

results, costs = (json.loads((STUDY / name).read_text("utf-8")) for name in ("results.json", "costs.json"))
rows = [row for row in deployed_rows(results, costs) if row["arm"] in NAMES and row["ms"]]
figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
axes = figure.subplots()
for arm, color in COLORS.items():
    own = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["ms"]["1"])
    times, found = [row["ms"]["1"] for row in own], [100 * row["mean"] for row in own]
    axes.plot(times, found, color=color, linewidth=1, alpha=0.5)
    for row, time, mean in zip(own, times, found, strict=True):
        spread = 100 * row["std"]
        axes.errorbar(time, mean, spread, color=color, marker=MARKERS[row["precision"]], capsize=2, alpha=0.9)
axes.set_xscale("log")
axes.set_xticks([2, 3, 4, 6, 8], ["2", "3", "4", "6", "8"])
axes.set_xticks([], minor=True)
axes.set_xlabel("milliseconds an image, OpenVINO, one thread")
axes.set_ylabel("test accuracy, %; ± deviation over seeds")
axes.grid(color="#e2e8f0", linewidth=0.8)
axes.set_axisbelow(True)
axes.spines[["top", "right"]].set_visible(False)
handles = [
    *(Line2D([], [], color=color, linewidth=4, label=NAMES[arm]) for arm, color in COLORS.items()),
    *(Line2D([], [], color="#64748b", linestyle="", marker=m, label=name) for name, m in MARKERS.items()),
]
figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
save(figure, destination())
