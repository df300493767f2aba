"""The statistics of a study, against numbers worked out by hand and by another function of scipy."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from scipy import stats

from octavize.study.analysis import (
    Accuracies,
    Names,
    collect,
    contrasts,
    differences,
    effects,
    networks,
    summary,
)
from octavize.study.model import Arm, Cell, Study
from octavize.training.recipe import Recipe

CELLS = tuple(
    Cell(f"rate={r}, bias={b}", {"rate": r, "bias": b}, "rate=slow, bias=off")
    for r, b in itertools.product(("slow", "fast"), ("off", "on"))
)


def study(cells: tuple[Cell, ...] = CELLS) -> Study:
    arms = (Arm("vanilla", {"alpha": 0}), Arm("octave", {"alpha": 0.5}))
    return Study("s", "", Recipe(), ("m",), (0, 1, 2), arms, "vanilla", cells=cells)


def test_the_interval_is_students() -> None:
    found = summary([1.0, 2.0, 6.0])
    assert (found["n"], found["mean"]) == (3, 3.0)
    # s² = (4 + 1 + 9) / 2 = 7, t(0.975, 2) = 4.30265
    half = 4.30265 * (7 / 3) ** 0.5
    assert found["low"] == pytest.approx(3 - half, abs=1e-4)
    assert found["high"] == pytest.approx(3 + half, abs=1e-4)
    theirs: Any = stats.ttest_1samp([1.0, 2.0, 6.0], 0)
    interval = theirs.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert summary([0.5]) == {"n": 1, "mean": 0.5, "std": None, "low": None, "high": None}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.1, 0.5])
def test_seeds_that_agree_have_an_interval_without_width(value: float) -> None:
    found = summary([value] * 3)
    assert (found["low"], found["mean"], found["high"]) == pytest.approx((value, value, value))
    assert found["std"] == pytest.approx(0)


def names_of(accuracies: Accuracies) -> Names:
    """Runs of their own for every network."""
    return {net: {f"{' '.join(net)} {seed}" for seed in found} for net, found in accuracies.items()}


def test_an_arm_that_is_the_reference_has_no_difference() -> None:
    accuracies = {(CELLS[0].name, "m", arm): {0: 0.5, 1: 0.7} for arm in ("vanilla", "octave")}
    shared = {net: {"run 0", "run 1"} for net in accuracies}
    assert differences(study(), accuracies, shared) == []


def test_differences_are_paired_by_seed() -> None:
    """The arms' own spread cancels out; a seed that only one arm has does not count."""
    accuracies = {
        (CELLS[0].name, "m", "vanilla"): {0: 0.5, 1: 0.7, 2: 0.9},
        (CELLS[0].name, "m", "octave"): {0: 0.51, 1: 0.71, 3: 0.2},
    }
    (found,) = differences(study(), accuracies, names_of(accuracies))
    assert (found["cell"], found["arm"], found["n"]) == (CELLS[0].name, "octave", 2)
    assert list(found["values"]) == ["0", "1"]
    assert found["mean"] == pytest.approx(0.01)
    assert found["std"] == pytest.approx(0, abs=1e-12)


def synthetic(bias: float, interaction: float) -> dict[tuple[str, str, str], dict[int, float]]:
    """Vanilla at 0.5; octave 0.1 below it, `bias` lower with a bias, and again by `interaction` if fast."""
    found = {}
    for cell in CELLS:
        on, fast = cell.levels["bias"] == "on", cell.levels["rate"] == "fast"
        octave = 0.4 - bias * on - interaction * on * fast
        found[cell.name, "m", "vanilla"] = {s: 0.5 + s / 100 + 0.05 * fast for s in range(3)}
        found[cell.name, "m", "octave"] = {s: octave + s / 50 + 0.05 * fast for s in range(3)}
    return found


