"""Write the results of docs/study.md and docs/study-32.md, and of the Chinese pages, from the committed
results of studies, and of `norm_statistics.py`.

    python benchmarks/study_tables.py                                 # write
    python benchmarks/study_tables.py --check                         # exit 1 if a page says anything else
    python benchmarks/study_tables.py --publish runs/study-article    # take a run folder's results first

What is kept of a study lies in `docs/results/study-<name>/`: its results with every epoch of every run, what
its networks cost, and the figures that the pages show.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marked import between, check, write
from octavize.deploy.formats import timed_formats
from octavize.report.naming import pretty
from octavize.study.analysis import minus, paired, summary
from octavize.study.costs import cost_ratios
from octavize.study.deployed import deployed_rows
from octavize.study.report import interval
from octavize.text import Table

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARKS = {
    name: (f"<!-- {name}: written by benchmarks/study_tables.py -->\n", f"<!-- /{name} -->")
    for name in ("answer", "norms", "study")
}
NORMS = "norm-statistics.json"
WORDS = {
    "en": {
        "none": "No results are committed yet.",
        "network": "network",
        "numbers": "All numbers",
        "setting": "setting",
        "arm": "arm",
        "latency": "forward pass",
        "train_step": "training step",
        "activation_bytes": "memory",
        "seeds": "seeds",
        "of_seeds": "seeds {}",
        "accuracy": "test accuracy",
        "difference": "to {}, points (95 %)",
        "unchanged": "unchanged",
        "changed": "changed setting",
        "from": "from",
        "effect": "Changes by one setting, in points (95 %)",
        "epoch": "epoch",
        "running": "{}, running",
        "measured": "{}, measured",
        "running_difference": "octave − vanilla, running (95 %)",
        "measured_difference": "octave − vanilla, measured (95 %)",
        "ms": "{}, ms, batch 1 / 8",
        "deployed": "In {runtime}, one thread; differences to {reference} in points (95 %)",
        "instead": (
            "At equal time, matched for one image in float32: what octave is ahead of the vanilla network "
            "that was made as fast, in points (95 %), and its time as a share of that network's, batch 1 / 8"
        ),
        "norms_about": (
            "Validation accuracy ± standard deviation over seeds, "
            "differences in points; statistics measured on {images:,} training images; torch {torch}, "
            "{precision}, {threads} thread(s) a run."
        ),
        "about": (
            "{train:,} training and {val:,} validation images, {test:,} test images; {done} of {planned} "
            "runs, {failed} failed, seeds {seeds}; {processor}, torch {torch}, {precision}, {threads} "
            "thread(s) a run. ± is the standard deviation over seeds; n is given where not all seeds count."
        ),
    },
    "zh": {
        "none": "尚无结果。",
        "numbers": "全部数据",
        "setting": "设置",
        "network": "网络",
        "arm": "变体",
        "latency": "前向时间",
        "train_step": "训练一步",
        "activation_bytes": "训练内存",
        "seeds": "种子数",
        "of_seeds": "种子 {}",
        "accuracy": "测试准确率",
        "difference": "与{}之差，百分点（95 %）",
        "unchanged": "不变",
        "changed": "改动的设置",
        "from": "基准",
        "effect": "只改一个设置时测试准确率的变化，百分点（95 %）",
        "epoch": "轮次",
        "running": "{}，滑动统计",
        "measured": "{}，实测统计",
        "running_difference": "octave − 原始网络，滑动统计（95 %）",
        "measured_difference": "octave − 原始网络，实测统计（95 %）",
        "ms": "{}，毫秒，批 1 / 8",
        "deployed": "测试准确率，在 {runtime} 中，单线程；与{reference}之差以百分点计（95 %）",
        "instead": (
            "同样的时间（按单张图像、float32 匹配）：octave 网络比改得同样快的原始网络高多少，"
            "百分点（95 %）；以及它的用时是那个网络的多少倍，批 1 / 8"
        ),
        "norms_about": (
            "验证准确率 ± 种子间标准差，差值以百分点计；"
            "统计量在 {images:,} 张训练图像上实测；torch {torch}，{precision}，每次训练 {threads} 线程。"
        ),
        "about": (
            "训练图像 {train:,} 张，验证图像 {val:,} 张，测试图像 {test:,} 张；"
            "完成 {done}/{planned} 次训练，失败 {failed} 次，种子 {seeds}；"
            "{processor}，torch {torch}，{precision}，每次训练 {threads} 线程。"
            "± 为种子间的标准差；并非所有种子都有的差值注明其种子数 n。"
        ),
    },
}  # fmt: skip
IN_CHINESE = {
    "vanilla": "原始网络",
    "MACs": "乘加次数",
    "small stem": "小尺寸 stem",
    "as given": "默认",
    "article": "原文章",
    "sound": "常用设置",
    "paper": "论文",
    "constant rate": "恒定学习率",
    "falling rate": "下降学习率",
    "once a block, down": "每块交换一次（高到低）",
    "every layer": "每层交换",
    "smaller": "更小的图像",
    "thinner": "更窄",
    "time of once a block": "用时同每块交换一次",
    "same MACs": "乘加次数相同",
    "same time": "用时相同",
    "pixels": "像素",
    "px": "像素",
    "width": "宽度",
    "bias": "偏置",
    "depthwise": "深度卷积初始化",
    "initial": "初始化",
    "normalize": "归一化",
    "augment": "数据增强",
    "rate": "学习率",
    "optimizer": "优化器",
    "epochs": "轮数",
    "exchange": "交换",
    "downsample": "下采样",
    "size": "尺寸",
    "on": "有",
    "off": "无",
    "none": "无",
    "constant": "恒定",
    "cosine": "余弦",
    "both": "双向",
    "low to high": "低到高",
    "high to low": "高到低",
    "to": "至",
    "pool": "池化",
    "stride": "步长",
    "adam": "Adam",
    "sgd": "SGD",
    "cores": "核",
}
"""Words of results, but names of options: those stand in backticks."""
REAL_IMAGES = ("resolution", "size")
"""Studies of docs/study.md; all others are small, and in the appendix."""
PAGES = {
    "study.md": ("en", True),
    "study-32.md": ("en", False),
    "study.zh.md": ("zh", True),
    "study-32.zh.md": ("zh", False),
}
"""Of each page its language, and whether it is of the studies of real images."""
KEPT = ("results.json", "costs.json", "figures/differences-*.svg", "figures/deployed-*.svg")
"""Files of a run folder that are published."""
WAYS = ("running", "measured")
"""How batch norms' statistics came about, of `norm_statistics.py`."""
MEASURED = ("latency", "train_step", "activation_bytes")
"""Costs, beside MACs, that the first table shows."""
Words = dict[str, str]


