"""Studies end to end: what is written, what may be killed or go wrong, and who takes which run."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.study import (
    ARMS,
    CPU,
    EVERY,
    FAST,
    FILES,
    alone,
    planned,
    results_of,
    tiny_study,
    work,
    write_study,
)
from tests.helpers.training import CLASSES, MODEL, make_folder

from octavize.cli.main import main
from octavize.errors import InputError
from octavize.files import known_json, read_json, write_json
from octavize.study import engine
from octavize.study.costs import cost_ratios
from octavize.study.design import plan_study
from octavize.study.estimate import hindsight
from octavize.study.report import train_seconds
from octavize.study.run import LOCK, analyze_study, run_study, shared
from octavize.training.folder import folder_lock
from octavize.training.hardware import Hardware
from octavize.training.journal import WholeCheckpoints
from octavize.training.metrics import read_metrics
from octavize.training.train import load_images


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a whole study, run by the command's own code with a worker of its own."""
    root = tmp_path_factory.mktemp("quiet")
    study = tiny_study(root, **EVERY)
    run_study(study, root / "out", data_dir=data_dir, hardware=CPU, workers=1, timing=FAST)
    return root / "out"


def test_everything_is_written(quiet: Path) -> None:
    results = results_of(quiet)
    assert (results["done"], results["planned"], results["failed"]) == (8, 8, [])
    assert [d["arm"] for d in results["differences"]] == ["octave", "thinner"] * 2
    assert all(d["n"] == 2 for d in results["differences"])
    first = {net["arm"]: net for net in results["networks"][:3]}
    assert first["octave"]["macs"] < first["vanilla"]["macs"]
    assert first["thinner"]["size"] < 16
    assert first["thinner"]["macs"] == pytest.approx(first["octave"]["macs"], rel=0.4)
    (energy, native) = results["energy"]
    assert native["size"] == 16
    assert sum(share for _, share in native["octaves"]) == pytest.approx(1, abs=1e-5)
    assert energy["size"] == first["thinner"]["size"]
    assert len(results["curves"]) == 8
    for name, curve in results["curves"].items():
        rows = read_metrics(quiet / "runs" / name)
        assert curve["val_accuracy"] == [row["val_accuracy"] for row in rows]
    assert results["matched"] == read_json(quiet / "arms.json")
    assert results["environment"]["threads"] == 1
    known = (
        "study.yaml",
        "arms.json",
        "estimate.json",
        "costs.json",
        "results.json",
        "results.csv",
        "report.html",
    )
    assert {path.name for path in quiet.iterdir() if path.suffix != ".lock"} == {*known, "runs", "figures"}


def test_what_training_took_stands_beside_what_was_expected(quiet: Path) -> None:
    results = results_of(quiet)
    expected, took = known_json(quiet / "estimate.json"), train_seconds(results, quiet)
    assert expected.keys() == took.keys() == {run["run"] for run in results["runs"]}
    assert min(expected.values()) > 0
    told = hindsight({"a": 60.0, "b": 7200.0}, quiet)
    assert told == "2 runs took 2 h 01 min of training on one worker"  # neither was expected
    path = quiet.parent / "known"
    path.mkdir()
    write_json(path / "estimate.json", {"b": 3600.0})
    told = hindsight({"a": 60.0, "b": 7200.0}, path)
    assert told.endswith("; 60 min were expected for 1 of them, which took 2 h 00 min")
    assert "8 runs took" in (quiet / "report.html").read_text("utf-8")


