"""Everything that octavize uses of torch and torch does not document, in one place.

Any release may rename or drop such a name. So each name is looked up when it is needed, and each has a
substitute: a missing one costs memory or speed, but never changes a result. The tests hide them one by one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, wraps
from types import SimpleNamespace
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
    """The attribute of `home` at a dotted path, or None."""
    found = home
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


@cache
def _found(path: str) -> Any:
    """torch's attribute at a dotted path, looked up once, because layers ask at every call."""
    return _find(path)


# ---- base classes -----------------------------------------------------------------------------------


def _base_of_convolutions() -> Any:
    """`ConvNd`, the base class of all of torch's convolutions. The substitute is `nn.Module`."""
    return _find("nn.modules.conv._ConvNd") or nn.Module


def _base_of_batch_norms() -> Any:
    """`BatchNorm`, the base class of all batch norms, for isinstance.

    The substitute is torch's own classes: a batch norm that derives from none of them is not recognized.
    """
    own = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return _find("nn.modules.batchnorm._BatchNorm") or own


def _base_of_dispatch_modes() -> Any:
    """`TorchDispatchMode`, which sees every ATen operation in its scope.

    The substitute sees nothing: no batch norm is folded, and no channel changes its place.
    """
    return _find("utils._python_dispatch.TorchDispatchMode") or nullcontext


if not TYPE_CHECKING:
    ConvNd = _base_of_convolutions()
    BatchNorm = _base_of_batch_norms()
    TorchDispatchMode = _base_of_dispatch_modes()


# ---- autograd ---------------------------------------------------------------------------------------


def version_of(tensor: Tensor) -> Any:
    """torch's count of a tensor's changes in place. Tensors made in inference mode have none.

    If torch does not tell, an object that equals no other: then nothing that was computed from a tensor may
    be used twice.
    """
    return tensor._version if counts_changes() else object()


def is_view(tensor: Tensor, base: Tensor) -> bool:
    """Whether a change of `tensor` in place changes `base`. True if torch does not tell."""
    if _found("Tensor._base") is None:
        return True
    return tensor is base or tensor._base is base


def counts_changes() -> bool:
    """Whether torch counts changes in place. If not, autograd keeps everything that layers read."""
    return _found("Tensor._version") is not None


def sees_saving_hooks() -> bool:
    """Whether `saving_hooks` can tell. If not, we set no hooks, and autograd keeps all that layers read."""
    return _found("_C._autograd._top_saved_tensors_default_hooks") is not None


def saving_hooks() -> Hooks | None:
    """The hooks that now receive what autograd keeps: each activation checkpoint has its own.

    None if there are none, or if `sees_saving_hooks` says that torch does not tell.
    """
    top = _found("_C._autograd._top_saved_tensors_default_hooks")
    return None if top is None else top(True)


def in_transform() -> bool:
    """Whether one of torch.func's transforms runs: its tensors have no storage and are invalid afterwards.

    True if torch does not tell: then nothing is shared, and nothing is kept for later. A compiler knows that
    none does.
    """
    if torch.compiler.is_compiling():
        return False
    peek = _found("_C._functorch.peek_interpreter_stack")
    return peek is None or peek() is not None


def own_function() -> str:
    """The autograd function in whose forward this is, such as a reentrant checkpoint's; empty if in none.

    Such a forward runs without autograd. What made its inputs gets a gradient by the function's backward
    only, and only for inputs that torch knows as tensors.
    """
    kinds, names = [torch.autograd.Function], {}
    for kind in kinds:  # which grows
        kinds += kind.__subclasses__()
        names[getattr(kind.forward, "__code__", None)] = kind.__name__
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code in names:
            return names[frame.f_code]
        frame = frame.f_back
    return ""


def in_forward_derivative() -> bool:
    """Whether a forward-mode derivative is computed. True if torch does not tell: torch's layers run."""
    level = _find("autograd.forward_ad._current_level")
    return level is None or level >= 0


# ---- modules ----------------------------------------------------------------------------------------


def forward_hooks(module: nn.Module) -> list[MutableMapping[int, Any]]:
    """The hooks before and after a module's forward, which copies drop if torch shows them."""
    found = (_find(name, module) for name in ("_forward_hooks", "_forward_pre_hooks"))
    return [hooks for hooks in found if hooks is not None]


