"""What autograd keeps for backward: not the pooled halves.

W_hl reads P(X_high), and the gradient of a weight needs what the weight read. But pooling is cheap, and
X_high is kept anyway, for W_hh and for the pooling itself: so P(X_high) is made again in backward, and with
stride 2 all that the four weights read. With that, the maps of an octave layer take the share 1 − ¾α of
vanilla's memory in training too (paper, Table 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


def who_saves() -> Any:
    """The hooks that keep tensors for backward just now: each activation checkpoint has its own."""
    if torch.compiler.is_compiling():
        return None
    internals: Any = torch._C  # torch shows its hooks nowhere else
    return internals._autograd._top_saved_tensors_default_hooks(True)


@dataclass(frozen=True)
class _Again:
    """Stands for a tensor that is made again from what `source` was packed into."""

    source: Any
    make: Callable[[Tensor], Tensor]
    shape: torch.Size


@contextmanager
def made_again(make: Callable[[Tensor], Tensor], *pairs: tuple[Tensor, Tensor]) -> Iterator[None]:
    """Within, autograd keeps `source` where it would keep `value`, which is `make(source)`.

    Compilers decide by themselves what to keep. Hooks that are in force already, such as those of an
    activation checkpoint or of another `made_again`, are given `source` in the place of `value`.

    Args:
        pairs: (value, source); of no effect where both are the same tensor.
    """
    known = {value.untyped_storage()._cdata: (value, source) for value, source in _two(pairs)}
    if not known:
        yield
        return
    pack, unpack = who_saves() or _AS_THEY_ARE

    def keep(tensor: Tensor) -> Any:
        value, source = known.get(tensor.untyped_storage()._cdata, (None, None))
        if value is None or source is None or _layout(value) != _layout(tensor):
            return pack(tensor)
        return _Again(pack(source), make, tensor.shape)

    def give(kept: Any) -> Tensor:
        return kept.make(unpack(kept.source)).view(kept.shape) if isinstance(kept, _Again) else unpack(kept)

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        yield


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Which values of its memory a tensor shows, axes of length one left out: torch's 1-D layers add one."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.storage_offset(), [(length, stride) for length, stride in axes if length != 1]


def _two(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The pairs that are two tensors, where hooks can be had; none elsewhere."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not _hooks_work():
        return []
    return [(value, source) for value, source in pairs if value is not source]


def _same(tensor: Any) -> Any:
    return tensor


_AS_THEY_ARE: Hooks = (_same, _same)


def in_transform() -> bool:
    """Whether one of torch.func's transforms runs: its tensors have no storage, and are dead afterwards."""
    internals: Any = torch._C
    return not torch.compiler.is_compiling() and internals._functorch.peek_interpreter_stack() is not None


def _hooks_work() -> bool:
    internals: Any = torch._C
    return not in_transform() and internals._autograd._saved_tensors_hooks_is_enabled()
