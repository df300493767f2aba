"""How much of the arithmetic that octave saves is also saved in time, runtime by runtime.

    saving realised = (1 − time ratio) / (1 − ratio of multiply–accumulates)

each against the vanilla network in the same runtime. The networks take turns in one process, so that whatever
else the machine does meets all of them; a time ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from octavize.environment import environment
from octavize.errors import InputError, require_extra
from octavize.models import create_model
from octavize.profile import count_macs

from .freeze import freeze
from .runtime import load_runtime, torch_threads

WARM_UP_ROUNDS = 3
VANILLA = "vanilla"
Call = Callable[[], Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A network to time. `macs` are of one picture of `size` × `size` pixels."""

    name: str
    model: nn.Module
    size: int
    macs: int
    alpha: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What one set of timings has in common. `folder` is for files that runtimes read."""

    batch: int
    threads: int
    device: str
    folder: Path


Prepare = Callable[[Contender, Setting], Call]
"""Makes a call that runs a network once, on an input made beforehand."""


# ---- measuring ------------------------------------------------------------------------------------------


def interleave(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    warm_up: int = WARM_UP_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call in each round; the calls take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            start = clock()
            call()
            passed = clock() - start
            if number >= warm_up:
                seconds[name].append(passed)
    return seconds


def saving_realised(time_ratio: float, mac_ratio: float) -> float | None:
    """The share of the saved arithmetic that is saved in time; None where no arithmetic is saved."""
    return None if mac_ratio >= 1 else (1 - time_ratio) / (1 - mac_ratio)


def rows_of(seconds: Mapping[str, Sequence[float]], contenders: Sequence[Contender]) -> list[Row]:
    """A row a network, against the first of them."""
    first = contenders[0]
    rows = []
    for c in contenders:
        pairs = zip(seconds[c.name], seconds[first.name], strict=True)
        time_ratio, mac_ratio = statistics.median(own / base for own, base in pairs), c.macs / first.macs
        rows.append(
            {
                "network": c.name,
                "alpha": c.alpha,
                "size": c.size,
                "macs": c.macs,
                "mac_ratio": mac_ratio,
                "median_ms": 1e3 * statistics.median(seconds[c.name]),
                "time_ratio": time_ratio,
                "saving_realised": saving_realised(time_ratio, mac_ratio),
                "n": len(seconds[c.name]),
            }
        )
    return rows


def bench(
    contenders: Sequence[Contender],
    runtimes: Mapping[str, Prepare],
    *,
    batches: Iterable[int] = (1, 8),
    threads: Iterable[int] | None = None,
    rounds: int = 20,
    together: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time networks in several runtimes.

    Args:
        contenders: the first is what ratios refer to.
        runtimes: by name how a call is made, as in `RUNTIMES`.
        threads: numbers of CPU threads; None is one, and all of them.
        rounds: timed calls of each network, after three that are not.
        together: networks of all runtimes take turns, so that times may be compared across runtimes. Threads
            that one runtime leaves spinning then disturb the next.
        device: for PyTorch; the other runtimes are run on the CPU. `cuda` is untested.
        say: is told what comes next.

    Returns:
        `environment`, `rounds`, `together`, `device` and `rows`; JSON values.

    Raises:
        InputError: nothing to time, less than one round, or a network that a runtime does not take.
    """
    if not contenders or not runtimes:
        raise InputError("contenders and runtimes are needed: give at least one of each")
    if rounds < 1:
        raise InputError(f"rounds={rounds}: give at least 1")
    counts = sorted({1, os.cpu_count() or 1}) if threads is None else list(threads)
    groups = [list(runtimes)] if together else [[name] for name in runtimes]
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for batch in batches:
            for count in counts:
                for group in groups:
                    say(f"{', '.join(group)}: batch {batch}, {count} thread(s)")
                    setting = Setting(batch, count, device, Path(folder))
                    chosen = {name: runtimes[name] for name in group}
                    rows += _time_group(contenders, chosen, setting, rounds)
    where = environment("timm", "torchvision", "onnx", "onnxruntime", "openvino")
    del where["threads"]  # every row has its own
    return {"environment": where, "rounds": rounds, "together": together, "device": device, "rows": rows}


def _time_group(
    contenders: Sequence[Contender], runtimes: Mapping[str, Prepare], setting: Setting, rounds: int
) -> list[Row]:
    """Networks and runtimes that take turns."""
    with torch_threads(setting.threads), torch.inference_mode():
        calls = {
            f"{runtime}/{c.name}": prepare(c, setting)
            for runtime, prepare in runtimes.items()
            for c in contenders
        }
        seconds = interleave(calls, rounds)
    return [
        {"runtime": runtime, "batch": setting.batch, "threads": setting.threads, **row}
        for runtime in runtimes
        for row in rows_of({c.name: seconds[f"{runtime}/{c.name}"] for c in contenders}, contenders)
    ]


# ---- runtimes -------------------------------------------------------------------------------------------


def _shape(c: Contender, batch: int) -> tuple[int, ...]:
    channels = next(m.in_channels for m in c.model.modules() if isinstance(m, nn.Conv2d))
    return (batch, channels, c.size, c.size)


