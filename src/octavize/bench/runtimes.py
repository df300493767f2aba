"""How each runtime of a benchmark gets a network and an input ready to be called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn

from octavize.bench.contenders import Contender
from octavize.bench.profile import training_step, wait
from octavize.convert.inputs import Inputs, inputs_of
from octavize.convert.trace import copied
from octavize.deploy.export import export
from octavize.deploy.formats import Format, timed_formats
from octavize.deploy.freeze import freeze
from octavize.deploy.lowering import check_precision
from octavize.deploy.runtime import load_runtime
from octavize.errors import InputError, require_extra
from octavize.nn._torch_internals import constant_weights

Call = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """What one set of timings has in common. `folder` is for files that runtimes read."""

    batch: int
    threads: int
    device: str
    folder: Path
    precision: str = "float32"


Prepare = Callable[[Contender, Setting], Call]
"""Makes a call that runs a network once, on an input made beforehand."""


def _inputs(c: Contender, setting: Setting) -> Inputs:
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    inputs = inputs_of(c.given(setting.batch), setting.device, dtype)
    return inputs.map(lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)


def _torch_call(model: nn.Module, c: Contender, setting: Setting) -> Call:
    inputs = _inputs(c, setting)
    model = model.to(setting.device, torch.bfloat16 if setting.precision == "bf16" else torch.float32)

    def call() -> None:
        inputs.call(model)
        wait(inputs.tensors[0])

    return call


def _eager(c: Contender, setting: Setting) -> Call:
    """The network as it is, channels-last."""
    model = copied(c.model).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return _torch_call(model, c, setting)


def _training(c: Contender, setting: Setting) -> Call:
    """Forward, loss and backward in training mode, channels-last, without the optimizer's step."""
    mixed = torch.bfloat16 if setting.precision == "bf16" else None
    with torch.inference_mode(False):
        model = copied(c.model).to(setting.device)
        step = training_step(model, c.shape(setting.batch), mixed=mixed)

    def call() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            step()

    return call


def _frozen(c: Contender, setting: Setting) -> Call:
    return _torch_call(freeze(c.model, c.given(1)), c, setting)


def _compiled(c: Contender, setting: Setting) -> Call:
    """torch.compile of the frozen network, its weights made constants."""
    frozen = freeze(c.model, c.given(1)).net.to(setting.device)
    compiled: Any = torch.compile(_in_code_of_its_own(frozen), fullgraph=True, dynamic=False)
    inputs = _inputs(c, setting)

    def call() -> None:
        inputs.call(compiled)
        wait(inputs.tensors[0])

    with constant_weights(), torch.no_grad():
        call()
    return call


def _in_code_of_its_own(net: nn.Module) -> Call:
    """A function that calls a network.

    torch keeps what it compiled with the code object it compiled, and refuses too many for one. All networks
    of an architecture share the code of their `forward`, and would stay as long as that does.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        return net(*args, **kwargs)

    code = run.__code__.replace(co_name="run_network")
    return FunctionType(code, run.__globals__, "run_network", None, run.__closure__)


def _exported(kind: Format) -> Prepare:
    def prepare(c: Contender, setting: Setting) -> Call:
        told = f"{c.name}-{setting.batch}-{setting.precision}"
        # Names that differ in their punctuation alone are two networks.
        file = setting.folder / f"{sha256(told.encode()).hexdigest()[:16]}{kind.suffix}"
        given = c.given(setting.batch)
        if not file.exists():  # it serves for every number of threads
            # Which numbers int8 stands for makes no difference to its time.
            noise = torch.randn(c.shape(max(setting.batch, 4))) if setting.precision == "int8" else None
            with torch.inference_mode(False):
                export(
                    c.model,
                    file,
                    given,
                    precision=setting.precision,
                    calibration=noise,
                    dynamic_batch=False,
                )
        runner = load_runtime(file, setting.threads, trust=True)
        batch = [x.numpy() for x in inputs_of(given, "cpu", torch.float32).tensors]
        return lambda: runner(*batch)

    return prepare


EXPORTED = timed_formats()
RUNTIMES: dict[str, Prepare] = {
    "eager": _eager,
    "frozen": _frozen,
    "compile": _compiled,
    **{name: _exported(kind) for name, kind in EXPORTED.items()},
    "training": _training,
}
INFERENCE = tuple(name for name in RUNTIMES if name != "training")


def precisions_of(runtime: str) -> tuple[str, ...]:
    """In which precisions a runtime computes; training in bf16 is under autocast."""
    if runtime in EXPORTED:
        return EXPORTED[runtime].precisions
    return ("float32", "bf16") if runtime in ("eager", "training") else ("float32",)


def check_precisions(precisions: Sequence[str], runtimes: Iterable[str]) -> None:
    """Check that each of the precisions can be timed.

    Raises:
        InputError: none of the runtimes has it, or a package is missing that it needs.
    """
    for precision in precisions:
        having = [name for name in runtimes if precision in precisions_of(name)]
        if not having:
            known = dict.fromkeys(p for name in RUNTIMES for p in precisions_of(name))
            raise InputError(
                f"precision {precision!r}: none of these runtimes has it; choose from {', '.join(known)} "
                "and a runtime that has it"
            )
        for name in having:
            if name in EXPORTED:
                check_precision(precision, EXPORTED[name])


def choose_runtimes(names: Sequence[str] | None) -> dict[str, Prepare]:
    """Runtimes by name; None is all that infer.

    Raises:
        InputError: an unknown one, or one that is not installed.
    """
    for name in names or INFERENCE:
        if name not in RUNTIMES:
            raise InputError(f"runtime {name!r} is unknown: choose from {', '.join(RUNTIMES)}")
        if name in EXPORTED:
            for module in EXPORTED[name].needs:
                require_extra(module, EXPORTED[name].extra)
    return {name: RUNTIMES[name] for name in names or INFERENCE}
