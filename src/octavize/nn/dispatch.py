"""How PyTorch's functions, methods and operators find the rule of an octave value.

A function without a rule gets the dense map, which is exact but slow; a warning says so once.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import signature
from numbers import Number
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavize.errors import DenseFallbackWarning, InputError
from octavize.nn._torch_internals import counts_changes, is_view, own_function, tree_leaves, tree_map
from octavize.nn.recompute import version_of

Rule = Callable[..., Any]

RULES: dict[Any, Rule] = {}
"""The rules of an OctTensor, by torch function."""
_announced: set[str] = set()
_silent: ContextVar[bool] = ContextVar("silent", default=False)


class ChangeRefused(InputError):
    """This call cannot change an octave value in place."""


_CLASS: Any = vars(object)["__class__"]
_OURS = str(Path(__file__).parents[1])
ASKED = "isinstance"
"""What observers are told where code asks for the class of a map."""


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OURS)


def _asking() -> FrameType:
    """Who asks for an attribute."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "__getattr__" and frame.f_back is not None:
        frame = frame.f_back
    return frame


class Octave:
    """How torch functions, methods and operators reach the rules of an octave value."""

    rules: ClassVar[dict[Any, Rule]]
    strict: bool
    made_in = ""
    """The function of autograd's that made the value and gives it no gradient, see `made_unseen`."""

    def to_dense(self) -> Tensor:
        """The ordinary tensor that this value stands for."""
        raise NotImplementedError

    def watch(self, copies: Iterable[Tensor], *, changed: bool = False) -> None:
        """Notice when one of these copies is changed, which torch's code takes for views of this value."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return apply_rule(func, args, kwargs or {}, cls.rules)

    def __getattr__(self, name: str) -> Any:
        # Python asks here for missing names only: methods of torch.Tensor, `x.relu()`, `x.mean((2, 3))`.
        if not name.startswith("_"):
            method = getattr(torch.Tensor, name, None)
            if callable(method):
                return partial(_call, method, self)
            if _observed and hasattr(torch.Tensor, name) and not _is_ours(_asking()):
                _tell_observers(name, (self,), {}, None, True)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    @property
    def __class__(self) -> Any:
        """The class. Python asks for it where `isinstance(x, torch.Tensor)` finds none of torch's."""
        if _observed and not torch.compiler.is_compiling() and not _is_ours(sys._getframe(1)):
            _tell_observers(ASKED, (self,), {}, None, True)
        return type(self)

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        _CLASS.__set__(self, kind)

    def __bool__(self) -> bool:
        raise RuntimeError(
            f"the truth of an {type(self).__name__} is ambiguous: reduce it first, as in x.to_dense().any()"
        )

    # Otherwise a NumPy scalar would take an octave value apart in `scalar * x`.
    __array_ufunc__ = None


def _call(func: Any, x: Octave, *args: Any, **kwargs: Any) -> Any:
    return apply_rule(func, (x, *args), kwargs, x.rules)


def _operator(name: str) -> Callable[..., Any]:
    func = getattr(torch.Tensor, name)

    def operate(self: Octave, *args: Any) -> Any:
        for arg in args:
            if not isinstance(arg, _OPERANDS) and "item" not in name:
                return NotImplemented  # let Python ask the other operand, or compare by identity
        return apply_rule(func, (self, *args), {}, self.rules)

    operate.__name__ = name
    return operate


# Python looks up operators on the class, so `__getattr__` cannot provide them.
_OPERANDS = (Octave, Tensor, Number, torch.SymInt, torch.SymFloat)
_OPERATORS = """
    __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__
    __itruediv__ __floordiv__ __rfloordiv__ __mod__ __rmod__ __pow__ __rpow__ __and__ __or__ __xor__
    __ipow__ __ifloordiv__ __imod__ __iand__ __ior__ __ixor__
    __neg__ __abs__ __invert__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__ __getitem__ __setitem__
"""
for _name in _OPERATORS.split():
    setattr(Octave, _name, _operator(_name))
Octave.__hash__ = object.__hash__  # defining `__eq__` would drop it; tensors hash by identity too


# ---- the table of rules -----------------------------------------------------------------------------


