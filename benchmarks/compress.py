"""A trained network made cheaper: octave, on smaller images, or pruned, each fine-tuned for as long.

    cd benchmarks
    python compress.py flowers --network trained:efficientnet_lite0 --data-dir flowers \\
        --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5
    python compress.py imagenette --data-dir imagenette \\
        --network 'runs/resolution/runs/oct_resnet26-alpha0-seed{seed}-*'
    python compress.py flowers imagenette --times      # milliseconds in OpenVINO; leave the machine idle
    python compress.py --tables

For each seed there is one trained vanilla network. Of the task `flowers` it is transferred from ImageNet's
classes first. It is the teacher of all arms, which start from its weights and get the same epochs: vanilla
itself; octave, α by budget, channels calibrated and layers refitted, exchanging in every layer or once a
block; vanilla on smaller images, whose teacher sees them whole; and vanilla pruned by Torch-Pruning
(DepGraph, `pip install torch-pruning`). The last two take as much time in OpenVINO, float32, one image, as
the network that exchanges once a block. They are matched on the first seed: let the machine be idle.

Every network is exported in float32, bfloat16 and int8, and its files are tested. A killed run goes on from
its last finished epoch. Results go to `results/compress/`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from compress_arms import ARMS, Arm, Matched, Smaller, match_arms, pruned
from compress_tables import PAGE, RESULTS, page
from marked import add_options, make
from octavize.bench.contenders import Contender
from octavize.bench.environment import environment
from octavize.bench.process import settle_process
from octavize.bench.profile import count_macs
from octavize.bench.ratios import time_group
from octavize.bench.runtimes import Setting, choose_runtimes
from octavize.deploy.export import export
from octavize.deploy.formats import PRECISIONS
from octavize.deploy.runtime import load_runtime
from octavize.errors import InputError
from octavize.files import read_json, write_json
from octavize.study.deployed import accuracy_of
from octavize.training.adapt import fine_tune, fine_tuning_recipe
from octavize.training.hardware import HERE
from octavize.training.inputs import TrainingInputs
from octavize.training.prepare import Adaptation, as_trained, evaluate, prepare_in, with_facts
from octavize.training.recipe import Recipe, load_recipe
from octavize.training.runs import input_shape
from octavize.training.train import load_images
from octavize.zoo.find import Vanilla, find_vanilla

QUANTIZED_ON = 300
"""Training images."""
RESULT, MATCHED, TIMES = "result.json", "matched.json", "times.json"
Run = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What is trained. `transfer` are epochs that teach the network its classes first."""

    size: int
    budget: float
    epochs: int
    lr: float
    batch: int = 64
    transfer: int = 0

    def recipe(self, name: str, seed: int, epochs: int, lr: float, precision: str) -> Recipe:
        """Of a fine-tuning. An eighth of the images' size is cropped."""
        return fine_tuning_recipe(
            load_recipe("cifar"),
            name,
            seed,
            {
                "data": "folder",
                "size": self.size,
                "crop_padding": self.size // 8,
                "epochs": epochs,
                "lr": lr,
                "batch_size": self.batch,
                "precision": precision,
            },
        )


TASKS = {
    "flowers": Task(size=160, budget=0.5, epochs=6, lr=0.01, batch=32, transfer=6),
    "imagenette": Task(size=128, budget=0.5, epochs=4, lr=0.02),
}


