"""Exported files, run: one interface to the runtimes of all formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from octavize.deploy.formats import Array, Run, format_of
from octavize.errors import InputError, extra_here, one_line, require_extra, whole

if TYPE_CHECKING:
    from torch import Tensor


class Runner:
    """A network out of a file.

    Attributes:
        metadata: what `octavize export` wrote into it: `classes`, `mean`, `std`, `size`, `alpha`,
            `input_shape`, `dynamic_batch`, `dynamic_size`, `octavize` (the version) …
    """

    def __init__(self, path: Path, run: Run, about: str | None) -> None:
        self.path, self._run = path, run
        self.metadata: dict[str, Any] = _read(path, about)

    def __call__(self, batch: Array | Tensor) -> Array:
        """The network's output (N, …) for a batch (N, C, H, W), both float32.

        Raises:
            InputError: the shape is not one that the file was exported for, or the runtime fails on it.
        """
        values = as_float32(batch)
        self._check(values.shape)
        try:
            output = self._run(np.ascontiguousarray(values))
        except Exception as error:  # each runtime has its own kinds
            raise InputError(
                f"model {self.path} fails on a batch of shape {values.shape} ({one_line(error)})"
            ) from error
        if len(output) != len(values):
            raise InputError(
                f"model {self.path} made {len(output)} outputs of {len(values)} inputs: its images may be "
                "too small, or the batch empty"
            )
        return output

    def _check(self, shape: tuple[int, ...]) -> None:
        wanted = self.metadata["input_shape"]
        free = {0} if self.metadata["dynamic_batch"] else set()
        if self.metadata["dynamic_size"]:
            free |= set(range(2, len(wanted)))
        if len(shape) != len(wanted) or any(
            n != want and axis not in free for axis, (n, want) in enumerate(zip(shape, wanted, strict=True))
        ):
            told = ["any" if axis in free else str(n) for axis, n in enumerate(wanted)]
            raise InputError(f"batch has shape {shape}, but {self.path} takes ({', '.join(told)})")
        least = self.metadata.get("smallest_size", 1)
        if self.metadata["dynamic_size"] and min(shape[2:]) < least:
            raise InputError(f"batch has shape {shape}, but {self.path} takes sizes from {least} pixels on")


def as_float32(values: Any) -> Array:
    """An array, or a tensor of either framework, as an array of float32."""
    if hasattr(values, "detach"):
        values = values.detach().astype("float32") if hasattr(values, "astype") else values.detach().float()
        values = values.cpu().numpy()
    return np.asarray(values, np.float32)


def _read(path: Path, about: str | None) -> dict[str, Any]:
    """The metadata of a file, checked."""
    try:
        metadata = json.loads(about or "")
        _ = [metadata[key] for key in ("input_shape", "dynamic_batch", "dynamic_size")]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"model {path} was not written by octavize: export it with `octavize export`"
        ) from None
    return metadata


def load_runtime(path: str | Path, threads: int | None = None, *, trust: bool = False) -> Runner:
    """Read an exported file.

    Args:
        path: .onnx (run by ONNX Runtime), .xml (OpenVINO) or .pt2 (PyTorch), each on the CPU.
        threads: for one call of the network; None leaves it to the runtime.
        trust: also read a .pt2, which PyTorch unpickles: whoever wrote the file may run code here.

    Returns:
        A `Runner`: `runner(batch)` gives the output as a NumPy array, `runner.metadata` what the file knows.

    Raises:
        InputError: missing, damaged, of another kind or not written by octavize; not trusted; or its runtime
            is missing.
    """
    path = Path(path)
    kind = format_of("model", path)
    if not path.is_file():
        raise InputError(f"model {path} does not exist: write it with `octavize export`")
    if threads is not None:
        whole("threads", threads, 1)
    if kind.runs_code and not trust:
        raise InputError(
            f"model {path} may run code as it is read (pickle): if you know who wrote it, give --trust (in "
            "Python trust=True); .onnx and .xml files run none"
        )
    for module in kind.needed_to_load:
        require_extra(module, extra_here(kind.extra) if kind.from_onnx else kind.extra)
    try:
        run, about = kind.load(path, threads)
    except InputError:
        raise
    except Exception as error:  # each runtime has its own kinds
        raise InputError(f"model {path} cannot be read ({one_line(error)}): export it again") from error
    return Runner(path, run, about)
