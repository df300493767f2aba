"""Studies that test and time their networks in a runtime, and arms that reach the time there."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import time
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.study import ARMS, CPU, FAST, alone, planned, results_of, tiny_study, work
from tests.helpers.training import MODEL, tiny

from octavize.errors import InputError
from octavize.study import arms, deployed, estimate
from octavize.study.analysis import summary
from octavize.study.model import Match, Study
from octavize.study.run import LOCK, analyze_study, run_study
from octavize.training.folder import folder_lock

PRECISIONS = ["float32", "bf16", "int8"]
DEPLOY = {"runtime": "openvino", "precisions": PRECISIONS}
needs_openvino = pytest.mark.skipif(
    not all(map(find_spec, ("openvino", "onnxscript", "nncf"))), reason="not installed"
)


def deployed_study(folder: Path, **entries: Any) -> Study:
    return tiny_study(folder, epochs=1, **{"deploy": DEPLOY, **entries})


EXPORTED = ["float32", "int8"]


def exported_study(folder: Path) -> Study:
    """The one that is really exported: few runs, since each takes seconds in each precision."""
    return deployed_study(folder, seeds=[0], deploy={**DEPLOY, "precisions": EXPORTED})


def again(study: Study, out: Path, data_dir: Path) -> dict[str, Any]:
    return analyze_study(study, out, data_dir=data_dir, timing=FAST)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a study whose networks were tested and timed."""
    root = tmp_path_factory.mktemp("deployed")
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(deployed, "BATCHES", (1,))  # each is an export of each network in each precision
        alone(exported_study(root), root / "out", data_dir)
    return root / "out"


@pytest.fixture
def out(once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(once, tmp_path / "out"))


def costs_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "costs.json").read_text("utf-8"))


@needs_openvino
def test_accuracy_and_time_of_every_network_in_every_precision(once: Path) -> None:
    results = results_of(once)
    assert results["deploy"] == {"runtime": "openvino", "precisions": EXPORTED}
    assert results["undeployed"] == []
    for run in results["runs"]:
        assert list(run["deployed"]) == EXPORTED
        assert run["deployed"]["float32"] == pytest.approx(run["test_accuracy"])  # the same weights
        assert all(value * 12 == pytest.approx(round(value * 12)) for value in run["deployed"].values())
    for net in results["networks"]:
        own = [run for run in results["runs"] if run["arm"] == net["arm"]]
        assert net["deployed"]["int8"] == {**summary([own[0]["deployed"]["int8"]]), "n": 1}
    rows = list(csv.DictReader(io.StringIO((once / "results.csv").read_text("utf-8"))))
    assert [float(row["test_accuracy_int8"]) for row in rows] == [
        run["deployed"]["int8"] for run in results["runs"]
    ]
    (costs,) = costs_of(once).values()
    timed = costs["deployed"]
    assert (timed["runtime"], timed["environment"]["threads"]) == ("openvino", 1)
    assert {"openvino", "nncf"} <= timed["environment"].keys()
    assert timed["networks"].keys() == costs["networks"].keys()
    for times in timed["networks"].values():
        assert {name: list(own) for name, own in times.items()} == {key: ["1"] for key in EXPORTED}
        assert all(ms > 0 for own in times.values() for ms in own.values())


@needs_openvino
def test_the_report_shows_each_precision(once: Path) -> None:
    page = (once / "report.html").read_text("utf-8")
    assert "Deployed: accuracy against time" in page
    assert page.count("missing") == len(ARMS) * len(EXPORTED)  # of batches of 8, not timed here
    for precision in EXPORTED:
        assert (once / f"figures/deployed-{MODEL}-{precision}.svg").is_file()
        assert f"Test accuracy against time, {MODEL}, {precision}" in page


