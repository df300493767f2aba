"""Networks for OpenVINO: an .xml and, beside it, a .bin file."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavize.deploy.formats import KEY, Array, Format, Run
from octavize.deploy.formats.onnx import NEEDED_TO_WRITE, write_onnx

if TYPE_CHECKING:
    import torch
    from torch import nn


def export_openvino(
    model: nn.Module,
    path: str | Path,
    input_shape: Sequence[int],
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Write a network for OpenVINO, in float32; everything else as `octavize.export_onnx`.

    Args:
        path: of the description, .xml; the weights go beside it, .bin.
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


def _write(program: torch.export.ExportedProgram, path: Path, about: str) -> None:
    import openvino

    through = path.with_suffix(".onnx")
    write_onnx(program, through, about)
    converted = openvino.convert_model(through)
    converted.set_rt_info(about, [KEY])
    openvino.save_model(converted, path, compress_to_fp16=False)
    through.unlink()


def _load(path: Path, threads: int | None) -> tuple[Run, str | None]:
    import numpy as np
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    # Some processors would compute in bfloat16 by themselves.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)
    own = threading.local()  # a request serves one call at a time

    def run(batch: Array) -> Array:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return np.array(own.request.infer(batch)[0])

    return run, str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None


FORMAT = Format(
    suffix=".xml",
    runtime="OpenVINO",
    write=_write,
    load=_load,
    needed_to_write=NEEDED_TO_WRITE,
    needed_to_load=("openvino",),
    beside=(".bin",),
    timed_as="openvino",
)
