"""Who takes which run of a study, and what is left of it after kills at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease
from octavize.study.queue import CLAIM, LEASE, Queue, StillOurs, finished
from tests.helpers.study import CPU, EVERY, FAST, FILES, alone, results_of, silent, tiny_study, write_study
from tests.helpers.training import make_folder

from octavize.study import worker
from octavize.study.design import Planned, distinct, plan_study
from octavize.study.model import load_study
from octavize.study.run import prepare, run_study


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"))


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
    monkeypatch.setattr("octavize.study.queue.LEASE", 0.6)
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
        compromise, owner = type("Loss", (), {"reason": "owner-changed"})(), None

    place = plan.runs[0]
    lost: Any = Gone()
    place.folder(tmp_path / "out").mkdir(parents=True)
    worker.train(place, plan.images, tmp_path / "out", CPU, StillOurs(lost))
    folder = place.folder(tmp_path / "out")
    assert finished(folder) is None
    assert not (folder / "failed.json").exists()


def test_two_workers_at_once_share_the_runs(data_dir: Path, tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path, epochs=1), tmp_path / "out"
    run_study(study, out, data_dir=data_dir, hardware=CPU, workers=2, timing=FAST, console=silent())
    assert results_of(out)["done"] == 4
    logs = [path.read_text("utf-8") for path in out.glob("runs/*/log.txt")]
    assert len(logs) == 4
    assert all(log.count("test accuracy") == 1 for log in logs)  # each was trained once


# ---- kill -9 ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_killed_many_times_ends_as_if_left_in_peace(data_dir: Path, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, epochs=90, seeds=[0], **EVERY)
    alone(study, tmp_path / "peace", data_dir)
    out, moments, kills = tmp_path / "killed", random.Random(0), 0
    plan = prepare(study, out, data_dir, CPU)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["octavize.study.worker"])
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
    logs = "".join(log.read_text("utf-8") for log in out.glob("runs/*/log.txt"))
    assert logs.count("going on after epoch") >= 5, "most kills came before the first epoch"
    run_study(study, out, data_dir=data_dir, hardware=CPU, workers=1, timing=FAST, console=silent())
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "peace" / name).read_bytes()
    for path in (tmp_path / "peace").glob("runs/*/best.safetensors"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "peace")).read_bytes()


def start(
    path: Path, out: Path, data_dir: Path, *more: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    octavize = str(Path(sys.executable).with_name("octavize"))
    command = [octavize, "study", str(path), "--out", str(out), "--data-dir", str(data_dir)]
    command += ["--accelerator", "cpu", "--threads", "1", *(more or ("--workers", "1"))]
    given = {**os.environ, **(environment or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given)


@pytest.mark.slow
def test_the_command_killed_and_two_of_it_at_once(data_dir: Path, tmp_path: Path) -> None:
    path, out = write_study(tmp_path, epochs=4), tmp_path / "out"
    process = start(path, out, data_dir)
    while not list(out.glob("runs/*/last.ckpt")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    launched = [  # as torchrun or srun would
        {"RANK": n, "LOCAL_RANK": n, "WORLD_SIZE": "2", "SLURM_PROCID": n, "SLURM_NTASKS": "2"} for n in "01"
    ]
    both = [start(path, out, data_dir, environment=one) for one in launched]
    said = [p.communicate()[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    alone(load_study(path), tmp_path / "peace", data_dir)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "peace" / name).read_bytes()
    ends = [log.read_text("utf-8").count("test accuracy") for log in out.glob("runs/*/log.txt")]
    assert max(ends) == 1, ends  # no run was trained twice


@pytest.mark.slow
def test_two_processes_train_each_run_together(data_dir: Path, tmp_path: Path) -> None:
    path, out = write_study(tmp_path, epochs=1, seeds=[0], set={"batch_size": 8}), tmp_path / "out"
    process = start(path, out, data_dir, "--devices", "2", "--strategy", "ddp")
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert results_of(out)["done"] == 2
    results = [json.loads(p.read_text("utf-8")) for p in out.glob("runs/*/result.json")]
    assert [result["environment"]["processes"] for result in results] == [2, 2]