@needs_openvino
def test_nothing_is_tested_or_timed_twice(out: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (out / name).read_bytes() for name in ("results.json", "results.csv", "costs.json")}
    study = exported_study(out.parent)
    assert study.deploy
    with monkeypatch.context() as changed:
        changed.setattr(deployed, "_accuracy", lambda *_: pytest.fail("tested again"))
        changed.setattr(deployed, "time_group", lambda *_: pytest.fail("timed again"))
        again(study, out, data_dir)
        assert before == {name: (out / name).read_bytes() for name in before}
    folder = next(out.glob("runs/*"))
    assert list(deployed.accuracies_in(folder, replace(study.deploy, precisions=["int8"]))) == ["int8"]
    # What is run by another version, or was trained anew, is tested anew.
    with monkeypatch.context() as changed:
        changed.setattr(deployed, "_environment", lambda runtime: {"openvino": "0", "nncf": "0"})
        assert deployed.accuracies_in(folder, study.deploy) == {}
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "test_loss": 9.0}), "utf-8")
    assert deployed.accuracies_in(folder, study.deploy) == {}


# ---- what may go wrong: nothing is exported here ----------------------------------------------------------


@pytest.fixture
def numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are not drawn, which takes seconds each."""
    monkeypatch.setattr("octavize.study.report.write_report", lambda *_: None)


@pytest.fixture(scope="module")
def untested_once(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a study whose runs are finished."""
    root = tmp_path_factory.mktemp("untested")
    study = tiny_study(root, epochs=1)
    work(planned(study, root / "out", data_dir), root / "out")
    return root / "out"


