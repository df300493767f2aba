"""One process that trains runs until none is left."""

from __future__ import annotations

import errno
import os
import threading
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from functools import cache
from multiprocessing import parent_process
from pathlib import Path
from socket import gethostname
from typing import Any

import torch
from rich.console import Console

from octavize.data.images import Images
from octavize.errors import InputError, one_line
from octavize.files import write_json
from octavize.study.design import Planned
from octavize.study.estimate import peak_macs
from octavize.study.queue import FAILED, Queue, StillOurs, finished
from octavize.training.hardware import Hardware, device_of, prepare_process
from octavize.training.recipe import Recipe
from octavize.training.train import drop_damaged, load_images, train_run

LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "OMPI_", "PMI_")
MACHINE = "machine.json"
RANKS = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)


def main(
    places: Sequence[Planned],
    recipe: Recipe,
    out: Path,
    data_dir: Path | None,
    hardware: Hardware,
    messages: Any,
) -> None:
    """What a process of a `Crew` does. What stops it, such as a full disk, is put into `messages`."""
    leave_launcher()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    prepare_process(hardware)  # also of whatever comes before the first training
    try:
        # A worker must not write across the progress that its parent shows.
        with (out / "workers.log").open("a", buffering=1, encoding="utf-8") as log, redirect_stderr(log):
            work(places, load_images(recipe, data_dir), out, hardware)
    except (InputError, OSError) as error:
        messages.put(str(disk_full(out) if is_full(error) else error))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def leave_launcher() -> None:
    """Forget what torchrun or SLURM said of other processes: a worker trains its runs alone."""
    for name in list(os.environ):
        if name in RANKS or name.startswith(LAUNCHERS):
            del os.environ[name]


def _die_with_parent() -> None:
    """End this process when its parent is gone: a study started again would otherwise have too many."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def work(places: Sequence[Planned], images: Images, out: Path, hardware: Hardware, wait: float = 2.0) -> None:
    """Train runs until every one is finished or has failed.

    Raises:
        InputError: see `train`.
        OSError: a run cannot be claimed, because the disk is full or out of reach.
    """
    queue = Queue(out, places)
    while taken := queue.take(wait):
        place, claim = taken
        try:
            train(place, images, out, hardware, StillOurs(claim))
        finally:
            with suppress(OSError):
                claim.release()


def train(place: Planned, images: Images, out: Path, hardware: Hardware, still_ours: StillOurs) -> None:
    """Train one run; what goes wrong is written into its folder.

    Raises:
        InputError: the disk is full, or the machine is in other trouble, which is no property of the run.
    """
    folder = place.folder(out)
    try:
        if finished(folder) is None:
            (folder / "result.json").unlink(missing_ok=True)  # if it is there, it was cut short
        with (folder / "log.txt").open("a", buffering=1, encoding="utf-8") as log:
            if drop_damaged(folder):
                log.write("the state to resume from was cut short: training from the start\n")
            console = Console(file=log, width=100)
            write_json(folder / MACHINE, machine(place.recipe.precision, device_of(hardware)))
            train_run(
                place.run, place.recipe, images, folder, hardware=hardware, console=console,
                callbacks=[still_ours],
            )  # fmt: skip
    except Exception as error:
        if still_ours.lost():  # whatever went wrong, the run is another's
            return
        if is_full(error):
            raise disk_full(out) from error
        if not is_of_run(error):
            reason = one_line(error, kind=True)
            raise InputError(f"run {place.slug} was stopped by trouble of this machine ({reason})") from error
        mark(folder, error)


@cache
def machine(precision: str, device: torch.device) -> dict[str, Any]:
    """Who trains here, and the multiply–accumulates a second that a matrix product reaches."""
    return {"host": gethostname(), "peak_macs": peak_macs(precision, device)}


def is_of_run(error: Exception) -> bool:
    """Whether an error belongs to the run, and not to the machine, its memory, its disk or its GPU."""
    of_machine = (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
    no_memory = "can't allocate memory" in str(error)  # on a CPU torch says it in a plain RuntimeError
    return not (isinstance(error, of_machine) or no_memory or is_full(error))


def mark(folder: Path, error: Exception) -> None:
    """Mark a run failed, with the reason."""
    ours = isinstance(error, InputError)
    if not ours:
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
    write_json(folder / FAILED, {"reason": one_line(error, kind=not ours)})


def disk_full(out: Path) -> InputError:
    """What to tell then."""
    return InputError(f"out is {out}, whose disk is full: make room and give the same command again")


def is_full(error: BaseException | None) -> bool:
    """Whether an exception, or what it came from, says that there is no room on a disk."""
    while error is not None:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
