"""Networks for OpenVINO: an .xml and, beside it, a .bin file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavize.deploy.formats import KEY, Array, Format, Run
from octavize.deploy.formats.onnx import NEEDED_TO_WRITE, write_onnx

if TYPE_CHECKING:
    import torch


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
