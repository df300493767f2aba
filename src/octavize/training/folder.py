"""The folder that a command trains into: it belongs to what was asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from octavize.errors import InputError
from octavize.files import check_folder, write_text


@contextmanager
def claimed(
    path: Path, text: str, foreign: Callable[[Path], str], outputs: Iterable[str], restart: bool
) -> Iterator[None]:
    """Make a folder that of what was asked for, and hold it; only one of several processes writes.

    Two commands would mix their files, and --restart would remove those of a training.

    Args:
        path: the file in it that says what was asked for.
        text: of that file.
        foreign: see `check_folder`.
        outputs: names of what the command writes there, which is removed if it shall restart.

    Raises:
        InputError: it belongs to something else, or holds other files; or another command is at work there.
    """
    _check(path, foreign, restart)  # nothing is written where it is another's, not even a lock
    with alone_in(path.parent, "train.lock"):
        _check(path, foreign, restart)  # it may have become another's meanwhile
        if is_first_process():
            if restart and path.is_file():
                for name in outputs:
                    _remove(path.with_name(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        yield


@contextmanager
def alone_in(out: Path, name: str) -> Iterator[None]:
    """Hold a folder by a lock of this name, in the first of several processes.

    Raises:
        InputError: another process holds it.
    """
    with folder_lock(out / name) if is_first_process() else nullcontext(True) as ours:
        if not ours:
            raise InputError(
                f"out is {out}, where another command is at work: wait for it, or give another --out"
            )
        yield


@contextmanager
def folder_lock(path: Path) -> Iterator[bool]:
    """Hold a lock, or say (False) that another process does; the system ends a dead one's hold."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with suppress(Timeout):
        lock.acquire(timeout=0)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def is_first_process() -> bool:
    """Whether this process is the one that writes, also before a process group exists."""
    keys = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(int(os.environ.get(key, "0")) == 0 for key in keys)


def _check(path: Path, foreign: Callable[[Path], str], restart: bool) -> None:
    theirs = (lambda path: "") if restart else foreign
    check_folder(path.parent, path.name, theirs, ", or --restart to begin anew")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
