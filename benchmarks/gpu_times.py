"""How long forward passes and training steps take on a device, vanilla and octave taking turns."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from torch import nn

import octavize
from gpu_device import NEEDS_CUDA, capture, free, is_cuda, synchronize
from octavize.bench.contenders import Contender, contenders_of
from octavize.bench.profile import training_step
from octavize.bench.ratios import rows_of
from octavize.bench.timing import interleave
from octavize.errors import one_line

Call = Callable[[], Any]
Row = dict[str, Any]
EXCHANGES = ("every", "every:high_to_low", "block", "block:high_to_low", "stage:high_to_low", "none")
COMPILED = ("every", "block:high_to_low")
"""To compile takes minutes, so fewer are."""
PRECISIONS = {"bf16": torch.bfloat16, "float32": torch.float32}
HOST_CALLS = 5
JOB_SECONDS = 15.0
"""So long the rounds of one job may take; slow devices have fewer rounds."""
LEAST_ROUNDS = 3
GUESSES = {"forward compiled": 60.0, "training compiled": 120.0}
"""Seconds, until such a network was compiled."""
RUNTIMES = {"forward": ("graph", "eager", "compiled"), "training": ("eager", "compiled")}
FIRST = (
    ("training", "eager", 32),
    ("forward", "graph", 1),
    ("forward", "eager", 1),
    ("forward", "graph", 256),
    ("forward", "compiled", 32),
    ("training", "compiled", 32),
)
"""The most telling comes first, for the case that time runs out."""
DEFINITIONS = {
    "median_ms": "median of the rounds, until the device is done; the networks take turns",
    "time_ratio": "to vanilla in the same runtime, precision and batch: median of the rounds' ratios",
    "fastest_ratio": "to the fastest vanilla of any runtime and precision timed in the same batch, which "
    "`fastest_vanilla` names: ratio of the medians",
    "host_ms": f"until the call returns, without waiting for the device: median of up to {HOST_CALLS} calls; "
    "where the queue of the device is full, the host waits in it",
    "launches": "kernels of one call, by torch.profiler; copies and clearing of memory not counted",
    "compile_s": "the first call of a compiled network",
    "training": "forward, loss and backward, without the optimizer's step; bf16 by autocast",
    "forward": "in inference mode; bf16 weights and images",
}


@dataclass(frozen=True)
class Scale:
    """What is timed."""

    models: Mapping[str, int] = field(default_factory=lambda: {"oct_resnet50": 224, "oct_mobilenet_v1": 224})
    exchanges: tuple[str, ...] = EXCHANGES
    batches: tuple[int, ...] = (1, 32, 256)
    compiled_training: tuple[int, ...] = (32,)
    rounds: int = 20
    warm_up: int = 3
    backend: str = "inductor"


SMOKE = Scale({"oct_cifar_resnet20": 32}, COMPILED, (1, 2), (2,), rounds=3, warm_up=1, backend="aot_eager")


@dataclass(frozen=True)
class Job:
    """Networks that take turns."""

    kind: str
    runtime: str
    batch: int
    precision: str
    model: str

    def __str__(self) -> str:
        return f"{self.model}, {self.kind} {self.runtime}, batch {self.batch}, {self.precision}"

    @property
    def cost(self) -> str:
        """What jobs share that take about as long to prepare."""
        return f"{self.kind} {self.runtime}"


def jobs(scale: Scale) -> list[Job]:
    """All there is to time, the most telling first."""
    kinds = [(kind, runtime) for kind, runtimes in RUNTIMES.items() for runtime in runtimes]
    found = [
        Job(kind, runtime, batch, precision, model)
        for (kind, runtime), batch, precision, model in product(
            kinds, scale.batches, PRECISIONS, scale.models
        )
        if (kind, runtime) != ("training", "compiled") or batch in scale.compiled_training
    ]
    return sorted(found, key=_rank)  # stable


def _rank(job: Job) -> tuple[int, int]:
    place = job.kind, job.runtime, job.batch
    late = job.runtime == "compiled" and job.precision != "bf16"
    return int(place not in FIRST or late), FIRST.index(place) if place in FIRST else len(FIRST)


class Budget:
    """The time that is left, and how long things took that are to be done again."""

    def __init__(self, minutes: float) -> None:
        self.start, self.seconds = time.monotonic(), 60 * minutes
        self.longest: dict[str, float] = {}

    def spent(self) -> float:
        return time.monotonic() - self.start

    def allows(self, what: str) -> bool:
        """Whether there is time for one more of these: as long as guessed, or as the longest so far."""
        needed = max(GUESSES.get(what, JOB_SECONDS), self.longest.get(what, 0.0))
        return self.spent() + needed <= self.seconds

    def learn(self, what: str, seconds: float) -> None:
        self.longest[what] = max(seconds, self.longest.get(what, 0.0))


@dataclass
class Found:
    """Rows, and by name what is not among them, with the reason."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def leave_out(self, what: str, why: str) -> None:
        self.left_out.append({"what": what, "why": why})


