"""Networks as ONNX files, which ONNX Runtime runs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavize.deploy.formats import KEY, Array, Format, Run

if TYPE_CHECKING:
    import torch
    from torch import nn


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
    from octavize.deploy.export import export

    return export(
        model,
        path,
        input_shape,
        FORMAT,
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        metadata=metadata,
    )


def write_onnx(program: torch.export.ExportedProgram, path: Path, about: str) -> None:
    """Convert and write; input and output are called so, `about` lies in the file's metadata."""
    import torch

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


def _load(path: Path, threads: int | None) -> tuple[Run, str | None]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    # Threads that sleep between layers cost a network of many small layers most; those that spin between
    # calls cost whatever else runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: Array) -> Array:
        return np.asarray(session.run(None, {name: batch})[0])

    return run, session.get_modelmeta().custom_metadata_map.get(KEY)


NEEDED_TO_WRITE = ("onnx", "onnxscript")
FORMAT = Format(
    suffix=".onnx",
    runtime="ONNX Runtime",
    write=write_onnx,
    load=_load,
    needed_to_write=NEEDED_TO_WRITE,
    needed_to_load=("onnxruntime",),
    timed_as="onnxruntime",
)
