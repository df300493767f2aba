"""Programs as ONNX files, through Paddle2ONNX."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from octavize.errors import InputError, one_line
from octavize.files import KEY, output_names

if TYPE_CHECKING:
    import onnx

_OPSET = 17


def write_onnx(program: Path, path: Path, about: str) -> None:
    """Convert a saved program; outputs are called as `about` says, which lies in the file's metadata.

    Raises:
        InputError: Paddle2ONNX has no form for one of its functions.
    """
    import onnx
    import paddle2onnx

    said: list[str] = []
    try:
        # By default it would try to install a package, to fold constants with.
        with _listening(said):
            paddle2onnx.export(
                f"{program}.json",
                f"{program}.pdiparams",
                str(path),
                opset_version=_OPSET,
                optimize_tool="None",
            )
    except (Exception, SystemExit) as error:  # it ends the program
        known = [line for line in said if "Failed to convert" in line]
        told = known[-1].partition("Failed to convert")[2] if known else one_line(error)
        raise InputError(
            f"path {path.name} is not written: Paddle2ONNX cannot convert {told.strip()}; save it for paddle"
        ) from error
    model = onnx.load(path)
    _name(model.graph, output_names(about))
    _scale_by_numbers(model)
    onnx.helper.set_model_props(model, {KEY: about})
    onnx.save(model, path)


@contextlib.contextmanager
def _listening(said: list[str]) -> Iterator[None]:
    """Keep from the terminal what a library says, in Python or not; `said` gets its lines."""
    in_python = io.StringIO()
    with tempfile.TemporaryFile() as file:
        before = [os.dup(stream) for stream in (1, 2)]
        sys.stdout.flush()
        try:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            with contextlib.redirect_stdout(in_python), contextlib.redirect_stderr(in_python):
                yield
        finally:
            for stream, copy in zip((1, 2), before, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
            file.seek(0)
            said += in_python.getvalue().splitlines() + file.read().decode(errors="replace").splitlines()


def _name(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Call the outputs so; the input has its name from its specification."""
    new = dict(zip((output.name for output in graph.output), names, strict=True))
    for node in graph.node:
        node.output[:] = [new.get(name, name) for name in node.output]
        node.input[:] = [new.get(name, name) for name in node.input]
    for output in graph.output:
        output.name = new[output.name]


def _scale_by_numbers(model: onnx.ModelProto) -> None:
    """Let `Resize` have its factors as constants, where they are whole, instead of computing a size.

    ONNX Runtime only keeps such a one in its own order of values, between convolutions.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    sizes = {
        value.name: [n.dim_value for n in value.type.tensor_type.shape.dim][2:]
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    for node in model.graph.node:
        if node.op_type != "Resize" or len(node.input) != 4:
            continue
        have, wanted = sizes.get(node.input[0], []), sizes.get(node.output[0], [])
        if not have or len(have) != len(wanted) or not all((*have, *wanted)):
            continue
        if any(m % n for n, m in zip(have, wanted, strict=True)):
            continue
        name = f"{node.output[0]}.factors"
        factors = [1.0, 1.0, *(float(m // n) for n, m in zip(have, wanted, strict=True))]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(factors, np.float32), name))
        node.input[:] = [node.input[0], "", name]
    _without_unread(model.graph)


def _without_unread(graph: onnx.GraphProto) -> None:
    """Take out what nothing reads, which ONNX Runtime would compute."""
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def onnx_runner(path: Path) -> Callable[[Any], list[Any]]:
    """What runs a file's network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: list(session.run(None, {"input": x}))