def read(path: Path, otherwise: Any = None) -> Any:
    """A JSON file; `otherwise`, if given, stands for one that is not there."""
    if otherwise is not None and not path.is_file():
        return otherwise
    return json.loads(path.read_text("utf-8"))


def translated(text: str) -> str:
    """The tables of a page, and what stands above and below them, with the words of results in Chinese."""
    words = "|".join(map(re.escape, sorted(IN_CHINESE, key=len, reverse=True)))
    found = re.compile(rf"(`[^`]*`|\]\([^)]*\))|(?<![A-Za-z0-9_/-])({words})(?![A-Za-z0-9_/-])")

    def chosen(match: re.Match[str]) -> str:
        return match[1] or IN_CHINESE[match[2]]

    def line(of: str) -> str:
        if of.startswith(("!", "#")):
            return of
        told = re.sub(r"(?<=）):$", "：", found.sub(chosen, of))
        return told.replace(", ", "，").replace(": ", "：") if of.startswith(("|", "**")) else told

    return re.sub(r"(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])", "", "\n".join(map(line, text.split("\n"))))


def publish(run_folder: Path, results: Path = DOCS / "results") -> None:
    """Copy the results of a study's run folder over what was there."""
    name = read(run_folder / "results.json")["study"]
    folder = results / f"study-{name}"
    if folder.resolve() == run_folder.resolve():
        raise SystemExit(
            f"--publish is {run_folder}, where results are published: give the folder of the runs"
        )
    shutil.rmtree(folder, ignore_errors=True)
    for pattern in KEPT:
        for file in run_folder.glob(pattern):
            to = folder / file.relative_to(run_folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)


