"""Everything of torch that octavize uses and torch does not document, in one place.

Any release may rename or drop such a thing. So each is looked for when it is needed, and each has a way to do
without: a missing one costs memory or speed, never a result. The tests hide them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
    from torch.nn.modules.conv import _ConvNd as ConvNd
    from torch.utils._python_dispatch import TorchDispatchMode

Function = TypeVar("Function", bound=Callable[..., object])
Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


def _find(path: str, home: Any = torch) -> Any:
    """What `home` has under a dotted path; None where it has nothing."""
    found = home
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


@cache
def _found(path: str) -> Any:
    """What torch has under a dotted path, looked for once: layers ask at every call."""
    return _find(path)


# ---- base classes -----------------------------------------------------------------------------------


def _base_of_convolutions() -> Any:
    """`ConvNd`: what all of torch's convolutions derive from. Without it, what they all are: modules."""
    return _find("nn.modules.conv._ConvNd") or nn.Module


def _base_of_batch_norms() -> Any:
    """`BatchNorm`, for isinstance: what all batch norms derive from.

    Without it, torch's own classes: one that derives from none of them is then like any other module.
    """
    own = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return _find("nn.modules.batchnorm._BatchNorm") or own


class _Blind:
    """A mode in whose scope nothing is seen."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *raised: object) -> None:
        pass


def _base_of_dispatch_modes() -> Any:
    """`TorchDispatchMode`: sees every ATen operation in its scope.

    Without it nothing is seen: no batch norm is folded, and no channel changes its place.
    """
    return _find("utils._python_dispatch.TorchDispatchMode") or _Blind


if not TYPE_CHECKING:
    ConvNd = _base_of_convolutions()
    BatchNorm = _base_of_batch_norms()
    TorchDispatchMode = _base_of_dispatch_modes()


# ---- autograd ---------------------------------------------------------------------------------------


def version_of(tensor: Tensor) -> int | None:
    """torch's count of the changes in place of a tensor. Not of one that was made in inference mode.

    None where torch does not tell: then nothing that was made from a tensor may serve twice.
    """
    return tensor._version if counts_changes() else None


def counts_changes() -> bool:
    """Whether torch tells how often a tensor was changed in place. Without, autograd keeps all it reads."""
    return _found("Tensor._version") is not None


def sees_saving_hooks() -> bool:
    """Whether `saving_hooks` can tell. Without, autograd keeps all it reads: no hooks may get in between."""
    return _found("_C._autograd._top_saved_tensors_default_hooks") is not None


def saving_hooks() -> Hooks | None:
    """The hooks that are given what autograd keeps just now: each activation checkpoint has its own.

    None where there are none, or where `sees_saving_hooks` says that torch does not tell.
    """
    top = _found("_C._autograd._top_saved_tensors_default_hooks")
    return None if top is None else top(True)


def in_transform() -> bool:
    """Whether one of torch.func's transforms runs: its tensors have no storage, and are dead afterwards.

    Where torch does not tell, True: nothing is shared then, and nothing kept for later.
    """
    peek = _found("_C._functorch.peek_interpreter_stack")
    return peek is None or peek() is not None


def in_forward_derivative() -> bool:
    """Whether a forward-mode derivative is computed. Where torch does not tell, True: torch's own layers."""
    level = _find("autograd.forward_ad._current_level")
    return level is None or level >= 0


# ---- modules ----------------------------------------------------------------------------------------


def forward_hooks(module: nn.Module) -> list[MutableMapping[int, Any]]:
    """The hooks before and after a module's forward, to be taken off a copy; without, copies keep them."""
    found = (_find(name, module) for name in ("_forward_hooks", "_forward_pre_hooks"))
    return [hooks for hooks in found if hooks is not None]


def may_have_pre_hooks(module: nn.Module) -> bool:
    """Whether hooks come before a module's forward. Where torch does not tell, True: it is left alone."""
    hooks = _find("_forward_pre_hooks", module)
    return hooks is None or bool(hooks)


