"""What the three kinds of exported file share: the way through torch.export, metadata, the parity check."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octavize import __version__
from octavize.conv import OctConv
from octavize.errors import InputError, require_extra

from .freeze import freeze_layers
from .program import export_program
from .runtime import load_runtime

TOLERANCE = 1e-4
"""Largest error, relative to the largest output, at which a file counts as the same network; float32."""
MODULES = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": ()}
MODULES[".xml"] = (*MODULES[".onnx"], "openvino")
Write = Callable[[torch.export.ExportedProgram, Path, str], None]


def export(
    model: nn.Module,
    path: str | Path,
    input_shape: Sequence[int],
    write: Write,
    *,
    suffix: str,
    dynamic_batch: bool,
    dynamic_size: bool,
    metadata: Mapping[str, Any] | None,
) -> float:
    """Freeze a network, write it by `write(program, path, metadata as JSON)`, and compare file and network.

    The file appears under its name only after it passed.

    Returns:
        The largest error over all inputs tried, relative to the largest output.

    Raises:
        InputError: see `octavize.export_onnx`.
    """
    path = _checked_path(path, suffix)
    shape = _checked_shape(input_shape)
    eager = copy.deepcopy(model).cpu().float().eval()
    program = export_program(freeze_layers(eager, shape), shape, dynamic_batch, dynamic_size)
    about = describe(model, shape, dynamic_batch, dynamic_size, metadata)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        written = Path(folder) / path.name
        write(program, written, json.dumps(about, ensure_ascii=True))
        error = parity(eager, written, shapes_to_try(shape, dynamic_batch, dynamic_size))
        if not error <= TOLERANCE:  # not a number fails too
            raise InputError(
                f"path {path} is not written: its outputs differ from the network's by {error:.1e} of the "
                f"largest, more than {TOLERANCE:g}; export to another format, and report the network"
            )
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)
    return error


def describe(
    model: nn.Module,
    shape: Sequence[int],
    dynamic_batch: bool,
    dynamic_size: bool,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What is written into the file: what was given, and what every file says of itself."""
    alphas = sorted({m.alpha for m in model.modules() if isinstance(m, OctConv) and m.alpha > 0})
    about = {
        "alpha": (alphas or [0.0])[0] if len(alphas) <= 1 else alphas,
        **(metadata or {}),
        "octavize": __version__,
        "input_shape": list(shape),
        "dynamic_batch": dynamic_batch,
        "dynamic_size": dynamic_size,
    }
    try:
        json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metadata cannot be written as JSON ({error}): give numbers, texts, lists"
        ) from None
    return about


def shapes_to_try(shape: Sequence[int], dynamic_batch: bool, dynamic_size: bool) -> list[tuple[int, ...]]:
    """The inputs on which a file is compared: several batches, and sizes of either parity."""
    batches = (1, 3) if dynamic_batch else (shape[0],)
    sizes = [tuple(shape[2:])]
    if dynamic_size:
        sizes += [tuple(n + 1 for n in shape[2:]), (shape[2] + 2, *(n + 3 for n in shape[3:]))]
    return [(batch, shape[1], *size) for batch in batches for size in sizes]


def parity(model: nn.Module, path: Path, shapes: Sequence[tuple[int, ...]]) -> float:
    """Largest difference between a file and its network on random inputs, relative to the largest output."""
    runner = load_runtime(path)
    random = torch.Generator().manual_seed(0)
    worst = 0.0
    for shape in shapes:
        x = torch.randn(shape, generator=random)
        with torch.no_grad():
            expected = model(x)
        error = (torch.from_numpy(runner(x)) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
        worst = max(worst, float(error)) if error == error else float("nan")
    return worst


def _checked_path(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise InputError(f"path {path} does not end in {suffix}: give a name such as model{suffix}")
    if not path.parent.is_dir():
        raise InputError(f"path {path} lies in a folder that does not exist: make {path.parent} first")
    for module in MODULES[suffix]:
        require_extra(module, "deploy")
    return path


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if not all(isinstance(n, int) and n > 0 for n in shape) or len(shape) < 3:
        raise InputError(f"input_shape={tuple(shape)}: give (N, C, H, W), such as (1, 3, 224, 224)")
    return tuple(shape)
