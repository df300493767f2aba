"""The folder that a command trains into: it belongs to what was asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from octavize.files import check_folder, write_text


def claim(
    path: Path, text: str, foreign: Callable[[Path], str], outputs: Iterable[str], restart: bool
) -> None:
    """Make a folder that of what was asked for; only one of several processes writes.

    Args:
        path: the file in it that says what was asked for.
        text: of that file.
        foreign: see `check_folder`.
        outputs: names of what the command writes there, which is removed if it shall restart.

    Raises:
        InputError: it belongs to something else, or holds other files.
    """
    theirs = (lambda path: "") if restart else foreign
    check_folder(path.parent, path.name, theirs, ", or --restart to begin anew")
    if not is_first_process():
        return
    if restart and path.is_file():
        for name in outputs:
            _remove(path.with_name(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def is_first_process() -> bool:
    """Whether this process is the one that writes, also before a process group exists."""
    keys = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(int(os.environ.get(key, "0")) == 0 for key in keys)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
