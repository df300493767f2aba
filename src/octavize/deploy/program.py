"""A network as torch.export writes it down."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from octavize.errors import InputError, one_line


def export_program(
    frozen: nn.Module, shape: Sequence[int], dynamic_batch: bool, dynamic_size: bool
) -> torch.export.ExportedProgram:
    """A frozen network as torch.export sees it.

    Raises:
        InputError: it cannot be exported, or not for inputs of any size.
    """
    try:
        return _program(frozen, shape, dynamic_batch, dynamic_size)
    except Exception as error:  # torch raises many kinds
        remedy = _remedy(frozen, shape, dynamic_batch, dynamic_size)
        raise InputError(
            f"model {type(frozen).__name__} cannot be exported ({one_line(error)}): {remedy}"
        ) from error


def _program(
    frozen: nn.Module, shape: Sequence[int], dynamic_batch: bool, dynamic_size: bool
) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    axes = {0: dynamic} if dynamic_batch else {}
    if dynamic_size:
        axes |= {axis: dynamic for axis in range(2, len(shape))}
    # A batch of one would be taken for a constant.
    example = torch.zeros(max(shape[0], 2) if dynamic_batch else shape[0], *shape[1:], dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(frozen, (example,), dynamic_shapes=_open(frozen, axes), strict=False)


def _open(frozen: nn.Module, axes: dict[int, Any]) -> Any:
    """The axes of the input that stay open, as torch.export wants them told."""
    parameters = inspect.signature(frozen.forward).parameters.values()
    told = (axes or None,)
    return (told,) if any(p.kind is p.VAR_POSITIONAL for p in parameters) else told


def _remedy(frozen: nn.Module, shape: Sequence[int], dynamic_batch: bool, dynamic_size: bool) -> str:
    """What to do about a network that cannot be exported: found by leaving less open."""
    makes = "its forward makes a number of"
    if dynamic_size and _runs(frozen, shape, dynamic_batch, False):
        return f"{makes} the size of a map, so export it for one size (dynamic_size=False)"
    if dynamic_batch and _runs(frozen, shape, False, False):
        return (
            f"{makes} the batch, as len(x) and x.shape.numel() do; write x.size(0) and x.numel(), or export "
            "it in Python for one batch (dynamic_batch=False)"
        )
    return "its forward does what torch.export cannot follow, such as a branch on values; change that"


def _runs(frozen: nn.Module, shape: Sequence[int], dynamic_batch: bool, dynamic_size: bool) -> bool:
    try:
        _program(frozen, shape, dynamic_batch, dynamic_size)
    except Exception:  # as above
        return False
    return True


def without_guards(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The calls of a program, without those that check its input; torch before 2.9 writes none."""
    knows = "check_guards" in inspect.signature(program.module).parameters
    return program.module(check_guards=False) if knows else program.module()
