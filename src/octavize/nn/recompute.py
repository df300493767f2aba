"""What autograd keeps for backward: the halves that a layer reads, but no map pooled from them.

The low output reads [P(X_high), X_low], and the gradient of a weight needs what the weight read. But pooling
is cheap, and autograd keeps X_high and X_low anyway, for the high output and for the pooling itself. So
backward recomputes the pooled and merged maps. The maps of an octave layer then take the share 1 − ¾α of
vanilla's memory in training too (paper, Table 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from octavize.nn import _torch_internals as internals


def who_saves() -> Any:
    """The hooks that now keep tensors for backward: each activation checkpoint has hooks of its own.

    None for autograd itself. If torch does not tell, an object that equals no other.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return None
    return internals.saving_hooks() if internals.sees_saving_hooks() else object()


class Made(NamedTuple):
    """A tensor and how it was computed: `value` is `make(*sources)`."""

    value: Tensor
    make: Callable[..., Tensor]
    sources: tuple[Tensor, ...]


def kept(value: Tensor) -> Made:
    """A tensor that backward keeps as it is."""
    return Made(value, _itself, (value,))


def _itself(value: Tensor) -> Tensor:
    return value


def call_keeping_sources(function: Callable[..., Tensor], made: Made, *arguments: Any) -> Tensor:
    """Return `function(made.value, *arguments)`; autograd keeps `made.sources` instead of `made.value`.

    Compilers and transforms decide by themselves what to keep. Hooks that are already active, such as those
    of an activation checkpoint or of another layer, get the sources instead of the value. So hooks that copy
    their tensors copy the larger ones.
    """
    if made.value is made.sources[0] or not _free_to_keep():
        return function(made.value, *arguments)
    with _keeping_sources(made):
        return function(made.value, *arguments)


@contextmanager
def _keeping_sources(made: Made) -> Iterator[None]:
    pack, unpack = internals.saving_hooks() or (_Kept.now, _Kept.unchanged)
    value, make, sources = made
    storage, layout, dtype = value.untyped_storage(), _layout(value), value.dtype
    del made, value  # whatever `give` refers to lives until backward

    def keep(tensor: Tensor) -> Any:
        if tensor.untyped_storage() is not storage or _layout(tensor) != layout:
            return pack(tensor)
        return _Again([pack(source) for source in sources], tensor.shape)

    def give(kept: Any) -> Tensor:
        if not isinstance(kept, _Again):
            return unpack(kept)
        # Autocast may have computed the value in another dtype.
        return make(*(unpack(source).to(dtype) for source in kept.sources)).view(kept.shape)

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        yield


@dataclass(frozen=True)
class _Again:
    """Stands for a tensor of this shape that backward recomputes from its kept sources."""

    sources: list[Any]
    shape: torch.Size


@dataclass(frozen=True)
class _Kept:
    """A tensor with its version: torch does not check the versions of what hooks keep."""

    tensor: Tensor
    version: Any

    @classmethod
    def now(cls, tensor: Tensor) -> _Kept:
        return cls(tensor, version_of(tensor))

    def unchanged(self) -> Tensor:
        """Return the tensor; raise RuntimeError, as torch does, if it was changed in place."""
        if version_of(self.tensor) != self.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace "
                f"operation: a tensor of shape {tuple(self.tensor.shape)} that an octave convolution read, "
                f"at version {self.version} then and at {version_of(self.tensor)} now"
            )
        return self.tensor


def version_of(tensor: Tensor) -> Any:
    """torch's count of changes in place; 0 if it does not count (in inference mode, or while compiling)."""
    uncounted = torch.compiler.is_compiling() or tensor.is_inference()
    return 0 if uncounted else internals.version_of(tensor)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Offset, shape and strides of a tensor, without axes of length one: torch's 1-D layers add one."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.storage_offset(), [(length, stride) for length, stride in axes if length != 1]


def _free_to_keep() -> bool:
    """Whether autograd records, and hooks may choose what it keeps."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or internals.in_transform():
        return False
    return internals.sees_saving_hooks() and internals.counts_changes() and _takes_hooks()


def _takes_hooks() -> bool:
    """Whether hooks are allowed: `torch.autograd.graph.disable_saved_tensors_hooks` forbids them."""
    try:
        with torch.autograd.graph.saved_tensors_hooks(_Kept.now, _Kept.unchanged):
            return True
    except RuntimeError:
        return False
