"""Exported files, run: one interface to ONNX Runtime, OpenVINO and torch.export."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavize.deploy.program import without_guards
from octavize.deploy.threads import torch_threads
from octavize.errors import InputError, one_line, require_extra, whole

KEY = "octavize"
"""Under this key a file carries its metadata, as JSON."""
Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]


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
        values = batch.detach().float().cpu().numpy() if isinstance(batch, Tensor) else np.asarray(batch)
        self._check(values.shape)
        try:
            output = self._run(np.ascontiguousarray(values, dtype=np.float32))
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


def load_runtime(path: str | Path, threads: int | None = None) -> Runner:
    """Read an exported file.

    Args:
        path: .onnx (run by ONNX Runtime), .xml (OpenVINO) or .pt2 (PyTorch), each on the CPU.
        threads: for one call of the network; None leaves it to the runtime.

    Returns:
        A `Runner`: `runner(batch)` gives the output as a NumPy array, `runner.metadata` what the file knows.

    Raises:
        InputError: missing, damaged, of another kind or not written by octavize; or its runtime is missing.
    """
    path = Path(path)
    load = _LOADERS.get(path.suffix)
    if load is None:
        raise InputError(f"model {path} is none of {', '.join(_LOADERS)}: give an exported file")
    if not path.is_file():
        raise InputError(f"model {path} does not exist: write it with `octavize export`")
    if threads is not None:
        whole("threads", threads, 1)
    try:
        run, about = load(path, threads)
    except InputError:
        raise
    except Exception as error:  # each runtime has its own kinds
        raise InputError(f"model {path} cannot be read ({one_line(error)}): export it again") from error
    return Runner(path, run, about)


def _load_onnx(path: Path, threads: int | None) -> tuple[Run, str | None]:
    require_extra("onnxruntime", "deploy")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    # Threads that sleep between layers cost a network of many small layers most; those that spin between
    # calls cost whatever else runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: Array) -> Array:
        return np.asarray(session.run(None, {name: batch})[0])

    return run, session.get_modelmeta().custom_metadata_map.get(KEY)


def _load_openvino(path: Path, threads: int | None) -> tuple[Run, str | None]:
    require_extra("openvino", "deploy")
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    # Some processors would compute in bfloat16 by themselves.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)
    own = threading.local()  # a request serves one call at a time

    def run(batch: Array) -> Array:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return np.array(own.request.infer(batch)[0])

    return run, str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None


def _load_pt2(path: Path, threads: int | None) -> tuple[Run, str | None]:
    found = {KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Runner checks the shape; torch 2.9 also writes checks that sizes fail which the program takes.
        module: Any = without_guards(torch.export.load(path, extra_files=found))

    def run(batch: Array) -> Array:
        with torch.inference_mode(), torch_threads(threads):
            return module(torch.from_numpy(batch)).numpy()

    return run, found[KEY]


_LOADERS: dict[str, Callable[[Path, int | None], tuple[Run, str | None]]] = {
    ".onnx": _load_onnx,
    ".xml": _load_openvino,
    ".pt2": _load_pt2,
}
