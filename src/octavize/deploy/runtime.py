"""Exported files, run: one interface to the runtimes of all formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
            `input_shape`, `dynamic_batch`, `dynamic_size`, `octavize` (the version) …; and, of a network of
            several inputs or whole numbers, `inputs`.
        inputs: what the network takes, in this order.
        outputs: the names of what it returns, in this order.
    """

    def __init__(self, path: Path, run: Run, about: str | None) -> None:
        self.path, self._run = path, run
        self.metadata: dict[str, Any] = _read(path, about)
        self.inputs: list[Entry] = entries_in(self.metadata)
        returned = self.metadata.get("outputs", [{"name": "output", "rows": True}])
        self.outputs: list[str] = [each["name"] for each in returned]
        self._by_row: list[bool] = [each["rows"] for each in returned]

    def __call__(self, *batch: Array | Tensor | Mapping[str, Any]) -> Any:
        """The network's output (N, …) for a batch (N, C, H, W), both float32.

        Of a network of several outputs, or one that returns a dict, a dict with all of them by name.

        Of a network of several inputs, the batch is one array an input, or one mapping with them by name.
        Whole numbers and truth values stay what they are.

        Raises:
            InputError: the shape is not one that the file was exported for, or the runtime fails on it.
        """
        found = self.all(*batch)
        return found[0] if "outputs" not in self.metadata else dict(zip(self.outputs, found, strict=True))

    def all(self, *batch: Array | Tensor | Mapping[str, Any]) -> list[Array]:
        """The same as a list, one output or several."""
        values = [self._value(entry, x) for entry, x in zip(self.inputs, self._in_order(batch), strict=True)]
        rows = self._rows(values)
        try:
            # np.ascontiguousarray would give a single number an axis.
            found = self._run(*(np.asarray(x, order="C") for x in values))
        except Exception as error:  # each runtime has its own kinds
            shapes = ", ".join(str(x.shape) for x in values)
            raise InputError(
                f"model {self.path} fails on a batch of shape {shapes} ({one_line(error)})"
            ) from error
        for output, by_row in zip(found, self._by_row, strict=True):
            if by_row and len(output) != rows:
                raise InputError(
                    f"model {self.path} made {len(output)} outputs of {rows} inputs: its images may be "
                    "too small, or the batch empty"
                )
        return found

    def scores(self, batch: Array | Tensor) -> Array:
        """What a classifier gives for a batch of images (N, C, H, W): its one output (N, classes).

        Raises:
            InputError: as above, or there are several outputs, or one of another shape: it is no classifier.
        """
        if len(self.outputs) > 1:
            raise InputError(f"model {self.path} answers with {', '.join(self.outputs)}: give a classifier")
        return scores_in(self.all(batch), f"model {self.path}")

    def _in_order(self, batch: Sequence[Any]) -> Sequence[Any]:
        """The inputs one after the other."""
        names = [entry.name for entry in self.inputs]
        if len(batch) == 1 and isinstance(batch[0], Mapping):
            if set(batch[0]) != set(names):
                raise InputError(f"batch has {', '.join(batch[0])}, but {self.path} takes {', '.join(names)}")
            return [batch[0][name] for name in names]
        if len(batch) != len(names):
            told = f"{len(names)} inputs ({', '.join(names)})" if len(names) > 1 else "one input"
            raise InputError(f"batch has {len(batch)} inputs, but {self.path} takes {told}")
        return batch

    def _value(self, entry: Entry, value: Any) -> Array:
        """An input as the file takes it.

        Raises:
            InputError: it has another shape; is of numbers where whole ones are wanted, or the other way
                round, as pixels of 0 to 255 are; or holds numbers too large for the file.
        """
        told = "batch" if len(self.inputs) == 1 else f"input {entry.name!r}"
        real = "float" in str(getattr(value, "dtype", "float"))
        found = as_float32(value) if real and entry.dtype == "float32" else as_array(value)
        if entry.dtype == "float32" and not real:
            raise InputError(
                f"{told} is of {found.dtype}, but {self.path} takes float32: give it prepared as for training"
            )
        if not np.can_cast(found.dtype, entry.dtype, "same_kind"):
            raise InputError(f"{told} is of {found.dtype}, but {self.path} takes {entry.dtype}")
        if not entry.takes(found.shape):
            raise InputError(f"{told} has shape {found.shape}, but {self.path} takes {entry}")
        least = self.metadata.get("smallest_size", 1)
        if any(found.shape[axis] < least for axis in entry.open if axis > 0):
            raise InputError(
                f"{told} has shape {found.shape}, but {self.path} takes sizes from {least} pixels on"
            )
        cast = found.astype(entry.dtype, copy=False)
        if not real and (cast != found).any():
            raise InputError(f"{told} has numbers too large for {entry.dtype}, which {self.path} takes")
        return cast

    def _rows(self, values: Sequence[Array]) -> int:
        """How many images there are.

        Raises:
            InputError: inputs that belong together differ in their length, or maps in their size.
        """
        for what, which in (("lengths", slice(1)), ("sizes", slice(2, None))):
            pairs = zip(self.inputs, values, strict=True)
            found = {x.shape[which] for entry, x in pairs if {*range(x.ndim)[which]} & {*entry.open}}
            if len(found) > 1:
                shapes = ", ".join(str(x.shape) for x in values)
                raise InputError(f"batch has inputs of different {what}, {shapes}: give as many of each")
        first = next((x for entry, x in zip(self.inputs, values, strict=True) if 0 in entry.open), None)
        return self.metadata["input_shape"][0] if first is None else len(first)


