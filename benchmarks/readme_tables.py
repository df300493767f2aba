# ruff: noqa: E501 (the sentences of the READMEs stand here on one line each)
"""Write the measured tables of the READMEs, and of docs/measured.md and docs/measured.zh.md, from the
committed results.

    python benchmarks/readme_tables.py            # write
    python benchmarks/readme_tables.py --check    # exit 1 if a page does not say what the results say

The results come from the commands that docs/results/README.md gives.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import study_tables
from marked import between, check, write
from octavize.deploy.formats import timed_formats
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
STUDY, MODEL, PRECISION = "study-resolution", "oct_resnet26", "float32"
"""Whose figure and table say whether it pays."""
MACS = ROOT / "docs/results/profile-resnet50.json"
SPEED = ROOT / "benchmarks/results/realized_saving/avx512/oct_resnet50_224.json"
SPEED_ALPHA = 0.5

WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "readme": "README.md",
        "measured": "docs/measured.md",
        "study": "docs/study.md",
        "macs": "MACs",
        "memory": "memory for backward",
        "latency": "latency",
        "step": "training step",
        "params": "parameters",
        "narrow": ("network", "accuracy", "to vanilla", "ms"),
        "arms": {
            "vanilla": "vanilla",
            "α=0.5, once a block, down": "octave α = 0.5, exchange once a block",
            "α=0.5, every layer": "octave α = 0.5, exchange in every layer (the paper)",
            "smaller, time of once a block": "vanilla on smaller images, as fast as once a block",
            "thinner, time of once a block": "thinner vanilla, as fast as once a block",
        },
        "pays": (
            "ResNet-26 trained from scratch on Imagenette, seen at 128 pixels; accuracy and the time of one image in {runtime}, float32, one thread. ± is the deviation over "
            "{seeds} seeds, in brackets a 95 % interval. [All of it, bf16 and int8 too]({link}) · [data](docs/results/{study}/results.json) · `octavize study resolution`"
        ),
        "macs_note": (
            "`octavize profile oct_resnet50 --alpha 0 0.125 0.25 0.5 0.75 --size 224`, batch {batch}, medians of {rounds} "
            "interleaved rounds, × of the rounds' ratios, torch {torch} eager, channels-last, {threads} thread(s), {processor}. The MACs agree with the paper's."
        ),
        "speed_head": "ResNet-50, 224 pixels, one thread",
        "speed_vanilla": "vanilla, ms",
        "speed_every": "octave α = {alpha:g}, exchange in every layer (the paper)",
        "speed_other": 'octave α = {alpha:g}, `exchange="{exchange}"`',
        "speed_same": "{network}, as many MACs as the last",
        "speed_note": (
            "Time of a batch of 1 / of 8, as a share of the vanilla network's in the same runtime and precision; a training "
            "step is of 8 images. n = {rounds} rounds in which the networks take turns, CPU time, {processor}; torch {torch}, "
            "ONNX Runtime {onnxruntime}, OpenVINO {openvino}, int8 by NNCF and by ONNX Runtime. Untrained weights: "
            "time does not depend on them, accuracy does. [All rows](../benchmarks/results/realized_saving/avx512/tables.md), also "
            "other networks, sizes, α and two threads · [data](../benchmarks/results/realized_saving/avx512/oct_resnet50_224.json) "
            "· `python benchmarks/realized_saving.py`"
        ),
    },
    "zh": {
        "readme": "README.zh.md",
        "measured": "docs/measured.zh.md",
        "study": "docs/study.zh.md",
        "macs": "乘加次数",
        "memory": "反向传播所存",
        "latency": "推理时间",
        "step": "训练步时间",
        "params": "参数量",
        "narrow": ("网络", "测试准确率", "与原始网络之差，百分点", "毫秒"),
        "arms": {
            "vanilla": "原始网络",
            "α=0.5, once a block, down": "octave α = 0.5，每块交换一次",
            "α=0.5, every layer": "octave α = 0.5，每层交换（论文）",
            "smaller, time of once a block": "图像更小的原始网络，与每块交换一次同样快",
            "thinner, time of once a block": "更窄的原始网络，与每块交换一次同样快",
        },
        "pays": (
            "ResNet-26 在 Imagenette 上从头训练，网络看到 128 像素；准确率和单张图像的时间在 {runtime} 中测得，float32，单线程。"
            "± 后为 {seeds} 个种子间的标准差，括号内为 95 % 区间。[全部结果，包括 bf16 与 int8]({link}) · [数据](docs/results/{study}/results.json) · `octavize study resolution`"
        ),
        "macs_note": (
            "`octavize profile oct_resnet50 --alpha 0 0.125 0.25 0.5 0.75 --size 224`，批大小 {batch}，{rounds} 轮交错运行的中位数（× 为各轮之比的中位数），"
            "torch {torch} eager，channels-last，{threads} 线程，{processor}。乘加次数与论文的数字相符。"
        ),
        "speed_head": "ResNet-50，224 像素，单线程",
        "speed_vanilla": "原始网络，毫秒",
        "speed_every": "octave α = {alpha:g}，每层交换（论文）",
        "speed_other": 'octave α = {alpha:g}，`exchange="{exchange}"`',
        "speed_same": "{network}，乘加次数与上一行相同",
        "speed_note": (
            "批大小 1 / 8 的耗时，以同一运行时、同一精度下原始网络的耗时为 1；训练步的批大小为 8。"
            "n = {rounds} 轮交错运行，CPU 时间，{processor}；torch {torch}，ONNX Runtime {onnxruntime}，OpenVINO {openvino}，"
            "int8 由 NNCF 和 ONNX Runtime 量化。权重未经训练：耗时与权重无关，准确率有关。"
            "[全部数据行](../benchmarks/results/realized_saving/avx512/tables.md)（其他网络、尺寸、α 与双线程）· "
            "[数据](../benchmarks/results/realized_saving/avx512/oct_resnet50_224.json) · `python benchmarks/realized_saving.py`"
        ),
    },
}


def pays(language: str) -> str:
    """The study on real images: accuracy against time as a figure, and as a table that fits a phone."""
    folder = study_tables.DOCS / "results" / STUDY
    results, costs = (study_tables.read(folder / name) for name in ("results.json", "costs.json"))
    page = WORDS[language]["study"]
    figure = f"[![{STUDY}](docs/results/{STUDY}/figures/deployed-{MODEL}-float32.svg)]({page})"
    runtime = timed_formats()[results["deploy"]["runtime"]].runtime
    note = WORDS[language]["pays"].format(
        link=page, study=STUDY, runtime=runtime, seeds=len(results["seeds"])
    )
    return f"{figure}\n\n{narrow(results, costs, language)}\n\n{note}"


def narrow(results: dict[str, Any], costs: dict[str, Any], language: str) -> str:
    """An arm a row, in float32."""
    by_seed = study_tables.deployed_by_seed(results, MODEL)
    timed = study_tables.milliseconds(results, costs, MODEL)
    reference = by_seed[results["reference"], PRECISION]
    rows: list[list[str]] = []
    for net in results["networks"]:
        own = by_seed.get((net["arm"], PRECISION))
        if net["model"] != MODEL or not own:
            continue
        difference = study_tables.minus(own, reference) if net["arm"] != results["reference"] else {}
        rows.append(
            [
                WORDS[language]["arms"].get(net["arm"], net["arm"]),
                study_tables.with_deviation(study_tables.summary(list(own.values()))),
                study_tables.with_seeds(study_tables.paired(difference), len(results["seeds"]))
                if difference
                else "",
                f"{timed[net['arm'], PRECISION]['1']:.2f}",
            ]
        )
    return Table(WORDS[language]["narrow"], rows).markdown()


def macs_table(words: dict[str, Any]) -> str:
    """Cost of ResNet-50 at the paper's α."""
    profile = json.loads(MACS.read_text())
    rows, where = profile["rows"], profile["environment"]
    first = rows[0]
    head = ["ResNet-50, α", *(words[k] for k in ("params", "macs", "memory", "latency"))]
    lines = [
        (
            f"{r['alpha']:g}",
            f"{r['params']:,}",
            f"{r['macs']:,} × {r['macs'] / first['macs']:.3f}",
            f"{r['activation_bytes'] / 1e6:.1f} MB × {r['activation_bytes'] / first['activation_bytes']:.3f}",
            f"{r['latency_ms']:.1f} ms × {r['latency_ratio']:.3f}",
        )
        for r in rows
    ]
    note = words["macs_note"].format(
        batch=profile["batch"],
        rounds=profile["rounds"],
        torch=where["torch"],
        threads=where["threads"],
        processor=where["processor"],
    )
    return f"{Table(head, lines).markdown()}\n\n{note}"