def networks(results: dict[str, Any], model: str, words: Words) -> str:
    """A row a setting and arm: accuracy, and the paired difference to the reference arm."""
    differences = {(d["cell"], d["model"], d["arm"]): d for d in results["differences"]}
    rows = [
        [
            net["cell"], arm(net, results["matched"], words), f"{net['macs'] / 1e6:.2f} M", str(net["n"]),
            with_deviation(net),
            with_seeds(differences.get((net["cell"], model, net["arm"])), net["n"]),
        ]
        for net in results["networks"]
        if net["model"] == model
    ]  # fmt: skip
    difference = words["difference"].format(results["reference"])
    head = [words["setting"], words["arm"], "MACs", words["seeds"], words["accuracy"], difference]
    return Table(head, rows, align="llr").markdown()


def with_seeds(row: dict[str, Any] | None, seeds: int) -> str:
    """A difference or effect; with its number of seeds where fewer count than stand in the table's column."""
    if row is None:
        return ""
    return interval(row) + ("" if row["n"] == seeds else f", n = {row['n']}")


def arm(net: dict[str, Any], matched: dict[str, Any], words: Words) -> str:
    """Its name; of a matched arm also what it was found to be, and its share of the cost to be reached."""
    found = matched.get(f"{net['model']} {net['arm']}")
    if found is None:
        return net["arm"]
    size, width = (found["settings"].get(key) for key in ("size", "arguments"))
    what = f"{size} px" if size else f"width {width['width']}" if width else words["unchanged"]
    return f"{net['arm']} ({what}, × {found['cost']:.2f})"


def figure(folder: Path, name: str) -> str | None:
    """A figure of the study, if there is one."""
    path = folder / "figures" / f"{name}.svg"
    return f"![{name}](results/{folder.name}/figures/{name}.svg)" if path.is_file() else None


def deployed(results: dict[str, Any], costs: dict[str, Any], model: str, words: Words) -> str | None:
    """A row an arm: in each precision of a runtime accuracy, difference and time; None without a runtime."""
    if not results.get("deploy"):
        return None
    timed, by_seed = milliseconds(results, costs, model), deployed_by_seed(results, model)
    precisions = [p for p in results["deploy"]["precisions"] if any(key[1] == p for key in by_seed)]
    head, rows = [words["arm"]], list[list[str]]()
    for precision in precisions:
        head += [precision, "−", words["ms"].format(precision)]
    for found in results["networks"]:
        if found["model"] != model or not found["deployed"]:
            continue
        row = [arm(found, results["matched"], words)]
        for precision in precisions:
            own, reference = (by_seed.get((a, precision), {}) for a in (found["arm"], results["reference"]))
            difference = minus(own, reference) if found["arm"] != results["reference"] else {}
            ms = timed.get((found["arm"], precision), {})
            row += [
                with_deviation(summary(list(own.values()))) if own else "–",
                with_seeds(paired(difference), len(results["seeds"])) if difference else "",
                " / ".join(f"{ms[batch]:.2f}" if batch in ms else "–" for batch in ("1", "8")),
            ]
        rows.append(row)
    if not rows:
        return None
    runtime = timed_formats()[results["deploy"]["runtime"]].runtime
    about = words["deployed"].format(runtime=runtime, reference=results["reference"])
    return f"{about}:\n\n{Table(head, rows, align='lr').markdown()}"


def milliseconds(
    results: dict[str, Any], costs: dict[str, Any], model: str
) -> dict[tuple[str, str], dict[str, float]]:
    """An image's, by arm and precision and then by batch."""
    rows = (row for row in deployed_rows(results, costs) if row["model"] == model)
    return {(row["arm"], row["precision"]): row["ms"] for row in rows}


