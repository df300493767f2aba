"""Whether `octavize.paddle` computes what `octavize` does in torch: networks that both frameworks have.

    python benchmarks/paddle_parity.py                   # all that are not in the results yet
    python benchmarks/paddle_parity.py --only resnet18   # these again
    python benchmarks/paddle_parity.py --tables          # only docs/paddle-parity.md, from the results
    python benchmarks/paddle_parity.py --check

Needs both frameworks in one environment. Each network gets the same weights through
`octavize.paddle.weights`, is planned and converted by each backend by itself, and computes the same batch of
eight images; then both train for ten steps. Errors are lengths of differences over lengths of values.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch
import torchvision

import octavize
import octavize.paddle as octavize_paddle
from marked import add_options, make
from octavize.files import known_json, write_json
from octavize.paddle.torch_names import torch_name
from octavize.paddle.weights import _entries
from octavize.text import Table
from paddle_networks import ALIGNED, NOT_SHARED, Pair, one_thread, pairs

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "docs/results/paddle-parity.json", ROOT / "docs/paddle-parity.md"
ALPHA, BATCH, STEPS = 0.5, 8, 10
MOMENTUM = float(np.float32(0.9))  # Paddle holds it in float32
CLOSE = 1e-4  # losses that are further apart than this after ten steps are looked into
SGD_STEP = 0.001  # the length of the first step, as gradients of random weights are of any length
KINDS = ("vanilla", "octave")
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
FIELDS = ("output", "input_grad", "grad")


# ---- measuring ------------------------------------------------------------------------------------------


def measure(pair: Pair) -> dict[str, Any]:
    """One row: plans, errors by dtype, mode and kind, and the losses of ten steps."""
    ours, theirs = pair.build()
    shape = (1, 3, pair.side, pair.side)
    plans = (
        octavize.plan(ours, ALPHA, example=shape),
        octavize_paddle.plan(theirs, ALPHA, example=shape),
    )
    networks: dict[str, tuple[Any, Any]] = {
        "vanilla": (ours, theirs),
        "octave": (octavize.octavize(ours, plans[0]), octavize_paddle.octavize(theirs, plans[1])),
    }
    batch = images(pair.side)
    row: dict[str, Any] = {
        "model": pair.name,
        "side": pair.side,
        "octave_layers": sum(bool(d.alpha) for d in plans[0].decisions),
        "plan_differs": differences(plans[0], plans[1], torch_name(theirs)),
        "macs_ratio": [plan.macs_ratio for plan in plans],
        "aligned": ALIGNED.get(pair.name, ""),
    }
    del ours, theirs
    for kind in KINDS:
        in_torch, in_paddle = networks.pop(kind)  # in float64 a VGG and its gradients take gigabytes
        for dtype in ("float32", "float64"):
            in_torch, in_paddle = in_torch.to(getattr(torch, dtype)), in_paddle.to(dtype=dtype)
            for mode in ("eval", "train"):
                row[f"{kind}_{dtype}_{mode}"] = errors(in_torch, in_paddle, batch, dtype, mode)
        state = {key: value.clone() for key, value in in_torch.state_dict().items()}
        for optimizer in OPTIMIZERS:
            in_torch.load_state_dict(state)
            octavize_paddle.weights.from_torch(in_paddle, {k: v.numpy() for k, v in state.items()})
            row[f"{kind}_{optimizer}"] = losses(in_torch, in_paddle, batch, optimizer)
    return row


def images(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch and its classes."""
    numbers = np.random.default_rng(0)
    return numbers.standard_normal((BATCH, 3, side, side)), numbers.integers(0, 10, BATCH)