@dataclass(frozen=True)
class Entry:
    """An input of a file: its name, its shape, its dtype, and the axes whose length is open."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    open: tuple[int, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        same = len(shape) == len(self.shape)
        return same and all(n == shape[axis] or axis in self.open for axis, n in enumerate(self.shape))

    def __str__(self) -> str:
        told = ["any" if axis in self.open else str(n) for axis, n in enumerate(self.shape)]
        return f"({', '.join(told)})"


def entries_in(metadata: Mapping[str, Any]) -> list[Entry]:
    """The inputs that a file takes: one image, unless it says otherwise."""
    shape = metadata["input_shape"]
    axes = [0] if metadata["dynamic_batch"] else []
    axes += range(2, len(shape)) if metadata["dynamic_size"] else []
    image = {"name": "input", "shape": shape, "dtype": "float32", "open": axes}
    return [
        Entry(each["name"], tuple(each["shape"]), each["dtype"], tuple(each["open"]))
        for each in metadata.get("inputs", [image])
    ]


def as_float32(values: Any) -> Array:
    """An array, or a tensor of either framework, as an array of float32."""
    if hasattr(values, "detach"):
        values = values.detach().astype("float32") if hasattr(values, "astype") else values.detach().float()
    return np.asarray(as_array(values), np.float32)


def as_array(values: Any) -> Array:
    """An array, or a tensor of either framework, as an array."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def classes_of(outputs: Sequence[Any]) -> int | None:
    """How many classes a network tells apart, by all that it returned for images.

    None if it is no classifier, as one with a single output.
    """
    shapes = [tuple(output.shape) for output in outputs]
    return shapes[0][1] if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] > 1 else None


def scores_in(outputs: Sequence[Any], called: str) -> Array:
    """The one output (N, classes) of a classifier among all that it returned.

    Raises:
        InputError: there are several, or one of another shape; the message begins with `called`.
    """
    shapes = ", ".join(str(tuple(output.shape)) for output in outputs)
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise InputError(f"{called} answers with {shapes or 'no array'}: give a classifier")
    return as_float32(outputs[0])


def _read(path: Path, about: str | None) -> dict[str, Any]:
    """The metadata of a file, checked."""
    try:
        metadata = json.loads(about or "")
        entries_in(metadata)
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
        A `Runner`: `runner(batch)`, or `runner(a, b)`, gives the output as a NumPy array, or several by name,
        `runner.metadata` what the file knows.

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