def oct_rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register how torch functions act on an OctTensor.

    The rule is called as `rule(func, *args, **kwargs)` with the arguments of the call, at least one of which
    is, or contains, an OctTensor. It returns the result, or `NotImplemented` to leave the call to the dense
    fallback. Every rule obeys one law: `rule(x).to_dense()` equals `func(x.to_dense())` where the function
    commutes with nearest up-sampling. Elsewhere, the rule's docstring defines the result.

    Examples:
        >>> @oct_rule(torch.erf)
        ... def erf_rule(func, x):
        ...     return x.like(func(x.high), func(x.low))
    """

    return register(RULES, *functions)


def register(rules: dict[Any, Rule], *functions: Any) -> Callable[[Rule], Rule]:
    """`oct_rule` for the rules of any octave value."""

    def enter(rule: Rule) -> Rule:
        rules.update(dict.fromkeys(functions, rule))
        return rule

    return enter


def functions_named(names: str) -> tuple[Any, ...]:
    """All torch functions with these names: in torch, torch.Tensor, torch.nn.functional and torch.special.

    Raises:
        LookupError: none of these has a function of this name.
    """
    found: list[Any] = []
    for name in names.split():
        functions = _of_this_name(name)
        if not functions:
            raise LookupError(f"torch has no function {name!r} there: give oct_rule the function itself")
        found += functions
    return tuple(found)


def _of_this_name(name: str) -> list[Any]:
    # `torch.__eq__` would compare modules.
    homes = (Tensor,) if name.startswith("__") else (torch, Tensor, torch.nn.functional, torch.special)
    found = [getattr(home, name, None) for home in homes]
    return [func for func in found if callable(func)]  # `torch.float` is no function


def in_place_functions_named(names: str) -> tuple[Any, ...]:
    """The variants of these functions that change their first argument: `relu_`, `__iadd__`."""
    stems = [name.strip("_") for name in names.split()]
    spelled = [f"{stem}_" for stem in stems] + [f"__i{stem}__" for stem in stems]
    return tuple(func for name in spelled for func in _of_this_name(name))


def apply_rule(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rules: dict[Any, Rule] = RULES
) -> Any:
    """Call `func` on octave values: by its rule, or on the dense maps without one."""
    check_seen(args)
    return made_unseen(_applied(func, args, kwargs, rules), args)


def _applied(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rules: dict[Any, Rule]) -> Any:
    if kwargs and (out := kwargs.get("out")) is not None and oct_tensors(out):
        return _into(out, func, args, {k: v for k, v in kwargs.items() if k != "out"}, rules)
    rule = _rule_of_operator(func, rules) if torch.compiler.is_compiling() else None
    rule, result = rule or rules.get(func), NotImplemented
    try:
        if rule is not None:
            result = _by_rule(rule, func, args, kwargs)
        dense = result is NotImplemented
        if dense:
            result = _dense_fallback(func, args, kwargs)
    except Exception:  # which the network's code may catch, to go another way
        if _observed and not torch.compiler.is_compiling():
            _tell_observers(func, args, kwargs, None, True)
        raise
    if _observed and not torch.compiler.is_compiling():
        _tell_observers(func, args, kwargs, result, dense)
    return result


def _into(out: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rules: dict[Any, Rule]) -> Any:
    """`func(…, out=out)` for octave maps: they become its results."""
    octave = bool(oct_tensors((args, kwargs)))
    result = apply_rule(func, args, kwargs, rules) if octave else func(*args, **kwargs)
    become = getattr(out, "become", None)
    if become is None or not isinstance(result, (Tensor, Octave)):
        name = getattr(func, "__name__", str(func))
        raise ChangeRefused(f"{name}(out=…) cannot write into octave maps: keep its result instead")
    become(result)
    if _observed and not torch.compiler.is_compiling():
        _tell_observers(func, args, kwargs, out, False)
    return out


_lost: list[str] = []
"""The functions of autograd's in whose forward an octave map was made, see `made_unseen`."""