@pytest.fixture
def untested(untested_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where nothing is really timed."""
    costs = {"params": 1, "macs": 1, "activation_bytes": 1, "latency_ms": 1.0, "train_step_ms": 1.0}
    monkeypatch.setattr("octavize.study.costs._measured", lambda recipes, *_: dict.fromkeys(recipes, costs))

    def timed(networks: Any, runtimes: Any, setting: Any, rounds: int, precisions: Any) -> Any:
        return [
            {"network": network.name, "precision": precision, "median_ms": 3.0 * setting.batch}
            for network in networks
            for precision in precisions
        ]

    monkeypatch.setattr(deployed, "time_group", timed)
    monkeypatch.setattr(deployed, "check_runtimes", lambda study: None)
    monkeypatch.setattr("octavize.study.run.check_runtimes", lambda study: None)
    return Path(shutil.copytree(untested_once, tmp_path / "out"))


def right_half(folder: Path, recipe: Any, images: Any, runtime: str, precision: str) -> float:
    return 0.5


def test_a_precision_that_fails_leaves_the_others(
    untested: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> float:
        if given[-1] == "int8":
            raise InputError("its outputs are not finite")
        return right_half(*given)

    study = deployed_study(untested.parent)
    monkeypatch.setattr(deployed, "_accuracy", broken)
    results = again(study, untested, data_dir)
    assert [(one["precision"], one["reason"]) for one in results["undeployed"]] == [
        ("int8", "its outputs are not finite")
    ] * 4
    assert all(run["deployed"] == {"float32": 0.5, "bf16": 0.5} for run in results["runs"])
    (costs,) = costs_of(untested).values()
    assert costs["deployed"]["precisions"] == PRECISIONS[:2]
    assert {ms for net in costs["deployed"]["networks"].values() for ms in net["bf16"].values()} == {3.0}
    assert "its outputs are not finite" in (untested / "report.html").read_text("utf-8")
    monkeypatch.setattr(deployed, "_accuracy", right_half)
    results = again(study, untested, data_dir)
    assert results["undeployed"] == []
    assert all(list(run["deployed"]) == PRECISIONS for run in results["runs"])
    (costs,) = costs_of(untested).values()
    assert costs["deployed"]["precisions"] == PRECISIONS


@pytest.mark.usefixtures("numbers_alone")
def test_killed_between_two_precisions(
    untested: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    asked: list[Any] = []

    def mortal(*given: Any) -> float:
        asked.append(given)
        if len(asked) == 2:
            raise Killed
        return right_half(*given)

    study = deployed_study(untested.parent)
    monkeypatch.setattr(deployed, "_accuracy", mortal)
    with pytest.raises(Killed):
        again(study, untested, data_dir)
    assert results_of(untested)["networks"][0]["deployed"] == {}
    results = again(study, untested, data_dir)
    assert all(list(run["deployed"]) == PRECISIONS for run in results["runs"])
    assert len(asked) == 1 + 4 * 3  # what was kept is not asked again


def test_trouble_of_the_machine_is_told_in_one_line(
    untested: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: Any) -> float:
        raise OSError("Stale file handle")

    monkeypatch.setattr(deployed, "_accuracy", stale)
    with pytest.raises(InputError, match=r"in OpenVINO was stopped by trouble .*Stale file handle"):
        again(deployed_study(untested.parent), untested, data_dir)


def test_times_that_were_not_measured_are_missing(
    untested: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed, "_accuracy", right_half)
    study = deployed_study(untested.parent)
    with folder_lock(untested / LOCK) as ours:  # as a command does that trains here
        assert ours
        results = again(study, untested, data_dir)
    assert results["networks"][0]["deployed"]["bf16"]["n"] == 2
    assert all(row["ms"] == {} for row in deployed.deployed_rows(results, {}))
    page = (untested / "report.html").read_text("utf-8")
    assert page.count("<td>missing</td>") == 2 * 3 * 2
    assert "Times that are missing were not measured yet" in page
    assert f"Test accuracy against time, {MODEL}" not in page
    again(study, untested, data_dir)
    assert "missing" not in (untested / "report.html").read_text("utf-8")


@pytest.mark.usefixtures("numbers_alone")
def test_times_are_of_the_runtime_that_is_asked_for(
    untested: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed, "_accuracy", right_half)
    again(deployed_study(untested.parent), untested, data_dir)
    other = deployed_study(untested.parent, deploy={"runtime": "onnxruntime", "precisions": "int8"})
    with folder_lock(untested / LOCK):
        results = again(other, untested, data_dir)
    rows = deployed.deployed_rows(results, costs_of(untested))
    assert [(row["precision"], row["ms"]) for row in rows] == [("int8", {})] * 2


def test_a_processor_without_bf16_is_not_taken_for_one() -> None:
    told = "model x: this processor has no bf16, so it computes in float32"
    with pytest.raises(InputError, match="this processor has no bf16"), deployed._in_its_precision():
        warnings.warn(told, stacklevel=1)
    with pytest.warns(UserWarning, match="something else"), deployed._in_its_precision():
        warnings.warn("something else", stacklevel=1)


def test_a_missing_runtime_is_named_before_anything_is_trained(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = {"alpha": 0, "match": "octave", "by": "size", "to": "openvino"}
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("openvino", "nncf") else find_spec(name)
    )
    words = r"openvino is not installed: run `pip install 'octavize\[deploy\]'`"
    for entries in ({"deploy": DEPLOY}, {"arms": {**ARMS, "smaller": smaller}}):
        with pytest.raises(InputError, match=words):
            run_study(tiny_study(tmp_path, **entries), tmp_path / "out", data_dir=data_dir)
    assert not (tmp_path / "out").exists()


# ---- arms that reach a time -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "first", "step"), [(16, 1, 1), (32, 2, 2), (64, 4, 4), (128, 8, 8), (224, 8, 8), (5, 1, 1)]
)
def test_sizes_are_such_as_people_choose(side: int, first: int, step: int) -> None:
    sizes = arms.sizes_up_to(side)
    assert (sizes[0], sizes.step) == (first, step)
    assert side - step < sizes[-1] <= side


@pytest.mark.parametrize(("aim", "found"), [(50, 48), (53, 56), (2, 8), (200, 128), (64, 64)])
def test_the_nearest_time_is_found_by_few_measurements(aim: float, found: int) -> None:
    sizes, asked = [{"size": size} for size in arms.sizes_up_to(128)], []

    def ratio(settings: Any) -> float:
        asked.append(settings["size"])
        return settings["size"] / aim

    settings, cost = arms.nearest(sizes, ratio)
    assert settings == {"size": found}
    assert cost == found / aim
    assert len(asked) <= math.log2(len(sizes)) + 3


@pytest.mark.slow
def test_an_arm_reaches_the_time_in_a_runtime(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Any] = []

    def by_macs(networks: Any, runtimes: Any, setting: Any, rounds: int) -> Any:
        timed.append(setting)
        assert list(runtimes) == ["openvino"]
        assert (setting.batch, setting.threads, setting.precision) == (1, 1, "float32")
        assert networks[1].shape(1)[-1] <= 16
        return [{"time_ratio": network.macs / networks[0].macs} for network in networks]

    monkeypatch.setattr(arms, "time_group", by_macs)
    monkeypatch.setattr(arms, "choose_runtimes", lambda names: dict.fromkeys(names))
    monkeypatch.setattr("octavize.study.run.check_runtimes", lambda study: None)
    matched = {"alpha": 0, "match": "octave", "to": "openvino"}
    entries = {
        "smaller": {**matched, "by": "size"},
        "thinner": {**matched, "by": "width"},
        "same": {**matched, "match": "vanilla", "by": "size"},
    }
    study = tiny_study(tmp_path, arms={**ARMS, **entries})
    plan = planned(study, tmp_path / "out", data_dir)
    smaller, thinner, same = (plan.matched[f"{MODEL} {name}"] for name in entries)
    assert smaller["settings"]["size"] < 16
    assert thinner["settings"]["arguments"]["width"] < 0.125
    assert same["settings"] == {"alpha": 0}
    assert same["cost"] == 1
    assert "of the time in OpenVINO of octave" in arms.told(plan.matched)[0]
    assert len({setting.folder for setting in timed}) == len(entries)  # a search exports each network once
    count = len(timed)
    planned(study, tmp_path / "out", data_dir)
    assert len(timed) == count  # and is made once


@pytest.mark.parametrize(
    ("to", "cost"), [("macs", "MACs"), ("time", "time"), ("onnxruntime", "time in ONNX Runtime")]
)
def test_costs_have_names(to: str, cost: str) -> None:
    assert Match("octave", to=to).cost == cost


@needs_openvino
@pytest.mark.slow
def test_a_runtime_is_really_timed(tmp_path: Path, data_dir: Path) -> None:
    plan = planned(tiny_study(tmp_path, seeds=[0]), tmp_path / "out", data_dir)
    vanilla, octave = (place.recipe for place in plan.places)
    assert arms.time_ratio(vanilla, octave, plan.images, "openvino", tmp_path) > 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.xml")}
    assert len(written) == 2
    assert arms.time_ratio(vanilla, vanilla, plan.images, "openvino", tmp_path) == 1
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.xml")}


def test_a_study_without_a_runtime_says_nothing_of_one(tmp_path: Path, data_dir: Path) -> None:
    study = tiny_study(tmp_path, seeds=[0], epochs=1)
    plan = planned(study, tmp_path / "out", data_dir)
    work(plan, tmp_path / "out")
    assert CPU.threads == 1
    results = again(study, tmp_path / "out", data_dir)
    assert results["deploy"] is None
    assert all(run["deployed"] == {} for run in results["runs"])
    assert "test_accuracy_" not in (tmp_path / "out/results.csv").read_text("utf-8")
    assert "Deployed" not in (tmp_path / "out/report.html").read_text("utf-8")


# ---- the time that training takes -------------------------------------------------------------------------


@pytest.mark.parametrize(("macs", "batch"), [(764e6, 17), (5e9, 2), (1e12, 2), (1e6, 64)])
def test_large_networks_are_timed_on_enough_images(
    macs: float, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a ResNet-26 at 128 pixels, with its 764 M, a step of two images takes far longer for each."""
    shapes: list[Any] = []
    monkeypatch.setattr(estimate, "macs_of", lambda *_: macs)
    monkeypatch.setattr(estimate, "network", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(estimate, "input_shape", lambda recipe, images, batch: (batch, 3, 128, 128))
    monkeypatch.setattr(
        estimate, "training_step", lambda net, shape: shapes.append(shape) or (lambda: time.sleep(1e-3))
    )
    nothing: Any = None
    speed = estimate._timed_speed(tiny(batch_size=64), nothing, torch.device("cpu"))
    assert [shape[0] for shape in shapes] == [batch]
    assert 0 < speed <= batch / 1e-3
