"""Studies end to end: what is written, what may be killed or go wrong, and who takes which run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease

from experiment_help import CLASSES, make_folder
from octavize.errors import InputError
from octavize.experiment.hardware import Hardware
from octavize.experiment.study import worker
from octavize.experiment.study.design import Planned, distinct, plan_study
from octavize.experiment.study.queue import CLAIM, LEASE, Queue, finished
from octavize.experiment.study.run import analyse_study, prepare, run_study
from octavize.experiment.train import load_pictures
from study_help import ARMS, results_of, silent, tiny_study, write_study

CPU = Hardware(accelerator="cpu", devices=1, threads=1)
FILES = ("results.json", "results.csv")
EVERY = {
    "factors": {"bias": {"off": {}, "on": {"octave_bias": True}}},
    "arms": {**ARMS, "thinner": {"alpha": 0, "match": "octave", "by": "size", "to": "macs"}},
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


def alone(study: Any, out: Path, data_dir: Path) -> dict[str, Any]:
    """The study in this process: what a worker does, and then the report."""
    plan = prepare(study, out, data_dir, CPU)
    worker.work(plan.runs, plan.pictures, out, CPU)
    return analyse_study(study, out, data_dir=data_dir, console=silent())


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a whole study, run by the command's own code with a worker of its own."""
    root = tmp_path_factory.mktemp("quiet")
    study = tiny_study(root, **EVERY)
    run_study(study, root / "out", data_dir=data_dir, hardware=CPU, workers=1, console=silent())
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
    times = json.loads((quiet / "times.json").read_text("utf-8"))
    assert len(times["runs"]) == 8
    for run in times["runs"].values():
        assert 0 < run["pictures_per_second"] < run["ceiling_per_second"]
    assert not list(quiet.rglob(CLAIM))


def test_a_second_call_trains_nothing(quiet: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [(quiet / name).read_bytes() for name in FILES]
    monkeypatch.setattr(worker, "main", lambda *_: pytest.fail("trained again"))
    study = tiny_study(quiet.parent, **EVERY)
    run_study(study, quiet, data_dir=data_dir, hardware=CPU, workers=1, console=silent())
    assert [(quiet / name).read_bytes() for name in FILES] == before


@pytest.mark.parametrize("name", ["results.json", "results.csv", "times.json", "report.html"])
def test_results_cut_short_are_written_anew(name: str, quiet: Path, data_dir: Path) -> None:
    path = quiet / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    analyse_study(tiny_study(quiet.parent, **EVERY), quiet, data_dir=data_dir, console=silent())
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["result.json", "metrics.csv"])
def test_a_run_whose_files_were_cut_short_is_trained_again(name: str, data_dir: Path, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, seeds=[0], arms={"vanilla": {"alpha": 0}}, epochs=1)
    out = tmp_path / "out"
    alone(study, out, data_dir)
    before = (out / "results.json").read_bytes()
    path = next(out.glob(f"runs/*/{name}"))
    path.write_bytes(path.read_bytes()[: 20 if name == "result.json" else 5])
    assert analyse_study(study, out, data_dir=data_dir, console=silent())["done"] == 0
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
    run_study(study, tmp_path / "out", data_dir=data_dir, hardware=CPU, console=silent())
    assert folder.exists()


def test_an_unreadable_picture_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    broken = make_folder(tmp_path / "pictures") / "train" / CLASSES[0] / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=r"3\.png cannot be read as a picture"):
        run_study(tiny_study(tmp_path), tmp_path / "out", data_dir=tmp_path / "pictures", console=silent())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["log.txt", "metrics.csv.part", "result.json.part"])
def test_a_full_disk_stops_the_study_and_marks_nothing(name: str, data_dir: Path, tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path, seeds=[0], epochs=1), tmp_path / "out"
    plan = prepare(study, out, data_dir, CPU)
    folder = plan.runs[0].folder(out)
    folder.mkdir(parents=True)
    (folder / name).symlink_to("/dev/full")
    with pytest.raises(InputError, match="disk is full: make room and give the same command again"):
        worker.work(plan.runs, plan.pictures, out, CPU)
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
    plan = prepare(tiny_study(tmp_path, seeds=[0]), small_disk / "out", data_dir, CPU)
    with pytest.raises(InputError, match="disk is full"):
        worker.work(plan.runs, plan.pictures, small_disk / "out", CPU)
    assert not list(small_disk.rglob("failed.json"))


def test_another_study_and_other_files_are_refused(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(tiny_study(tmp_path), out, data_dir, CPU)
    with pytest.raises(InputError, match=r"a folder of another study \(batch_size\)"):
        prepare(tiny_study(tmp_path, set={"batch_size": 3}), out, data_dir, CPU)
    prepare(tiny_study(tmp_path, seeds=[5]), out, data_dir, CPU)  # a study may grow
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(InputError, match="holds other files"):
        prepare(tiny_study(tmp_path), tmp_path / "other", data_dir, CPU)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="no folder of a study"):
        analyse_study(tiny_study(tmp_path), tmp_path / "nowhere", data_dir=data_dir)


# ---- claims -----------------------------------------------------------------------------------------------


