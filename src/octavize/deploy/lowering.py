"""Exported files in low precision: from float32 files of either framework, without the framework."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from octavize.deploy.formats import Array, Format, format_of
from octavize.deploy.runtime import as_float32, load_runtime
from octavize.errors import InputError, extra_here, require_extra, shown

Calibration: TypeAlias = "Array | Iterable[Any]"
"""Images as the network takes them, arrays or tensors of either framework: (N, C, H, W), or batches of
these, or of (images, labels)."""


def check_precision(precision: str, kind: Format) -> None:
    """Check that a format has files of this precision.

    Raises:
        InputError: it has none, or a package is missing that makes them.
    """
    if precision not in kind.precisions:
        known = ", ".join(kind.precisions)
        raise InputError(f"precision={shown(precision)}: {kind.suffix} ({kind.runtime}) has {known}")
    for module in kind.needed_to_lower if precision == "int8" else ():
        require_extra(module, extra_here("quantize"))


def batches_of(calibration: Calibration | None, shape: Sequence[int], most: int = 300) -> list[Array]:
    """The images to quantize on, as batches of `shape`, at most `most` images.

    Raises:
        InputError: there are none, they have another shape, or they are whole numbers or not finite.
    """
    if calibration is None:
        raise InputError(
            "calibration is not given: int8 needs images, a tensor (N, C, H, W) or batches of them"
        )
    given = [calibration] if _is_array(calibration) else calibration
    images: list[Array] = []
    for batch in given:
        values: Any = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not _is_array(values) or tuple(values.shape[1:]) != tuple(shape[1:]):
            told = tuple(values.shape) if _is_array(values) else shown(values)
            raise InputError(f"calibration has {told}: give images of (N, {', '.join(map(str, shape[1:]))})")
        if "float" not in str(values.dtype):
            raise InputError(
                f"calibration is of {values.dtype}: give images prepared as the network takes them"
            )
        images += islice(as_float32(values), most - len(images))
        if len(images) >= most:
            break
    if not all(np.isfinite(image).all() for image in images):
        raise InputError("calibration has values that are not finite: leave those images out or mend them")
    if len(images) < shape[0]:
        raise InputError(f"calibration has {len(images)} images: give at least {shape[0]}, better a hundred")
    starts = range(0, len(images) - shape[0] + 1, shape[0])
    return [np.ascontiguousarray(np.stack(images[start : start + shape[0]])) for start in starts]


def _is_array(values: Any) -> bool:
    return isinstance(values, np.ndarray) or (hasattr(values, "detach") and hasattr(values, "shape"))


def lower(
    path: str | Path,
    out: str | Path,
    *,
    precision: str = "int8",
    calibration: Calibration | None = None,
) -> None:
    """Write a float32 ONNX file in another format or precision, such as one of `octavize.paddle.save`.

    Args:
        path: a file of `octavize.export` or `octavize.paddle.save`, .onnx.
        out: the file to write, replaced where it exists: .onnx, or .xml (OpenVINO).
        precision: `float32`, `bf16` (OpenVINO), or `int8`.
        calibration: for int8 only: images that it is quantized on, as the network takes them.

    Raises:
        InputError: the file is none of ours or no ONNX; the format lacks the precision; images are missing or
            have another shape; outputs are not finite, and no file is written; a package is missing.
    """
    path, out = Path(path), Path(out)
    kind = format_of("out", out)
    if path.suffix != ".onnx" or kind.from_onnx is None:
        raise InputError(f"path {path} and out {out}: give an .onnx file, and an .onnx or .xml file to write")
    check_precision(precision, kind)
    about = load_runtime(path).metadata
    if about.get("precision") != "float32":
        raise InputError(f"path {path} is in {about.get('precision')}: give the float32 file")
    if precision == "int8" and "inputs" in about:
        raise InputError(
            f"path {path} takes several inputs, or whole numbers: only files of one image are quantized"
        )
    shape = tuple(about["input_shape"])
    shape = (1, *shape[1:]) if about["dynamic_batch"] else shape
    images = batches_of(calibration, shape) if precision == "int8" else []
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".lower-") as folder:
        written = Path(folder) / out.name
        kind.from_onnx(path, written, json.dumps(about))
        if precision != "float32":
            kind.lower[precision](written, images, json.dumps(about | {"precision": precision}))
            check_finite(written, images)
        for file in reversed(kind.files(written)):  # weights before the description that needs them
            os.replace(file, out.parent / file.name)


def check_finite(path: Path, images: Sequence[Array]) -> None:
    """Check what a file in low precision makes of images.

    Raises:
        InputError: some outputs are not finite.
    """
    runner = load_runtime(path, trust=True)
    if not all(np.isfinite(output).all() for batch in images for output in runner.all(batch)):
        raise InputError(
            f"path {path.name} is not written: in {runner.metadata['precision']} its outputs are not finite; "
            "export it in float32, and report the network"
        )