def _torch_call(model: nn.Module, c: Contender, setting: Setting) -> Call:
    model = model.to(setting.device)
    x = torch.randn(_shape(c, setting.batch), device=setting.device)
    x = x.contiguous(memory_format=torch.channels_last)

    def call() -> None:
        model(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    return call


def _eager(c: Contender, setting: Setting) -> Call:
    """The network as it is, channels-last."""
    import copy

    model = copy.deepcopy(c.model).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return _torch_call(model, c, setting)


def _frozen(c: Contender, setting: Setting) -> Call:
    return _torch_call(freeze(c.model, _shape(c, 1)), c, setting)


def _compiled(c: Contender, setting: Setting) -> Call:
    """torch.compile of the frozen network, its weights made constants."""
    frozen = freeze(c.model, _shape(c, 1)).to(setting.device)
    # All networks of an architecture share one `forward`: more of them than torch compiles of one by default.
    stack = ExitStack()
    stack.enter_context(
        torch._dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000)
    )
    call = _torch_call(torch.compile(frozen, fullgraph=True, options={"freezing": True}), c, setting)
    with stack:
        call()
    return call


def _exported(suffix: str) -> Prepare:
    def prepare(c: Contender, setting: Setting) -> Call:
        from .onnx import export_onnx
        from .openvino import export_openvino

        slug = "".join(letter if letter.isalnum() else "-" for letter in f"{c.name}-{setting.batch}")
        file = setting.folder / f"{slug}{suffix}"
        shape = _shape(c, setting.batch)
        if not file.exists():  # it serves for every number of threads
            write = export_onnx if suffix == ".onnx" else export_openvino
            with torch.inference_mode(False):
                write(c.model, file, shape, dynamic_batch=False)
        runner, batch = load_runtime(file, setting.threads), torch.randn(shape).numpy()
        return lambda: runner(batch)

    return prepare


RUNTIMES: dict[str, Prepare] = {
    "eager": _eager,
    "frozen": _frozen,
    "compile": _compiled,
    "onnxruntime": _exported(".onnx"),
    "openvino": _exported(".xml"),
}


def choose_runtimes(names: Sequence[str] | None) -> dict[str, Prepare]:
    """Runtimes by name; None is all.

    Raises:
        InputError: an unknown one, or one that is not installed.
    """
    for name in names or RUNTIMES:
        if name not in RUNTIMES:
            raise InputError(f"runtime {name!r} is unknown: choose from {', '.join(RUNTIMES)}")
        if name in ("onnxruntime", "openvino"):
            for module in {"onnx", "onnxscript", "onnxruntime", name}:
                require_extra(module, "deploy")
    return {name: RUNTIMES[name] for name in names or RUNTIMES}


# ---- networks -------------------------------------------------------------------------------------------


def contenders_of(
    build: Callable[[float], nn.Module], alphas: Sequence[float], size: int, *, same_macs: bool = False
) -> list[Contender]:
    """A network at several α, the vanilla one first.

    Args:
        build: makes the network of an α.
        size: side of the pictures in pixels.
        same_macs: after each, the vanilla network on smaller pictures that cost as much arithmetic.
    """
    vanilla = build(0.0)
    found = [Contender(VANILLA, vanilla, size, _macs(vanilla, size))]
    for alpha in alphas:
        if alpha == 0:
            continue
        model = build(alpha)
        octave = Contender(f"α={alpha:g}", model, size, _macs(model, size), alpha)
        found.append(octave)
        if same_macs:
            smaller = size_for(vanilla, size, octave.macs)
            name = f"vanilla, {smaller} pixels"
            if all(c.name != name for c in found):
                found.append(Contender(name, vanilla, smaller, _macs(vanilla, smaller)))
    return found


def narrower(name: str, size: int, macs: int, num_classes: int = 1000) -> Contender | None:
    """The vanilla network at the width, in hundredths, whose arithmetic is nearest; None if it has no width."""
    try:
        widths = [w / 100 for w in range(20, 101)]
        models: dict[float, int] = {}
        low, high = 0, len(widths) - 1
        while low < high:
            middle = (low + high) // 2
            models[middle] = _macs(create_model(name, 0, width=widths[middle], num_classes=num_classes), size)
            low, high = (middle + 1, high) if models[middle] < macs else (low, middle)
    except InputError:
        return None
    model = create_model(name, 0, width=widths[low], num_classes=num_classes)
    return Contender(f"vanilla, width {widths[low]:g}", model, size, _macs(model, size))


def size_for(model: nn.Module, size: int, macs: int) -> int:
    """The side of the pictures on which a network costs nearest to `macs`."""
    whole = _macs(model, size)
    guess = round(size * (macs / whole) ** 0.5)
    near = range(max(guess - size // 28, 1), min(guess + size // 28, size) + 1)
    return min(near, key=lambda side: abs(_macs(model, side) - macs))


def _macs(model: nn.Module, size: int) -> int:
    channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    return count_macs(model, (1, channels, size, size))