def runs_of(folder: Path) -> list[Planned]:
    return distinct(plan_study(tiny_study(folder), {}))


def hold(path: Path, ready: Any) -> None:
    with SoftFileLease(path, lease_duration=LEASE):
        ready.set()
        time.sleep(60)


def test_no_run_is_taken_twice_and_that_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    theirs = runs[0].folder(tmp_path) / CLAIM
    theirs.parent.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(theirs, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    first, second = Queue(tmp_path, runs), Queue(tmp_path, runs)
    taken = [queue.take(0.05) for queue in (first, second, first)]
    assert [t[0].slug for t in taken if t] == [run.slug for run in runs[1:4]]
    process.kill()
    process.join()
    again = second.take(0.05)
    assert again is not None
    assert again[0].slug == runs[0].slug
    for t in (*taken, again):
        assert t is not None
        t[1].release()


def test_a_claim_of_another_machine_ends_without_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim given to a host that does not exist: nobody can ask for its process."""
    monkeypatch.setattr("octavize.experiment.study.queue.LEASE", 0.6)
    runs = runs_of(tmp_path)[:1]
    path = runs[0].folder(tmp_path) / CLAIM
    path.parent.mkdir(parents=True)
    held = SoftFileLease(path, lease_duration=0.6)
    held.acquire()
    text = path.read_text("utf-8")
    owner = held.owner
    held.release()
    assert owner is not None
    path.write_text(text.replace(owner.hostname, "elsewhere"), "utf-8")
    queue = Queue(tmp_path, runs)
    start = time.monotonic()
    taken = queue.take(0.05)
    assert taken is not None
    assert time.monotonic() - start >= 0.5
    taken[1].release()


def test_a_process_that_lost_its_run_stops(data_dir: Path, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, seeds=[0], epochs=50)
    plan = prepare(study, tmp_path / "out", data_dir, CPU)

    class Gone:
        compromise = type("Loss", (), {"reason": "owner-changed"})()

    from octavize.experiment.study.queue import StillOurs

    place = plan.runs[0]
    lost: Any = Gone()
    place.folder(tmp_path / "out").mkdir(parents=True)
    worker.train(place, plan.pictures, tmp_path / "out", CPU, StillOurs(lost))
    folder = place.folder(tmp_path / "out")
    assert finished(folder) is None
    assert not (folder / "failed.json").exists()


def test_two_workers_at_once_share_the_runs(data_dir: Path, tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path, epochs=1), tmp_path / "out"
    run_study(study, out, data_dir=data_dir, hardware=CPU, workers=2, console=silent())
    assert results_of(out)["done"] == 4
    logs = [path.read_text("utf-8") for path in out.glob("runs/*/log.txt")]
    assert len(logs) == 4
    assert all(log.count("test accuracy") == 1 for log in logs)  # each was trained once


# ---- kill -9 ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_killed_many_times_ends_as_if_left_in_peace(data_dir: Path, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, epochs=60, seeds=[0], **EVERY)
    alone(study, tmp_path / "peace", data_dir)
    out, moments, kills = tmp_path / "killed", random.Random(0), 0
    plan = prepare(study, out, data_dir, CPU)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["octavize.experiment.study.worker"])
    while kills < 25:
        given = (plan.runs, study.recipe, out, data_dir, CPU, context.SimpleQueue())
        process = context.Process(target=worker.main, args=given)
        process.start()
        process.join(moments.uniform(0.1, 1.5))
        if process.exitcode == 0:
            break
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills >= 20, f"finished after {kills} kills: give it more epochs"
    run_study(study, out, data_dir=data_dir, hardware=CPU, workers=1, console=silent())
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "peace" / name).read_bytes()
    for path in (tmp_path / "peace").glob("runs/*/best.safetensors"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "peace")).read_bytes()


def start(path: Path, out: Path, data_dir: Path) -> subprocess.Popen[str]:
    octavize = str(Path(sys.executable).with_name("octavize"))
    command = [octavize, "study", str(path), "--out", str(out), "--data-dir", str(data_dir)]
    command += ["--accelerator", "cpu", "--workers", "1", "--threads", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_killed_and_two_of_it_at_once(data_dir: Path, tmp_path: Path) -> None:
    path, out = write_study(tmp_path, epochs=4), tmp_path / "out"
    process = start(path, out, data_dir)
    while not list(out.glob("runs/*/last.ckpt")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    both = [start(path, out, data_dir) for _ in range(2)]
    said = [p.communicate()[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    from octavize.experiment.study.definition import load_study

    alone(load_study(path), tmp_path / "peace", data_dir)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "peace" / name).read_bytes()
    ends = [log.read_text("utf-8").count("test accuracy") for log in out.glob("runs/*/log.txt")]
    assert max(ends) == 1, ends  # no run was trained twice


def test_the_pictures_are_loaded_at_the_size_of_the_recipe(data_dir: Path, tmp_path: Path) -> None:
    factors = {"size": {"native": {}, "large": {"size": 24}}}
    study = tiny_study(tmp_path, factors=factors)
    assert load_pictures(study.recipe, data_dir).size == 16
    assert {p.recipe.size for p in plan_study(study, {})} == {16, 24}
