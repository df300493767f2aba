"""Trained networks as people deploy them: exported to a runtime, tested in each precision, and timed there.

What a run's network answers there is kept in `deployed.json` in the run's folder, and holds for as long as
the run and the runtime's version are the same. Times are kept with the other costs, see `costs`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from octavize.bench.environment import environment
from octavize.bench.ratios import time_group
from octavize.bench.runtimes import Setting, check_precisions, choose_runtimes
from octavize.data.images import Images
from octavize.deploy.export import export
from octavize.deploy.formats import timed_formats
from octavize.deploy.runtime import Runner, load_runtime
from octavize.errors import InputError
from octavize.files import known_json, write_json
from octavize.report.progress import steps
from octavize.study.arms import THREADS, contender, network_key
from octavize.study.design import Planned
from octavize.study.model import COSTS, Deploy, Study
from octavize.study.work import finished, in_one_line
from octavize.training.inputs import TrainingInputs, as_seen
from octavize.training.recipe import Recipe
from octavize.training.runs import input_shape
from octavize.zoo.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)
DEPLOYED = "deployed.json"
CALIBRATION = 300
"""Training images that int8 is quantized on, always the same ones."""
CHUNK = 64
"""Test images that are made ready together; they are run one by one, as they are timed."""
BATCHES = (1, 8)
"""Images of a timed call."""
CALLS = 5
"""Timed calls for one in torch: these are short."""

Accuracies = dict[str, float]
"""Of a run's test images, by precision."""
Times = dict[str, dict[str, dict[str, float]]]
"""Milliseconds an image: by `network_key`, precision and batch."""


def check_runtimes(study: Study) -> None:
    """Raises InputError where a package is missing that a runtime of the study needs, or a precision."""
    matched = {arm.match.to for arm in study.arms if arm.match and arm.match.to not in COSTS}
    for runtime in sorted(matched | ({study.deploy.runtime} if study.deploy else set())):
        choose_runtimes([runtime])
    if study.deploy:
        check_precisions(study.deploy.precisions, [study.deploy.runtime])


def accuracies_in(folder: Path, deploy: Deploy) -> Accuracies:
    """What a run's folder knows of the precisions that are asked for."""
    result = finished(folder)
    kept = known_json(folder / DEPLOYED).get(deploy.runtime, {})
    if result is None or any(kept.get(key) != value for key, value in _conditions(result, deploy).items()):
        return {}
    return {name: kept["accuracy"][name] for name in deploy.precisions if name in kept["accuracy"]}


def deploy_runs(runs: Iterable[Planned], images: Images, deploy: Deploy, out: Path) -> list[dict[str, Any]]:
    """Test the networks of all finished runs in every precision in which that was not done before.

    Returns:
        What could not be done, each with `run`, `precision` and `reason`; the next call tries again.

    Raises:
        InputError: trouble of the machine, such as a full disk.
    """
    failed: list[dict[str, Any]] = []
    for place in runs:
        folder = place.folder(out)
        if finished(folder) is None:
            continue
        for precision in deploy.precisions:
            if precision in accuracies_in(folder, deploy):
                continue
            logger.info("testing in %s, %s: %s, %s", deploy.name, precision, place.run, place.arm)
            with in_one_line(out, f"run {place.slug} in {deploy.name}"):
                try:
                    accuracy = _accuracy(folder, place.recipe, images, deploy.runtime, precision)
                except InputError as error:
                    failed.append({"run": place.slug, "precision": precision, "reason": str(error)})
                else:
                    _keep(folder, deploy, precision, accuracy)
    return failed


def _accuracy(folder: Path, recipe: Recipe, images: Images, runtime: str, precision: str) -> float:
    """Of the weights that the run's own test accuracy is of."""
    model, _ = load_checkpoint(folder / "best.safetensors")
    sample = TrainingInputs(images, recipe, CALIBRATION) if precision == "int8" else None
    with TemporaryDirectory() as temporary, _in_its_precision():
        path = Path(temporary) / f"network{timed_formats()[runtime].suffix}"
        shape = input_shape(recipe, images)
        export(model, path, shape, precision=precision, calibration=sample, dynamic_batch=False)
        return accuracy_of(load_runtime(path, trust=True), images, recipe)


