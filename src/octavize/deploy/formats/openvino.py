"""Networks for OpenVINO: an .xml and, beside it, a .bin file."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavize.deploy.formats import Array, Format, Run
from octavize.deploy.formats.onnx import NEEDED_TO_WRITE, quiet, write_onnx
from octavize.files import KEY
from octavize.report.progress import bar

if TYPE_CHECKING:
    import torch


def _write(program: torch.export.ExportedProgram, path: Path, about: str) -> None:
    through = path.with_suffix(".onnx")
    write_onnx(program, through, about)
    _from_onnx(through, path, about)
    through.unlink()


def _from_onnx(through: Path, path: Path, about: str) -> None:
    import openvino

    model = openvino.Core().read_model(through)  # convert_model would already do what `_keep_order` prevents
    _keep_order(model)
    _save(model, path, about)


def _keep_order(model: Any) -> None:
    """Keep a new order of channels out of the weights of the convolution that reads it.

    OpenVINO 2026.4 puts it there as if the order were its own inverse, as that of RGB and BGR is, and others
    come out wrong. It does not where the indices have two axes.
    """
    from openvino import opset13 as op

    for node in model.get_ops():
        if node.get_type_name() != "Gather" or len(node.input_value(1).get_partial_shape()) != 1:
            continue
        x, indices, axis = (node.input_value(i) for i in range(3))
        dim = int(axis.get_node().data) % len(x.get_partial_shape())
        chosen = op.squeeze(op.gather(x, op.unsqueeze(indices, 0), dim), dim)
        names = node.output(0).get_names()
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(chosen.output(0))
        chosen.output(0).set_names(names)


def _save(model: Any, path: Path, about: str) -> None:
    import openvino

    model.set_rt_info(about, [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _round(path: Path, images: Sequence[Array], about: str) -> None:
    """bf16: the file keeps its float32 weights, and the runtime rounds them where the processor can."""
    _save(_read(path), path, about)


def _quantize(path: Path, images: Sequence[Array], about: str) -> None:
    """int8, by NNCF: weights by channel, maps by what they hold for these images."""
    with quiet("nncf", "torch"), bar("quantizing", len(images)) as advance:
        import nncf

        def counted(image: Array) -> Array:
            advance()
            return image

        made = nncf.quantize(_read(path), nncf.Dataset(list(images), counted), subset_size=len(images))
    _save(made, path, about)


def _read(path: Path) -> Any:
    """The network of a file, all in memory: so the file may be replaced."""
    import openvino

    return openvino.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())


def _load(path: Path, threads: int | None) -> tuple[Run, str | None]:
    import numpy as np
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    about = str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None
    # Some processors would compute in bfloat16 by themselves.
    rounded = about is not None and json.loads(about).get("precision") == "bf16"
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if rounded else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)
    if rounded and compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != "bf16":
        warnings.warn(f"model {path}: this processor has no bf16, so it computes in float32", stacklevel=2)
    own = threading.local()  # a request serves one call at a time

    def run(*batch: Array) -> list[Array]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        try:
            return [np.array(output) for output in own.request.infer(list(batch)).to_tuple()]
        except RuntimeError:
            del own.request  # after a batch that fails, as an empty one does, it would refuse every other
            raise

    return run, about


FORMAT = Format(
    suffix=".xml",
    runtime="OpenVINO",
    write=_write,
    load=_load,
    needed_to_write=NEEDED_TO_WRITE,
    needed_to_load=("openvino",),
    beside=(".bin",),
    from_onnx=_from_onnx,
    lower={"bf16": _round, "int8": _quantize},
    needed_to_lower=("nncf",),
    timed_as="openvino",
)
