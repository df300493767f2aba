"""What a measured number is stored with: versions, processor, threads."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def environment(*packages: str) -> dict[str, Any]:
    """Versions of octavize, torch and `packages` (those installed), Python, platform, processor, threads."""
    import torch

    return {**versions("torch", *packages), "processor": cpu_name(), "threads": torch.get_num_threads()}


def versions(*packages: str) -> dict[str, Any]:
    """Versions of octavize and `packages` (those installed), Python, platform."""
    return {
        **{name: found for name in ("octavize", *packages) if (found := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def cpu_name() -> str:
    """`processor_name`, and its vectors as torch uses them.

    Clouds call several generations by one name, and what octave saves depends on the length of the vectors.
    """
    import torch

    return f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"


def processor_name() -> str:
    """The processor as it calls itself, and its number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores"


BUSY = 0.1
"""Cores that other processes may use before times are called disturbed."""
SHORTEST = 1.0
"""Seconds for which the machine has to be watched to tell."""


_found: list[float] | None = None
"""By how many cores times were disturbed so far; None where each is told at once."""


@contextmanager
def told_once() -> Iterator[None]:
    """In here many times are measured; what disturbs them is told once, at the end, by its worst."""
    global _found
    before, _found = _found, []
    try:
        yield
        found = max(_found, default=0.0)
    finally:
        _found = before
    _tell(found)


@contextmanager
def others_watched() -> Iterator[None]:
    """Warn if other processes kept the machine busy meanwhile: times and even their ratios are wrong then."""
    import psutil

    def idle_and_own() -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
        return time.monotonic(), machine.idle + getattr(machine, "iowait", 0.0), own.user + own.system

    before = idle_and_own()
    yield
    passed, idle, own = (after - start for after, start in zip(idle_and_own(), before, strict=True))
    others = (psutil.cpu_count() or 1) - (idle + own) / max(passed, 1e-9)
    if passed > SHORTEST:
        _tell(others)


def _tell(others: float) -> None:
    """Warn of so many disturbing cores, or keep them for the end of `told_once`."""
    if _found is not None:
        _found.append(others)
    elif others > BUSY:
        warnings.warn(
            f"other processes used {others:.1f} cores while this was timed: times and ratios are disturbed; "
            "measure again on an idle machine",
            UserWarning,
            stacklevel=4,
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
