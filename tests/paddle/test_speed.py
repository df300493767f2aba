"""The benchmark of octave networks in Paddle: the article's networks are its own, and the script runs."""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path
from typing import Any

import paddle
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import paddle_article  # noqa: E402


@pytest.mark.parametrize(("name", "parameters"), [("resnet50", 23_625_674), ("mobilenet_v1", 3_253_898)])
def test_the_article_s_networks_have_its_number_of_parameters(name: str, parameters: int) -> None:
    net = paddle_article.NETWORKS[name](classes=10)
    assert sum(prod(p.shape) for p in net.parameters()) == parameters
    assert net(paddle.zeros([1, 3, 64, 64])).shape == [1, 10]


@pytest.mark.slow
def test_the_script_measures_and_says_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import paddle_speed

    out = tmp_path / "speed.json"
    given = ["--rounds", "1", "--size", "64", "--networks", "mobilenet_v1", "--out", str(out)]
    ways = ["--ways", "dygraph", "inference, oneDNN", "onnxruntime", "training"]
    monkeypatch.setattr(sys, "argv", ["paddle_speed.py", *given, *ways])
    paddle_speed.main()
    results: Any = json.loads(out.read_text())
    assert {"paddlepaddle", "processor", "python"} <= set(results["environment"])
    assert (results["threads"], results["rounds"], len(results["rows"])) == (1, 1, 16)
    assert all(row["time_ratio"] == 1 for row in results["rows"] if row["network"] == "vanilla")
    assert all(("failed" in row) ^ ("time_ratio" in row) for row in results["rows"])
    assert "| MobileNetV1 | the article's code |" in capsys.readouterr().out
