"""What a network costs: parameters, multiply–accumulates, activation memory and time, vanilla beside octave.

Definitions, the same for every network:

* **params**: trainable and frozen parameters; buffers are not counted.
* **macs**: multiply–accumulates of convolutions and matrix products for one image, by torch's flop counter.
  Normalization, activation, pooling, up-sampling and additions are left out, as in the paper.
* **activation_bytes**: what autograd keeps for the backward pass, for one image: each storage once,
  parameters not counted, in the network's dtype, training mode.
* **latency_ms**: median time of one forward pass of the whole batch in evaluation mode, channels-last, the
  networks taking turns in one process; the ratio is the median of the rounds' ratios to the first network.
* **train_step_ms**: the same for forward, loss and backward in training mode, without the optimizer's step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize.bench.environment import environment, others_watched
from octavize.bench.timing import interleave, same_random_numbers
from octavize.convert.trace import (
    Shape,
    check_network,
    copied,
    dtype_of,
    explained,
    image_shape,
    leaves,
    to_meta,
    trace,
    without_devices,
)
from octavize.deploy.threads import torch_threads
from octavize.errors import InputError, whole
from octavize.report.naming import alpha_text
from octavize.text import Table, to_csv

IN_TRAINING = "in training mode, give larger images (--size) or more of them (--batch)"


@dataclass(frozen=True)
class Profile:
    """Costs of one network; see the module for the definitions. Ratios are to the first network measured."""

    params: int
    macs: int
    activation_bytes: int
    latency_ms: float
    latency_ratio: float
    train_step_ms: float | None = None
    train_step_ratio: float | None = None


def _counts(model: nn.Module, shape: Sequence[int]) -> tuple[int, int, int]:
    params = sum(p.numel() for p in model.parameters())
    return params, count_macs(model, shape), count_activation_bytes(model, shape)


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply–accumulates for one image of `input_shape`, (N, C, H, W); N does not matter."""
    return trace(model, (1, *input_shape[1:])).macs


def count_activation_bytes(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Bytes that autograd keeps for backward, for one image of `input_shape`; nothing is computed.

    Raises:
        InputError: the network does not run on such images in training mode.
    """
    meta = to_meta(model).train()
    known = {id(s): s for p in meta.parameters() for s in [p.untyped_storage()]}
    kept: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address comes twice

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in known:
            kept[id(storage)] = storage
        return tensor

    # Two images: batch norm cannot train on one value a channel.
    x = torch.empty((2, *input_shape[1:]), device="meta", dtype=dtype_of(meta))

    def run() -> None:
        kept.clear()
        with (
            explained(model, x.shape, IN_TRAINING),
            torch.autograd.graph.saved_tensors_hooks(remember, lambda t: t),
        ):
            meta(x)

    without_devices(run)
    return sum(storage.nbytes() for storage in kept.values()) // 2


def measure(
    models: Mapping[str, nn.Module],
    input_shape: Sequence[int] | Mapping[str, Sequence[int]],
    *,
    rounds: int = 20,
    threads: int | None = None,
    train: bool = False,
) -> dict[str, Profile]:
    """Costs of several networks that take turns; the first is what ratios refer to.

    The process is left as it is. The command line settles its own first, for good, which makes times
    steadier: call `octavize.bench.process.settle_process()` before anything else to time alike.

    Args:
        models: by name. Only read: mode, gradients and memory layout are as before afterwards.
        input_shape: (N, C, H, W), N being the batch that is timed; or by name the shape for each network.
        rounds: timed calls of each network.
        threads: of torch during the measurement; None leaves them as they are.
        train: also time training steps.

    Returns:
        For each name its `Profile`. MACs and memory are of one image, times of one batch.

    Raises:
        InputError: no networks, less than one round, or a network that does not run on such an input.
    """
    if not models:
        raise InputError("models is empty: give at least one network")
    whole("rounds", rounds, 1)
    for model in models.values():
        check_network(model)
    given = input_shape
    shapes = given if isinstance(given, Mapping) else dict.fromkeys(models, given)
    counted = {n: _counts(m, shapes[n]) for n, m in models.items()}
    with torch_threads(threads), same_random_numbers(), others_watched():
        latency = _medians({n: _inference(m, shapes[n]) for n, m in models.items()}, rounds)
        steps: dict[str, tuple[float, float]] = {}
        if train:
            steps = _medians({n: training_step(m, shapes[n]) for n, m in models.items()}, rounds)
    return {name: Profile(*counted[name], *latency[name], *steps.get(name, (None, None))) for name in models}


def _medians(calls: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds, and median ratio to the first, of calls that take turns."""
    times = interleave(calls, rounds)
    first = next(iter(times.values()))
    ratios = {name: [t / f for t, f in zip(own, first, strict=True)] for name, own in times.items()}
    return {name: (1e3 * statistics.median(times[name]), statistics.median(ratios[name])) for name in times}


def _inference(model: nn.Module, shape: Sequence[int]) -> Callable[[], None]:
    model, x = _channels_last(model, shape)
    model.eval()

    def call() -> None:
        with torch.inference_mode():
            model(x)
        wait(x)

    return call


def training_step(
    model: nn.Module,
    shape: Sequence[int],
    *,
    mixed: torch.dtype | None = None,
    backend: str | None = None,
    synchronize: bool = True,
) -> Callable[[], None]:
    """A call of forward, loss and backward on a copy of a network: what `train_step_ms` times.

    Of a network with auxiliary classifiers, the loss is that of the first of its outputs. The call raises
    `InputError` if the network does not run on such images in training mode, or is no classifier.

    Args:
        mixed: bfloat16 or float16 runs the forward pass and the loss under autocast, as training in mixed
            precision does; None computes in the network's own type.
        backend: of torch.compile, which compiles the network at the first call; None leaves it as it is.
        synchronize: whether a call ends when the device has done its work, or when it has been told all.
    """
    model, x = _channels_last(model, shape)
    model.train()
    run: Callable[[Tensor], Any] = model
    if backend is not None:
        run = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
    target = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)

    def call() -> None:
        model.zero_grad()
        with torch.autocast(x.device.type, mixed, enabled=mixed is not None):
            with explained(model, shape, IN_TRAINING):
                outputs = leaves(run(x))
            scores = next((y for y in outputs if isinstance(y, Tensor) and y.dim() == 2), None)
            if scores is None:
                raise InputError(
                    f"{type(model).__name__} returns no scores of shape (N, classes): training is "
                    "timed of classifiers"
                )
            loss = F.cross_entropy(scores, target)
        loss.backward()
        if synchronize:
            wait(x)

    return call


