"""Lines of the network's own code: where a map was read, and which maps a line that failed reads."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from octavize.nn.dispatch import Octave, oct_tensors

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_RUNS = str(Path(__file__).parent)


def line_of_call() -> str:
    """The line of the network's code that now calls a function on a map, as `models/net.py:12`.

    Empty if no code but torch's does, as in an `nn.Sequential` of torch's layers.
    """
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_RUNS):  # those who ask
        frame = frame.f_back
    while frame is not None and not frame.f_code.co_filename.startswith(_RUNS):  # who runs the network
        if _is_users(frame.f_code):
            return _line(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return ""


def asks_for_a_tensor() -> bool:
    """Whether the line that now asks for the class of a map asks if it is a tensor, not if it is a list."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_TORCH):
        return frame is not None and frame.f_code.co_name == "is_tensor"
    known = {**frame.f_globals, **frame.f_locals}
    names = {name for name in _names_read(frame.f_code, frame.f_lineno) if isinstance(name, str)}
    kinds = [known.get(name) for name in names]
    kinds += [kind for several in kinds if isinstance(several, tuple) for kind in several]
    if any(isinstance(kind, type) and issubclass(kind, Octave) for kind in kinds):
        return False  # it knows of octave maps
    return "Tensor" in names or any(kind is torch.Tensor for kind in kinds)


def line_of_error(error: BaseException) -> str:
    """The innermost line of the network's code that an error went through; empty if there is none."""
    return next((_line(f.f_code, line) for f, line in _frames(error) if _is_users(f.f_code)), "")


def maps_read(error: BaseException) -> list[Octave]:
    """The octave maps that the line reads on which a run failed, or else those that its function holds."""
    for frame, line in _frames(error):
        if frame.f_code.co_filename.startswith(_OURS):
            continue
        held, read = dict(frame.f_locals), _names_read(frame.f_code, line)
        found = oct_tensors([value for name, value in held.items() if name in read])
        if found or (found := oct_tensors(list(held.values()))):
            return found
    return []


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The frames of an error with their lines, innermost first."""
    found, step = [], error.__traceback__
    while step is not None:
        found.append((step.tb_frame, step.tb_lineno))
        step = step.tb_next
    return reversed(found)


def _names_read(code: CodeType, line: int) -> set[Any]:
    """The variables of a function that one of its lines reads."""
    names: set[Any] = set()
    current: int | None = None
    starts = dict(dis.findlinestarts(code))
    for instruction in dis.get_instructions(code):
        current = starts.get(instruction.offset, current)
        loads = "LOAD" in instruction.opname and instruction.opname != "LOAD_CONST"
        if current == line and loads:
            value = instruction.argval  # two names where Python loads both at once
            names |= set(value) if isinstance(value, tuple) else {value}
    return names


def _is_users(code: CodeType) -> bool:
    return not code.co_filename.startswith((_TORCH, _OURS, "<"))


def _line(code: CodeType, line: int) -> str:
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{line}"
