"""The main job end to end: runs, skipping, resuming, refusing, and what is written."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from PIL import Image
from tests.helpers.training import CLASSES, MODEL, make_folder, tiny

from octavize.convert.norms import reestimate_norms
from octavize.errors import InputError
from octavize.report.naming import pretty, run_slug
from octavize.report.numbers import points, quantity, seconds
from octavize.text import to_csv
from octavize.training import train as train_module
from octavize.training.compare import compare
from octavize.training.folder import folder_lock
from octavize.training.hardware import Hardware
from octavize.training.inputs import TrainingInputs
from octavize.training.metrics import COLUMNS, curve, read_metrics
from octavize.training.recipe import dump_recipe, load_recipe
from octavize.training.runs import Run, check_data, describe_data, plan_runs
from octavize.training.summary import Timing
from octavize.training.train import load_images, train_run
from octavize.zoo.checkpoint import load_checkpoint
from octavize.zoo.weights import KEY

FAST = Timing(batch=2, rounds=1)
RUN = Run(MODEL, 0.5, 3)
RUN_OF_FINISHED = Run(MODEL, 0.5, 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a whole comparison."""
    out = tmp_path_factory.mktemp("finished") / "out"
    compare(tiny(), out, data_dir=data_dir, timing=FAST)
    return out


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are of torch alone: exporting takes longer than all else here."""
    monkeypatch.setattr("octavize.training.results.installed_runtimes", list)


def test_a_run_leaves_threads_and_random_numbers_alone(data_dir: Path, tmp_path: Path) -> None:
    recipe, before = tiny(epochs=1), torch.get_rng_state()
    images, seen = load_images(recipe, data_dir), []

    class Look(pl.Callback):
        def on_train_start(self, *args: Any) -> None:
            seen.append(torch.get_num_threads())

    hardware = Hardware(threads=2)
    train_run(RUN, recipe, images, tmp_path, hardware=hardware, callbacks=[Look()])
    assert seen == [2]
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("no_runtime")
def test_costs_are_measured_on_the_threads_that_trained(data_dir: Path, tmp_path: Path) -> None:
    given = {"data_dir": data_dir, "timing": FAST}
    results = compare(tiny(epochs=1), tmp_path / "out", hardware=Hardware(threads=2), **given)
    assert results["profile"]["threads"] == 2
    assert torch.get_num_threads() == 1


def without_seconds(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]


class Kill(pl.Callback):
    """Ends the run in the middle of an epoch, as a kill would: nothing gets to clean up."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("killed")