def made_unseen(result: Any, values: Any, layer: nn.Module | None = None) -> Any:
    """A result computed of these values; where a function of autograd's has switched autograd off, its octave
    maps remember that function.

    Such a function gives a gradient to the tensors that it returns: to an octave map made in its forward, by
    a layer that learns or of a map that does, none. That is no fault unless the map leaves the forward.

    Args:
        layer: what made it of a dense map.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return result
    name = _maker(values)
    if layer is not None and isinstance(values, Tensor) and not values.is_meta:
        learns = values.requires_grad or any(p.requires_grad for p in layer.parameters())
        name = own_function() if learns and not torch.is_inference_mode_enabled() else ""
    if name:
        if name not in _lost:
            _lost.append(name)
        for made in oct_tensors(result):
            made.made_in = name
    return result


def _maker(values: Any) -> str:
    return next((x.made_in for x in oct_tensors(values) if x.made_in), "") if _lost else ""


def check_seen(values: Sequence[Any]) -> None:
    """Check that it was no function of autograd's that switched autograd off, for these values.

    Such a function asks its arguments, and what it returns, whether they are tensors of torch's. Planning
    merges the maps before it; but it may have been switched on since, as reentrant checkpoints are.

    Raises:
        InputError: values that require a gradient are in the forward of such a function, or maps have left
            it.
    """
    if torch.compiler.is_compiling():
        return
    if torch.is_grad_enabled():
        if name := _maker(values):
            raise InputError(
                f"{name}.apply returned an octave map, and what made it would get no gradient: switch it on "
                "before octavize, which then merges the map, or use checkpoint(use_reentrant=False)"
            )
        return
    learning = any(isinstance(x, Octave) and getattr(x, "requires_grad", False) for x in values)
    if learning and not any(getattr(x, "is_meta", False) for x in values) and (name := own_function()):
        raise InputError(
            f"{name}.apply gets an octave map, and what made it would get no gradient: switch it on before "
            "octavize, which then merges the map, or use checkpoint(use_reentrant=False)"
        )


_IN_PYTHON = "__rsub__ __rdiv__ __rtruediv__ __pow__ __rpow__ __floordiv__ __rfloordiv__ __rmod__"
_OPERATORS_IN_PYTHON = tuple(getattr(Tensor, name) for name in _IN_PYTHON.split())
"""Operators that torch wrote in Python: its compiler does not find them in a dict (torch 2.14)."""


def _rule_of_operator(func: Any, rules: dict[Any, Rule]) -> Rule | None:
    for operator in _OPERATORS_IN_PYTHON:
        if func is operator:
            return rules.get(operator)
    return None


def _by_rule(rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs and not _RENAMED.isdisjoint(kwargs):
        args, kwargs = _as_rules_take_them(args, kwargs)
    try:
        return rule(func, *args, **kwargs)
    except TypeError:
        if _takes(rule, func, args, kwargs):
            raise
        return NotImplemented  # an argument has a name that the rule does not know


def _as_rules_take_them(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, under the names and at the positions that rules expect."""
    kwargs = {_NUMPY_NAMES.get(name, name): value for name, value in kwargs.items()}
    if "condition" not in kwargs:  # the first argument of `where`
        for name in _BY_POSITION:
            if name in kwargs:
                args, kwargs = (*args, kwargs[name]), {k: v for k, v in kwargs.items() if k != name}
    return args, kwargs


# ---- observers --------------------------------------------------------------------------------------


Observer = Callable[[str, list[Any], Any, bool], None]


class _Observers(threading.local):
    """The observers of this thread: they do not see the calls of other threads."""

    def __init__(self) -> None:
        self.all: list[Observer] = []


_observers = _Observers()
_observed = 0
"""Number of observers in all threads. It is nearly always 0; then calls skip the search for observers."""
_counting = threading.Lock()


@contextmanager
def observe_calls(observer: Observer) -> Iterator[None]:
    """Inside, every call on an OctTensor calls `observer(function's name, operands, result, dense)`.

    `dense` is whether the call had to be computed on the dense map. Calls of other threads are not observed,
    nor those that a compiler follows.
    """
    _count_observers(1)
    _observers.all.append(observer)
    try:
        yield
    finally:
        _observers.all.remove(observer)
        _count_observers(-1)


def _count_observers(more: int) -> None:
    global _observed
    with _counting:
        _observed += more


def _tell_observers(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, dense: bool
) -> None:
    for observer in _observers.all:
        observer(getattr(func, "__name__", str(func)), [*args, *kwargs.values()], result, dense)


# ---- without a rule ---------------------------------------------------------------------------------


