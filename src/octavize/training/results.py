"""From finished runs to figures one can quote: costs measured, seeds averaged, files written."""

from __future__ import annotations

import logging
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from octavize.bench.contenders import Contender
from octavize.bench.environment import environment, told_once
from octavize.bench.profile import count_macs, measure
from octavize.bench.ratios import time_group
from octavize.bench.runtimes import Setting, choose_runtimes
from octavize.data.images import Images
from octavize.deploy.formats import timed_formats
from octavize.files import known_json, write_json
from octavize.report.progress import steps
from octavize.training.recipe import Recipe
from octavize.training.runs import input_shape
from octavize.training.summary import Costs, Results, Timing, key, write_summary
from octavize.training.train import build_network

logger = logging.getLogger(__name__)


def write_results(
    recipe: Recipe,
    images: Images,
    runs: list[dict[str, Any]],
    out: Path,
    timing: Timing,
) -> Results:
    """Measure, average and write `profile.json`, `results.csv`, `results.json`, figures and report."""
    logger.info("measuring costs")
    profile = measure_costs(recipe, images, out / "profile.json", timing)
    return write_summary(recipe, runs, profile, out)


def measure_costs(recipe: Recipe, images: Images, path: Path, timing: Timing) -> dict[str, Any]:
    """Costs of every network, measured once and kept in `profile.json` while machine, threads and versions
    are the same.

    The octave networks take turns with their vanilla twin, since only ratios of interleaved runs mean much.
    Networks are also timed as people deploy them: exported, if a runtime for exported files is installed.
    """
    runtime = next(iter(installed_runtimes()), None)
    packages = timed_formats()[runtime].needs if runtime else ()
    shape = input_shape(recipe, images, timing.batch)
    conditions = {
        "input_shape": list(shape),
        "rounds": timing.rounds,
        "threads": torch.get_num_threads(),
        "models": list(recipe.models),
        "alphas": sorted(recipe.alphas),
        "exported_to": None if runtime is None else timed_formats()[runtime].runtime,
        "environment": environment(*packages),
    }
    known = known_json(path)
    if all(known.get(k) == v for k, v in conditions.items()) and known.get("networks"):
        return known
    networks: Costs = {}
    alphas = sorted(recipe.alphas)
    with told_once():
        for model in steps(recipe.models, "measuring costs"):
            group = {key(model, alpha): build_network(recipe, images, model, alpha) for alpha in alphas}
            profiles = measure(group, shape, rounds=timing.rounds, train=True)
            exported = time_exported(group, shape, runtime, timing) if runtime else {}
            for name, profile in profiles.items():
                ms, ratio = exported.get(name, (None, None))
                networks[name] = asdict(profile) | {"exported_ms": ms, "exported_ratio": ratio}
    profile = {**conditions, "networks": networks}
    write_json(path, profile)
    return profile


def installed_runtimes() -> list[str]:
    """The runtimes of exported files that can be used here, OpenVINO first."""
    known = timed_formats()
    found = [name for name, kind in known.items() if all(map(find_spec, kind.needs))]
    return sorted(found, key=lambda name: name != "openvino")


def time_exported(
    models: dict[str, nn.Module], shape: tuple[int, ...], runtime: str, timing: Timing
) -> dict[str, tuple[float, float]]:
    """Milliseconds of each exported network for one batch, and its ratio to the first."""
    networks = [Contender(name, model, shape[1:], count_macs(model, shape)) for name, model in models.items()]
    with TemporaryDirectory() as folder:
        setting = Setting(shape[0], torch.get_num_threads(), "cpu", Path(folder))
        rows = time_group(networks, choose_runtimes([runtime]), setting, timing.rounds)
    return {row["network"]: (row["median_ms"], row["time_ratio"]) for row in rows}