def speed_table(words: dict[str, Any]) -> str:
    """Time of ResNet-50 in every runtime, beside vanilla networks of the same arithmetic."""
    results = json.loads(SPEED.read_text("utf-8"))
    rows = [row for row in results["rows"] if row["threads"] == 1]
    names = list(dict.fromkeys(row["network"] for row in rows if row["alpha"] == SPEED_ALPHA))
    last = min((row for row in rows if row["network"] in BEST), key=lambda row: row["mac_ratio"])
    plain = [row for row in rows if row["alpha"] == 0 and row["network"] != "vanilla"]
    near = {row["network"]: abs(row["mac_ratio"] - last["mac_ratio"]) for row in plain}
    smaller = min((name for name in near if "pixels" in name), key=near.__getitem__)
    thinner = min((name for name in near if "width" in name), key=near.__getitem__)
    told = {"vanilla": words["speed_vanilla"]}
    for name in names:
        exchange = name.partition(", ")[2]
        told[name] = words["speed_every" if exchange == "every" else "speed_other"].format(
            alpha=SPEED_ALPHA, exchange=exchange
        )
    chosen = ["vanilla", *(name for name in BEST if name in told), smaller, thinner]
    told |= {name: words["speed_same"].format(network=name) for name in (smaller, thinner)}
    columns = list(dict.fromkeys((row["runtime"], row["precision"]) for row in rows))
    lines = []
    for name in chosen:
        own = [row for row in rows if row["network"] == name]
        cells = [_shares([r for r in own if (r["runtime"], r["precision"]) == column]) for column in columns]
        lines.append((told[name], f"{own[0]['mac_ratio']:.3f}", *cells))
    head = (words["speed_head"], words["macs"], *(_column(*column, words) for column in columns))
    note = words["speed_note"].format(rounds=results["rounds"], **results["environment"])
    return f"{Table(head, lines).markdown()}\n\n{note}"