def _channels_last(model: nn.Module, shape: Sequence[int]) -> tuple[nn.Module, Tensor]:
    """A copy of the network and an input, both in the layout that is fast for either kind of network."""
    model = copied(model)
    parameter = next(model.parameters())
    x = torch.randn(tuple(shape), device=parameter.device, dtype=parameter.dtype)
    if x.dim() != 4:
        return model, x
    for p in model.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return model, x.contiguous(memory_format=torch.channels_last)


def wait(x: Tensor) -> None:
    """Until the device of a tensor has done what it was told."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


# ---- tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProfileTable:
    """Rows to print, or to write as CSV or JSON; `conditions` say what was measured how, and on what."""

    rows: list[dict[str, Any]]
    shown: Table  # the same rows in words, for people
    conditions: dict[str, Any]

    def to_csv(self) -> str:
        return to_csv(self.rows[0], self.rows)

    @property
    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.conditions, "rows": self.rows}


def profile_models(
    builders: Mapping[str, Callable[[float], nn.Module]],
    alphas: Sequence[float],
    *,
    size: int,
    batch: int = 1,
    rounds: int,
    threads: int | None = None,
) -> ProfileTable:
    """Costs of networks at several α; see `measure`. Ratios are to the first α of the same network.

    Args:
        builders: by name, what makes the network of an α.
        alphas: shares of low channels.
        size: side of the images in pixels; they have the channels that the networks take.
        batch, rounds, threads: see `measure`.

    Raises:
        InputError: no networks, no α, or a network that does not run on such images.
    """
    if not builders or not alphas:
        raise InputError(f"builders={dict(builders)}, alphas={list(alphas)}: give at least one of each")
    rows: list[dict[str, Any]] = []
    for name, build in builders.items():
        models = {alpha_text(alpha): build(alpha) for alpha in alphas}
        shape = image_shape(next(iter(models.values())), size, batch)
        profiles = measure(models, shape, rounds=rounds, threads=threads)
        rows += [
            {"model": name, "alpha": float(alpha), "channels": shape[1]}
            | {k: v for k, v in asdict(profile).items() if not k.startswith("train")}
            for alpha, profile in profiles.items()
        ]
    first = {row["model"]: row for row in reversed(rows)}
    shown = [_in_words(row, first[row["model"]]) for row in rows]
    where = environment("timm")
    where["threads"] = threads or where["threads"]
    conditions = {"size": size, "batch": batch, "rounds": rounds, "environment": where}
    title = f"{size} × {size} pixels, batch {batch}, {rounds} rounds, {where['threads']} thread(s)"
    head = ("network", "α", "params", "MACs", "memory", "latency")
    return ProfileTable(rows, Table(head, shown, title=title), conditions)


def _in_words(row: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[str, ...]:
    """A network's costs; counts also as a share of those at the first α."""
    macs, memory = row["macs"], row["activation_bytes"]
    return (
        row["model"],
        f"{row['alpha']:g}",
        f"{row['params'] / 1e6:.2f} M",
        f"{macs / 1e6:,.0f} M × {macs / first['macs']:.3f}",
        f"{memory / 1e6:.1f} MB × {memory / first['activation_bytes']:.3f}",
        f"{row['latency_ms']:.1f} ms × {row['latency_ratio']:.3f}",
    )


def layer_table(model: nn.Module, title: str, *, size: int) -> ProfileTable:
    """The convolutions and fully connected layers of a network, in the order in which they run.

    A row a layer: name, kind, shapes of both halves of what it writes, parameters, MACs of one batch.
    """
    input_shape = image_shape(model, size)
    run = trace(model, input_shape)
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "high_in": _size(layer.input[0]),
            "low_in": _size(layer.input[1]),
            "high_out": _size(layer.output[0]),
            "low_out": _size(layer.output[1]),
            "params": layer.params,
            "macs": layer.macs,
        }
        for layer in run.layers
    ]
    keys = ("layer", "kind", "high_out", "low_out", "params", "macs")
    shown = [tuple(f"{row[k]:,}" if isinstance(row[k], int) else row[k] for k in keys) for row in rows]
    title = f"{title}: {run.macs:,} MACs, input {input_shape}"
    table = Table(("layer", "kind", "high out", "low out", "params", "MACs"), shown, title=title)
    return ProfileTable(rows, table, {"input_shape": list(input_shape)})


def _size(shape: Shape | None) -> str:
    """C×H×W of a half, or a dash."""
    return "–" if shape is None else "×".join(map(str, shape[1:]))