@contextmanager
def _in_its_precision() -> Any:
    """Refuse what a runtime would only warn of: that it computes in another precision on this processor."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for warning in told:
        if "has no bf16" in str(warning.message):
            raise InputError("this processor has no bf16: test the study on one that has")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def accuracy_of(runner: Runner, images: Images, recipe: Recipe) -> float:
    """Share of the test images, 0 … 1, that an exported network names rightly."""
    right = 0
    for chunk in steps(torch.arange(len(images.test)).split(CHUNK), "testing"):
        pixels, labels = images.test.__getitems__(chunk)
        seen = as_seen(pixels, images, recipe).split(1)
        found = [int(runner(image).argmax()) for image in seen]
        right += int((torch.tensor(found) == labels).sum())
    return round(right / len(images.test), 7)


def _keep(folder: Path, deploy: Deploy, precision: str, accuracy: float) -> None:
    known = known_json(folder / DEPLOYED)
    own = {**_conditions(finished(folder) or {}, deploy), "accuracy": accuracies_in(folder, deploy)}
    own["accuracy"][precision] = accuracy
    write_json(folder / DEPLOYED, {**known, deploy.runtime: own})


def _conditions(result: Mapping[str, Any], deploy: Deploy) -> dict[str, Any]:
    """What an accuracy depends on beside the precision."""
    where, packages = _environment(deploy.runtime), _packages(deploy.runtime)
    return {
        "weights": {key: result.get(key) for key in ("best_epoch", "test_accuracy", "test_loss")},
        "calibration": CALIBRATION,
        "versions": {name: where[name] for name in packages if name in where},
    }


def _packages(runtime: str) -> tuple[str, ...]:
    kind = timed_formats()[runtime]
    return (*kind.needed_to_load, *kind.needed_to_lower)


@cache
def _environment(runtime: str) -> dict[str, Any]:
    return {**environment(*_packages(runtime)), "threads": THREADS}


def to_time(places: Iterable[Planned], deploy: Deploy, out: Path) -> tuple[list[str], dict[str, Planned]]:
    """The precisions in which anything was tested, and by `network_key` a run of each network that was tested
    in all of these."""
    tested = [(place, accuracies_in(place.folder(out), deploy)) for place in places]
    precisions = [name for name in deploy.precisions if any(name in own for _, own in tested)]
    return precisions, {network_key(p.recipe): p for p, own in tested if own.keys() >= set(precisions)}


def time_conditions(deploy: Deploy, precisions: Sequence[str], rounds: int) -> dict[str, Any]:
    """What `times_of` depends on beside the networks."""
    shared = {"runtime": deploy.runtime, "precisions": list(precisions), "rounds": CALLS * rounds}
    return {**shared, "environment": _environment(deploy.runtime)}


def times_of(places: Iterable[Planned], images: Images, out: Path, asked: Mapping[str, Any]) -> Times:
    """Time of each network in each precision, by the CPU time of one thread; all of them take turns.

    Args:
        places: finished runs, one of each network.
        asked: see `time_conditions`.
    """
    networks = [
        contender(place.recipe, images, load_checkpoint(place.folder(out) / "best.safetensors")[0])
        for place in places
    ]
    chosen = choose_runtimes([asked["runtime"]])
    times: Times = {}
    with TemporaryDirectory() as folder:
        for batch in BATCHES:
            setting = Setting(batch, THREADS, "cpu", Path(folder))
            for row in time_group(networks, chosen, setting, asked["rounds"], asked["precisions"]):
                own = times.setdefault(row["network"], {}).setdefault(row["precision"], {})
                own[str(batch)] = row["median_ms"] / batch
    return times


def deployed_rows(results: Mapping[str, Any], costs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each network of a study answers in the runtime and how long it takes, a row a precision.

    Args:
        results: of `analyze`.

    Returns:
        For each of `results["networks"]` and each precision in which its runs were tested `cell`, `model`,
        `arm`, `precision`, of the test accuracy what `summary` tells, and `ms`: by batch the milliseconds an
        image, empty where they were not measured.
    """
    asked, rows = results["deploy"], []
    for net in results["networks"] if asked else ():
        timed = costs.get(net["model"], {}).get("deployed", {})
        times = timed["networks"] if timed.get("runtime") == asked["runtime"] else {}
        for precision, accuracy in net["deployed"].items():
            place = {key: net[key] for key in ("cell", "model", "arm")}
            ms = times.get(net["network"], {}).get(precision, {})
            rows.append({**place, "precision": precision, **accuracy, "ms": ms})
    return rows
