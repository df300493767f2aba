"""How long runs take: from epochs that were trained, else from a few timed steps."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from octavize.bench.profile import training_step
from octavize.bench.timing import interleave
from octavize.data.images import Images
from octavize.files import known_json, write_json
from octavize.report.numbers import seconds as told
from octavize.study.arms import macs_of, network, network_key
from octavize.study.design import Planned
from octavize.training.hardware import Hardware, device_of, lent
from octavize.training.metrics import known_metrics
from octavize.training.recipe import Recipe
from octavize.training.runs import input_shape

TRAINING = 3
"""A training step costs the forward pass three times: itself, and the gradients of inputs and of weights."""
MOST_MACS = 4e10
"""Of a timed step, about a second: networks of large images are timed on smaller batches. With very few
images, what a step does once, whatever its batch, would count for too much."""
STEPS = 3
FILE = "estimate.json"

Speeds = dict[str, float]
"""Training images a second by `network_key`."""


def all_macs(places: Sequence[Planned], images: Images) -> dict[str, int]:
    """MACs by `network_key`; each network is counted once."""
    recipes = {network_key(place.recipe): place.recipe for place in places}
    return {key: macs_of(recipe, images) for key, recipe in recipes.items()}


def trained_speeds(places: Sequence[Planned], out: Path, images: Images) -> Speeds:
    """Images a second, by network, of the epochs that runs have trained so far."""
    times: dict[str, list[float]] = defaultdict(list)
    for place in places:
        times[network_key(place.recipe)] += [row["seconds"] for row in known_metrics(place.folder(out))]
    return {key: len(images.train) / statistics.median(own) for key, own in times.items() if own}


def timed_speeds(places: Sequence[Planned], images: Images, known: Speeds, device: torch.device) -> Speeds:
    """Those of the networks that are not known yet, from a few training steps on noise."""
    recipes = {network_key(place.recipe): place.recipe for place in places}
    return known | {k: _timed_speed(r, images, device) for k, r in recipes.items() if k not in known}


def _timed_speed(recipe: Recipe, images: Images, device: torch.device) -> float:
    most = max(2, int(MOST_MACS / (TRAINING * macs_of(recipe, images))))
    batch = min(recipe.batch_size_of(recipe.models[0]), most)
    step = training_step(network(recipe, images).to(device), input_shape(recipe, images, batch))
    with _arithmetic(recipe, device):
        seconds = interleave({"": step}, STEPS, warm_up=1)[""]  # the first one sets up
    return batch / min(seconds)


def estimates(runs: Sequence[Planned], out: Path, images: Images, hardware: Hardware) -> dict[str, float]:
    """Seconds of training that each run takes on one worker, by slug.

    Where `out` holds finished epochs, their speed counts; otherwise a few training steps are timed here.

    Args:
        hardware: of one worker.
    """
    macs = all_macs(runs, images)
    with lent(hardware):  # a step is timed as a worker would train it
        speeds = timed_speeds(runs, images, trained_speeds(runs, out, images), device_of(hardware))
    return {run.slug: seconds_of(run.recipe, images, speeds, macs) or 0.0 for run in runs}


def foretell(runs: Sequence[Planned], out: Path, images: Images, hardware: Hardware) -> None:
    """Keep what each run is expected to take, before it is trained, to be told beside what it took."""
    known = known_json(out / FILE)
    if any(run.slug not in known for run in runs):
        write_json(out / FILE, {**estimates(runs, out, images, hardware), **known})


def hindsight(times: Mapping[str, float], out: Path) -> str:
    """What training took, beside what was expected before it began.

    Args:
        times: seconds of training of each finished run.
    """
    known = known_json(out / FILE)
    own = [run for run in times if run in known]
    text = f"{len(times)} runs took {told(sum(times.values()))} of training on one worker"
    if not own:
        return text
    which = (
        ""
        if len(own) == len(times)
        else f" for {len(own)} of them, which took {told(sum(times[r] for r in own))}"
    )
    return f"{text}; {told(sum(known[run] for run in own))} were expected{which}"


def seconds_of(recipe: Recipe, images: Images, speeds: Speeds, macs: Mapping[str, int]) -> float | None:
    """Training time of a run. A network that was never timed is as fast by its MACs as the others are."""
    key = network_key(recipe)
    speed = speeds.get(key)
    if speed is None and speeds:
        speed = statistics.fmean(s * macs[k] for k, s in speeds.items() if k in macs) / macs[key]
    work = len(images.train) + len(images.val) / TRAINING
    return None if speed is None else recipe.epochs_of(recipe.models[0]) * work / speed


def _arithmetic(recipe: Recipe, device: torch.device) -> Any:
    mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(recipe.precision)
    return nullcontext() if mixed is None else torch.autocast(device.type, mixed)
