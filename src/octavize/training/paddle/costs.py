"""What the networks of a comparison cost in PaddlePaddle: counted, and timed in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from octavize.bench.environment import others_watched
from octavize.bench.timing import interleave
from octavize.files import known_json, write_json
from octavize.paddle.profile import count_params
from octavize.paddle.trace import trace
from octavize.training.paddle.data import Images
from octavize.training.paddle.train import build_network, cpu_threads, describe_environment
from octavize.training.recipe import Recipe
from octavize.training.runs import input_shape
from octavize.training.summary import Costs, Timing, key


def measure_costs(recipe: Recipe, images: Images, path: Path, timing: Timing) -> dict[str, Any]:
    """Costs of every network, measured once and kept in `profile.json` while machine, threads and versions
    are the same.

    The octave networks take turns with their vanilla twin. What autograd keeps, and the time of exported
    networks, are not measured.
    """
    shape = input_shape(recipe, images, timing.batch)
    conditions = {
        "input_shape": list(shape),
        "rounds": timing.rounds,
        "threads": cpu_threads(),
        "models": list(recipe.models),
        "alphas": sorted(recipe.alphas),
        "exported_to": None,
        "environment": describe_environment(recipe.precision),
    }
    known = known_json(path)
    if all(known.get(k) == v for k, v in conditions.items()) and known.get("networks"):
        return known
    networks: Costs = {}
    for model in recipe.models:
        alphas = sorted(recipe.alphas)
        group = {key(model, alpha): build_network(recipe, images, model, alpha) for alpha in alphas}
        networks |= _measured(group, shape, len(images.classes), timing.rounds)
    profile = {**conditions, "networks": networks}
    write_json(path, profile)
    return profile


def _measured(group: Mapping[str, nn.Layer], shape: Sequence[int], classes: int, rounds: int) -> Costs:
    random = np.random.default_rng(0)
    x = paddle.to_tensor(random.standard_normal(shape).astype(np.float32))
    labels = paddle.to_tensor(random.integers(0, classes, shape[0]))
    costs: Costs = {}
    for name, net in group.items():
        macs = trace(net, (1, *shape[1:])).macs
        costs[name] = {"params": count_params(net), "macs": macs, "activation_bytes": None}
    for label, prepare in (("latency", _forward), ("train_step", _training_step)):
        with others_watched():
            seconds = interleave({name: prepare(net, x, labels) for name, net in group.items()}, rounds)
        first = next(iter(seconds.values()))
        for name, own in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(own, first, strict=True))
            costs[name] |= {f"{label}_ms": 1e3 * statistics.median(own), f"{label}_ratio": ratio}
    for cost in costs.values():
        cost |= {"exported_ms": None, "exported_ratio": None}
    return costs


def _forward(net: nn.Layer, x: paddle.Tensor, labels: paddle.Tensor) -> Callable[[], object]:
    def call() -> None:
        net.eval()
        with paddle.no_grad():
            net(x).numpy()  # waits for what is still computed

    return call


def _training_step(net: nn.Layer, x: paddle.Tensor, labels: paddle.Tensor) -> Callable[[], object]:
    def call() -> None:
        net.train()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        net.clear_gradients()
        float(loss)

    return call