BEST = ("α=0.5, every", "α=0.5, block:high_to_low")
"""The octave rows of the table."""
RUNTIMES = {"eager": "PyTorch", "frozen": "`freeze`", "compile": "`torch.compile`"} | {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}


def _shares(rows: list[dict[str, Any]]) -> str:
    """The shares of batch 1 and of batch 8; of vanilla itself the milliseconds."""
    vanilla = all(row["network"] == "vanilla" for row in rows)
    cells = (f"{row['median_ms']:.0f}" if vanilla else f"{row['time_ratio']:.2f}" for row in rows)
    return " / ".join(cells) or "–"


def _column(runtime: str, precision: str, words: dict[str, Any]) -> str:
    name = RUNTIMES.get(runtime, words["step"])
    return name if precision == "float32" else f"{name} {precision}"


def pages() -> list[tuple[Path, Callable[[str], str]]]:
    """The pages, and what writes the tables of each anew."""
    found: list[tuple[Path, Callable[[str], str]]] = []
    for language, words in WORDS.items():
        told = study_tables.translated if language == "zh" else str
        measured = {"speed": told(speed_table(words)), "macs": told(macs_table(words))}
        found.append((ROOT / words["readme"], partial(with_tables, {"pays": told(pays(language))})))
        found.append((ROOT / words["measured"], partial(with_tables, measured)))
    return found


def with_tables(tables: Mapping[str, str], text: str) -> str:
    """A page with its tables."""
    for name, table in tables.items():
        start = f"<!-- {name}: written by benchmarks/readme_tables.py -->\n"
        text = between(text, start, f"<!-- /{name} -->", f"{table}\n")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare the pages with the results")
    given = parser.parse_args()
    if given.check:
        check(*pages())
    for path, made in pages():
        write(path, made)


if __name__ == "__main__":
    main()
