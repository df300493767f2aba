"""save(): an octave network as a file for Paddle Inference, or as ONNX for other runtimes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from octavize._version import __version__
from octavize.errors import InputError, one_line, require_extra, shown
from octavize.files import check_metadata
from octavize.paddle.comparing import error_of, negative, outputs_of, random_input
from octavize.paddle.conv import OctConv
from octavize.paddle.dispatch import unannounced
from octavize.paddle.freezing import freeze
from octavize.paddle.inputs import Example, Inputs
from octavize.paddle.onnx_files import onnx_runner, write_onnx
from octavize.paddle.predictor import predictor_config
from octavize.paddle.resample import laid_out_for_int8, laid_out_for_onednn
from octavize.paddle.returned import Listed, returned_by
from octavize.paddle.trace import clean_copy, example_inputs, explained
from octavize.plans.planning import Shape

TARGETS = ("paddle", "onnx")
TOLERANCE = 1e-4
"""Largest error at which a file counts as the same network, see `_parity`; float32."""
LEAST_CHANGE = 0.1
"""Share of the largest output that an error is related to where an input changes the outputs less."""
Run = Callable[[Any], list[Any]]


def save(
    model: nn.Layer,
    path: str | Path,
    example: Example | None = None,
    *,
    target: str = "paddle",
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    for_int8: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Write a network for inference, see `octavize.paddle.freeze`, and compare the files with the network.

    The files appear under their names only after they passed. A network may return several tensors, in lists
    and dicts: the files return them one after the other, octave maps dense, and the metadata name them.

    Args:
        model: the network, octave or not; only read. It is written in evaluation mode and in float32.
        path: of the files. For `paddle` as in `paddle.jit.save`: `net` becomes `net.json`, `net.pdiparams`
            and, with the metadata, `net.octavize`. For `onnx` the file itself, `net.onnx`. Its folder is
            made where it is missing.
        example: an input (N, C, H, W) or its shape; by default derived from the network. N only counts where
            the batch is not dynamic.
        target: `paddle`, for Paddle Inference, with oneDNN or without (`paddle.jit.load` reads it too); or
            `onnx`, for ONNX Runtime and OpenVINO, through Paddle2ONNX: `octavize.load_runtime` runs the file,
            and `octavize.deploy.lowering.lower` makes one for OpenVINO, or in int8, of it.
        dynamic_batch: the file takes any number of images.
        dynamic_size: the file takes images of any size, odd ones included.
        for_int8: the file will be lowered to int8: averages of 2 × 2 pixels become convolutions, which
            runtimes compute in integers. For `onnx` only.
        metadata: anything JSON can hold, such as `classes`, `mean`, `std`. Kept with the shape and the
            version of octavize.

    Returns:
        The largest error in float32 against the network, relative to what an input changes, over random
        inputs of several batches (and sizes). Files for Paddle are run with oneDNN.

    Raises:
        InputError: the network does not run on `example` or cannot be written; it takes a dict, or returns
            something else than tensors; the error exceeds 1e-4, and no file is written; the target is
            unknown, or the path ends in another name; `metadata` holds what is written anyway; a package is
            missing.

    Examples:
        >>> octavize.paddle.save(net, "oct_resnet50", (1, 3, 224, 224))
        >>> predictor = paddle.inference.create_predictor(octavize.paddle.predictor_config("oct_resnet50"))
    """
    path, inputs = Path(path), example_inputs(model, example)
    _check(path, target, for_int8)
    check_metadata(metadata)
    if len(inputs.args) != 1 or inputs.kwargs or isinstance(inputs.args[0], Mapping):
        raise InputError(
            f"{type(model).__name__} takes several inputs: save a layer around it that takes one image"
        )
    shape = inputs.shape
    about = {"input_shape": list(shape), "dynamic_batch": dynamic_batch, "dynamic_size": dynamic_size}
    about = {"alpha": _alpha_of(model), **(metadata or {}), **about}
    about |= {"octavize": __version__, "precision": "float32"}
    net = clean_copy(model).to(dtype="float32")
    if (returned := returned_by(net, inputs, dynamic_batch)) is not None:
        about["outputs"] = returned
    frozen = Listed(freeze(net, inputs))
    spec = [None if dynamic_batch else shape[0], shape[1]]
    spec += [None if dynamic_size else n for n in shape[2:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".save-") as folder:
        written = Path(folder) / path.name
        with laid_out_for_int8() if for_int8 else nullcontext():
            run = _WRITERS[target](frozen, written, spec, _as_json(about))
        error = _parity(net, run, _shapes_to_try(shape, dynamic_batch, dynamic_size))
        if not error <= TOLERANCE:  # not a number fails too
            raise InputError(
                f"path {path} is not written: its outputs differ from the network's by {error:.1e} of "
                f"what an input changes, more than {TOLERANCE:g}; save it for another target, and report the "
                "network"
            )
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.suffix == ".json"):
            os.replace(file, path.parent / file.name)  # weights before the program that needs them
    return error


