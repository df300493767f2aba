"""What autograd keeps for backward: not the pooled halves.

W_hl reads P(X_high), and the gradient of a weight needs what the weight read. But pooling is cheap, and
X_high is kept anyway, for W_hh and for the pooling itself: so P(X_high) is made again in backward. With that,
the maps of an octave layer take the share 1 − ¾α of vanilla's memory in training too (paper, Table 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@contextmanager
def made_again(value: Tensor, source: Tensor, make: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, autograd keeps `source` where it would keep `value`, which is `make(source)`.

    Compilers decide by themselves what to keep. Hooks that are in force already, such as those of an
    activation checkpoint, are given `source` in the place of `value`.
    """
    if value is source or not torch.is_grad_enabled() or torch.compiler.is_compiling() or not _hooks_work():
        yield
        return
    pack, unpack = who_saves() or _AS_THEY_ARE
    storage = value.untyped_storage()._cdata

    def keep(tensor: Tensor) -> Any:
        if tensor.untyped_storage()._cdata != storage:
            return pack(tensor)
        return _Again(pack(source))

    def give(kept: Any) -> Tensor:
        return make(unpack(kept.source)) if isinstance(kept, _Again) else unpack(kept)

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        yield


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
