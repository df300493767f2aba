"""What autograd keeps for backward: not the pooled halves.

W_hl reads P(X_high), and the gradient of a weight needs what the weight read. But pooling is cheap, and
X_high is kept anyway, for W_hh and for the pooling itself: so P(X_high) is made again in backward, and so is
whatever a stride of 2 pools. With that, the maps of an octave layer take the share 1 − ¾α of vanilla's memory
in training too (paper, Table 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from octavize.nn import _torch_internals as internals


def who_saves() -> Any:
    """What keeps tensors for backward just now: each activation checkpoint has hooks of its own.

    None for autograd itself. Where torch does not tell, a thing that equals no other.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return None
    return internals.saving_hooks() if internals.sees_saving_hooks() else object()


@contextmanager
def made_again(make: Callable[[Tensor], Tensor], *pairs: tuple[Tensor, Tensor]) -> Iterator[None]:
    """Within, autograd keeps `source` where it would keep `value`, which is `make(source)`.

    Compilers and transforms decide by themselves what to keep. Hooks that are in force already, such as those
    of an activation checkpoint or of another `made_again`, are given `source` in the place of `value`: those
    that copy what they are given copy the larger one.

    Args:
        pairs: (value, source); of no effect where both are the same tensor.
    """
    pairs = tuple((value, source) for value, source in pairs if value is not source)
    if not pairs or not _free_to_keep():
        yield
        return
    pack, unpack = internals.saving_hooks() or (_Kept.now, _Kept.unchanged)
    held = [value.untyped_storage() for value, _ in pairs]  # so that no other gets the identity of one
    known = {id(storage): pair for storage, pair in zip(held, pairs, strict=True)}

    def keep(tensor: Tensor) -> Any:
        found = known.get(id(tensor.untyped_storage()))
        if found is None or _layout(found[0]) != _layout(tensor):
            return pack(tensor)
        value, source = found
        return _Again(partial(unpack, pack(source)), make, value.dtype, tensor.shape)

    def give(kept: Any) -> Tensor:
        return kept.made() if isinstance(kept, _Again) else unpack(kept)

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        yield


@dataclass(frozen=True)
class _Again:
    """Stands for a tensor of this dtype and shape that is made again from its source."""

    source: Callable[[], Tensor]
    make: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    shape: torch.Size

    def made(self) -> Tensor:
        return self.make(self.source().to(self.dtype)).view(self.shape)  # autocast may have pooled in another


@dataclass(frozen=True)
class _Kept:
    """A tensor as it is, with its version: of what hooks keep, torch does not look after that."""

    tensor: Tensor
    version: Any

    @classmethod
    def now(cls, tensor: Tensor) -> _Kept:
        return cls(tensor, version_of(tensor))

    def unchanged(self) -> Tensor:
        """The tensor. Raises RuntimeError, as torch does, if it was changed in place."""
        if version_of(self.tensor) != self.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace "
                f"operation: a tensor of shape {tuple(self.tensor.shape)} that an octave convolution read, "
                f"at version {self.version} then and at {version_of(self.tensor)} now"
            )
        return self.tensor


def version_of(tensor: Tensor) -> Any:
    """torch's count of changes in place; 0 where there is none (in inference mode, or while compiling).

    Where torch does not tell, a thing that equals no other.
    """
    if torch.compiler.is_compiling() or tensor.is_inference():
        return 0
    version = internals.version_of(tensor)
    return object() if version is None else version


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Which values of its memory a tensor shows, axes of length one left out: torch's 1-D layers add one."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.storage_offset(), [(length, stride) for length, stride in axes if length != 1]


def in_transform() -> bool:
    """Whether one of torch.func's transforms runs: its tensors have no storage, and are dead afterwards."""
    return not torch.compiler.is_compiling() and internals.in_transform()


def _free_to_keep() -> bool:
    """Whether autograd records, and hooks can tell it what to keep."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or in_transform():
        return False
    return internals.sees_saving_hooks() and internals.counts_changes() and _takes_hooks()


def _takes_hooks() -> bool:
    """Whether hooks may be set at all: `torch.autograd.graph.disable_saved_tensors_hooks` forbids it."""
    try:
        with torch.autograd.graph.saved_tensors_hooks(_Kept.now, _Kept.unchanged):
            return True
    except RuntimeError:
        return False
