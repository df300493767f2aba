"""Networks as ONNX files."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octavize.deploy.export import export
from octavize.deploy.runtime import KEY


def export_onnx(
    model: nn.Module,
    path: str | Path,
    input_shape: Sequence[int],
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Write a network as one ONNX file, with its batch norms folded, and compare the file with the network.

    Args:
        model: the network, octave or not; only read. It is written in float32 and evaluation mode.
        path: of the file, .onnx; replaced where it exists.
        input_shape: (N, C, H, W); N only counts where the batch is not dynamic.
        dynamic_batch: the file takes any number of images.
        dynamic_size: the file takes images of any size, odd ones included.
        metadata: anything JSON can hold, such as `classes`, `mean`, `std`, `size`, `alpha`. Written into the
            file, with the shape and the version of octavize; `octavize.load_runtime(path).metadata` reads it.

    Returns:
        The largest error against the network in PyTorch, relative to its largest output, over random inputs
        of several batches (and sizes).

    Raises:
        InputError: the network does not run on `input_shape` or cannot be exported; the error exceeds 1e-4
            and no file is written; the path is no .onnx or its folder is missing; a package is missing.
    """
    return export(
        model,
        path,
        input_shape,
        write_onnx,
        suffix=".onnx",
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        metadata=metadata,
    )


def write_onnx(program: torch.export.ExportedProgram, path: Path, about: str) -> None:
    """Convert and write; input and output are called so, `about` lies in the file's metadata."""
    with quiet():
        made = torch.onnx.export(
            program, dynamo=True, input_names=["input"], output_names=["output"], verbose=False
        )
    assert made is not None  # dynamo returns a program
    made.model.metadata_props[KEY] = about
    made.save(path, external_data=False)


@contextlib.contextmanager
def quiet() -> Any:
    """The exporter's progress and its warnings about itself are not for our users."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
