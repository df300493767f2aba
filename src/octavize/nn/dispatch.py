"""How PyTorch's functions, methods and operators find the rule of an octave value, or do without.

A function without a rule gets the dense map, which is exact but slow, and says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import signature
from numbers import Number
from typing import Any, ClassVar

import torch
from torch import Tensor

from octavize.errors import InputError

Rule = Callable[..., Any]

RULES: dict[Any, Rule] = {}
"""Those of an OctTensor, by torch function."""
_announced: set[str] = set()
_silent: ContextVar[bool] = ContextVar("silent", default=False)


class DenseFallbackWarning(UserWarning):
    """A function without an octave rule was computed on the dense feature map."""


class ChangeRefused(InputError):
    """An octave value cannot be changed in place by this."""


class Octave:
    """How torch functions, methods and operators reach the rules of an octave value."""

    rules: ClassVar[dict[Any, Rule]]
    strict: bool

    def to_dense(self) -> Tensor:
        """The ordinary tensor that this value stands for."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return apply_rule(func, args, kwargs or {}, cls.rules)

    def __getattr__(self, name: str) -> Any:
        # Only names not found above arrive here: the methods of torch.Tensor, `x.relu()`, `x.mean((2, 3))`.
        if not name.startswith("_"):
            method = getattr(torch.Tensor, name, None)
            if callable(method):
                return partial(_call, method, self)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __bool__(self) -> bool:
        raise RuntimeError(
            f"the truth of an {type(self).__name__} is ambiguous: reduce it first, as in x.to_dense().any()"
        )

    # NumPy scalars must not take an octave value apart in `scalar * x`.
    __array_ufunc__ = None


def _call(func: Any, x: Octave, *args: Any, **kwargs: Any) -> Any:
    return apply_rule(func, (x, *args), kwargs, x.rules)


def _operator(name: str) -> Callable[..., Any]:
    func = getattr(torch.Tensor, name)

    def operate(self: Octave, *args: Any) -> Any:
        if name != "__getitem__" and not all(isinstance(arg, _OPERANDS) for arg in args):
            return NotImplemented  # let Python ask the other operand, or compare by identity
        return apply_rule(func, (self, *args), {}, self.rules)

    operate.__name__ = name
    return operate


# Python looks operators up on the class, so `__getattr__` cannot serve them.
_OPERANDS = (Octave, Tensor, Number, torch.SymInt, torch.SymFloat)
_OPERATORS = """
    __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__
    __itruediv__ __floordiv__ __rfloordiv__ __mod__ __rmod__ __pow__ __rpow__ __and__ __or__ __xor__
    __neg__ __abs__ __invert__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__ __getitem__
"""
for _name in _OPERATORS.split():
    setattr(Octave, _name, _operator(_name))
Octave.__hash__ = object.__hash__  # defining `__eq__` would drop it; tensors hash by identity too


# ---- the table of rules -----------------------------------------------------------------------------


