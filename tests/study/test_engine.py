"""The engines that train a study's runs, and what is left of a study after kills at any moment."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

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
    write_study,
)

from octavize.cli.main import main
from octavize.errors import InputError
from octavize.study import engine, ray_engine
from octavize.study.load import load_study
from octavize.study.progress import Progress
from octavize.study.run import LOCK, run_study
from octavize.training.folder import folder_lock
from octavize.training.hardware import HERE, Hardware

VANILLA: dict[str, Any] = {"vanilla": {"alpha": 0}}


def same(ours: Path, theirs: Path) -> None:
    """The results and the weights of two studies are the same bytes."""
    for name in FILES:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    weights = list(theirs.glob("runs/*/best.safetensors"))
    assert weights
    for path in weights:
        assert path.read_bytes() == (ours / path.relative_to(theirs)).read_bytes()


def ends(out: Path) -> list[int]:
    """How often each run was trained to its end."""
    return [log.read_text("utf-8").count("test accuracy") for log in out.glob("runs/*/log.txt")]


def count_epochs(out: Path) -> int:
    """Epochs of all runs so far."""
    return sum(len(path.read_text("utf-8").splitlines()) - 1 for path in out.glob("runs/*/metrics.csv"))


def until(condition: Callable[[], Any], seconds: float = 300) -> Any:
    """What a condition becomes; it is asked until then, and a machine that is busy may take its time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def children(pid: int) -> list[int]:
    """Worker processes of a command; the tracker of multiprocessing is none."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "spawn_main"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(
    path: Path, out: Path, data_dir: Path, *more: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    octavize = str(Path(sys.executable).with_name("octavize"))
    command = [octavize, "study", str(path), "--out", str(out), "--data-dir", str(data_dir)]
    command += ["--accelerator", "cpu", "--threads", "1", *(more or ("--workers", "1"))]
    given = {**os.environ, **(environment or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given)


# ---- one machine ------------------------------------------------------------------------------------------


def test_two_workers_share_the_runs(data_dir: Path, tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path, epochs=1), tmp_path / "out"
    run_study(study, out, data_dir=data_dir, hardware=CPU, workers=2, timing=FAST)
    assert results_of(out)["done"] == 4
    assert ends(out) == [1] * 4


def test_a_folder_is_one_commands(data_dir: Path, tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path), tmp_path / "out"
    planned(study, out, data_dir)
    many = Hardware(accelerator="cpu", devices=2, strategy="ddp")
    with folder_lock(out / LOCK) as ours:
        assert ours
        for hardware in (CPU, many):
            with pytest.raises(InputError, match=r"out is .*out, where another command is at work"):
                run_study(study, out, data_dir=data_dir, hardware=hardware)
    with folder_lock(out / LOCK) as ours:
        assert ours


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again_end_the_study(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mortal(engine.Crew):
        def train(self, number: int, place: Any) -> Any:
            return self._start(number).submit(os.abort)

    class Watch:
        seen: ClassVar[list[int]] = []

        def show(self, running: Any) -> None:
            self.seen.append(len(running))

    plan = planned(tiny_study(tmp_path, seeds=[0]), tmp_path / "out", data_dir)
    monkeypatch.setattr(engine, "Crew", Mortal)
    watch: Any = Watch()
    with pytest.raises(InputError, match=r"workers is 1: 4 were killed .*give fewer --workers"):
        engine.train_here(plan.runs, plan.study.recipe, tmp_path / "out", data_dir, CPU, 1, watch)
    assert set(watch.seen) == {1}


def test_progress_counts_what_the_folder_holds(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arms = {**ARMS, "wild": {"alpha": 0.5, "lr": 1e30}}
    study, out = tiny_study(tmp_path, seeds=[0], arms=arms), tmp_path / "out"
    plan = planned(study, out, data_dir)
    with caplog.at_level(logging.INFO, "octavize"), Progress(plan.runs, out, plan.images) as progress:
        assert progress.line(plan.runs[:1]) == "0/3 runs done, 1 under way"
        left = {"wild": arms["wild"], "vanilla": {"alpha": 0}}
        alone(tiny_study(tmp_path, seeds=[0], arms=left), out, data_dir)
        caplog.clear()
        progress.show(plan.runs[1:2])
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("1/3 runs done, 1 failed, 1 under way, ")
    assert first.endswith(" left")
    assert last.startswith("1/3 runs done, 1 failed, ")


@pytest.mark.slow
def test_a_study_killed_many_times_ends_as_if_left_in_peace(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(tmp_path, epochs=90, seeds=[0], **EVERY)
    alone(study, tmp_path / "peace", data_dir)
    out, moments, over, kills = tmp_path / "killed", random.Random(0), threading.Event(), []
    context = multiprocessing.get_context("forkserver")  # new workers are quick to start
    context.set_forkserver_preload(["octavize.study.engine"])
    monkeypatch.setattr("multiprocessing.get_context", lambda _: context)
    monkeypatch.setattr(engine, "DEATHS", 30)

    def kill() -> None:
        while len(kills) < 25 and not over.wait(moments.uniform(0.1, 1.5)):
            for worker in multiprocessing.active_children():
                worker.kill()
                kills.append(worker.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    run_study(study, out, data_dir=data_dir, hardware=CPU, workers=1, timing=FAST)
    over.set()
    killer.join()
    assert len(kills) >= 20, f"finished after {len(kills)} kills: give it more epochs"
    logs = "".join(log.read_text("utf-8") for log in out.glob("runs/*/log.txt"))
    assert logs.count("going on after epoch") >= 5, "most kills came before the first epoch"
    same(out, tmp_path / "peace")


@pytest.mark.slow
def test_the_command_killed_and_two_of_it_at_once(data_dir: Path, tmp_path: Path) -> None:
    path, out = write_study(tmp_path, epochs=20), tmp_path / "out"
    for kill in range(3):
        process = start(path, out, data_dir)
        epochs = count_epochs(out)
        until(lambda known=epochs: count_epochs(out) > known)
        workers = children(process.pid)
        assert workers, kill
        process.kill()
        process.communicate()
        until(lambda known=workers: not any(map(alive, known)), 10)  # none outlives its command
    launched = [  # as torchrun or srun would
        {"RANK": n, "LOCAL_RANK": n, "WORLD_SIZE": "2", "SLURM_PROCID": n, "SLURM_NTASKS": "2"} for n in "01"
    ]
    both = [start(path, out, data_dir, environment=one) for one in launched]
    said = [p.communicate()[1] for p in both]
    assert sorted(p.returncode for p in both) == [0, 2], said
    (refused,) = [text for p, text in zip(both, said, strict=True) if p.returncode]
    assert f"out is {out}, where another command is at work" in " ".join(refused.split())
    alone(load_study(path), tmp_path / "peace", data_dir)
    same(out, tmp_path / "peace")
    assert max(ends(out)) == 1  # no run was trained twice
    logs = "".join(log.read_text("utf-8") for log in out.glob("runs/*/log.txt"))
    assert logs.count("going on after epoch") >= 2


@pytest.mark.slow
def test_an_interrupted_command_ends_its_workers(data_dir: Path, tmp_path: Path) -> None:
    path, out = write_study(tmp_path, epochs=500, seeds=[0]), tmp_path / "out"
    process = start(path, out, data_dir, "--workers", "2")
    until(lambda: list(out.glob("runs/*/last.ckpt")) or process.poll() is not None)
    workers = children(process.pid)
    assert len(workers) == 2
    for pid in (process.pid, *workers):  # as a terminal does with Ctrl-C
        os.kill(pid, signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130, said
    assert "The same command goes on" in said
    assert "Traceback" not in said
    assert not any(map(alive, workers))
    with folder_lock(out / LOCK) as ours:
        assert ours


@pytest.mark.slow
def test_two_processes_train_each_run_together(data_dir: Path, tmp_path: Path) -> None:
    path, out = write_study(tmp_path, epochs=1, seeds=[0], set={"batch_size": 8}), tmp_path / "out"
    process = start(path, out, data_dir, "--devices", "2", "--strategy", "ddp")
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert results_of(out)["done"] == 2
    results = [json.loads(p.read_text("utf-8")) for p in out.glob("runs/*/result.json")]
    assert [result["environment"]["processes"] for result in results] == [2, 2]


# ---- a Ray cluster ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--engine dask", "engine is 'dask': choose from local, ray"),
        ("--address auto", "address is auto, which is of a Ray cluster: give --engine ray too"),
        ("--gpu-share 0.5", "gpu_share is 0.5, which is for a Ray cluster: give --engine ray too"),
        ("--engine ray --gpu-share 2", "gpu_share=2.0: give a number above 0 to 1"),
        ("--engine ray --workers 2", "workers is 2: Ray decides"),
        ("--engine ray --devices 2 --strategy ddp", "strategy=ddp: Ray gives each run one device"),
        ("--engine ray --devices 1,", "devices=1,"),
        ("--engine ray --address ray://host:1", "give the command on a machine of the cluster"),
        ("--engine ray --list", "--list and --analyze train nothing: leave --engine, --address"),
    ],
)
def test_options_that_make_no_sense_together(
    options: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["study", str(write_study(tmp_path)), "--out", str(tmp_path / "out"), *options.split()])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert words in " ".join(told.split())
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"ray is not installed: run `pip install 'octavize\[cluster\]'`"):
        run_study(study, tmp_path / "out", engine="ray")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of three machines, the first of which trains nothing."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small: dict[str, Any] = {"object_store_memory": 100 << 20}
    head = {**small, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, **small)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_machine_of_the_cluster_is_lost(cluster: Any, data_dir: Path, tmp_path: Path) -> None:
    arms = {**ARMS, "wild": {"alpha": 0.5, "lr": 1e30}}
    path = write_study(tmp_path, epochs=40, seeds=[0, 1], arms=arms, set={"lr": 0.005})
    out, peace = tmp_path / "out", tmp_path / "peace"
    command = ("--engine", "ray", "--address", cluster.address)
    process = start(path, out, data_dir, *command)
    until(lambda: len(list(out.glob("runs/*/last.ckpt"))) == 2 or process.poll() is not None)
    lost = cluster.list_all_nodes()[-1]
    cluster.remove_node(lost, allow_graceful=False)
    told, said = process.communicate(timeout=1200)
    assert process.returncode == 0, told + said
    assert "aylet" not in told + said  # Ray has its own log
    assert (out / "ray.log").is_file()
    logs = [log.read_text("utf-8") for log in out.glob("runs/*/log.txt")]
    assert sum("going on after epoch" in log for log in logs) == 1  # the run of the lost machine
    results = alone(load_study(path), peace, data_dir)
    assert (results["done"], len(results["failed"])) == (4, 2)
    same(out, peace)


@pytest.mark.slow
def test_a_full_disk_on_the_cluster_stops_the_study(cluster: Any, data_dir: Path, tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path, seeds=[0], epochs=1), tmp_path / "out"
    folder = planned(study, out, data_dir).runs[0].folder(out)
    folder.mkdir(parents=True)
    (folder / "metrics.csv.part").symlink_to("/dev/full")
    given: Any = {"engine": "ray", "address": cluster.address}
    with pytest.raises(InputError, match=r"out is .*out, whose disk is full: make room") as told:
        run_study(study, out, data_dir=data_dir, hardware=CPU, **given)
    assert "\n" not in str(told.value)
    assert not list(out.rglob("failed.json"))


def test_a_run_takes_its_part_of_a_gpu() -> None:
    resources = {"CPU": 16.0, "GPU": 2.0}
    own, share = ray_engine._share(HERE, resources, 0.25)
    assert (own.accelerator, own.devices, share) == ("gpu", 1, {"num_cpus": 1, "num_gpus": 0.25})
    assert ray_engine._fits(share, resources)
    assert not ray_engine._fits(share, {"CPU": 16.0})
    assert ray_engine._share(CPU, resources, 1.0)[1]["num_gpus"] == 0
    with pytest.raises(InputError, match=r"gpu_share is 0\.25, and the cluster has no GPU: leave it out"):
        ray_engine._share(HERE, {"CPU": 16.0}, 0.25)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", None])
def test_no_cluster(
    address: str | None, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # or `auto` finds whatever else runs on this machine
    study = tiny_study(tmp_path, seeds=[0])
    given: Any = {"engine": "ray", "address": address}
    with pytest.raises(InputError, match=rf"address is {address or 'auto'}, where no Ray cluster answers"):
        run_study(study, tmp_path / "out", data_dir=data_dir, **given)
