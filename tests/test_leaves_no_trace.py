"""A call into the library leaves the process as it was; only the command line settles its own."""

from __future__ import annotations

import locale
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import octavize
from octavize import InputError
from octavize.bench import process
from octavize.bench import tune as tune_module
from octavize.bench.contenders import contenders_of
from octavize.bench.profile import measure, profile_models
from octavize.bench.ratios import bench
from octavize.bench.runtimes import choose_runtimes
from octavize.calibration.coupling import find_coupling
from octavize.convert.planner import plan
from octavize.zoo.find import Origin, find_origin

SHAPE = (1, 3, 16, 16)


def net(alpha: float = 0) -> nn.Module:
    """Two convolutions that can be octave; built without drawing a random number."""
    with torch.random.fork_rng(devices=[]):
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)]
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, padding=1)]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
        return octavize.octavize(model, alpha, example=SHAPE) if alpha else model


def state() -> dict[str, Any]:
    """What one part of a process can change for all others."""
    loggers = ("", "torch", "torch.onnx", "lightning.pytorch", "onnxruntime", "openvino")
    return {
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "random numbers": torch.get_rng_state().tolist(),
        "random numbers of NumPy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "random numbers of Python": random.getstate(),
        "gradients": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled(),
        ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "cuDNN": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "filters": list(warnings.filters),
        "showing": warnings.showwarning,
        "levels": {name: logging.getLogger(name).level for name in loggers},
        "handlers": list(logging.getLogger().handlers),
        "signals": {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)},
        "recursion": sys.getrecursionlimit(),
        "locale": locale.setlocale(locale.LC_ALL),
        "streams": (sys.stdout, sys.stderr),
    }


@contextmanager
def unchanged() -> Iterator[None]:
    before = state()
    yield
    after = state()
    for name, value in before.items():
        assert after[name] == value, name


def compiled_calls() -> tuple[Callable[[Any], Any], list[int]]:
    """A function of the user's that is compiled, and how often."""
    times: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        times.append(1)
        return graph.forward

    return torch.compile(lambda x: x + 1, backend=backend), times


def in_turns(runtimes: list[str], alphas: list[float], threads: int = 1) -> Any:
    contenders = contenders_of(net, alphas, 16)
    return bench(contenders, choose_runtimes(runtimes), batches=[1], threads=[threads], rounds=1)


CALLS: dict[str, Callable[[Path], object]] = {
    "measure": lambda _: measure({"a": net(), "b": net(0.5)}, SHAPE, rounds=1, train=True, threads=3),
    "profile_models": lambda _: profile_models({"net": net}, [0, 0.5], size=16, rounds=1, threads=3),
    "bench": lambda _: in_turns(["eager", "frozen", "training"], [0.5], threads=3),
    "plan": lambda _: plan(net(), example=SHAPE),
    "budget": lambda _: plan(net(), budget=0.8, example=SHAPE),
    "convert": lambda _: net(0.5),
    "freeze": lambda _: octavize.freeze(net(0.5), SHAPE)(torch.ones(SHAPE)),
    "coupling": lambda _: find_coupling(net().eval(), SHAPE),
    "export": lambda folder: octavize.load_runtime(_pt2(folder), 3, trust=True)(torch.ones(SHAPE)),
}


def _pt2(folder: Path) -> Path:
    octavize.export(net(0.5), folder / "net.pt2", SHAPE)
    return folder / "net.pt2"


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_the_process_as_it_was(name: str, tmp_path: Path) -> None:
    CALLS[name](tmp_path)  # what is imported for the first time may say so in sys.path or a logger
    with unchanged():
        CALLS[name](tmp_path)


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_an_export_leaves_the_process_as_it_was(suffix: str, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    octavize.export(net(0.5), tmp_path / f"first.{suffix}", SHAPE)
    with unchanged():
        octavize.export(net(0.5), tmp_path / f"second.{suffix}", SHAPE)
        octavize.load_runtime(tmp_path / f"second.{suffix}", 1, trust=True)(torch.ones(SHAPE))


def test_tuning_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_module, "choose_runtimes", lambda names: choose_runtimes(["eager"]))
    with unchanged():
        octavize.tune(net(), 0.8, "compile", example=SHAPE)


@pytest.mark.slow
def test_networks_that_are_compiled_take_nothing_from_others() -> None:
    """More networks than torch compiles of one code, and the user's own are not compiled anew."""
    own, times = compiled_calls()
    own(torch.ones(2))
    in_turns(["compile"], [])
    with unchanged():
        in_turns(["compile"], [0.5])
    own(torch.ones(2))
    assert len(times) == 1


@pytest.mark.slow
def test_more_networks_than_torch_compiles_of_one_code() -> None:
    shares = [n / 16 for n in range(1, 11)]
    rows = in_turns(["compile"], shares)
    assert len(rows["rows"]) == len(shares) + 1


def test_only_the_command_line_settles_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from octavize.cli import main as cli

    settled: list[str] = []
    monkeypatch.setattr(process, "settle_process", lambda: settled.append("library"))
    monkeypatch.setattr(cli, "settle_process", lambda: settled.append("command"))
    measure({"a": net()}, SHAPE, rounds=1)
    assert settled == []
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert settled == ["command"]


# ---- code of the user's ---------------------------------------------------------------------------------

OWN = "from torch import nn\ndef build():\n    return nn.Identity()\n"


def test_own_code_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_mine_only.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with unchanged():
        model = Origin("function", "nets_of_mine_only:build").build()
    assert isinstance(model, nn.Identity)


def test_a_file_called_like_an_installed_module_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the file itself, nor for what the file imports."""
    (tmp_path / "calendar.py").write_text("raise RuntimeError('the wrong calendar')\n")
    (tmp_path / "nets_that_need_a_calendar.py").write_text("import calendar\ncalendar.isleap(4)\n" + OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "calendar", raising=False)
    assert isinstance(find_origin("nets_that_need_a_calendar:build").build(), nn.Identity)
    monkeypatch.delitem(sys.modules, "calendar", raising=False)
    with pytest.raises(InputError, match="calendar:build"):
        find_origin("calendar:build").build()


def test_a_path_that_own_code_extends_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extend = "import os, sys\nsys.path.insert(0, os.getcwd())\nraise KeyError('broken')\n"
    (tmp_path / "nets_that_fail_at_once.py").write_text(extend)
    monkeypatch.chdir(tmp_path)
    with unchanged(), pytest.raises(InputError, match="broken"):
        Origin("function", "nets_that_fail_at_once:build").build()
