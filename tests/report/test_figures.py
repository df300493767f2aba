"""Figures are drawn of what is finite, and are the same file whenever they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octavize.report.figures import (
    HEIGHT,
    METADATA,
    Curve,
    Mark,
    draw_curves,
    draw_trade_off,
    pareto_front,
    save_figures,
    styled,
    write_figure,
)

GOOD: Curve = {
    "train_loss": [2.0, 1.0],
    "val_loss": [2.5, 1.5],
    "train_accuracy": [0.3, 0.5],
    "val_accuracy": [0.2, 0.4],
}
BROKEN: Curve = {**GOOD, "val_loss": [2.0, None]}
MARKS = [Mark(1, 50, None, "#000000", "a"), Mark(30, 60, 2.0, "#ff0000", "b")]


@pytest.mark.parametrize("quantity", ["accuracy", "loss"])
def test_curves_are_means_over_seeds(quantity: str) -> None:
    other = {name: [2 * value for value in values if value] for name, values in GOOD.items()}
    (axes,) = draw_curves({"net": [GOOD, other]}, quantity, ["net"]).axes
    scale = 100 if quantity == "accuracy" else 1
    for line, kind in zip(axes.lines, ("train", "val"), strict=True):
        expected = [1.5 * scale * value for value in GOOD[f"{kind}_{quantity}"] if value]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)
        assert list(np.asarray(line.get_xdata())) == [1, 2]


def test_a_loss_that_is_not_finite_is_a_gap() -> None:
    (axes,) = draw_curves({"net": [GOOD, BROKEN]}, "loss", ["net"]).axes
    values = np.asarray(axes.lines[1].get_ydata(), dtype=float)
    assert values[0] == 2.25
    assert np.isnan(values[1])
    assert axes.get_ylim() == (0, 2.5)  # a quarter above the largest that is shown


def test_networks_of_one_group_are_joined() -> None:
    marks = [*MARKS, Mark(2, 55, None, "#ff0000", "a")]
    (axes,) = draw_trade_off(marks, "cost", {"one": "#000000"}, joined=True).axes
    assert list(np.asarray(axes.lines[0].get_xdata())) == [1, 2]
    assert axes.get_xscale() == "log"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["one", "a", "b"]


def test_the_front_is_what_no_other_beats_in_both() -> None:
    points = [(3, 60), (1, 50), (2, 49), (4, 60), (5, 70), (1, 40)]
    marks = [Mark(cost, accuracy, None, "#000000", "a") for cost, accuracy in points]
    assert [(m.cost, m.accuracy) for m in pareto_front(marks)] == [(1, 50), (3, 60), (5, 70)]
    assert pareto_front([]) == []
    (axes,) = draw_trade_off(marks, "cost", {"one": "#000000"}, groups=False, front=True).axes
    line = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert list(np.asarray(line.get_xdata())) == [1, 3, 5]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["one", "Pareto front"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["short", "a name as long as arms of studies have"])
def test_many_long_names_do_not_squeeze_the_axes(name: str, tmp_path: Path) -> None:
    colors = {f"{name} {i}": "#000000" for i in range(11)}
    figure = draw_trade_off(MARKS, "cost", colors)
    write_figure(figure, tmp_path / "figure.png")
    (axes,) = figure.axes
    assert axes.get_window_extent().height / figure.dpi > 0.5 * HEIGHT
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x1 <= figure.bbox.x1 * 1.001


@pytest.mark.parametrize("suffix", METADATA)
def test_the_same_figure_is_the_same_file(suffix: str, tmp_path: Path) -> None:
    made = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / f"figure{suffix}"
        with styled():
            write_figure(draw_trade_off(MARKS, "cost", {"a": "#000000"}), path)
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_svg_texts_of_one_page_share_no_names(tmp_path: Path) -> None:
    with styled():
        texts = save_figures({n: draw_trade_off(MARKS, "cost", {}) for n in ("one", "two")}, tmp_path / "f")
    assert all(text.startswith("<svg") for text in texts.values())
    assert sorted(file.name for file in (tmp_path / "f").iterdir()) == [
        "one.png", "one.svg", "two.png", "two.svg",
    ]  # fmt: skip
    names = [set(part.split('"')[0] for part in text.split('<clipPath id="')[1:]) for text in texts.values()]
    assert names[0]
    assert not names[0] & names[1]
