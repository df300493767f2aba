"""Lines of the network's own code: where a map was read, and which maps a line that failed reads."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from octavize.errors import one_line, shortened
from octavize.plans.planning import Fallback

_HERE = __file__
_OURS = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Lines:
    """Tells the lines of networks from those of a framework.

    Args:
        framework: the folder of the framework's code.
        runs: the folder, or the file, of the code that runs networks to plan them.
        tensors: the classes of the framework's tensors.
        octave: the class of octave values.
        octave_values: finds the octave values in nested containers.
    """

    framework: str
    runs: str
    tensors: tuple[type, ...]
    octave: type
    octave_values: Callable[[Any], Sequence[Any]]

    def of_call(self) -> str:
        """The line of the network's code that now calls a function on a map, as `models/net.py:12`.

        Empty if no code but the framework's does, as in a `Sequential` of its own layers.
        """
        frame = sys._getframe()
        while frame is not None and self._runs(frame):  # those who ask
            frame = frame.f_back
        while frame is not None and not self._runs(frame):  # who runs the network
            if self._is_users(frame.f_code):
                return _line(frame.f_code, frame.f_lineno)
            frame = frame.f_back
        return ""

    def asks_for_a_tensor(self) -> bool:
        """Whether the line that now asks for a map's class asks if it is a tensor, not if it is a list."""
        frame = sys._getframe()
        while frame is not None and frame.f_code.co_filename.startswith(_OURS):
            frame = frame.f_back
        if frame is None or frame.f_code.co_filename.startswith(self.framework):
            return frame is not None and frame.f_code.co_name == "is_tensor"
        known = {**frame.f_globals, **frame.f_locals}
        names = {name for name in _names_read(frame.f_code, frame.f_lineno) if isinstance(name, str)}
        kinds = [known.get(name) for name in names]
        kinds += [kind for several in kinds if isinstance(several, tuple) for kind in several]
        if any(isinstance(kind, type) and issubclass(kind, self.octave) for kind in kinds):
            return False  # it knows of octave maps
        named = any(kind.__name__ in names for kind in self.tensors)
        return named or any(kind is one for kind in kinds for one in self.tensors)

    def of_error(self, error: BaseException) -> str:
        """The innermost line of the network's code that an error went through; empty if there is none."""
        return next((_line(f.f_code, line) for f, line in _frames(error) if self._is_users(f.f_code)), "")

    def failed_on(
        self, error: BaseException | None, sources: Callable[..., frozenset[str]]
    ) -> list[Fallback]:
        """The maps on which the network's code failed: it may run on the dense ones.

        Args:
            error: what was raised, if anything was.
            sources: tells which layers made maps.
        """
        if error is None or not (made_by := sources(*self.maps_read(error))):
            return []
        where = self.of_error(error) or "a layer"
        what = f"{where}, which fails on an octave map ({shortened(one_line(error, kind=True))}),"
        return [Fallback(what, made_by)]

    def maps_read(self, error: BaseException) -> Sequence[Any]:
        """The octave maps that the line that failed reads, or else those that its function holds."""
        for frame, line in _frames(error):
            if frame.f_code.co_filename.startswith(_OURS):
                continue
            held, read = dict(frame.f_locals), _names_read(frame.f_code, line)
            found = self.octave_values([value for name, value in held.items() if name in read])
            if found or (found := self.octave_values(list(held.values()))):
                return found
        return []

    def _runs(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith((self.runs, _HERE))

    def _is_users(self, code: CodeType) -> bool:
        return not code.co_filename.startswith((self.framework, _OURS, "<"))


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


def _line(code: CodeType, line: int) -> str:
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{line}"
