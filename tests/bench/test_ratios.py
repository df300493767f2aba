"""The harness that times runtimes, on calls of known duration."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.deploy import octave, small
from torch import nn

from octavize import InputError, create_model
from octavize.bench import contenders as networks
from octavize.bench import environment
from octavize.bench import ratios as b
from octavize.bench.contenders import Contender
from octavize.bench.report import draw, tables
from octavize.bench.runtimes import Call, Setting, choose_runtimes
from octavize.bench.timing import interleave

ALPHAS = {"vanilla": 0.0, "α=0.5": 0.5, "α=0.25": 0.25}
MACS = {"vanilla": 1000, "α=0.5": 600, "α=0.25": 800}


def contenders() -> list[Contender]:
    return [Contender(name, nn.Identity(), (3, 8, 8), MACS[name], alpha) for name, alpha in ALPHAS.items()]


class Clock:
    """A clock that only the timed calls move on, and the machine's slowness with it."""

    def __init__(self) -> None:
        self.now, self.slowness = 0.0, 1.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Call:
        def call() -> None:
            self.order.append(name)
            self.now += seconds * self.slowness
            self.slowness *= 1.01  # heats up

        return call


def test_calls_take_turns_and_warming_up_is_not_counted() -> None:
    clock = Clock()
    seconds = interleave({n: clock.work(n, 1) for n in "ab"}, 4, warm_up=2, clock=clock)
    assert clock.order == ["a", "b"] * 6
    assert [len(s) for s in seconds.values()] == [4, 4]


def test_ratios_are_right_on_a_machine_that_slows_down() -> None:
    clock = Clock()
    calls = {"vanilla": clock.work("v", 2), "α=0.5": clock.work("o", 1.2), "α=0.25": clock.work("q", 2.2)}
    rows = b.rows_of(interleave(calls, 21, clock=clock), contenders())
    assert [row["time_ratio"] for row in rows] == pytest.approx([1, 0.606, 1.122], rel=2e-3)
    assert [row["mac_ratio"] for row in rows] == [1, 0.6, 0.8]
    assert rows[0]["saving_realized"] is None
    assert rows[1]["saving_realized"] == pytest.approx(0.985, rel=1e-2)
    assert rows[2]["saving_realized"] < 0
    assert {row["n"] for row in rows} == {21}