def test_costs_are_measured_once_and_while_nobody_trains(
    quiet: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (costs,) = read_costs(quiet).values()
    assert (costs["batch"], costs["rounds"], costs["environment"]["threads"]) == (2, 1, 1)
    assert len(costs["networks"]) == 4  # vanilla, thinner, octave with and without biases
    rows = cost_ratios(results_of(quiet), read_costs(quiet))
    assert [row["arm"] for row in rows] == ["vanilla", "octave", "thinner"] * 2
    ratios = {row["arm"]: row for row in rows[:3]}
    assert {ratios["vanilla"][name] for name in ("macs", "params", "latency", "train_step")} == {1}
    assert ratios["vanilla"]["batch"] == 2
    assert ratios["octave"]["macs"] < ratios["octave"]["params"] == 1
    assert ratios["octave"]["activation_bytes"] < 1
    assert ratios["thinner"]["latency"] > 0
    assert "What the networks cost" in (quiet / "report.html").read_text("utf-8")

    study, path = tiny_study(quiet.parent, **EVERY), quiet / "costs.json"
    known = path.read_bytes()
    with monkeypatch.context() as changed:
        changed.setattr("octavize.study.costs.profiles_of", lambda *_, **__: pytest.fail("again"))
        analyze_study(study, quiet, data_dir=data_dir, timing=FAST)
        path.write_text("{", "utf-8")
        (place, *_) = plan_study(study, read_json(quiet / "arms.json") or {})
        result = place.folder(quiet) / "result.json"
        kept = result.rename(result.with_name("kept"))
        with folder_lock(quiet / LOCK) as ours:
            assert ours
            analyze_study(study, quiet, data_dir=data_dir, timing=FAST)
        kept.rename(result)
        assert "What the networks cost" not in (quiet / "report.html").read_text("utf-8")
    analyze_study(study, quiet, data_dir=data_dir, timing=FAST)
    assert read_costs(quiet).keys() == json.loads(known).keys()


def read_costs(out: Path) -> Any:
    return json.loads((out / "costs.json").read_text("utf-8"))


def test_a_second_call_trains_nothing(quiet: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [(quiet / name).read_bytes() for name in FILES]
    monkeypatch.setattr("octavize.study.run.train_here", lambda *_: pytest.fail("trained again"))
    study = tiny_study(quiet.parent, **EVERY)
    run_study(study, quiet, data_dir=data_dir, hardware=CPU, workers=1, timing=FAST)
    assert [(quiet / name).read_bytes() for name in FILES] == before


def test_a_page_needs_what_is_published_alone(
    quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import study_tables  # pyright: ignore[reportMissingImports]

    for _ in range(2):  # the second one over the first
        study_tables.publish(quiet, tmp_path)
    (copy,) = tmp_path.iterdir()
    found = sorted(file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file())
    assert found == ["costs.json", f"figures/differences-{MODEL}.svg", "results.json"]
    words = study_tables.WORDS["en"]
    section = study_tables.section(copy, words)
    assert f"figures/differences-{MODEL}.svg" in section
    assert "thinner (" in section
    assert "8 of 8 runs" in section
    assert MODEL in results_of(copy)["models"]
    assert "× 0." in study_tables.answer([copy], words)


@pytest.mark.parametrize("name", ["results.json", "results.csv", "report.html"])
def test_results_cut_short_are_written_anew(name: str, quiet: Path, data_dir: Path) -> None:
    path = quiet / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    analyze_study(tiny_study(quiet.parent, **EVERY), quiet, data_dir=data_dir, timing=FAST)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", [pytest.param("result.json", marks=pytest.mark.slow), "metrics.csv"])
def test_a_run_whose_files_were_cut_short_is_trained_again(name: str, data_dir: Path, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, seeds=[0], arms={"vanilla": {"alpha": 0}}, epochs=1)
    out = tmp_path / "out"
    alone(study, out, data_dir)
    before = (out / "results.json").read_bytes()
    path = next(out.glob(f"runs/*/{name}"))
    path.write_bytes(path.read_bytes()[: 20 if name == "result.json" else 5])
    assert analyze_study(study, out, data_dir=data_dir)["done"] == 0
    alone(study, out, data_dir)
    assert (out / "results.json").read_bytes() == before


def test_a_loss_that_is_no_number_fails_its_run_and_no_other(data_dir: Path, tmp_path: Path) -> None:
    arms = {"vanilla": {"alpha": 0}, "wild": {"alpha": 0.5, "lr": 1e30}, "octave": {"alpha": 0.5}}
    study = tiny_study(tmp_path, seeds=[0], arms=arms, epochs=1)
    results = alone(study, tmp_path / "out", data_dir)
    assert results["done"] == 2
    (failed,) = results["failed"]
    assert failed["arm"] == "wild"
    assert "diverged" in failed["reason"]
    folder = tmp_path / "out/runs" / failed["run"]
    assert json.loads((folder / "failed.json").read_text("utf-8"))["reason"] == failed["reason"]
    assert failed["reason"].split(";")[0] in (tmp_path / "out/report.html").read_text("utf-8")
    assert [d["arm"] for d in results["differences"]] == ["octave"]
    # It stays so until it is asked to try again.
    given: Any = {"data_dir": data_dir, "hardware": CPU, "workers": 1}
    first = (folder / "failed.json").stat().st_mtime_ns
    run_study(study, tmp_path / "out", **given)
    assert (folder / "failed.json").stat().st_mtime_ns == first
    run_study(study, tmp_path / "out", retry=True, **given)
    assert (folder / "failed.json").stat().st_mtime_ns > first


class Killed(BaseException):
    """Nothing in the library catches this."""


def killed(*_: Any) -> None:
    raise Killed


@pytest.mark.parametrize("epochs", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_killed_between_the_last_line_and_its_state(epochs: int, data_dir: Path, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, seeds=[0], arms={"vanilla": {"alpha": 0}}, epochs=epochs)
    alone(study, tmp_path / "peace", data_dir)
    out = tmp_path / "out"
    plan = planned(study, out, data_dir)
    save, calls = WholeCheckpoints.save_checkpoint, count(1)
    with pytest.MonkeyPatch.context() as patch:

        def save_or_die(*args: Any, **kwargs: Any) -> None:
            if next(calls) == epochs:
                raise Killed
            save(*args, **kwargs)

        patch.setattr(WholeCheckpoints, "save_checkpoint", save_or_die)
        with pytest.raises(Killed):
            work(plan, out)
    assert bool(list(out.glob("runs/*/last.ckpt"))) == (epochs > 1)
    assert len(read_metrics(next(out.glob("runs/*/metrics.csv")).parent)) == epochs
    alone(study, out, data_dir)
    for name in (*FILES, "runs/*/metrics.csv"):
        (ours,), (theirs,) = ([*folder.glob(name)] for folder in (out, tmp_path / "peace"))
        assert without_seconds(ours) == without_seconds(theirs)


def without_seconds(path: Path) -> list[str]:
    """The lines of a file; of `metrics.csv` without the last column."""
    lines = path.read_text("utf-8").splitlines()
    return [line.rpartition(",")[0] for line in lines] if path.name == "metrics.csv" else lines


@pytest.mark.parametrize("name", ["last.ckpt", pytest.param("best.safetensors", marks=pytest.mark.slow)])
def test_a_state_that_was_cut_short_is_trained_anew(name: str, data_dir: Path, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, seeds=[0], arms={"vanilla": {"alpha": 0}})
    alone(study, tmp_path / "peace", data_dir)
    out = tmp_path / "out"
    plan = planned(study, out, data_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("octavize.training.train.write_json", killed)
        with pytest.raises(Killed):
            work(plan, out)
    path = next(out.glob(f"runs/*/{name}"))
    path.write_bytes(path.read_bytes()[:100])
    alone(study, out, data_dir)
    assert "cut short" in next(out.glob("runs/*/log.txt")).read_text("utf-8")
    for file in FILES:
        assert (out / file).read_bytes() == (tmp_path / "peace" / file).read_bytes()


def test_trouble_of_the_machine_marks_nothing(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tiny_study(tmp_path, seeds=[0]), tmp_path / "out", data_dir)

    def stale(*_: Any, **__: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("octavize.study.work.train_run", stale)
    with pytest.raises(InputError, match=r"trouble of this machine.*Stale file handle"):
        work(plan, tmp_path / "out")
    assert not list(tmp_path.rglob("failed.json"))


def test_the_last_runs_get_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cores", lambda: 8)
    free = Hardware(accelerator="cpu")
    assert engine.default_workers(free) == 8
    assert engine.hardware_of(0, 8, free).threads == 1
    assert engine.hardware_of(0, 3, free).threads == 2


@pytest.mark.parametrize(
    ("devices", "several"), [("auto", False), (1, False), ("0,", False), ("0,1", True), (2, True)]
)
def test_one_device_that_is_named_is_one_device(devices: Any, several: bool) -> None:
    assert shared(Hardware(devices=devices)) is several
    if devices == "0,":
        assert engine.hardware_of(3, 4, Hardware(accelerator="cpu", devices=devices)).devices == "0,"


def test_an_unreadable_image_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    broken = make_folder(tmp_path / "images") / "train" / CLASSES[0] / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=r"3\.png cannot be read as an image"):
        run_study(
            tiny_study(tmp_path),
            tmp_path / "out",
            data_dir=tmp_path / "images",
            timing=FAST,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("log.txt", marks=pytest.mark.slow),
        pytest.param("metrics.csv.part", marks=pytest.mark.slow),
        "result.json.part",
    ],
)
def test_a_full_disk_stops_the_study_and_marks_nothing(name: str, data_dir: Path, tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path, seeds=[0], epochs=1), tmp_path / "out"
    plan = planned(study, out, data_dir)
    folder = plan.runs[0].folder(out)
    folder.mkdir(parents=True)
    (folder / name).symlink_to("/dev/full")
    with pytest.raises(InputError, match="disk is full: make room and give the same command again"):
        work(plan, out)
    (folder / name).unlink(missing_ok=True)
    results = alone(study, out, data_dir)
    assert (results["done"], results["failed"]) == (2, [])


@pytest.fixture(params=[120, 320])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A file system of so many KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, data_dir: Path, tmp_path: Path) -> None:
    plan = planned(tiny_study(tmp_path, seeds=[0]), small_disk / "out", data_dir)
    with pytest.raises(InputError, match="disk is full"):
        work(plan, small_disk / "out")
    assert not list(small_disk.rglob("failed.json"))


def test_another_study_and_other_files_are_refused(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned(tiny_study(tmp_path), out, data_dir)
    with pytest.raises(InputError, match=r"a folder of another study \(batch_size\)"):
        planned(tiny_study(tmp_path, set={"batch_size": 3}), out, data_dir)
    planned(tiny_study(tmp_path, seeds=[5]), out, data_dir)  # a study may grow
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(InputError, match="holds other files"):
        planned(tiny_study(tmp_path), tmp_path / "other", data_dir)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="no folder of a study"):
        analyze_study(tiny_study(tmp_path), tmp_path / "nowhere", data_dir=data_dir)


def test_matched_arms_are_found_once_and_anew_when_asked_otherwise(data_dir: Path, tmp_path: Path) -> None:
    out, thin = tmp_path / "out", {"alpha": 0, "match": "octave", "by": "size", "to": "time"}
    planned(tiny_study(tmp_path, arms={**ARMS, "thin": thin}), out, data_dir)
    path = out / "arms.json"
    kept = path.read_text("utf-8")
    planned(tiny_study(tmp_path, arms={**ARMS, "thin": thin}), out, data_dir)
    assert path.read_text("utf-8") == kept
    (found,) = json.loads(kept).values()
    assert found["match"] == {"arm": "octave", "by": "size", "to": "time"}
    planned(tiny_study(tmp_path, arms={**ARMS, "thin": {**thin, "to": "macs"}}), out, data_dir)
    (found,) = json.loads(path.read_text("utf-8")).values()
    assert found["match"]["to"] == "macs"
    assert found["settings"]["size"] < 16


def test_the_command_lists_and_analyses(
    quiet: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_study(quiet.parent, **EVERY))
    given = ["study", path, "--out", str(quiet), "--data-dir", str(data_dir)]
    for option, words in (("--list", "8 runs, about"), ("--analyze", "report:")):
        with pytest.raises(SystemExit) as ended:
            main([*given, option])
        assert not ended.value.code
        assert words in " ".join(capsys.readouterr().out.split())
    for option, keys in (
        ("--list", {"seconds_left", "networks"}),
        ("--analyze", {"headline", "differences"}),
    ):
        with pytest.raises(SystemExit):
            main([*given, option, "--json"])
        assert json.loads(capsys.readouterr().out).keys() >= keys


def test_the_images_are_loaded_at_the_size_of_the_recipe(data_dir: Path, tmp_path: Path) -> None:
    factors = {"size": {"native": {}, "large": {"size": 24}}}
    study = tiny_study(tmp_path, factors=factors)
    assert load_images(study.recipe, data_dir).size == 16
    assert {p.recipe.size for p in plan_study(study, {})} == {16, 24}
