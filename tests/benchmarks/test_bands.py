"""Three bands: what is counted, the page, and a round of its timing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def bands(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__("bands")


@pytest.fixture
def results(bands: Any) -> Any:
    return json.loads(bands.OUT.read_text("utf-8"))


def test_the_page_is_that_of_the_results(bands: Any) -> None:
    text = bands.PAGE.read_text("utf-8")
    assert bands.page(text) == text


def test_rules_are_as_they_were_counted(bands: Any, results: Any) -> None:
    rows = bands.census()
    assert rows == results["rules"]
    assert all(row["changed"] == "right" and row["now"] != "wrong" for row in rows)


def test_arithmetic_is_as_it_was_counted(bands: Any, results: Any) -> None:
    assert json.loads(json.dumps(bands.arithmetic())) == results["arithmetic"]


def test_a_formula_that_is_wrong_is_noticed(bands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "SHAPES", [bands.Shape(8, 8, 3)])
    monkeypatch.setattr(bands, "DEPTH", 2)
    assert bands.arithmetic()[0]["macs"] == 2 * 8 * 8 * 9 * 64
    monkeypatch.setattr(bands.draft, "macs", lambda *told: 1)
    with pytest.raises(bands.InputError, match="by formula"):
        bands.arithmetic()


def test_equal_arithmetic_is_as_near_as_channels_allow(bands: Any) -> None:
    for shape in bands.SHAPES:
        arms = bands.arms(shape)
        for alpha in bands.ALPHAS:
            two, three = (arms[f"α = {alpha:g}: {name}"] for name in ("two bands", "three, equal MACs"))
            assert sum(two) == sum(three) == shape.channels
            step = shape.macs(bands.in_thirds(shape.channels, 0)) / shape.channels
            assert abs(shape.macs(two) - shape.macs(three)) < step


@pytest.mark.slow
def test_every_network_is_timed(bands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    monkeypatch.setattr(bands, "SHAPES", [bands.Shape(8, 8, 3)])
    monkeypatch.setattr(bands, "ALPHAS", (0.5,))
    times = bands.time_all(["openvino"], 1)
    assert [row["network"] for row in times["rows"]] == list(bands.arms(bands.Shape(8, 8, 3)))
    table = bands.times_table(times)
    assert "n = 1 rounds" in table
    assert table.count("α = 0.5") == 3
    assert times["environment"]["openvino"] in table
    assert "Not measured" in bands.times_table(None)


@pytest.mark.slow
def test_whole_networks_are_timed(bands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    monkeypatch.setattr(bands, "MODEL", "oct_cifar_resnet20")
    monkeypatch.setattr(bands, "IMAGE", (3, 32, 32))
    monkeypatch.setattr(bands, "ALPHAS", (0.5,))
    times = bands.time_whole(["onnxruntime"], 1)
    macs = {row["network"]: row["mac_ratio"] for row in times["rows"]}
    assert next(iter(macs)) == bands.VANILLA
    assert macs["α = 0.5: three, equal MACs"] == pytest.approx(macs["α = 0.5: two bands"], rel=0.03)
    assert "α = 0.5: three, equal α" in macs
    assert "oct_cifar_resnet20, 32 pixels" in bands.times_table(times)
