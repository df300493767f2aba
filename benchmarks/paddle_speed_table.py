# ruff: noqa: E501 (the notes of the tables stand here on few lines)
"""The table of `paddle_speed.py` in docs/paddle.md and docs/paddle.zh.md, from its committed results.

python benchmarks/paddle_speed_table.py            # write
python benchmarks/paddle_speed_table.py --check    # exit 1 if a page says anything else
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marked import between, check, write
from octavize.text import Table

BENCHMARKS = Path(__file__).resolve().parent
OUT = BENCHMARKS / "results/paddle_speed.json"
PAGES = {"en": BENCHMARKS.parent / "docs/paddle.md", "zh": BENCHMARKS.parent / "docs/paddle.zh.md"}
MARKS = "<!-- speed: written by benchmarks/paddle_speed_table.py -->\n", "<!-- /speed -->"
NETWORKS = {"resnet50": "ResNet-50", "mobilenet_v1": "MobileNetV1"}
WORDS = {
    "en": {
        "head": ("network", "exchange", "MACs"),
        "article": "the article's code",
        "every layer": "every layer (the paper)",
        "once a block": "once a block",
        "dygraph": "dygraph",
        "inference": "Inference, oneDNN off",
        "inference, oneDNN": "Inference, oneDNN on",
        "onnxruntime": "ONNX Runtime",
        "openvino": "OpenVINO",
        "training": "training step",
        "fails": "fails",
        "note": (
            "Time as a share of the vanilla network's in the same column, {size} × {size} pixels, batch 1, a training step of "
            "4 images, one thread, n = {rounds} rounds in turns, CPU time. Paddle {paddlepaddle}, Paddle2ONNX {paddle2onnx}, "
            "ONNX Runtime {onnxruntime}, OpenVINO {openvino}; {processor}. α = 0.5, the last stage vanilla; untrained "
            "weights. Vanilla takes {vanilla}. [Data]({data}) · `python benchmarks/paddle_speed.py`"
        ),
    },
    "zh": {
        "head": ("网络", "交换", "乘加次数"),
        "article": "文章的代码",
        "every layer": "每层（论文）",
        "once a block": "每块一次",
        "dygraph": "动态图",
        "inference": "Inference，关闭 oneDNN",
        "inference, oneDNN": "Inference，打开 oneDNN",
        "onnxruntime": "ONNX Runtime",
        "openvino": "OpenVINO",
        "training": "训练一步",
        "fails": "出错",
        "note": (
            "以同一列中原始网络的耗时为 1；{size} × {size} 像素，批 1，训练一步为 4 张图像，单线程，n = {rounds} 轮交错运行，CPU 时间。"
            "Paddle {paddlepaddle}，Paddle2ONNX {paddle2onnx}，ONNX Runtime {onnxruntime}，OpenVINO {openvino}；{processor}。"
            "α = 0.5，最后一个阶段不转换；权重未经训练。原始网络耗时：{vanilla}。[数据]({data}) · `python benchmarks/paddle_speed.py`"
        ),
    },
}


def table(results: Mapping[str, Any], language: str) -> str:
    """Shares of vanilla, a row a network and kind and a column a way to run it, and what they were measured on."""
    words: dict[str, Any] = WORDS[language]
    rows = results["rows"]
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines: list[tuple[str, ...]] = []
    vanilla: list[str] = []
    for model, kind in dict.fromkeys((row["model"], row["network"]) for row in rows):
        own = {row["way"]: row for row in rows if (row["model"], row["network"]) == (model, kind)}
        if kind == "vanilla":
            times = " / ".join(f"{own[way]['median_ms']:.0f}" for way in ways)
            vanilla.append(f"{NETWORKS[model]} {times} ms")
            continue
        macs = next(iter(own.values()))["mac_ratio"]
        cells = (words["fails"] if "failed" in own[way] else f"{own[way]['time_ratio']:.2f}" for way in ways)
        lines.append((NETWORKS[model], words[kind], "–" if macs is None else f"{macs:.3f}", *cells))
    head = (*words["head"], *(words[way] for way in ways))
    about = {"paddle2onnx": "–", "onnxruntime": "–", "openvino": "–"} | results["environment"]
    note = words["note"].format(
        size=results["size"], rounds=results["rounds"], vanilla=", ".join(vanilla),
        data="../benchmarks/results/paddle_speed.json", **about,
    )  # fmt: skip
    return f"{Table(head, lines, align='llr').markdown()}\n\n{note}"


def made(language: str) -> Callable[[str], str]:
    """What writes a page's table anew."""
    part = table(json.loads(OUT.read_text("utf-8")), language)
    return lambda text: between(text, *MARKS, f"{part}\n")


def write_pages() -> None:
    """Write the table into both pages."""
    for language, page in PAGES.items():
        write(page, made(language))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare the pages with the results")
    if parser.parse_args().check:
        check(*((page, made(language)) for language, page in PAGES.items()))
    write_pages()


if __name__ == "__main__":
    main()
