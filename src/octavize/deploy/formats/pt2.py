"""Networks as torch.export files, which PyTorch runs without the code that made them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octavize.deploy.export import export
from octavize.deploy.runtime import KEY


def export_pt2(
    model: nn.Module,
    path: str | Path,
    input_shape: Sequence[int],
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Write a network as a torch.export file, .pt2; everything else as `octavize.export_onnx`."""
    return export(
        model,
        path,
        input_shape,
        _write,
        suffix=".pt2",
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        metadata=metadata,
    )


def _write(program: torch.export.ExportedProgram, path: Path, about: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={KEY: about})