def test_a_full_grid_gives_main_effects() -> None:
    accuracies = synthetic(bias=0.02, interaction=0.04)
    names = {key: {"-".join(key)} for key in accuracies}
    for cell in CELLS:  # the vanilla network has one run whatever the bias
        names[cell.name, "m", "vanilla"] = {cell.levels["rate"]}
    found = effects(study(), accuracies, names)
    by = {(e["factor"], e["arm"], e["of"]): e for e in found}
    bias = by["bias", "octave", "difference"]
    assert (bias["from"], bias["to"], bias["pairs"], bias["n"]) == ("off", "on", 2, 3)
    assert bias["mean"] == pytest.approx(-0.02 - 0.04 / 2)
    assert by["rate", "octave", "difference"]["mean"] == pytest.approx(-0.02)
    assert by["rate", "vanilla", "accuracy"]["mean"] == pytest.approx(0.05)
    assert ("bias", "vanilla", "accuracy") not in by


def test_one_factor_at_a_time_compares_with_its_base() -> None:
    levels = [{"a": a, "b": b} for a, b in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 1), (1, 0))]
    names = ["low", "low, a", "low, b", "high", "high, a", "high, b"]
    texts = [{k: str(v) for k, v in one.items()} for one in levels]
    cells = tuple(Cell(n, t, n.split(",")[0]) for n, t in zip(names[:4], texts[:4], strict=True))
    found = {key: [(x.name, y.name) for x, y in pairs] for key, pairs in contrasts(cells).items()}
    assert found == {
        ("low", "a", "0", "1"): [("low", "low, a")],
        ("low", "b", "0", "1"): [("low", "low, b")],
        # Two bases two factors apart share the cells between them.
        ("high", "b", "1", "0"): [("high", "low, a")],
        ("high", "a", "1", "0"): [("high", "low, b")],
    }


@pytest.mark.parametrize("alone", [True, False])
def test_a_pair_of_cells_is_told_once(alone: bool) -> None:
    here, there = Cell("here", {"a": "0"}, "here"), Cell("there", {"a": "1"}, "there", alone)
    assert list(contrasts([here, there])) == [("here", "a", "0", "1")]
    far = Cell("far", {"a": "2"}, "far", alone=True)
    assert ("far", "a", "2", "0") not in contrasts([here, there, far])


def test_a_base_that_stands_alone_is_no_part_of_an_effect() -> None:
    base, alone = (
        Cell("base", {"a": "0", "b": "0"}, "base"),
        Cell("sound", {"a": "1", "b": "1"}, "sound", True),
    )
    of_a = Cell("base, a=1", {"a": "1", "b": "0"}, "base")
    of_b = Cell("base, b=1", {"a": "0", "b": "1"}, "base")
    found = contrasts([base, of_a, of_b, alone])
    assert found == {("base", "a", "0", "1"): [(base, of_a)], ("base", "b", "0", "1"): [(base, of_b)]}


def test_runs_that_are_not_finished_do_not_count() -> None:
    shared = {
        "cell": "c",
        "model": "m",
        "alpha": 0,
        "size": None,
        "width": None,
        "epochs": 1,
        "macs": 2,
        "network": "n",
        "deployed": {},
    }
    runs = [
        {**shared, "network": "n", "arm": "vanilla", "seed": s, "test_accuracy": a, "run": f"r{s}"}
        for s, a in enumerate((0.5, None, 0.7))
    ]
    assert collect(runs) == {("c", "m", "vanilla"): {0: 0.5, 2: 0.7}}
    (found,) = networks(runs)
    assert (found["n"], found["mean"], found["runs"]) == (2, pytest.approx(0.6), ["r0", "r2"])
    assert found["deployed"] == {}


def test_accuracies_in_a_runtime_are_averaged_by_precision() -> None:
    shared = dict.fromkeys(("cell", "model", "arm", "alpha", "size", "width", "epochs", "macs", "network"), 1)
    tested = [{"float32": 0.5, "int8": 0.4}, {"float32": 0.7}, {}]
    runs = [{**shared, "run": str(i), "test_accuracy": 0.6, "deployed": t} for i, t in enumerate(tested)]
    (found,) = networks(runs)
    assert found["n"] == 3
    assert found["deployed"]["float32"] == summary([0.5, 0.7])
    assert found["deployed"]["int8"] == summary([0.4])