def oct_rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register how torch functions act on an OctTensor.

    The rule is called as `rule(func, *args, **kwargs)` with the arguments of the call, at least one of which
    is, or contains, an OctTensor. It returns the result, or `NotImplemented` to leave the call to the dense
    fallback. The law every rule keeps: `rule(x).to_dense()` equals `func(x.to_dense())`, exactly where the
    function commutes with nearest up-sampling, otherwise by the definition in the rule's docstring.

    Example:
        >>> @oct_rule(torch.erf)
        ... def erf_rule(func, x):
        ...     return x.like(func(x.high), func(x.low))
    """

    def register(rule: Rule) -> Rule:
        for func in functions:
            RULES[func] = rule
        return rule

    return register


def apply_rule(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rules: dict[Any, Rule] = RULES
) -> Any:
    """Call `func` on octave values: by its rule, or on the dense maps if it has none."""
    kwargs = {_NUMPY_NAMES.get(name, name): value for name, value in kwargs.items()}
    if "condition" not in kwargs:  # of `where`, whose first argument it is
        for name in _BY_POSITION:
            if name in kwargs:
                args, kwargs = (*args, kwargs[name]), {k: v for k, v in kwargs.items() if k != name}
    rule = rules.get(func)
    try:
        try:
            result = NotImplemented if rule is None else rule(func, *args, **kwargs)
        except TypeError:
            if rule is None or _takes(rule, func, args, kwargs):
                raise
            result = NotImplemented  # called by a name that the rule does not know
        dense = result is NotImplemented
        if dense:
            result = _dense_fallback(func, args, kwargs)
    except ChangeRefused:
        _tell(func, args, kwargs, None, True)
        raise
    _tell(func, args, kwargs, result, dense)
    return result


Watch = Callable[[str, list[Any], Any, bool], None]
_watchers: ContextVar[tuple[Watch, ...]] = ContextVar("watchers", default=())


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """In here, `watch(function's name, operands, result, dense)` is called for every call on an OctTensor.

    `dense` tells whether it had to be computed on the dense map. Calls of other threads are not told, nor
    those that a compiler follows.
    """
    before = _watchers.set((*_watchers.get(), watch))
    try:
        yield
    finally:
        _watchers.reset(before)


def _tell(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, dense: bool) -> None:
    if torch.compiler.is_compiling():
        return
    for watch in _watchers.get():
        watch(getattr(func, "__name__", str(func)), [*args, *kwargs.values()], result, dense)


_IN_PLACE = dict.fromkeys(
    getattr(home, name)
    for home in (torch, Tensor, torch.nn.functional)
    for name in dir(home)
    if name.endswith("_") and not name.startswith("_") and callable(getattr(home, name))
)
_OF_THE_TENSOR_ITSELF = dict.fromkeys(
    (
        Tensor.backward,
        Tensor.register_hook,
        Tensor.register_post_accumulate_grad_hook,
        Tensor.retain_grad,
    )
)
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # torch takes both
_BY_POSITION = [
    *("input", "tensor", "tensors"),
    *("split_size", "split_size_or_sections", "chunks", "sections", "indices", "indices_or_sections"),
    *("shape", "dims"),
]
"""Names of arguments that rules take by position, as most callers give them."""


def _takes(rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a rule can be called with these arguments."""
    try:
        signature(rule).bind(func, *args, **kwargs)
    except TypeError:
        return False
    return True


def _dense_fallback(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # The name of a function is out of reach while torch.compile traces it.
    name = "a function" if torch.compiler.is_compiling() else getattr(func, "__name__", str(func))
    if any(x.strict for x in oct_tensors([*args, *kwargs.values()])):
        raise InputError(
            f"{name} has no octave rule and strict=True: register one with @octavize.oct_rule, "
            "leave the layer before it at alpha=0, or drop strict"
        )
    if func in _OF_THE_TENSOR_ITSELF:
        raise InputError(
            f"{name} would act on a dense copy, not on this map: call it on its halves, x.high and x.low"
        )
    if func in _IN_PLACE and args and isinstance(args[0], Octave):
        raise ChangeRefused(
            f"{name} cannot change this {type(args[0]).__name__} in place: use {name.rstrip('_')} and keep "
            "its result"
        )
    if not torch.compiler.is_compiling():
        _announce_fallback(name)
    return func(*(_densify(a) for a in args), **{k: _densify(v) for k, v in kwargs.items()})


@contextmanager
def unannounced() -> Iterator[None]:
    """Fallbacks in here, of this thread, are neither announced nor counted as announced."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def _announce_fallback(name: str) -> None:
    """Warn, once a process and function, that the dense map is used."""
    if name in _announced or _silent.get():
        return
    _announced.add(name)
    warnings.warn(
        f"{name} has no octave rule for this call: computed on the dense feature map, exact but slower "
        "(register a rule with @octavize.oct_rule, or refuse with strict=True)",
        DenseFallbackWarning,
        stacklevel=5,
    )


def oct_tensors(values: Iterable[Any]) -> list[Octave]:
    """The octave values among arguments and in lists, tuples and mappings of them."""
    found: list[Octave] = []
    for value in values:
        if isinstance(value, Octave):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += oct_tensors(value)
        elif isinstance(value, dict):
            found += oct_tensors(value.values())
    return found


def _densify(value: Any) -> Any:
    if isinstance(value, Octave):
        return value.to_dense()
    if isinstance(value, (list, tuple)):
        dense = [_densify(v) for v in value]
        return dense if isinstance(value, list) else tuple(dense)
    return value