_IN_PLACE = dict.fromkeys(
    getattr(home, name)
    for home in (torch, Tensor, torch.nn.functional)
    for name in dir(home)
    if name.endswith("_") and not name.startswith("_") and callable(getattr(home, name))
) | {Tensor.__setitem__: None}
_ELSEWHERE = {"__setitem__": "torch.where, torch.cat or masked_fill"}
_OF_THE_TENSOR_ITSELF = dict.fromkeys(
    functions_named("register_post_accumulate_grad_hook")
    + functions_named("stride data_ptr storage storage_offset untyped_storage storage_type")
    + functions_named("is_set_to share_memory_ is_shared")
)
"""Functions that a dense copy cannot serve: it would lose what they set, and has other memory."""
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # torch accepts both
_BY_POSITION = [
    *("input", "tensor", "tensors"),
    *("split_size", "split_size_or_sections", "chunks", "sections", "indices", "indices_or_sections"),
    *("shape", "dims"),
]
"""Names of arguments that rules take by position, as most callers pass them."""
_RENAMED = frozenset([*_NUMPY_NAMES, *_BY_POSITION])


def _takes(rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a rule can be called with these arguments."""
    try:
        signature(rule).bind(func, *args, **kwargs)
    except TypeError:
        return False
    return True


def _dense_fallback(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # torch.compile cannot read a function's name while it traces.
    name = "a function" if torch.compiler.is_compiling() else getattr(func, "__name__", str(func))
    if any(x.strict for x in oct_tensors((args, kwargs))):
        raise InputError(
            f"{name} has no octave rule and strict=True: register one with @octavize.oct_rule, "
            "leave the layer before it at alpha=0, or drop strict"
        )
    if func in _OF_THE_TENSOR_ITSELF:
        raise InputError(f"{name} is of one tensor, and this map is two: ask its halves, x.high and x.low")
    if func in _IN_PLACE and args and isinstance(args[0], Octave):
        raise ChangeRefused(
            f"{name} cannot change this {type(args[0]).__name__} in place: use "
            f"{_ELSEWHERE.get(name, name.rstrip('_'))} and keep its result"
        )
    if not torch.compiler.is_compiling():
        _announce_fallback(name)
    return on_dense(func, args, kwargs)


def on_dense(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `func` on the dense maps. Where it returns views of them, the octave values watch for changes."""
    copies: list[tuple[Octave, Tensor]] = []

    def copied(x: Any) -> Any:
        if not isinstance(x, Octave):
            return x
        copies.append((x, x.to_dense()))
        return copies[-1][1]

    args, kwargs = tree_map(copied, (args, kwargs))
    versions = _versions(copies)
    result = func(*args, **kwargs)
    if not torch.compiler.is_compiling():
        if versions != _versions(copies):
            name = getattr(func, "__name__", str(func))
            raise ChangeRefused(f"{name} changes in place what it gets, and it gets a copy of an octave map")
        views = [y for y in tree_leaves(result) if isinstance(y, Tensor)]
        for x, copy in copies:
            if any(is_view(view, copy) for view in views):
                x.watch([copy])
    return result


def _versions(copies: Sequence[tuple[Octave, Tensor]]) -> list[Any]:
    """What changes if one of these copies is changed; a map without low channels is no copy."""
    if torch.compiler.is_compiling() or not counts_changes():
        return []
    return [
        version_of(copy)
        for x, copy in copies
        if copy is not getattr(x, "high", None) and copy is not getattr(x, "low", None)
    ]


@contextmanager
def unannounced() -> Iterator[None]:
    """Inside, this thread's fallbacks are neither announced nor counted as announced."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def _announce_fallback(name: str) -> None:
    """Warn, once per process and function, that the dense map is used."""
    if name in _announced or _silent.get():
        return
    _announced.add(name)
    warnings.warn(
        f"{name} has no octave rule for this call: computed on the dense feature map, exact but slower "
        "(register a rule with @octavize.oct_rule, or refuse with strict=True)",
        DenseFallbackWarning,
        stacklevel=6,
    )


def oct_tensors(values: Any) -> list[Octave]:
    """The octave values in nested containers."""
    return [value for value in tree_leaves(values) if isinstance(value, Octave)]
