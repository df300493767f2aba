"""export(): what all formats share: the way through torch.export, metadata, the parity check."""

from __future__ import annotations

import bisect
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octavize._version import __version__
from octavize.convert.inputs import Example, Inputs, Shape, checked_example, inputs_of
from octavize.convert.trace import TraceError, check_network, clean_copy, runs, trace, warn_of_hooks
from octavize.deploy.difference import change, dense_leaves, largest
from octavize.deploy.formats import Format, format_of
from octavize.deploy.freeze import freeze_layers
from octavize.deploy.frozen import FrozenOctConv
from octavize.deploy.lowering import Calibration, batches_of, check_finite, check_precision
from octavize.deploy.program import export_program, open_axes, returned_by, with_dense_outputs
from octavize.deploy.quantize import PoolsAsConvolutions
from octavize.deploy.runtime import entries_in, load_runtime
from octavize.errors import InputError, require_extra
from octavize.files import check_metadata
from octavize.nn.conv import OctConv
from octavize.split import default_octave_dims

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest error at which a file counts as the same network, see `parity`; float32."""
LEAST_CHANGE = 0.1
"""Share of the largest output that an error is related to where an input changes the outputs less."""
LARGEST_STEP = 64
"""Pixels between the sizes that a network takes, at most."""


def export(
    model: nn.Module,
    path: str | Path,
    example: Example | Inputs,
    *,
    precision: str = "float32",
    calibration: Calibration | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Write a network as a file for another runtime, with its batch norms folded, and compare the two.

    The file appears under its name only after it passed.

    The file has an output for each tensor that the network returns, in this order, under the keys of its
    dicts or the numbers of its sequences: `out`, `output.0`. Octave outputs are written dense.

    Args:
        model: the network, octave or not; only read. It is written in evaluation mode.
        path: of the file: .onnx, .pt2 (torch.export) or .xml (OpenVINO, whose weights go beside it, .bin);
            replaced where it exists.
        example: an input or its shape (N, C, H, W); or several inputs `(a, b)`, or inputs by name, see
            `octavize.plan`: the file has an input for each tensor, in this order, under the names that the
            forward or the keys give them: of float32, or whole numbers or truth values as in the example.
            What else it holds stays fixed. N only counts where the batch is not dynamic.
        precision: `float32`; `bf16` (OpenVINO); or `int8` (OpenVINO by NNCF, ONNX Runtime by its own
            quantizer). Files take and give float32. `octavize.deploy.quantize.agreement` tells how well the
            file and the network agree on images.
        calibration: for int8 only: images that it is quantized on, as the network takes them: (N, C, H, W),
            or batches of these, such as a DataLoader's. No labels are needed; 300 images are used at most.
        dynamic_batch: the file takes any number of images. Of several inputs, those whose first axis is as
            long as the image's have a row for each; an example of two or more images tells them from others.
        dynamic_size: the file takes images of any size, odd ones included. Of several inputs, maps as large
            as the first are images, too.
        metadata: anything JSON can hold, such as `classes`, `mean`, `std`, `size`, `alpha`. Written into the
            file, with the shape and the version of octavize, whose names are refused;
            `octavize.load_runtime(path).metadata` reads it.

    Returns:
        The largest error in float32 against the network in PyTorch, relative to what an input changes, over
        random inputs of several batches (and sizes), and the example's own values of several inputs; whole
        numbers are always the example's. Precision is lowered afterwards.

    Raises:
        InputError: the network does not run on `example`, cannot be exported or returns something else than
            tensors; `metadata` has a key that is octavize's own; the error exceeds 1e-4,
            or outputs in low precision are not finite, and no file is written; the path is of no format or
            its folder is missing; the format lacks the precision; int8 of several inputs; a package is
            missing.
        RuntimeError: the format writes other files than it says.

    Warns:
        UserWarning: the network has hooks, which are left out.
    """
    path, given = Path(path), _checked(model, example)
    warn_of_hooks(model, "a file")
    shape = given.shape if isinstance(given, Inputs) else given
    kind = format_of("path", path)
    _check_writable(path, kind)
    check_precision(precision, kind)
    if calibration is not None and precision != "int8":
        raise InputError(f"calibration is given: {precision} needs no images; leave it out, or export int8")
    if precision == "int8" and isinstance(given, Inputs):
        raise InputError(
            "precision='int8': only networks that read one image are quantized here; export float32, and "
            "quantize the file with the runtime's own tools"
        )
    check_metadata(metadata)
    quantized_on = (
        batches_of(calibration, (1, *shape[1:]) if dynamic_batch else shape) if precision == "int8" else []
    )
    with torch.autocast("cpu", enabled=False):
        eager = clean_copy(model).cpu().float()
        inputs = inputs_of(given, "cpu", torch.float32)
        step = size_step(eager, inputs) if dynamic_size else 1
        least = smallest_size(eager, inputs, step) if dynamic_size else None
        with PoolsAsConvolutions() if precision == "int8" else nullcontext():
            logger.info("reading the network")
            frozen = with_dense_outputs(freeze_layers(eager, given, join="low_out"), inputs)
            program = export_program(frozen, given, dynamic_batch, dynamic_size)
        about = {"input_shape": list(shape), "dynamic_batch": dynamic_batch, "dynamic_size": dynamic_size}
        about |= {"smallest_size": least or 1, "octavize": __version__}
        if isinstance(given, Inputs):
            about["inputs"] = entries_of(eager, inputs, dynamic_batch, dynamic_size)
        taken = [entry.name for entry in entries_in(about)]
        if (outputs := returned_by(program, taken, type(model).__name__)) is not None:
            about["outputs"] = outputs
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            written = Path(folder) / path.name
            about = {"alpha": alpha_of(model), **(metadata or {}), **about}
            logger.info("writing %s", path)
            kind.write(program, written, _as_json(about | {"precision": "float32"}))
            files = kind.files(written)
            if left := set(Path(folder).iterdir()) ^ set(files):
                names = ", ".join(sorted(file.name for file in left))
                raise RuntimeError(f"format {kind.suffix} writes other files than it says: {names}")
            logger.info("comparing it with the network")
            tried = inputs_to_try(inputs, dynamic_batch, least, step)
            own = [inputs] if isinstance(given, Inputs) else []
            error = parity(eager, written, [*(x for x in tried if runs(eager, x)), *own])
            if not error <= TOLERANCE:  # not a number fails too
                remedy = "export it for one size" if dynamic_size else "export to another format, and report"
                raise InputError(
                    f"path {path} is not written: its outputs differ from the network's by {error:.1e} of "
                    f"what an input changes, more than {TOLERANCE:g}; {remedy}"
                )
            if precision != "float32":
                logger.info("lowering it to %s", precision)
                kind.lower[precision](written, quantized_on, _as_json(about | {"precision": precision}))
                check_finite(written, quantized_on)
            for file in reversed(files):  # weights before the description that needs them
                os.replace(file, path.parent / file.name)
    return error