def differences(ours: octavize.Plan, theirs: octavize.Plan, rename: Any) -> list[str]:
    """The layers on which two plans disagree, by torch's names."""
    left = {d.name: (d.alpha, d.exchange, d.downsample, d.macs_before, d.macs_after) for d in ours.decisions}
    right = {
        rename(d.name): (d.alpha, d.exchange, d.downsample, d.macs_before, d.macs_after)
        for d in theirs.decisions
    }
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def errors(in_torch: Any, in_paddle: Any, batch: Any, dtype: str, mode: str) -> dict[str, float]:
    """Of outputs, gradients of the input, and gradients of the parameters (the worst of them)."""
    state = {key: value.clone() for key, value in in_torch.state_dict().items()}
    for network in (in_torch, in_paddle):
        network.train() if mode == "train" else network.eval()
    y, dx, grads = run_torch(in_torch, batch, dtype)
    y2, dx2, grads2 = run_paddle(in_paddle, batch, dtype)
    in_torch.load_state_dict(state)
    octavize_paddle.weights.from_torch(in_paddle, {key: value.numpy() for key, value in state.items()})
    values = (relative(y2, y), relative(dx2, dx), worst_of(grads2, grads))
    return dict(zip(FIELDS, values, strict=True))


def worst_of(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest error of the gradient of a parameter.

    Biases before a batch norm have gradients of zero, computed as rounding errors: hence `least`.
    """
    assert ours.keys() == theirs.keys()
    least = 1e-3 * max(length(g) for g in theirs.values())
    return max(length(ours[key] - theirs[key]) / max(length(theirs[key]), least) for key in theirs)


def float32_alone(pair: Pair) -> list[float]:
    """How far float32 gradients of the vanilla network are from float64, in torch and in Paddle."""
    worst = [0.0, 0.0]
    for mode in ("eval", "train"):
        in_torch, in_paddle = pair.build()
        exact = pair.build()[0].double()
        for network in (in_torch, in_paddle, exact):
            network.train() if mode == "train" else network.eval()
        wanted = run_torch(exact, images(pair.side), "float64")[2]
        found = (
            f(n, images(pair.side), "float32")[2] for f, n in ((run_torch, in_torch), (run_paddle, in_paddle))
        )
        worst = [max(before, worst_of(grads, wanted)) for before, grads in zip(worst, found, strict=True)]
    return worst


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return length(ours - theirs) / length(theirs)


def length(values: np.ndarray) -> float:
    """The root of the sum of squares: a unit that rounding takes across a ReLU's bend counts little."""
    return float(np.sqrt(np.square(values.astype("float64")).sum()))


def run_torch(network: Any, batch: Any, dtype: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    x = torch.from_numpy(batch[0].astype(dtype)).requires_grad_()
    network.zero_grad()
    y = network(x)
    torch.nn.functional.cross_entropy(y, torch.from_numpy(batch[1])).backward()
    assert x.grad is not None
    grads = {key: p.grad.numpy().copy() for key, p in network.named_parameters() if p.grad is not None}
    return y.detach().numpy(), x.grad.numpy(), grads


def run_paddle(network: Any, batch: Any, dtype: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    x = paddle.to_tensor(batch[0].astype(dtype), stop_gradient=False)
    network.clear_gradients()
    y = network(x)
    paddle.nn.functional.cross_entropy(y, paddle.to_tensor(batch[1])).backward()
    assert x.grad is not None
    grads = {
        entry.key: entry.value.grad.numpy().T if entry.transposed else entry.value.grad.numpy()
        for entry in _entries(network, None)
        if entry.value.grad is not None
    }
    return y.numpy(), x.grad.numpy(), grads


def losses(in_torch: Any, in_paddle: Any, batch: Any, optimizer: str) -> float:
    """The largest relative difference of the losses of ten steps in float64."""
    rate = step_length(in_torch, batch, optimizer)
    in_torch.train(), in_paddle.train()
    parameters = in_paddle.parameters()
    if optimizer == "sgd":
        taking: Any = paddle.optimizer.Momentum(rate, MOMENTUM, parameters=parameters)
    else:
        taking = paddle.optimizer.Adam(rate, parameters=parameters)
    x, labels = paddle.to_tensor(batch[0]), paddle.to_tensor(batch[1])
    loss = partial(paddle.nn.functional.cross_entropy, label=labels)
    theirs = steps(lambda: loss(in_paddle(x)), taking.clear_grad, taking.step)
    return apart(torch_losses(in_torch, batch, optimizer, rate), theirs)


def torch_losses(network: Any, batch: Any, optimizer: str, rate: float) -> list[float]:
    """The losses of ten steps in training mode."""
    if optimizer == "sgd":
        taking: Any = torch.optim.SGD(network.parameters(), rate, momentum=MOMENTUM)
    else:
        taking = torch.optim.Adam(network.parameters(), rate)
    x, labels = torch.from_numpy(batch[0]), torch.from_numpy(batch[1])
    loss = partial(torch.nn.functional.cross_entropy, target=labels)
    return steps(lambda: loss(network(x)), taking.zero_grad, taking.step)


def steps(loss_now: Callable[[], Any], clear: Callable[[], Any], step: Callable[[], Any]) -> list[float]:
    """The loss before each of ten steps, in either framework."""
    found = []
    for _ in range(STEPS):
        loss = loss_now()
        found.append(loss.item())
        clear()
        loss.backward()
        step()
    return found


def step_length(network: Any, batch: Any, optimizer: str) -> float:
    return SGD_STEP / gradient_norm(network.train(), batch) if optimizer == "sgd" else 1e-4


def apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference of two trainings' losses."""
    return max(abs(a - b) / abs(a) for a, b in zip(ours, theirs, strict=True))


def magnified(pair: Pair, row: dict[str, Any], kind: str, optimizer: str) -> float:
    """How far torch's own losses come apart where its images differ by as little as the frameworks do.

    That is by the error of the gradients in float64, as a share of each value.
    """
    share = max(row[f"{kind}_float64_{mode}"][field] for mode in ("eval", "train") for field in FIELDS)
    pixels, labels = images(pair.side)
    other = pixels * (1 + share * np.random.default_rng(1).standard_normal(pixels.shape))
    found = []
    for seen in (pixels, other):
        network = pair.build()[0]
        if kind == "octave":
            network = octavize.octavize(network, ALPHA, example=(1, 3, pair.side, pair.side))
        network = network.double().train()
        rate = step_length(network, (pixels, labels), optimizer)
        found.append(torch_losses(network, (seen, labels), optimizer, rate))
    return apart(*found)


def gradient_norm(network: Any, batch: Any) -> float:
    """The length of the gradient of the first step, which leaves the network as it was."""
    state = {key: value.clone() for key, value in network.state_dict().items()}
    grads = run_torch(network, batch, "float64")[2]
    network.load_state_dict(state)
    return float(np.sqrt(sum((g**2).sum() for g in grads.values())))


# ---- the page -------------------------------------------------------------------------------------------

HEAD = """# One network in both frameworks

<!-- Written by `python benchmarks/paddle_parity.py` from docs/results/paddle-parity.json; change that. -->

{which} networks that torchvision {torchvision} and `paddle.vision.models` of Paddle {paddle} both
have and timm's MobileNetV1, at random initial weights that went through `octavize.paddle.weights.from_torch`;
batches of eight random images, one thread. `octavize(model, 0.5)` of torch {torch} beside
`octavize.paddle.octavize`.

* **plans**: whether both planners decided the same for every layer, its cost included.
* Errors are the length of the difference over the length of the value, and each cell has *vanilla / octave*:
  the first is what the two frameworks differ by without us. **gradients** is the worst of those of the input
  and of each parameter. **eval** and **train** are the modes; in float64 the worse of both modes is given.
* **ten steps** on one batch in float64, training mode, at lengths of step at which the networks learn: the
  largest relative difference between the losses.

In float32 a rounding error takes some units across a ReLU's bend, and batch norms over a few pixels of random
images magnify it. So gradients in float32 differ between the frameworks as each differs from its own float64:
**float32 against float64** is the worst gradient of the vanilla network in either mode.

Paddle holds the ε of a batch norm and the momentum of SGD in float32, so torch's
were set to the same numbers. Paddle's `adaptive_avg_pool2d` divides by the number of its pixels in float32 on
its way back, so gradients in float64 agree to about 1e-8 where that number is no power of two.
"""
FAR = """In these trainings the losses come apart by more than 1e-4 within ten steps: Adam divides gradients
by their size, and these networks magnify small errors. Beside each stands how far two trainings in torch
alone come apart, where the images of one differ by as little as the frameworks' gradients do in float64."""
COLUMNS = (
    *("network", "pixels", "plans", "output, eval, float32", "gradients, eval, float32"),
    *(
        "gradients, train, float32",
        "float32 against float64, torch / Paddle",
        "output, float64",
        "gradients, float64",
        "ten steps, SGD",
        "Adam",
    ),
)


def page(text: str) -> str:
    """docs/paddle-parity.md."""
    results = known_json(DATA)
    rows = results["networks"]
    table = Table(COLUMNS, [line(row) for row in rows], align="lrl" + 8 * "r").markdown()
    names, measured = [pair.name for pair in pairs()], {row["model"] for row in rows}
    shared, done = len(names) - 1, len(rows) - 1  # MobileNetV1 is timm's
    which = f"The {shared}" if done == shared else f"{done} of the {shared}"
    head = HEAD.format(which=which, **results["versions"])
    lines = [head, table, ""]
    if missing := [name for name in names if name not in measured]:
        lines += [f"Not measured yet: {', '.join(missing)}.", ""]
    if far := [told for row in rows for told in far_apart(row)]:
        lines += [FAR, "", *far, ""]
    told = [f"* {row['model']}: {row['aligned']}." for row in rows if row["aligned"]]
    lines += [
        "Torch's network was made to compute what Paddle's does, where the libraries differ:",
        "",
        *told,
        "",
    ]
    lines += ["Not compared, as the libraries' networks of one name are two networks:", ""]
    return "\n".join([*lines, *(f"* {name}: {why}." for name, why in results["not_shared"].items()), ""])


def far_apart(row: dict[str, Any]) -> list[str]:
    """Of each training whose losses came apart by more than `CLOSE`, by how much, and torch's own by what."""
    return [
        f"* {row['model']}, {kind}, {name}: {row[f'{kind}_{optimizer}']:.0e}; "
        f"torch alone {row[f'{kind}_{optimizer}_magnified']:.0e}."
        for kind in KINDS
        for optimizer, name in OPTIMIZERS.items()
        if row[f"{kind}_{optimizer}"] > CLOSE
    ]


def line(row: dict[str, Any]) -> list[str]:
    def cell(fields: Sequence[str], *keys: str) -> str:
        worst = [max(row[f"{kind}_{key}"][f] for f in fields for key in keys) for kind in KINDS]
        return " / ".join(f"{error:.0e}" for error in worst)

    plans = ", ".join(row["plan_differs"]) or "same"
    double = ("float64_eval", "float64_train")
    steps = [" / ".join(f"{row[f'{kind}_{o}']:.0e}" for kind in KINDS) for o in OPTIMIZERS]
    return [
        *(row["model"], str(row["side"]), plans, cell(FIELDS[:1], "float32_eval")),
        *(cell(FIELDS[1:], "float32_eval"), cell(FIELDS[1:], "float32_train")),
        " / ".join(f"{error:.0e}" for error in row["float32_alone"]),
        *(cell(FIELDS[:1], *double), cell(FIELDS[1:], *double), *steps),
    ]


def run(only: Iterable[str]) -> None:
    one_thread()
    warnings.filterwarnings("ignore", "When training, we now always track")
    only = set(only)
    known = {row["model"]: row for row in known_json(DATA).get("networks", [])}
    every = pairs()
    for pair in every:
        if pair.name in only or (not only and pair.name not in known):
            row = known[pair.name] = {**measure(pair), "float32_alone": float32_alone(pair)}
            for kind, optimizer in itertools.product(KINDS, OPTIMIZERS):
                if row[f"{kind}_{optimizer}"] > CLOSE:
                    row[f"{kind}_{optimizer}_magnified"] = magnified(pair, row, kind, optimizer)
            print(line(row), flush=True)
            versions = {m.__name__: str(m.__version__) for m in (octavize, torch, torchvision, paddle)}
            rows = [known[p.name] for p in every if p.name in known]
            write_json(
                DATA, {"alpha": ALPHA, "versions": versions, "not_shared": NOT_SHARED, "networks": rows}
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="MODEL")
    add_options(parser, "docs/paddle-parity.md")
    given = parser.parse_args()
    make(given, lambda: run(given.only), PAGE, page)


if __name__ == "__main__":
    main()