def work_for(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_real_work() -> None:
    needed = {"vanilla": 0.020, "α=0.5": 0.012, "α=0.25": 0.020}

    def prepare(c: Contender, setting: b.Setting) -> Call:
        return lambda: work_for(needed[c.name])

    found = b.bench(contenders(), {"work": prepare}, batches=[2], threads=[1], rounds=5)
    rows = {row["network"]: row for row in found["rows"]}
    assert rows["vanilla"]["median_ms"] >= 20
    assert rows["α=0.5"]["time_ratio"] == pytest.approx(0.6, abs=0.15)
    assert rows["vanilla"] | {"batch": 2, "threads": 1, "runtime": "work", "n": 5} == rows["vanilla"]
    assert found["environment"]["torch"]
    json.dumps(found)


def test_runtimes_take_turns_alone_or_together() -> None:
    order: list[str] = []

    def runtime(name: str) -> b.Prepare:
        def prepare(c: Contender, setting: b.Setting) -> Call:
            assert setting.batch in (1, 8)
            return lambda: order.append(f"{name}/{c.name}/{setting.batch}/{setting.threads}")

        return prepare

    runtimes = {name: runtime(name) for name in ("x", "y")}
    found = b.bench(contenders()[:2], runtimes, threads=[1, 2], rounds=1, together=True)
    assert order[:4] == ["x/vanilla/1/1", "x/α=0.5/1/1", "y/vanilla/1/1", "y/α=0.5/1/1"]
    assert len(found["rows"]) == 2 * 2 * 2 * 2
    order.clear()
    b.bench(contenders()[:2], runtimes, threads=[1], batches=[1], rounds=1)
    assert order[:2] * 4 == order[:8]


def test_precisions_take_turns_and_are_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread is timed by CPU time, whatever else the machine does."""
    needed = {"float32": 0.020, "int8": 0.005}

    def prepare(c: Contender, setting: b.Setting) -> Call:
        return lambda: work_for(needed[setting.precision] * c.macs / 1000)

    monkeypatch.setattr(b, "precisions_of", lambda name: ("float32", "int8"))
    monkeypatch.setattr(b, "check_precisions", lambda *given: None)
    precisions = ("float32", "bf16", "int8")  # the runtime has no bf16
    found = b.bench(contenders(), {"x": prepare}, batches=[1], threads=[1], precisions=precisions, rounds=5)
    rows = {(row["precision"], row["network"]): row for row in found["rows"]}
    assert len(rows) == 2 * 3
    assert rows["int8", "α=0.5"]["time_ratio"] == pytest.approx(0.6, abs=0.15)
    assert rows["float32", "vanilla"]["fastest_ratio"] == pytest.approx(4, rel=0.2)
    assert rows["int8", "α=0.5"]["fastest_ratio"] == pytest.approx(0.6, abs=0.15)


def test_a_busy_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with environment.others_watched():  # too short to tell
            pass
    monkeypatch.setattr(environment, "SHORTEST", 0.0)
    monkeypatch.setattr(environment, "BUSY", -9.0)
    with pytest.warns(UserWarning, match="measure again on an idle machine"), environment.others_watched():
        work_for(0.1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: b.bench([], {"x": None}), "contenders and runtimes"),  # pyright: ignore[reportArgumentType]
        (lambda: b.bench(contenders(), {"x": None}, rounds=0), "rounds=0"),  # pyright: ignore[reportArgumentType]
        (
            lambda: b.bench(contenders(), choose_runtimes(["frozen"]), precisions=["int8"]),
            "precision 'int8': none of these runtimes has it",
        ),
        (lambda: choose_runtimes(["tvm"]), "'tvm' is unknown: choose from eager"),
    ],
)
def test_bad_input(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_alternatives_of_the_same_arithmetic() -> None:
    def build(alpha: float) -> nn.Module:
        return octave(alpha) if alpha else small()

    found = networks.contenders_of(build, [0, 0.5], 32, same_macs=True)
    vanilla, half, smaller = found
    assert (vanilla.name, half.name) == ("vanilla", "α=0.5")
    assert smaller.size < 32
    assert smaller.macs == pytest.approx(half.macs, rel=0.1)
    narrow = networks.narrower(
        "oct_cifar_resnet20", 32, round(0.6 * networks._macs(create_model("oct_cifar_resnet20", 0), 32))
    )
    assert narrow is not None
    assert narrow.macs / networks._macs(create_model("oct_cifar_resnet20", 0), 32) == pytest.approx(
        0.6, abs=0.13
    )
    assert networks.narrower("oct_resnet9", 32, 10**8) is None  # there is no such network


def test_a_network_of_one_size_has_no_smaller_images() -> None:
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16 * 16, 2))
    cheaper = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 3, padding=1))
    with pytest.raises(InputError, match="leave out --same-macs"):
        networks.contenders_of(lambda alpha: cheaper if alpha else fixed, [0.5], 16, same_macs=True)


def test_several_exchanges() -> None:
    def build(alpha: float, exchange: str = "") -> nn.Module:
        return create_model("oct_cifar_resnet20", alpha, exchange=exchange or None)

    found = networks.contenders_of(build, [0.5], 32, exchanges=["every", "block:high_to_low"])
    assert [c.name for c in found] == ["vanilla", "α=0.5, every", "α=0.5, block:high_to_low"]
    assert [c.exchange for c in found] == [None, "every", "block:high_to_low"]
    assert found[0].macs > found[1].macs > found[2].macs


@pytest.mark.parametrize("runtime", ["eager", "frozen"])
def test_pytorch_runs(runtime: str) -> None:
    chosen = choose_runtimes([runtime])
    network = Contender("vanilla", octave(), (3, 16, 16), 1000)
    (row,) = b.bench([network], chosen, batches=[2], threads=[1], rounds=1)["rows"]
    assert row["median_ms"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["compile", "onnxruntime", "openvino"])
def test_other_runtimes_run(runtime: str) -> None:
    chosen = choose_runtimes([runtime])
    pair = [
        Contender("vanilla", small(), (3, 16, 16), 1000),
        Contender("α=0.5", octave(), (3, 16, 16), 600, 0.5),
    ]
    found = b.bench(pair, chosen, batches=[1, 2], threads=[1], rounds=2)
    assert [row["network"] for row in found["rows"]] == ["vanilla", "α=0.5"] * 2


def test_table_and_figure(tmp_path: Path) -> None:
    def prepare(c: Contender, setting: b.Setting) -> Call:
        return lambda: None

    found = b.bench(contenders(), {"fast": prepare}, threads=[1], rounds=2)
    text = "\n".join(map(str, tables(found)))
    assert all(word in text for word in ("batch 8", "fast", "α=0.25", "0.600", "%"))
    draw(found, tmp_path / "figure.svg", "a title")
    assert (tmp_path / "figure.svg").read_text().count("<svg") == 1


def test_a_panel_without_a_runtime_is_drawn_to_scale(tmp_path: Path) -> None:
    """A runtime that was measured in one place only has no line elsewhere, and one name in the legend."""
    shared = {"batch": 1, "precision": "float32", "exchange": None, "mac_ratio": 0.6, "time_ratio": 0.7}
    places = [("eager", 1, 0.5), ("frozen", 1, 0.5), ("eager", 2, 0.5), ("eager", 2, 0)]
    rows = [
        {**shared, "runtime": name, "threads": threads, "alpha": alpha} for name, threads, alpha in places
    ]
    draw({"rows": rows}, tmp_path / "figure.svg", "a title")
    text = (tmp_path / "figure.svg").read_text()
    assert "<!-- 0.7" in text  # a tick of the axis, a share
    assert text.count("<!-- frozen -->") == text.count("<!-- eager -->") == 1


def test_names_that_differ_in_punctuation_are_two_files(tmp_path: Path) -> None:
    prepare = next(iter(choose_runtimes(["onnxruntime"]).values()))
    nets = {"net 1.0": nn.Conv2d(3, 4, 1), "net-1-0": nn.Conv2d(3, 5, 1)}
    setting = Setting(1, 1, "cpu", tmp_path)
    calls = [prepare(Contender(name, net, (3, 8, 8), 1), setting) for name, net in nets.items()]
    assert [call().shape for call in calls] == [(1, 4, 8, 8), (1, 5, 8, 8)]
