"""Write the results of docs/study.md and docs/study.zh.md from the committed results of studies.

    python benchmarks/study_tables.py            # write
    python benchmarks/study_tables.py --check    # exit 1 if a page does not say what the results say

A study's results are `results.json` and `times.json` of its run folder, in `docs/results/study-<name>/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marked import between, check, write
from octavize.experiment.naming import pretty
from octavize.experiment.study.report import interval

DOCS = Path(__file__).resolve().parent.parent / "docs"
START = "<!-- study: written by benchmarks/study_tables.py -->\n"
END = "<!-- /study -->"
WORDS = {
    "study.md": {
        "none": "No results are committed yet.",
        "setting": "setting",
        "arm": "arm",
        "seeds": "seeds",
        "accuracy": "test accuracy",
        "difference": "to {}, points (95 %)",
        "changed": "changed setting",
        "from": "from",
        "effect": "Changes by one setting, in points (95 %)",
        "about": (
            "{data}, {train:,} training and {val:,} validation pictures, {test:,} test pictures; {done} of "
            "{planned} runs, seeds {seeds}; {processor}, torch {torch}, {threads} thread(s) a run."
        ),
    },
    "study.zh.md": {
        "none": "尚无结果。",
        "setting": "设置",
        "arm": "网络",
        "seeds": "种子数",
        "accuracy": "测试准确率",
        "difference": "与 {} 之差，百分点（95 %）",
        "changed": "改动的设置",
        "from": "基准",
        "effect": "只改一个设置时的变化，百分点（95 %）",
        "about": (
            "{data}，训练图像 {train:,} 张，验证图像 {val:,} 张，测试图像 {test:,} 张；"
            "完成 {done}/{planned} 次训练，种子 {seeds}；"
            "{processor}，torch {torch}，每次训练 {threads} 线程。"
        ),
    },
}  # fmt: skip
Words = dict[str, str]


def table(head: list[str], rows: list[list[str]], left: int = 2) -> str:
    """A Markdown table whose first columns are left-aligned."""
    lines = [head, ["---"] * left + ["---:"] * (len(head) - left), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def networks(results: dict[str, Any], model: str, words: Words) -> str:
    """A row a setting and arm: accuracy, and the paired difference to the reference arm."""
    differences = {(d["cell"], d["model"], d["arm"]): interval(d) for d in results["differences"]}
    rows = [
        [
            net["cell"], net["arm"], f"{net['macs'] / 1e6:.2f} M", str(net["n"]),
            f"{net['mean']:.2%}" + ("" if net["std"] is None else f" ± {net['std']:.2%}"),
            differences.get((net["cell"], model, net["arm"]), ""),
        ]
        for net in results["networks"]
        if net["model"] == model
    ]  # fmt: skip
    difference = words["difference"].format(results["reference"])
    head = [words["setting"], words["arm"], "MACs", words["seeds"], words["accuracy"], difference]
    return table(head, rows)


def effects(results: dict[str, Any], model: str, words: Words) -> str | None:
    """A row a changed setting: what it does to each arm, and to each difference. None if there is none."""
    reference = results["reference"]
    others = [arm for arm in results["arms"] if arm != reference]
    columns = [(arm, "accuracy") for arm in results["arms"]] + [(arm, "difference") for arm in others]
    names = [f"{arm} − {reference}" if of == "difference" else arm for arm, of in columns]
    told = {
        (e["base"], e["factor"], e["from"], e["to"], e["arm"], e["of"]): interval(e)
        for e in results["effects"]
        if e["model"] == model
    }
    changes = dict.fromkeys(key[:4] for key in told)
    rows = [
        [f"{factor}: {start} → {end}", base]
        + [told.get((base, factor, start, end, arm, of), "") for arm, of in columns]
        for base, factor, start, end in changes
    ]
    if not rows:
        return None
    return f"{words['effect']}:\n\n" + table([words["changed"], words["from"], *names], rows)


def section(folder: Path, words: Words) -> str:
    """One study: its tables, network by network, and its conditions."""
    results, times = (json.loads((folder / f"{n}.json").read_text("utf-8")) for n in ("results", "times"))
    where, data = times["environment"], results["data"]
    parts = [f"### `{results['study']}`"]
    for model in results["models"]:
        found = (networks(results, model, words), effects(results, model, words))
        parts += [f"**{pretty(model)}**", *(text for text in found if text)]
    about = words["about"].format(
        data=data["name"], train=data["train"], val=data["val"], test=data["test"], done=results["done"],
        planned=results["planned"], seeds=", ".join(map(str, results["seeds"])), **where,
    )  # fmt: skip
    return "\n\n".join([*parts, about])


def page(words: Words) -> Callable[[str], str]:
    """What writes the results of a page anew."""
    found = sorted(path.parent for path in (DOCS / "results").glob("study-*/results.json"))
    told = "\n\n".join(section(folder, words) for folder in found) or words["none"]
    return lambda text: between(text, START, END, f"{told}\n")


if __name__ == "__main__":
    pages = [(DOCS / name, page(words)) for name, words in WORDS.items()]
    if "--check" in sys.argv:
        check(*pages)
    for path, made in pages:
        write(path, made)