class Bench:
    """One task with one seed: its data, and its trained vanilla network."""

    def __init__(self, task: str, seed: int, given: argparse.Namespace) -> None:
        self.name, self.task, self.seed, self.out = task, TASKS[task], seed, given.out / task
        self.folder = self.out / f"seed{seed}"
        source = find_vanilla(found_run(given.network, seed))
        facts: dict[str, Any] = {k: v for k in ("mean", "std") if (v := getattr(given, k)) is not None}
        source = replace(source, facts={**source.facts, **facts, "size": self.task.size})
        recipe = self.task.recipe(source.origin.name, seed, self.task.epochs, self.task.lr, given.precision)
        self.recipe = with_facts(recipe, source.facts)
        self.images = as_trained(load_images(self.recipe, given.data_dir), source.facts)
        self.shape = input_shape(self.recipe, self.images)
        self.source = replace(source, model=self._teacher(source))

    def _teacher(self, source: Vanilla) -> nn.Module:
        if not self.task.transfer:
            return source.model
        model: Any = copy.deepcopy(source.model)
        torch.manual_seed(self.seed)
        model.reset_classifier(len(self.images.classes))
        recipe = replace(self.recipe, epochs=self.task.transfer, lr=2 * self.task.lr)
        labels_alone = Adaptation(alpha=0.0, distil=0.0)
        done = fine_tune(
            model, model, recipe, labels_alone, self.images, self.folder / "teacher", every_epoch=False
        )
        return done["model"].eval()

    def octave(self, arm: Arm) -> nn.Module:
        """Calibrated and refitted, ready to be fine-tuned."""
        how = self.adaptation(arm)
        folder = self.folder / arm.slug
        folder.mkdir(parents=True, exist_ok=True)
        return prepare_in(folder, self.source, how, self.recipe, self.images, HERE).model

    def adaptation(self, arm: Arm) -> Adaptation:
        """Settings of the conversion and of the teacher."""
        octave = arm.exchange is not None
        budget = self.task.budget if octave else None
        return Adaptation(
            alpha=None if octave else 0.0,
            budget=budget,
            downsample="stride",
            exchange=arm.exchange,
            refit_images=200,
        )

    def student(self, arm: Arm, matched: Matched) -> nn.Module:
        """What is fine-tuned; it takes images of the task's size."""
        if arm.exchange is not None:
            return self.octave(arm)
        model = copy.deepcopy(self.source.model)
        if arm.matched == "size":
            return Smaller(model, matched.size)
        if arm.matched == "ratio":
            return pruned(model, self.shape, matched.ratio)
        return model

    def matched(self) -> Matched:
        """What the arms that take as long as the octave network turned out to be, found once a task."""
        known = read_json(self.out / MATCHED)
        if known is None:
            found = match_arms(self.octave(ARMS[-1]), self.source.model, self.shape)
            known = found.as_dict()
            write_json(self.out / MATCHED, known)
        return Matched(**known)

    def run(self, arm: Arm, matched: Matched) -> None:
        """Fine-tune, and test the files of every precision; nothing where that was done."""
        folder = self.folder / arm.slug
        if (folder / RESULT).is_file():
            return
        done = fine_tune(
            self.student(arm, matched),
            self.source.model,
            self.recipe,
            self.adaptation(arm),
            self.images,
            folder / "training",
            every_epoch=False,
        )
        model: nn.Module = done["model"].eval()
        side = matched.size if arm.matched == "size" else self.task.size
        stages = (read_json(folder / "stages.json") or {"stages": []})["stages"]
        write_json(
            folder / RESULT,
            {
                "task": self.name,
                "arm": arm.name,
                "seed": self.seed,
                "side": side,
                "macs": count_macs(deployed(model), (1, self.shape[1], side, side)),
                "before": {stage["stage"]: stage["test_accuracy"] for stage in stages},
                "teacher": self.teacher_accuracy(),
                **{
                    key: done[key] for key in ("test_accuracy", "val_accuracy", "best_epoch", "train_seconds")
                },
                "exported": self.exported(deployed(model), side),
                "settings": {
                    "epochs": self.task.epochs,
                    "lr": self.task.lr,
                    "transfer": self.task.transfer,
                    "precision": self.recipe.precision,
                },
                "environment": environment("openvino", "nncf", "torch_pruning"),
            },
        )
        torch.save(deployed(model), folder / "network.pt")

    def teacher_accuracy(self) -> float:
        """On the test images, measured once a seed."""
        known = read_json(self.folder / "vanilla.json")
        if known is None:
            known = evaluate(self.source.model, self.recipe, self.images, HERE, "vanilla")
            write_json(self.folder / "vanilla.json", known)
        return known["test_accuracy"]

    def exported(self, model: nn.Module, side: int) -> dict[str, float]:
        """Accuracy on the test images of the file of each precision."""
        recipe = replace(self.recipe, size=side)
        shape, found = input_shape(recipe, self.images), dict[str, float]()
        with TemporaryDirectory() as scratch:
            for precision in PRECISIONS:
                sample = TrainingInputs(self.images, recipe, QUANTIZED_ON) if precision == "int8" else None
                file = Path(scratch) / f"{precision}.xml"
                export(model, file, shape, precision=precision, calibration=sample, dynamic_batch=False)
                found[precision] = accuracy_of(load_runtime(file, trust=True), self.images, recipe)
        return found


