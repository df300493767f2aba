"""Networks for OpenVINO: an .xml and, beside it, a .bin file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octavize.deploy.export import export
from octavize.deploy.formats.onnx import write_onnx
from octavize.deploy.runtime import KEY


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
    return export(
        model,
        path,
        input_shape,
        _write,
        suffix=".xml",
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