def deployed_by_seed(results: dict[str, Any], model: str) -> dict[tuple[str, str], dict[int, float]]:
    """Accuracies in the runtime, by arm and precision and then by seed."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in results["runs"]:
        for precision, accuracy in run["deployed"].items():
            if run["model"] == model:
                found.setdefault((run["arm"], precision), {})[run["seed"]] = accuracy
    return found


def instead(results: dict[str, Any], costs: dict[str, Any], model: str, words: Words) -> str | None:
    """A row a matched arm: what the arm that it was matched to is ahead of it, in each precision."""
    if not results.get("deploy"):
        return None
    timed, by_seed = milliseconds(results, costs, model), deployed_by_seed(results, model)
    precisions = results["deploy"]["precisions"]
    rows: list[list[str]] = []
    for match in results["matched"].values():
        octave, other = match["match"]["arm"], match["arm"]
        tested = all((arm, precision) in by_seed for arm in (octave, other) for precision in precisions)
        if match["model"] != model or not tested:
            continue
        cells: list[str] = []
        for precision in precisions:
            difference = minus(by_seed[octave, precision], by_seed[other, precision])
            ms, base = timed.get((octave, precision), {}), timed.get((other, precision), {})
            shares = (f"{ms[b] / base[b]:.2f}" if b in ms and b in base else "–" for b in ("1", "8"))
            cells += [with_seeds(paired(difference), len(results["seeds"])), " / ".join(shares)]
        rows.append([f"{octave} − {other}", *cells])
    if not rows:
        return None
    head = [words["arm"], *(cell for p in precisions for cell in (p, "×"))]
    return f"{words['instead']}:\n\n{Table(head, rows, align='lr').markdown()}"


def effects(results: dict[str, Any], model: str, words: Words) -> str | None:
    """A row a changed setting: what it does to each arm, and to each difference. None if there is none."""
    reference = results["reference"]
    others = [arm for arm in results["arms"] if arm != reference]
    columns = [(arm, "accuracy") for arm in results["arms"]] + [(arm, "difference") for arm in others]
    names = [f"{arm} − {reference}" if of == "difference" else arm for arm, of in columns]
    seeds = len(results["seeds"])
    told = {
        (e["base"], e["factor"], e["from"], e["to"], e["arm"], e["of"]): with_seeds(e, seeds)
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
    return (
        f"{words['effect']}:\n\n"
        + Table([words["changed"], words["from"], *names], rows, align="llr").markdown()
    )


def section(folder: Path, words: Words) -> str:
    """One study: its tables, network by network, and its conditions."""
    results = read(folder / "results.json")
    parts = [f"### `{results['study']}`"]
    for model in dict.fromkeys(net["model"] for net in results["networks"]):
        costs = read(folder / "costs.json", {})
        precisions = (results.get("deploy") or {}).get("precisions", [])
        found = (
            *(figure(folder, f"deployed-{model}-{precision}") for precision in precisions),
            deployed(results, costs, model, words),
            instead(results, costs, model, words),
            figure(folder, f"differences-{model}"),
            networks(results, model, words),
            effects(results, model, words),
        )
        parts += [f"**{pretty(model)}**", *(text for text in found if text)]
    parts.append(f"[{words['numbers']}](results/{folder.name}/results.json)")
    return "\n\n".join([*parts, conditions(results, words)])


def conditions(results: dict[str, Any], words: Words) -> str:
    """What a study was trained on: images, runs, seeds, machine."""
    where, data = results["environment"], results["data"]
    return words["about"].format(
        train=data["train"], val=data["val"], test=data["test"], done=results["done"],
        planned=results["planned"], failed=len(results["failed"]),
        seeds=", ".join(map(str, results["seeds"])), **where,
    )  # fmt: skip


def answer(folders: list[Path], words: Words) -> str:
    """All studies in one table: each arm against the reference, in the cells that others depart from."""
    rows: list[list[str]] = []
    for folder in folders:
        results = read(folder / "results.json")
        bases = {cell["name"] for cell in results["cells"] if cell["name"] == cell["base"]}
        macs = {(net["cell"], net["model"], net["arm"]): net["macs"] for net in results["networks"]}
        costs = read(folder / "costs.json", {})
        ratios = {(row["cell"], row["model"], row["arm"]): row for row in cost_ratios(results, costs)}
        for found in results["differences"]:
            model, cell = found["model"], found["cell"]
            if cell not in bases:
                continue
            own = ratios.get((cell, model, found["arm"]), {})
            setting = f"`{results['study']}`" + ("" if cell == "as given" else f", {cell}")
            ratio = macs[cell, model, found["arm"]] / macs[cell, model, results["reference"]]
            shares = [f"× {ratio:.2f}", *(f"× {own[key]:.2f}" if own else "" for key in MEASURED)]
            rows.append([pretty(model), setting, found["arm"], interval(found), str(found["n"]), *shares])
    head = [words[key] for key in ("network", "setting", "arm", "difference", "seeds")]
    head[3] = head[3].format("vanilla")
    return Table([*head, "MACs", *(words[key] for key in MEASURED)], rows, align="lllr").markdown()


def norms(found: dict[str, Any], words: Words) -> str:
    """The same weights read with running and with measured statistics: a table a setting, a row an epoch."""
    settings: dict[str, list[dict[str, Any]]] = {}
    for run in found["runs"]:
        settings.setdefault(f"{pretty(run['model'])}, `{run['study']}`, {run['setting']}", []).append(run)
    parts: list[str] = []
    for setting, runs in settings.items():
        seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
        parts.append(f"**{setting}**, {words['of_seeds'].format(seeds)}\n\n{norms_of(runs, words)}")
    where = [run["environment"] for run in found["runs"]]
    about = words["norms_about"].format(
        images=found["images"],
        **{
            key: " / ".join(dict.fromkeys(str(e[key]) for e in where))
            for key in ("torch", "precision", "threads")
        },
    )
    return "\n\n".join([*parts, about])


def norms_of(runs: list[dict[str, Any]], words: Words) -> str:
    """The table of one setting."""
    accuracy: dict[tuple[str, str, int], dict[int, float]] = {}
    for run in runs:
        for row in run["epochs"]:
            for way in WAYS:
                by_seed = accuracy.setdefault((run["arm"], way, row["epoch"]), {})
                by_seed[run["seed"]] = row[way]["val"]["accuracy"]
    arms = sorted({run["arm"] for run in runs}, key=lambda arm: (arm != "vanilla", arm))
    head = [words["epoch"], *(words[way].format(arm) for arm in arms for way in WAYS)]
    head += [words[f"{way}_difference"] for way in WAYS if len(arms) == 2]
    rows: list[list[str]] = []
    for epoch in sorted({epoch for _, _, epoch in accuracy}):
        read = {(arm, way): accuracy.get((arm, way, epoch), {}) for arm in arms for way in WAYS}
        cells = [with_deviation(summary(list(seeds.values()))) if seeds else "" for seeds in read.values()]
        if len(arms) == 2:
            pairs = [minus(*(read[arm, way] for arm in reversed(arms))) for way in WAYS]
            cells += [interval(paired(pair)) if pair else "" for pair in pairs]
        rows.append([str(epoch), *cells])
    return Table(head, rows).markdown()


def with_deviation(found: dict[str, Any]) -> str:
    """A mean accuracy, with its deviation where there are several."""
    return f"{found['mean']:.2%}" + ("" if found["std"] is None else f" ± {found['std']:.2%}")


def page(words: Words, real: bool) -> Callable[[str], str]:
    """What writes the results of a page anew.

    Args:
        real: the studies of real images, or the small ones.
    """
    kept = sorted(path.parent for path in (DOCS / "results").glob("study-*/results.json"))
    found = [folder for folder in kept if (folder.name.removeprefix("study-") in REAL_IMAGES) == real]
    parts = {
        "answer": answer(found, words) if found else words["none"],
        "study": "\n\n".join(section(folder, words) for folder in found) or words["none"],
    }
    if not real:
        read_norms = read(DOCS / "results" / NORMS, {})
        parts["norms"] = norms(read_norms, words) if read_norms.get("runs") else words["none"]

    if words is WORDS["zh"]:
        parts = {name: translated(part) for name, part in parts.items()}

    def made(text: str) -> str:
        for name, part in parts.items():
            text = between(text, *MARKS[name], f"{part}\n")
        return text

    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare the pages with the results")
    parser.add_argument("--publish", type=Path, metavar="RUN_FOLDER", help="take its results first")
    given = parser.parse_args()
    if given.publish:
        publish(given.publish)
    pages = [(DOCS / name, page(WORDS[language], real)) for name, (language, real) in PAGES.items()]
    if given.check:
        check(*pages)
    for path, made in pages:
        write(path, made)


if __name__ == "__main__":
    main()