def deployed(model: nn.Module) -> nn.Module:
    """The network itself, which gets its images in its own size."""
    return model.net if isinstance(model, Smaller) else model


def found_run(pattern: str, seed: int) -> str:
    """The run folder of a seed, where the network is a pattern with {seed}; else what was given."""
    if "{seed}" not in pattern:
        return pattern
    path = Path(pattern.format(seed=seed))
    [*found] = path.parent.glob(path.name)
    if len(found) != 1:
        raise InputError(f"--network {path} matches {len(found)} folders: give a pattern of one")
    return str(found[0])


def train(given: argparse.Namespace) -> None:
    """All runs of the tasks that are not done, seed by seed."""
    for task in given.tasks:
        for seed in given.seed:
            bench = Bench(task, seed, given)
            matched = bench.matched()
            for arm in ARMS:
                if not given.arm or arm.slug in given.arm:
                    bench.run(arm, matched)


def finished(out: Path, task: str) -> Iterator[tuple[Path, Run]]:
    """Folders and results of the runs that are done."""
    for path in sorted((out / task).glob(f"seed*/*/{RESULT}")):
        run = read_json(path)
        assert run is not None
        yield path.parent, run


def time_all(given: argparse.Namespace) -> None:
    """Milliseconds an image in OpenVINO, of all arms of a task and all precisions taking turns."""
    for task in given.tasks:
        contenders: dict[str, Contender] = {}
        for folder, run in finished(given.out, task):
            if run["arm"] not in contenders:  # one seed's weights are as fast as another's
                model = torch.load(folder / "network.pt", weights_only=False)
                image = (3, run["side"], run["side"])
                contenders[run["arm"]] = Contender(run["arm"], model, image, run["macs"])
        times: dict[str, Any] = {"rounds": given.rounds, "environment": environment("openvino"), "arms": {}}
        with TemporaryDirectory() as scratch:
            for batch in (1, 8):
                setting, chosen = Setting(batch, 1, "cpu", Path(scratch)), choose_runtimes(["openvino"])
                networks = list(contenders.values())
                for row in time_group(networks, chosen, setting, given.rounds, PRECISIONS):
                    own = times["arms"].setdefault(row["network"], {}).setdefault(row["precision"], {})
                    own[str(batch)] = row["median_ms"] / batch
        write_json(given.out / task / TIMES, times)


def collect(given: argparse.Namespace) -> None:
    """Keep what the runs found in the committed results; times that were not measured now stay."""
    for task in given.tasks:
        known, path = read_json(RESULTS / f"{task}.json") or {}, given.out / task
        runs = [run for _, run in finished(given.out, task)]
        times = read_json(path / TIMES) or known.get("times")
        if runs:
            RESULTS.mkdir(parents=True, exist_ok=True)
            found = {"matched": read_json(path / MATCHED), "times": times, "runs": runs}
            write_json(RESULTS / f"{task}.json", found)


def measure(given: argparse.Namespace) -> None:
    """What the options say."""
    if given.times:
        time_all(given)
    else:
        train(given)
    collect(given)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], help="flowers, imagenette")
    parser.add_argument("--network", help="run folder or module:function; {seed} stands for the seed")
    parser.add_argument("--data-dir", type=Path, help="folder with train/<class> and test/<class>")
    parser.add_argument("--mean", type=float, nargs=3)
    parser.add_argument("--std", type=float, nargs=3)
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arm", nargs="+", choices=[arm.slug for arm in ARMS], help="only these")
    parser.add_argument(
        "--precision",
        choices=["bf16-mixed", "32-true"],
        default="bf16-mixed",
        help="of training; 32-true is faster on a processor without bfloat16 instructions",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/compress"))
    parser.add_argument("--times", action="store_true", help="time the finished runs; leave the machine idle")
    parser.add_argument("--rounds", type=int, default=50, help="of --times")
    parser.add_argument("--threads", type=int, default=1)
    add_options(parser, f"{RESULTS.name}/{PAGE.name}")
    given = parser.parse_args(arguments)
    if not (given.tables or given.check or given.tasks):
        parser.error("give a task, or --tables or --check")
    if given.tasks and not (given.times or given.tables or (given.network and given.data_dir)):
        parser.error("give --network and --data-dir to train, or --times")
    return given


def main() -> None:
    given = parse()
    settle_process()
    torch.set_num_threads(given.threads)
    try:
        make(given, lambda: measure(given), PAGE, page)
    except InputError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