def entries_of(
    model: nn.Module, inputs: Inputs, dynamic_batch: bool, dynamic_size: bool
) -> list[dict[str, Any]]:
    """The inputs of a file, for its metadata: see `runtime.Entry`."""
    found = []
    for name, x in inputs.named(model.forward).items():
        axes = open_axes(x, inputs, dynamic_batch, dynamic_size)
        dtype = str(x.dtype).removeprefix("torch.")
        found.append({"name": name, "shape": list(x.shape), "dtype": dtype, "open": axes})
    return found


def size_step(model: nn.Module, inputs: Inputs) -> int:
    """By how many pixels the sides of an image may grow: 1, or more where sizes must divide by something.

    U-Nets that halve four times often take multiples of 16 only.
    """
    fixed, size = _sides(inputs)
    grown = (
        n for n in range(1, LARGEST_STEP) if runs(model, inputs.sized((*fixed, *[side + n for side in size])))
    )
    return next(grown, LARGEST_STEP)


def _sides(inputs: Inputs) -> tuple[Shape, Shape]:
    """The size of the image: axes that keep their length, such as time, and those of an octave."""
    size = inputs.shape[2:]
    dims = default_octave_dims(len(size))
    return size[: len(size) - dims], size[len(size) - dims :]


def smallest_size(model: nn.Module, inputs: Inputs, step: int = 1) -> int:
    """The smallest side of an image, in pixels, that leaves every map more than one pixel.

    An octave pools a pixel alone with nothing, a length of one is broadcast: torch.export decides on it once
    for all sizes. Maps that are one pixel at any size, as in squeeze-and-excitation, do not count.

    Raises:
        InputError: the network needs a larger one than the example.
    """
    one, (fixed, size) = inputs.rows(slice(1)), _sides(inputs)
    dims, axes = len(size), len(inputs.shape)

    def maps(side: int) -> list[int] | None:
        """The shortest side of what each layer reads and writes, both halves; None where it does not run."""
        try:
            run = trace(model, one.sized((*fixed, *[side] * dims)))
        except TraceError:
            return None
        return [
            min(half[-dims:]) if half is not None and len(half) == axes else 0
            for layer in run.layers
            for half in (*layer.input, *layer.output)
        ]

    most = min(size)
    large = maps(32 * most) or []

    def fits(side: int) -> bool:
        found = maps(side)
        return found is not None and all(n > 1 or always <= 1 for n, always in zip(found, large, strict=True))

    if not fits(most):
        larger = next((n for n in (2 * most, 4 * most, 8 * most, 16 * most) if fits(n)), 224)
        raise InputError(
            f"example of shape {inputs} leaves a map of a single pixel: to export for any size, give a "
            f"larger one, such as {larger}"
        )
    sides = range((most - 1) % step + 1, most, step)
    return [*sides, most][bisect.bisect_left(sides, True, key=fits)]