class Falling(pl.Callback):
    """Makes the first epoch the best: a run that forgot it would choose another."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        accuracy = 0.9 - 0.1 * trainer.current_epoch
        pl_module.val_meter.take = lambda: (1.0, accuracy)


def test_everything_is_written(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text("utf-8"))
    networks = results["networks"]
    assert [(n["model"], n["alpha"], n["n"]) for n in networks] == [(MODEL, 0.0, 1), (MODEL, 0.5, 1)]
    assert networks[1]["ratios"]["macs"] < 1
    assert networks[1]["ratios"]["params"] == 1
    assert networks[0]["accuracy_std"] is None
    assert torch.__version__.startswith(results["environment"]["torch"])
    with (finished / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in rows] == [n["accuracy_mean"] for n in networks]
    for name in ("accuracy-macs", "accuracy-latency", f"curves-{MODEL}-loss", f"curves-{MODEL}-accuracy"):
        assert (finished / "figures" / f"{name}.png").stat().st_size > 1000
        assert (finished / "figures" / f"{name}.svg").stat().st_size > 1000
    assert load_recipe(finished / "recipe.yaml") == tiny()
    for run in plan_runs(tiny()):
        folder = finished / "runs" / run.slug
        files = {p.name for p in folder.iterdir()}
        assert files == {"best.safetensors", "metrics.csv", "result.json", "tensorboard"}
        assert tuple(read_metrics(folder)[0]) == COLUMNS
        losses = [row["val_loss"] for row in read_metrics(folder)]
        assert results["curves"][run.slug]["val_loss"] == losses
        assert any((folder / "tensorboard").iterdir())


def test_a_loss_that_is_not_finite_is_none_in_a_curve(tmp_path: Path) -> None:
    values = {**dict.fromkeys(COLUMNS, 1.0), "val_loss": float("inf")}
    (tmp_path / "metrics.csv").write_text(to_csv(COLUMNS, [values]), "utf-8")
    assert curve(tmp_path)["val_loss"] == [None]
    assert curve(tmp_path)["train_loss"] == [1.0]


def test_the_report_is_one_page_that_escapes_what_it_is_given(finished: Path) -> None:
    page = (finished / "report.html").read_text("utf-8")
    assert "&lt;i&gt;stripes" in page
    assert CLASSES[0] not in page
    assert page.count("<figure") == page.count("<svg") - 1 == 4  # and the logo
    for outside in ("http-equiv", "<script", "<link", 'src="http', "url(http", "@import"):
        assert outside not in page


def test_numbers_for_people() -> None:
    assert [quantity(x) for x in (0, 999, 25_557_032, 2_367_143_936)] == ["0 ", "999 ", "25.6 M", "2.37 G"]
    assert [seconds(x) for x in (4.4, 119, 600, 7500)] == ["4 s", "119 s", "10 min", "2 h 05 min"]
    assert [points(x) for x in (-0.04, 1.24, -1.26)] == ["±0.0", "+1.2", "−1.3"]
    assert pretty("oct_resnet50_small") == "ResNet-50, small stem"
    assert pretty("oct_wide_resnet50_2") == "Wide ResNet-50-2"


def test_a_second_call_trains_nothing(
    finished: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "results.json").read_bytes()
    monkeypatch.setattr(train_module, "_train", lambda *_: pytest.fail("trained again"))
    compare(tiny(), finished, data_dir=data_dir, timing=FAST)
    assert (finished / "results.json").read_bytes() == before


@pytest.mark.usefixtures("no_runtime")
def test_lists_may_grow(data_dir: Path, tmp_path: Path) -> None:
    small = tiny(alphas=[0.5], epochs=1)
    compare(small, tmp_path, data_dir=data_dir, timing=FAST)
    result = tmp_path / "runs" / f"{MODEL}-alpha0.5-seed0" / "result.json"
    before = result.stat().st_mtime_ns
    grown = tiny(alphas=[0, 0.5], seeds=[0, 1], epochs=1)
    results = compare(grown, tmp_path, data_dir=data_dir, timing=FAST)
    assert result.stat().st_mtime_ns == before
    assert [n["n"] for n in results["networks"]] == [2, 2]
    assert results["networks"][0]["accuracy_std"] is not None


@pytest.mark.parametrize(
    "damage",
    ["{}", None, *(pytest.param(d, marks=pytest.mark.slow) for d in ("", '{"networks"', "\x00\x01"))],
)
@pytest.mark.parametrize("name", ["metrics.csv", "result.json", "recipe.yaml", "profile.json"])
def test_a_damaged_file_is_named_or_written_anew(
    name: str, damage: str | None, finished: Path, data_dir: Path, tmp_path: Path, request: Any
) -> None:
    out = tmp_path / "out"
    if name == "profile.json":
        request.getfixturevalue("no_runtime")
    shutil.copytree(finished, out)
    in_a_run = name in ("metrics.csv", "result.json")
    path = out / "runs" / RUN_OF_FINISHED.slug / name if in_a_run else out / name
    path.unlink() if damage is None else path.write_text(damage)

    def again() -> None:
        compare(tiny(), out, data_dir=data_dir, timing=FAST)

    if name == "profile.json" or (name == "result.json" and damage is None):
        again()
        assert json.loads(path.read_text())
        return
    with pytest.raises(InputError, match=re.escape(str(path if in_a_run else out))):
        again()


def test_another_recipe_is_refused_until_restart(finished: Path, data_dir: Path) -> None:
    other = tiny(lr=0.01)
    kept = (finished / "recipe.yaml").read_bytes()
    with pytest.raises(InputError, match=r"another recipe \(lr was 0.05, now 0.01\): give another --out"):
        compare(other, finished, data_dir=data_dir)
    assert (finished / "recipe.yaml").read_bytes() == kept


@pytest.mark.usefixtures("no_runtime")
def test_restart_forgets(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(tiny(lr=0.01)), "utf-8")
    stale = tmp_path / "runs" / RUN.slug
    stale.mkdir(parents=True)
    compare(tiny(alphas=[0.5], epochs=1), tmp_path, data_dir=data_dir, restart=True, timing=FAST)
    assert not stale.exists()


def test_a_folder_with_other_files_is_left_alone(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    for restart in (False, True):
        with pytest.raises(InputError, match="holds other files: give a new or an empty folder"):
            compare(tiny(), tmp_path, data_dir=data_dir, restart=restart)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_images_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="saw other images"):
        compare(tiny(), finished, data_dir=make_folder(tmp_path, train=20))


def exchange_labels(data: Path) -> None:
    first, second = (data / "train" / name / "0.png" for name in CLASSES)
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def turn_a_test_image(data: Path) -> None:
    path = data / "test" / CLASSES[0] / "0.png"
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(path)


@pytest.mark.parametrize("change", [exchange_labels, turn_a_test_image])
def test_images_that_changed_in_place_are_refused(
    change: Callable[[Path], None], data_dir: Path, tmp_path: Path
) -> None:
    recipe, data, out = tiny(epochs=2), tmp_path / "data", tmp_path / "run"
    shutil.copytree(data_dir, data)
    images = load_images(recipe, data)
    with pytest.raises(RuntimeError, match="killed"):
        train_run(RUN, recipe, images, out, callbacks=[Kill(1)])
    killed = tmp_path / "killed"
    shutil.copytree(out, killed)
    train_run(RUN, recipe, images, out)
    change(data)
    changed = load_images(recipe, data)
    assert changed.mean == images.mean  # of which the digest alone tells
    with pytest.raises(InputError, match=r"belongs to another run \(other data\)"):
        train_run(RUN, recipe, changed, killed)
    with pytest.raises(InputError, match="saw other images"):
        check_data([out], changed)


def test_what_an_older_version_told_of_images_is_enough(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny(epochs=2)
    images = load_images(recipe, data_dir)
    with pytest.raises(RuntimeError, match="killed"):
        train_run(RUN, recipe, images, tmp_path, callbacks=[Kill(1)])
    last = tmp_path / "last.ckpt"
    state = torch.load(last, weights_only=True)
    del state[KEY]["data"]["digest"]
    torch.save(state, last)
    train_run(RUN, recipe, images, tmp_path)
    path = tmp_path / "result.json"
    result = json.loads(path.read_text("utf-8"))
    del result["data"]["digest"]
    path.write_text(json.dumps(result), "utf-8")
    check_data([tmp_path], images)


def test_images_read_batch_by_batch_have_a_digest(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octavize.data.folder.EAGER_BYTES", 0)
    data = tmp_path / "data"
    shutil.copytree(data_dir, data)
    before, again = (describe_data(load_images(tiny(), data))["digest"] for _ in range(2))
    assert before == again
    exchange_labels(data)
    assert describe_data(load_images(tiny(), data))["digest"] != before


@pytest.mark.slow
def test_costs_of_another_machine_are_measured_anew(
    finished: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = json.loads((out / "profile.json").read_text("utf-8"))
    monkeypatch.setattr("octavize.bench.environment.processor_name", lambda: "another")
    results = compare(tiny(), out, data_dir=data_dir, timing=FAST)
    assert results["profile"]["environment"]["processor"].startswith("another, ")
    after = json.loads((out / "profile.json").read_text("utf-8"))
    name = f"{MODEL} α=0.5"
    assert after["networks"][name]["latency_ms"] != before["networks"][name]["latency_ms"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_second_command_in_a_folder_is_refused(
    restart: bool, finished: Path, data_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    with folder_lock(out / "train.lock") as ours:
        assert ours
        with pytest.raises(InputError, match="another command is at work"):
            compare(tiny(), out, data_dir=data_dir, restart=restart, timing=FAST)
    assert (out / "results.json").exists()


@pytest.mark.usefixtures("no_runtime")
def test_alphas_that_differ_late_are_runs_of_their_own(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny(alphas=[1 / 3, 0.3333332], epochs=1)
    results = compare(recipe, tmp_path, data_dir=data_dir, timing=FAST)
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == [f"{MODEL}-alpha0.3333332-seed0", f"{MODEL}-alpha0.3333333333333333-seed0"]
    assert [(net["alpha"], net["n"]) for net in results["networks"]] == [(0.3333332, 1), (1 / 3, 1)]
    assert len(json.loads((tmp_path / "profile.json").read_text("utf-8"))["networks"]) == 2
    assert [run_slug("net", alpha, 0) for alpha in (0.0, 0.5, 0.125, 1.0)] == [
        "net-alpha0-seed0", "net-alpha0.5-seed0", "net-alpha0.125-seed0", "net-alpha1-seed0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"models": ["oct_resnet51"]}, ("oct_resnet51", "unknown")),
        ({"models": ["oct_i3d_resnet50"]}, ("reads clips", "in Python")),
        ({"optimizer": "sdg"}, ("optimizer", "'sdg'", "adamw")),
        ({"model_arguments": {"*": {"widht": 2}}}, ("widht",)),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    changes: dict[str, Any], parts: tuple[str, ...], data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        compare(tiny(**changes), tmp_path / "out", data_dir=data_dir)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "precision",
    [
        "32-true",
        pytest.param("64-true", marks=pytest.mark.slow),
        pytest.param("bf16-true", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    precision: str, data_dir: Path, tmp_path: Path
) -> None:
    recipe = tiny(epochs=3, precision=precision)
    images = load_images(recipe, data_dir)
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    expected = train_run(RUN, recipe, images, quiet)
    for epoch in (0, 1, 2):
        with pytest.raises(RuntimeError, match="killed"):
            train_run(RUN, recipe, images, killed, callbacks=[Kill(epoch)])
        assert not (killed / "result.json").exists()
    result = train_run(RUN, recipe, images, killed)
    assert without_seconds(killed) == without_seconds(quiet)
    assert [row["epoch"] for row in read_metrics(killed)] == [1, 2, 3]
    assert (killed / "best.safetensors").read_bytes() == (quiet / "best.safetensors").read_bytes()
    for field in ("test_accuracy", "test_loss", "best_epoch"):
        assert result[field] == expected[field]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_kill_while_the_state_is_written_and_a_moved_folder(
    epoch: int, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(epochs=3)
    images = load_images(recipe, data_dir)
    quiet, killed, moved = tmp_path / "quiet", tmp_path / "killed", tmp_path / "moved"
    first_is_best = {"callbacks": [Falling()]}
    train_run(RUN, recipe, images, quiet, **first_is_best)

    write = TorchCheckpointIO.save_checkpoint

    def half(writer: Any, state: Any, path: str, *options: Any) -> None:
        if state["epoch"] == epoch:
            Path(path).write_bytes(b"half a checkpoint")
            raise RuntimeError("killed")
        write(writer, state, path, *options)

    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", half)
    with pytest.raises(RuntimeError, match="killed"):
        train_run(RUN, recipe, images, killed, **first_is_best)
    monkeypatch.undo()
    killed.rename(moved)
    assert train_run(RUN, recipe, images, moved, **first_is_best)["best_epoch"] == 1
    assert without_seconds(moved) == without_seconds(quiet)
    assert (moved / "best.safetensors").read_bytes() == (quiet / "best.safetensors").read_bytes()


def test_a_run_killed_after_its_last_epoch_is_only_evaluated(data_dir: Path, tmp_path: Path) -> None:
    class KillTest(pl.Callback):
        def on_test_start(self, *args: Any) -> None:
            raise RuntimeError("killed")

    recipe = tiny(epochs=1)
    images = load_images(recipe, data_dir)
    with pytest.raises(RuntimeError, match="killed"):
        train_run(RUN, recipe, images, tmp_path, callbacks=[KillTest()])
    before = (tmp_path / "metrics.csv").read_bytes()
    result = train_run(RUN, recipe, images, tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert result["best_epoch"] == 1


def test_sigkill_and_the_same_command_again(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe = tiny(epochs=25, alphas=[0.5], limit_train=16, lr=0.001)
    path.write_text(dump_recipe(recipe), "utf-8")
    octavize = str(Path(sys.executable).with_name("octavize"))
    command = [octavize, "train", MODEL, "--out", str(out)]
    command += ["--recipe", str(path), "--data-dir", str(data_dir), "--accelerator", "cpu", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (out / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (out / "last.ckpt").exists()
    assert not (out / "result.json").exists()
    # The rest in this process, to save its start: the same code from the same folder.
    images = load_images(recipe, data_dir)
    run = Run(MODEL, 0.5, 0)
    with caplog.at_level(logging.INFO, "octavize"):
        train_run(run, recipe, images, out)
    assert "going on after epoch" in caplog.text
    train_run(run, recipe, images, tmp_path / "quiet")
    assert without_seconds(out) == without_seconds(tmp_path / "quiet")


def test_seeds_differ_and_repeat(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny(epochs=1)
    images = load_images(recipe, data_dir)
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        train_run(Run(MODEL, 0.5, seed), recipe, images, folder)
        losses.append(read_metrics(folder)[0]["train_loss"])
    assert losses[0] == losses[1] != losses[2]


def test_measured_statistics_are_kept_and_change_no_step(data_dir: Path, tmp_path: Path) -> None:
    images = load_images(tiny(), data_dir)
    losses, weights = [], []
    for count in (0, 20):
        recipe, folder = tiny(norm_images=count, epochs=1), tmp_path / str(count)
        train_run(RUN, recipe, images, folder)
        losses.append(read_metrics(folder)[0])
        weights.append(load_checkpoint(folder / "best.safetensors")[0])
    running, measured = weights
    assert losses[0]["train_loss"] == losses[1]["train_loss"]
    assert losses[0]["val_loss"] != losses[1]["val_loss"]
    assert all(torch.equal(a, b) for a, b in zip(running.parameters(), measured.parameters(), strict=True))
    reestimate_norms(running, TrainingInputs(images, tiny(), 20))
    for (name, a), b in zip(running.named_buffers(), measured.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_a_setting_that_came_later_renames_no_run() -> None:
    assert "norm_images" not in train_module.fingerprint(tiny(), RUN)
    assert train_module.fingerprint(tiny(norm_images=20), RUN)["norm_images"] == 20


def test_divergence_stops_the_run(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny(lr=1e30, schedule="constant", warmup_epochs=0)
    images = load_images(recipe, data_dir)
    with pytest.raises(InputError, match=r"lr is 1e\+30 .* diverged .* lower --lr"):
        train_run(RUN, recipe, images, tmp_path)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "lamb"])
def test_other_optimizers_and_schedules(optimizer: str, data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny(
        optimizer=optimizer, schedule="linear", epochs=1, lr=0.001, label_smoothing=0.1, warmup_epochs=0
    )
    train_run(RUN, recipe, load_images(recipe, data_dir), tmp_path)
    assert read_metrics(tmp_path)[0]["lr"] < 0.001


def test_weight_decay_spares_norms_and_biases() -> None:
    from octavize.training.module import make_optimizer

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = make_optimizer(model, tiny(weight_decay=0.1), MODEL)
    decays = {g["weight_decay"]: [tuple(p.shape) for p in g["params"]] for g in optimizer.param_groups}
    assert decays == {0.0: [(4,), (4,), (4,)], 0.1: [(4, 3, 3, 3)]}


def test_the_schedule_climbs_and_falls() -> None:
    from octavize.training.module import make_schedule

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, "cosine", total=10, warmup=3)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_two_processes(data_dir: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(dump_recipe(tiny(epochs=1, batch_size=8, lr=0.001)), "utf-8")
    octavize = str(Path(sys.executable).with_name("octavize"))
    command = [octavize, "compare", "--out", str(out), "--recipe", str(path)]
    command += ["--data-dir", str(data_dir), "--accelerator", "cpu", "--devices", "2", "--strategy", "ddp"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "results.json").read_text("utf-8"))["environment"]["processes"] == 2
