"""One run of a study: how it ended, how it is trained, and whose fault it is when something goes wrong."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO

import torch

from octavize.data.images import Images
from octavize.errors import InputError
from octavize.files import is_full, known_json, write_json
from octavize.report.progress import logged
from octavize.study.design import Planned
from octavize.training.hardware import Hardware
from octavize.training.metrics import known_metrics
from octavize.training.runs import read_result
from octavize.training.train import drop_damaged, train_run

FAILED = "failed.json"
LAUNCHERS = (
    *("SLURM_", "TORCHELASTIC_", "OMPI_", "PMI_"),
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
"""How the names of variables begin by which torchrun and SLURM tell processes of each other."""


def finished(folder: Path) -> dict[str, Any] | None:
    """The result of a run; None where it is not finished or its files were cut short."""
    try:
        result = read_result(folder)
    except InputError:
        return None
    return result if known_metrics(folder) else None


def failure(folder: Path) -> dict[str, Any] | None:
    """Why a run has failed; None where it has not."""
    path = folder / FAILED
    return {"reason": "failed.json was cut short", **known_json(path)} if path.is_file() else None


def ended(folder: Path) -> bool:
    """Whether a run is finished or has failed."""
    return finished(folder) is not None or failure(folder) is not None


def leave_launcher() -> None:
    """Forget what torchrun or SLURM said of other processes: each run is trained by one."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            del os.environ[name]


def train(place: Planned, images: Images, out: Path, hardware: Hardware) -> None:
    """Train one run, going on from its last finished epoch; what goes wrong is written into its folder.

    Raises:
        InputError: the disk is full, or the machine is in other trouble, which is no property of the run.
    """
    folder = place.folder(out)
    with in_one_line(out, f"run {place.slug}"):
        folder.mkdir(parents=True, exist_ok=True)
        # Warnings would otherwise be written across the progress that the terminal shows.
        with (folder / "log.txt").open("a", buffering=1, encoding="utf-8") as log, redirect_stderr(log):
            try:
                _train(place, images, folder, hardware, log)
            except Exception as error:
                if not is_of_run(error):
                    raise
                mark(folder, error)


def _train(place: Planned, images: Images, folder: Path, hardware: Hardware, log: TextIO) -> None:
    if finished(folder) is None:
        (folder / "result.json").unlink(missing_ok=True)  # if it is there, it was cut short
    if drop_damaged(folder):
        log.write("the state to resume from was cut short: training from the start\n")
    with logged(logging.StreamHandler(log)):
        train_run(place.run, place.recipe, images, folder, hardware=hardware)


@contextmanager
def in_one_line(out: Path, what: str) -> Iterator[None]:
    """Say trouble of the machine in one line.

    Raises:
        InputError: the disk is full, or there is trouble with memory, a file or a GPU.
    """
    try:
        yield
    except Exception as error:
        if is_full(error):
            told = f"out is {out}, whose disk is full: make room and give the same command again"
        elif isinstance(error, InputError):
            raise
        else:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            told = f"{what} was stopped by trouble of this machine ({reason})"
        raise InputError(told) from error


def is_of_run(error: Exception) -> bool:
    """Whether an error belongs to the run, and not to the machine, its memory, its disk or its GPU."""
    of_machine = (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
    no_memory = "can't allocate memory" in str(error)  # on a CPU torch says it in a plain RuntimeError
    return not (isinstance(error, of_machine) or no_memory or is_full(error))


def mark(folder: Path, error: Exception) -> None:
    """Mark a run failed, with the reason."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, InputError):
        reason = f"{type(error).__name__}: {reason}"
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
    write_json(folder / FAILED, {"reason": reason})