def alpha_of(model: nn.Module) -> float | list[float]:
    """α of a network's octave layers, frozen or not: one number, or all that occur, from small to large."""
    octave: list[Any] = [m for m in model.modules() if isinstance(m, OctConv | FrozenOctConv)]
    alphas = sorted({layer.alpha for layer in octave if layer.alpha > 0}) or [0.0]
    return alphas[0] if len(alphas) == 1 else alphas


def _as_json(about: Mapping[str, Any]) -> str:
    try:
        return json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metadata cannot be written as JSON ({error}): give numbers, texts, lists"
        ) from None


def inputs_to_try(
    inputs: Inputs, dynamic_batch: bool, least: int | None = None, step: int = 1
) -> list[Inputs]:
    """Noise on which a file is compared: several batches, and for any size from `least`, sizes."""
    batches = (1, 3) if dynamic_batch else (inputs.batch,)
    sizes = [inputs.shape[2:]]
    if least is not None:
        fixed, size = _sides(inputs)
        more = ((1, 1), (2, 3), (5, 2))  # both parities, together and mixed
        grown = [[n + step * m for n, m in zip(size, ms, strict=False)] for ms in more]
        sizes += [(*fixed, *side) for side in (*grown, [least] * len(size))]
    rows = [torch.arange(batch) % inputs.batch for batch in batches]
    return [inputs.rows(chosen).sized(size).noisy() for chosen in rows for size in sizes]


def parity(model: nn.Module, path: Path, tried: Sequence[Inputs]) -> float:
    """Largest difference between a file and its network on some inputs, relative to what an input changes.

    That is the largest change of an output between an input and its negative, but at least a tenth of the
    largest output: a large constant in the outputs, such as a bias, hides no difference but rounding. Of
    several outputs each is compared by itself.
    Inputs of which the network itself makes no finite numbers tell nothing; NaN if there are no others.
    """
    runner, worst = load_runtime(path, trust=True), []
    for inputs in tried:
        with torch.no_grad():
            expected, others = (dense_leaves(each.call(model)) for each in (inputs, inputs.negative()))
        found = map(torch.from_numpy, runner.all(*inputs.tensors))
        for want, other, got in zip(expected, others, found, strict=True):
            if want.isfinite().all():
                worst.append(_error(want.float(), other.float(), got.float()))
    return max(worst, default=float("nan"))


def _error(want: torch.Tensor, other: torch.Tensor, got: torch.Tensor) -> float:
    scale = max(change(want, other), LEAST_CHANGE * largest(want), 1e-12)
    if got.shape != want.shape:
        return float("inf")
    error = float((got - want).abs().max()) / scale if want.numel() else 0.0
    return error if error == error else float("inf")


def _check_writable(path: Path, kind: Format) -> None:
    if not path.parent.is_dir():
        raise InputError(f"path {path} lies in a folder that does not exist: make {path.parent} first")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(
            f"path {path} cannot be written: give the name of a file in a folder you may write to"
        )
    for module in kind.needs:
        require_extra(module, kind.extra)


def _checked(model: nn.Module, example: Any) -> Inputs | Shape:
    check_network(model)
    given = checked_example(model, example)
    if not isinstance(given, Inputs) and len(given) < 3:
        raise InputError(
            f"example={given} is the shape of no map: give (N, C, H, W), such as (1, 3, 224, 224)"
        )
    return given