def _check(path: Path, target: str, for_int8: bool) -> None:
    if target not in TARGETS:
        raise InputError(f"target={shown(target)}: give {' or '.join(TARGETS)}")
    if for_int8 and target != "onnx":
        raise InputError(f"for_int8=True does not fit target={target!r}: lower a file of target='onnx'")
    if (path.suffix == ".onnx") != (target == "onnx"):
        wanted = "a name that ends in .onnx" if target == "onnx" else "a name without .onnx, or target='onnx'"
        raise InputError(f"path {path} does not fit target={target!r}: give {wanted}")
    if path.is_dir() or path.name == "":
        raise InputError(f"path {path} is a folder: give the name of a file in it")
    if target == "onnx":
        for module in ("paddle2onnx", "onnx", "onnxruntime"):
            require_extra(module, "paddle-deploy")


def _as_json(about: Mapping[str, Any]) -> str:
    try:
        return json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metadata cannot be written as JSON ({error}): give numbers, texts, lists"
        ) from None


def _alpha_of(model: nn.Layer) -> float | list[float]:
    """α of the octave layers: one number, or all that occur, from small to large."""
    layers = model.sublayers(include_self=True)
    alphas = sorted({layer.alpha for layer in layers if isinstance(layer, OctConv) and layer.alpha}) or [0.0]
    return alphas[0] if len(alphas) == 1 else alphas


# ---- the two kinds of files ------------------------------------------------------------------------------


def _write_paddle(net: nn.Layer, path: Path, spec: Sequence[int | None], about: str) -> Run:
    _write_program(net, path, spec, for_onednn=True)
    path.with_name(f"{path.name}.octavize").write_text(about, "utf-8")
    predictor = paddle.inference.create_predictor(predictor_config(path))
    return lambda x: [np.asarray(y) for y in predictor.run([paddle.to_tensor(x)])]


def _write_onnx(net: nn.Layer, path: Path, spec: Sequence[int | None], about: str) -> Run:
    program = path.with_suffix("")
    _write_program(net, program, spec, for_onednn=False)
    write_onnx(program, path, about)
    for file in (f"{program.name}.json", f"{program.name}.pdiparams"):
        (path.parent / file).unlink()
    return onnx_runner(path)


_WRITERS = {"paddle": _write_paddle, "onnx": _write_onnx}


def _write_program(net: nn.Layer, path: Path, spec: Sequence[int | None], *, for_onednn: bool) -> None:
    layout = laid_out_for_onednn() if for_onednn else nullcontext()
    with layout, unannounced(), explained(net, tuple(spec), "it cannot be saved as a program"):
        paddle.jit.save(net, str(path), input_spec=[InputSpec(spec, "float32", "input")])


# ---- comparison -----------------------------------------------------------------------------------------


def _shapes_to_try(shape: Shape, dynamic_batch: bool, dynamic_size: bool) -> list[Shape]:
    batches = (1, 3) if dynamic_batch else (shape[0],)
    grown = ((1, 1, 1), (2, 3, 2), (5, 2, 4)) if dynamic_size else ()  # both parities, together and mixed
    sizes = [shape[2:], *(tuple(n + m for n, m in zip(shape[2:], more, strict=False)) for more in grown)]
    return [(batch, shape[1], *size) for batch in batches for size in sizes]


def _parity(model: nn.Layer, run: Run, shapes: Sequence[Shape]) -> float:
    """Largest error of a file against its network on random inputs, relative to what an input changes.

    That is the largest change of an output between an input and its negative, but at least a tenth of the
    largest output.
    """
    worst = 0.0
    for shape in shapes:
        given = random_input(Inputs((shape,)), "float32")
        with paddle.no_grad(), unannounced():
            expected, others = (outputs_of(each.call(model)) for each in (given, negative(given)))
        try:
            got = [np.asarray(y, np.float64) for y in run(given.args[0].numpy())]
        except Exception as error:  # each runtime has its own kinds
            raise InputError(
                f"{type(model).__name__}: the file fails on {shape} ({one_line(error)}); save it for another "
                "target, and report the network"
            ) from error
        error = error_of(expected, got, others, LEAST_CHANGE)
        worst = max(worst, error) if error == error else error
    return worst