def may_have_pre_hooks(module: nn.Module) -> bool:
    """Whether a module has forward pre-hooks. True if torch does not tell: the module is left alone."""
    hooks = _find("_forward_pre_hooks", module)
    return hooks is None or bool(hooks)


def computes_as(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether a class of convolutions computes what `base` does: it overrides no method that computes.

    These are `forward` and torch's method that pads; if torch lacks the latter, `forward` alone decides.
    """
    return all(_find(name, kind) is _find(name, base) for name in ("forward", "_conv_forward"))


def let_backward_hooks_see(apply: Callable[..., Any]) -> None:
    """Let `apply(torch's own, …)` choose the tensors that full backward hooks of modules see.

    torch finds them by their class alone, so without this such hooks do not see octave maps.
    """
    hook = _find("utils.hooks.BackwardHook")
    own = _find("_apply_on_tensors", hook)
    if own is not None:

        @wraps(own)
        def choose(self: Any, fn: Any, args: Any) -> Any:
            return apply(own, self, fn, args)

        hook._apply_on_tensors = choose


# ---- operations -------------------------------------------------------------------------------------


def schema_of(operation: Any) -> Any:
    """Name and arguments of an ATen operation.

    The substitute has a name that no rule knows: the channels that the operation reads do not move.
    """
    return _find("_schema", operation) or SimpleNamespace(name="::", arguments=(), is_mutable=False)


def decompositions(operations: Iterable[Any]) -> dict[Any, Callable[..., Any]]:
    """How operations consist of simpler ones. Without that, the channels that they read do not move."""
    try:
        from torch._decomp import get_decompositions
    except ImportError:
        return {}
    return get_decompositions(list(operations))  # pyright: ignore[reportReturnType]


def may_write(operation: Any) -> bool:
    """Whether an operation changes its first argument; True if torch does not tell."""
    schema = _find("_schema", operation)
    return schema is None or schema.name.endswith("_")


def tree_leaves(tree: Any) -> list[Any]:
    """The values in nested containers, one by one.

    The substitute opens lists, tuples and mappings; containers that users registered count as values.
    """
    own = _find("utils._pytree.tree_leaves")
    if own is not None:
        return own(tree)
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if not isinstance(tree, (list, tuple)):
        return [tree]
    return [leaf for value in tree for leaf in tree_leaves(value)]


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Nested containers with a function applied to each value; see `tree_leaves`."""
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


def mapping_from_tensors() -> MutableMapping[Tensor, Any]:
    """A mapping from tensors by identity; it drops tensors that nothing else refers to.

    The substitute, a dict, finds tensors by identity too, since no two have the same hash. But it keeps all
    of them: the maps of a whole run instead of those still in use.
    """
    return (_find("utils.weak.WeakTensorKeyDictionary") or dict)()


def tracer_of(value: Any) -> Any:
    """The torch.fx tracer that a value stands in for a tensor of; None if it is something else."""
    proxy = _find("fx.Proxy")
    return value.tracer if proxy is not None and isinstance(value, proxy) else None


# ---- compiler ---------------------------------------------------------------------------------------


def assume_constant(function: Function) -> Function:
    """Do what `torch.compiler.assume_constant_result` does, without the second that its import takes.

    A compiler that does not know the mark traces every step of the function, which takes longer.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def constant_weights() -> AbstractContextManager[Any]:
    """Inside, the compiler may treat weights as constants and lay them out for the processor.

    As an option of torch.compile this would come too late: weights would be inputs, and networks slower.
    """
    try:
        from torch._inductor import config
    except ImportError:
        return nullcontext()
    return config.patch(freezing=True) if _find("freezing", config) is not None else nullcontext()


# ---- oneDNN -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneDnn:
    """Operations on float32 tensors on the CPU that only torch's compiler calls otherwise."""

    lay_out: Any
    """(weight, padding, stride, dilation, groups, shape of the input) → the weight in oneDNN's order."""
    convolve: Any
    """A convolution with an activation after it."""
    convolve_and_add: Any
    """The same plus another map; `convolve_into` writes into that map."""
    convolve_into: Any


@cache
def onednn() -> OneDnn | None:
    """oneDNN's operations; None if torch was built without oneDNN, or has other names for them.

    Frozen networks then run through torch's own layers, which lay out their weights at every call.
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
    """Whether oneDNN is available and not switched off, if torch has such a switch."""
    return torch.backends.mkldnn.is_available() and _find("backends.mkldnn.enabled") is not False