def time_all(
    scale: Scale, device: str, budget: Budget, after_each: Callable[[Found, Job], object] = lambda *_: None
) -> Found:
    """Run the jobs until time is over. A job that fails does not stop the rest."""
    found = Found()
    for job in jobs(scale):
        if job.runtime == "graph" and not is_cuda(device):
            found.leave_out(str(job), NEEDS_CUDA)
        elif not budget.allows(job.cost):
            found.leave_out(str(job), "no time left: give more --minutes")
        else:
            start = budget.spent()
            try:
                networks = _networks(job.model, scale.models[job.model], scale.exchanges)
                start = budget.spent()
                found.rows += time_job(job, networks, scale, device, budget, found)
            except torch.OutOfMemoryError:
                found.leave_out(str(job), "out of memory")
            except Exception as problem:  # whatever it is, it is listed
                found.failed.append(
                    {"what": str(job), "why": f"{type(problem).__name__}: {one_line(problem)}"}
                )
            free(device)
            if job.runtime != "compiled":  # that counts each network by itself
                budget.learn(job.cost, budget.spent() - start)
        after_each(found, job)
    with_fastest(found.rows)
    return found


def time_job(
    job: Job, networks: Sequence[Contender], scale: Scale, device: str, budget: Budget, found: Found
) -> list[Row]:
    """A row a network."""
    if job.runtime == "compiled":
        networks = [c for c in networks if c.exchange in (None, *COMPILED)]
    pool = torch.cuda.graph_pool_handle() if job.runtime == "graph" else None
    calls: dict[str, Call] = {}
    first_calls: dict[str, float] = {}
    for c in networks:
        if job.runtime == "compiled" and not budget.allows(job.cost):
            found.leave_out(f"{job}, {c.name}", "no time left to compile it: give more --minutes")
            continue
        call = _prepare(job, c, scale.backend, device, pool)
        calls[c.name], first_calls[c.name] = call, _seconds(call, device)
        if job.runtime == "compiled":
            budget.learn(job.cost, first_calls[c.name])
    if not calls:
        return []
    waited = {name: partial(_waited, call, device) for name, call in calls.items()}
    one_round = sum(_seconds(call, device) for call in calls.values())
    rounds = max(LEAST_ROUNDS, min(scale.rounds, int(JOB_SECONDS / one_round)))
    seconds = interleave(waited, rounds, warm_up=min(scale.warm_up, rounds // LEAST_ROUNDS))
    place = {"model": job.model, "kind": job.kind, "runtime": job.runtime, "precision": job.precision}
    rows = rows_of(seconds, [c for c in networks if c.name in calls])
    for row in rows:
        name = row["network"]
        row |= {
            "host_ms": 1e3 * statistics.median(_host_seconds(calls[name], device, min(rounds, HOST_CALLS))),
            "launches": count_launches(calls[name], device),
            "compile_s": first_calls[name] if job.runtime == "compiled" else None,
        }
    return [place | {"batch": job.batch} | row for row in rows]


@cache
def _networks(model: str, size: int, exchanges: tuple[str, ...]) -> list[Contender]:
    return contenders_of(partial(octavize.create_model, model), (0.5,), size, exchanges=exchanges)


# ---- calls, which return without waiting for the device ----------------------------------------------------


def _prepare(job: Job, c: Contender, backend: str, device: str, pool: Any) -> Call:
    compiled_by = backend if job.runtime == "compiled" else None
    if job.kind == "training":
        return _training(job, c, compiled_by, device)
    call = _forward(job, c, compiled_by, device)
    return capture(call, pool) if job.runtime == "graph" else call


def _forward(job: Job, c: Contender, compiled_by: str | None, device: str) -> Call:
    told: dict[str, Any] = {"dtype": PRECISIONS[job.precision], "memory_format": torch.channels_last}
    model: nn.Module = copy.deepcopy(c.model).eval().to(device, **told)
    x = torch.randn(c.shape(job.batch)).to(device, **told)
    run: Callable[[torch.Tensor], Any] = model
    if compiled_by is not None:
        run = torch.compile(model, backend=compiled_by, fullgraph=True, dynamic=False)

    def call() -> None:
        with torch.inference_mode():
            run(x)

    return call


def _training(job: Job, c: Contender, compiled_by: str | None, device: str) -> Call:
    model = copy.deepcopy(c.model).to(device)
    mixed = torch.bfloat16 if job.precision == "bf16" else None
    return training_step(model, c.shape(job.batch), mixed=mixed, backend=compiled_by, synchronize=False)


def _waited(call: Call, device: str) -> None:
    call()
    synchronize(device)


def _seconds(call: Call, device: str) -> float:
    start = time.perf_counter()
    _waited(call, device)
    return time.perf_counter() - start


def _host_seconds(call: Call, device: str, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        synchronize(device)
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    synchronize(device)
    return seconds


# ---- what the rows are made of -----------------------------------------------------------------------------


def count_launches(call: Call, device: str) -> int | None:
    """Kernels of one call; None where there are none to count."""
    if not is_cuda(device):
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        _waited(call, device)
    return kernels(found.events() or ())


def kernels(events: Iterable[Any]) -> int:
    """How many of a profiler's events are kernels."""
    on_device = (e for e in events if e.device_type.name == "CUDA")
    names = (e.name for e in on_device if not getattr(e, "is_user_annotation", False))
    return sum(not name.startswith(("Memcpy", "Memset")) for name in names)


def with_fastest(rows: Sequence[Row]) -> None:
    """Put into each row its ratio to the fastest vanilla of any runtime and precision."""
    places = ("model", "kind", "batch")
    fastest: dict[tuple[Any, ...], Row] = {}
    for row in sorted(rows, key=lambda row: -row["median_ms"]):
        if row["alpha"] == 0:
            fastest[tuple(row[place] for place in places)] = row
    for row in rows:
        best = fastest[tuple(row[place] for place in places)]
        row["fastest_ratio"] = row["median_ms"] / best["median_ms"]
        row["fastest_vanilla"] = f"{best['runtime']}, {best['precision']}"