def computes_as(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether a class of convolutions computes what `base` does: it leaves the methods that do alone.

    Beside `forward` that is a method of torch's which pads; without it, `forward` alone decides.
    """
    return all(_find(name, kind) is _find(name, base) for name in ("forward", "_conv_forward"))


# ---- operations -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _NoSchema:
    """Of an operation of which torch says nothing: no rule knows its name."""

    name: str = "::"
    arguments: tuple[Any, ...] = ()
    is_mutable: bool = False


def schema_of(operation: Any) -> Any:
    """Name and arguments of an ATen operation. Without, channels that it reads stay where they are."""
    return _find("_schema", operation) or _NoSchema()


def decompositions(operations: Iterable[Any]) -> dict[Any, Callable[..., Any]]:
    """How operations are made of simpler ones. Without, channels that they read stay where they are."""
    try:
        from torch._decomp import get_decompositions
    except ImportError:
        return {}
    return get_decompositions(list(operations))  # pyright: ignore[reportReturnType]


def may_write(operation: Any) -> bool:
    """Whether an operation changes its first argument; of what torch does not tell, True."""
    schema = _find("_schema", operation)
    return schema is None or schema.name.endswith("_")


def tree_leaves(tree: Any) -> list[Any]:
    """The values in nested containers, one by one.

    Without torch's own, of lists, tuples and mappings: containers that users registered count as values.
    """
    own = _find("utils._pytree.tree_leaves")
    if own is not None:
        return own(tree)
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return (
        [leaf for value in tree for leaf in tree_leaves(value)] if isinstance(tree, (list, tuple)) else [tree]
    )


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Nested containers with a function applied to each of their values; see `tree_leaves`."""
    own = _find("utils._pytree.tree_map")
    if own is not None:
        return own(function, tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(tree_map(function, value) for value in tree))
    if isinstance(tree, (list, tuple)):
        mapped = [tree_map(function, value) for value in tree]
        return mapped if isinstance(tree, list) else tuple(mapped)
    if isinstance(tree, dict):
        return {key: tree_map(function, value) for key, value in tree.items()}
    return function(tree)


class _ByIdentity(MutableMapping[Tensor, Any]):
    """A mapping from tensors, which it keeps alive: by identity, since they compare value by value."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tensor, Any]] = {}

    def __getitem__(self, key: Tensor) -> Any:
        return self._held[id(key)][1]

    def __setitem__(self, key: Tensor, value: Any) -> None:
        self._held[id(key)] = (key, value)

    def __delitem__(self, key: Tensor) -> None:
        del self._held[id(key)]

    def __iter__(self) -> Any:
        return iter([key for key, _ in self._held.values()])

    def __len__(self) -> int:
        return len(self._held)


def mapping_from_tensors() -> MutableMapping[Tensor, Any]:
    """A mapping whose keys are tensors, by identity; it forgets those that nobody else holds.

    Without torch's own, it holds them: the maps of a whole run instead of those still in use.
    """
    own = _find("utils.weak.WeakTensorKeyDictionary")
    return _ByIdentity() if own is None else own()


# ---- compiler ---------------------------------------------------------------------------------------


def assume_constant(function: Function) -> Function:
    """`torch.compiler.assume_constant_result`, which would import the compiler, a second of time.

    A compiler that does not know the mark follows the function step by step, which takes longer.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def constant_weights() -> AbstractContextManager[Any]:
    """Networks that are compiled in here may take their weights for constants, and lay them out.

    As an option of torch.compile it would come too late: weights would be inputs. Without, they are slower.
    """
    try:
        from torch._inductor import config
    except ImportError:
        return nullcontext()
    return config.patch(freezing=True) if _find("freezing", config) is not None else nullcontext()


# ---- oneDNN -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneDnn:
    """Operations on float32 tensors on the CPU that torch's compiler calls, and nobody else."""

    lay_out: Any
    """(weight, padding, stride, dilation, groups, shape of the input) → the weight in oneDNN's order."""
    convolve: Any
    """A convolution, and an activation after it."""
    convolve_and_add: Any
    """The same, another map added; the next writes into that map."""
    convolve_into: Any


@cache
def onednn() -> OneDnn | None:
    """oneDNN's operations; None where torch was built without it, or names them otherwise.

    Frozen networks then run through torch's own layers, which lay their weights out at every call.
    """
    names = (
        "_reorder_convolution_weight.default",
        "_convolution_pointwise.default",
        "_convolution_pointwise.binary",
        "_convolution_pointwise_.binary",
    )
    found = [_find(f"ops.mkldnn.{name}") for name in names]
    return None if None in found else OneDnn(*found)


def onednn_enabled() -> bool:
    """Whether oneDNN is there and not switched off; where torch has no such switch, whether it is there."""
    return torch.backends.mkldnn.is_available() and _find("backends.mkldnn.enabled") is not False
