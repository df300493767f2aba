"""Networks as torch.export files, which PyTorch runs without the code that made them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavize.deploy.formats import Array, Format, Run
from octavize.files import KEY

if TYPE_CHECKING:
    import torch


def _write(program: torch.export.ExportedProgram, path: Path, about: str) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={KEY: about})


def _load(path: Path, threads: int | None) -> tuple[Run, str | None]:
    import torch
    from torch.utils._pytree import tree_leaves

    from octavize.deploy.program import without_guards
    from octavize.deploy.threads import torch_threads

    found = {KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Runner checks the shape; torch 2.9 also writes checks that sizes fail which the program takes.
        module: Any = without_guards(torch.export.load(path, extra_files=found))

    def run(*batch: Array) -> list[Array]:
        with torch.inference_mode(), torch_threads(threads):
            return [x.numpy() for x in tree_leaves(module(*map(torch.from_numpy, batch)))]

    return run, found[KEY]


FORMAT = Format(suffix=".pt2", runtime="PyTorch", write=_write, load=_load, runs_code=True)
