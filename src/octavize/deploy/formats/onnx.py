"""Networks as ONNX files, which ONNX Runtime runs."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavize.deploy.formats import Array, Format, Run
from octavize.errors import InputError, one_line
from octavize.files import KEY, input_names, output_names
from octavize.report.progress import steps

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch


def write_onnx(program: torch.export.ExportedProgram, path: Path, about: str) -> None:
    """Convert and write; inputs and outputs are called as `about` says, which lies in the file's metadata."""
    import torch
    from onnx_ir.passes import PassError

    names: Any = {"input_names": input_names(about), "output_names": output_names(about)}
    with quiet("torch.onnx", "onnxscript", "onnx_ir"):
        try:
            made = torch.onnx.export(program, dynamo=True, verbose=False, **names)
        except PassError:  # onnxscript 0.7 cannot fold a split of constants under a free batch, as of RAFT
            made = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False, **names)
    assert made is not None  # dynamo returns a program
    made.model.metadata_props[KEY] = about
    _name_axes(made.model)
    made.save(path, external_data=False)


def _name_axes(model: ir.Model) -> None:
    """Free axes are called batch, height …, by the input that has them first, and no longer s77."""
    names: dict[str, str] = {}
    for given in model.graph.inputs:
        axes = ("batch", "channels", *_SPACE.get(len(given.shape or ()), ()))
        for dim, axis in zip(given.shape or (), axes, strict=False):
            if not isinstance(dim, int) and dim.value is not None:
                taken = axis in names.values()
                names.setdefault(dim.value, f"{given.name}_{axis}" if taken else axis)
    if not names:
        return
    symbol = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    values = [*model.graph.inputs, *(out for node in model.graph.all_nodes() for out in node.outputs)]
    for value in values:
        for i, dim in enumerate(value.shape or ()):
            if value.shape is not None and not isinstance(dim, int) and dim.value is not None:
                value.shape[i] = symbol.sub(lambda found: names[found[0]], dim.value)


_SPACE = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
"""Names of the axes behind the channels, by the number of all."""


@contextlib.contextmanager
def quiet(*loggers: str) -> Any:
    """Progress of converters, and their warnings about themselves, are not for our users."""
    logs = [logging.getLogger(name) for name in loggers]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)


def _quantize(path: Path, images: Sequence[Array], about: str) -> None:
    """int8, by ONNX Runtime's own quantizer: weights by channel, maps by the range they have here.

    Raises:
        InputError: it fails, as on transposed convolutions in groups.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = steps(images, "quantizing")

        def get_next(self) -> Any:
            image = next(self.left, None)
            return None if image is None else {"input": image}

    prepared = path.with_name("prepared.onnx")
    try:
        with quiet("root", "onnxruntime"):
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(path),
                Reader(),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,  # signed ones take twice the time on x86
            )
    except Exception as error:  # it raises many kinds
        raise InputError(
            "precision='int8': ONNX Runtime's quantizer fails on this network "
            f"({one_line(error, kind=True)}): export it as .xml, or in float32"
        ) from error
    prepared.unlink()
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: about})
    onnx.save(model, path)


def _copy(own: Path, path: Path, about: str) -> None:
    shutil.copyfile(own, path)


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
    names = [each.name for each in session.get_inputs()]

    def run(*batch: Array) -> list[Array]:
        return [np.asarray(output) for output in session.run(None, dict(zip(names, batch, strict=True)))]

    return run, session.get_modelmeta().custom_metadata_map.get(KEY)


NEEDED_TO_WRITE = ("onnx", "onnxscript")
FORMAT = Format(
    suffix=".onnx",
    runtime="ONNX Runtime",
    write=write_onnx,
    load=_load,
    needed_to_write=NEEDED_TO_WRITE,
    needed_to_load=("onnxruntime",),
    from_onnx=_copy,
    lower={"int8": _quantize},
    timed_as="onnxruntime",
)
