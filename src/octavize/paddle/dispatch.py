"""How Paddle's functions, methods and operators find the rule of an octave value.

Paddle asks no class for its functions, as torch does: `wrapping.enable` makes them look at their arguments. A
function without a rule gets the dense map, which is exact but slow; a warning says so once.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import signature
from numbers import Number
from pathlib import Path
from typing import Any, ClassVar

import paddle

from octavize.errors import DenseFallbackWarning, InputError
from octavize.paddle.functions import OPERATORS, VALUE, Function, function_named, method_named, names_of

Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}
"""The rules of an OctTensor, by the public names of Paddle's functions."""
OCTAVE_KINDS: set[type] = set()
"""The classes of octave values: wrapped functions look for them among their arguments."""
Observer = Callable[[str, list[Any], Any, bool], None]
_announced: set[str] = set()
_silent: ContextVar[bool] = ContextVar("silent", default=False)
_observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())


_OURS = str(Path(__file__).parents[1])
ASKED = "isinstance"
"""What observers are told where code asks for the class of a map."""
_CLASS: Any = vars(object)["__class__"]


class ChangeRefused(InputError):
    """This call cannot change an octave value in place."""


def _asked_by_others() -> bool:
    """Whether code but octavize's asks an octave value for an attribute."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "__getattr__" and frame.f_back is not None:
        frame = frame.f_back
    return not frame.f_code.co_filename.startswith(_OURS)


class Octave:
    """How Paddle's functions, methods and operators reach the rules of an octave value."""

    rules: ClassVar[dict[str, Rule]]
    strict: bool

    def __init_subclass__(cls) -> None:
        OCTAVE_KINDS.add(cls)

    def to_dense(self) -> Any:
        """The ordinary tensor that this value stands for."""
        raise NotImplementedError

    def become(self, other: Any) -> Any:
        """Take over the values of a result, for functions that change their argument."""
        raise ChangeRefused(f"an {type(self).__name__} cannot be changed in place")

    def __getattr__(self, name: str) -> Any:
        # Python asks here for missing names only: methods of paddle.Tensor, `x.flatten(1)`, `x.mean([2, 3])`.
        if not name.startswith("_"):
            if callable(getattr(paddle.Tensor, name, None)):
                return partial(_call, name, self)
            if _observers.get() and hasattr(paddle.Tensor, name) and _asked_by_others():
                _tell_observers(name, (self,), {}, None, True)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    @property
    def __class__(self) -> Any:
        """The class. Python asks for it where `isinstance(x, paddle.Tensor)` finds none of Paddle's."""
        if _observers.get() and _asked_by_others():
            _tell_observers(ASKED, (self,), {}, None, True)
        return type(self)

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        _CLASS.__set__(self, kind)

    def __setitem__(self, position: Any, value: Any) -> None:
        apply_rule("setitem", operator.setitem, (self, position, value), {})

    def __bool__(self) -> bool:
        raise RuntimeError(
            f"the truth of an {type(self).__name__} is ambiguous: reduce it first, as in x.to_dense().any()"
        )

    # Otherwise a NumPy scalar would take an octave value apart in `scalar * x`.
    __array_ufunc__ = None


def _call(name: str, x: Octave, *args: Any, **kwargs: Any) -> Any:
    return apply_rule(name, method_named(name), (x, *args), kwargs)


def _operator(name: str, reflected: bool = False) -> Callable[..., Any]:
    func, rule = getattr(operator, name), OPERATORS[name]

    def operate(self: Octave, *others: Any) -> Any:
        if name != "getitem" and not all(isinstance(other, _operands()) for other in others):
            return NotImplemented  # let Python ask the other operand, or compare by identity
        return apply_rule(rule, func, (*others, self) if reflected else (self, *others), {})

    return operate


def _operands() -> tuple[type, ...]:
    return (Octave, paddle.Tensor, VALUE, Number)


# Python looks up operators on the class, so `__getattr__` cannot provide them.
for _name in OPERATORS:
    setattr(Octave, f"__{_name.strip('_')}__", _operator(_name))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Octave, f"__r{_name}__", _operator(_name, reflected=True))
Octave.__hash__ = object.__hash__  # defining `__eq__` would drop it; tensors hash by identity too


# ---- the table of rules -----------------------------------------------------------------------------


def oct_rule(*functions: str | Function) -> Callable[[Rule], Rule]:
    """Register how Paddle's functions act on an OctTensor: by public name, or the functions themselves.

    A rule serves the function under all its names, and the method of that name. It is called as
    `rule(func, *args, **kwargs)` with the arguments of the call, at least one of which is, or contains, an
    OctTensor; `func` computes the same of plain tensors. It returns the result, or `NotImplemented` to leave
    the call to the dense fallback. Every rule obeys one law: `rule(x).to_dense()` equals
    `func(x.to_dense())` where the function commutes with nearest up-sampling. Elsewhere, the rule's docstring
    defines the result.

    Examples:
        >>> @oct_rule("erf")
        ... def erf_rule(func, x):
        ...     return x.each_half(func)
    """
    return register(RULES, *functions)


def register(rules: dict[str, Rule], *functions: str | Function) -> Callable[[Rule], Rule]:
    """`oct_rule` for the rules of any octave value."""

    def enter(rule: Rule) -> Rule:
        for function in functions:
            rules.update(dict.fromkeys(names_of(function), rule))
        return rule

    return enter


def apply_rule(name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `func` on octave values: by the rule of this name, or on the dense maps without one."""
    rules = _rules_for((*args, *kwargs.values()))
    rule = rules.get(name)
    try:
        if rule is None and name.endswith("_"):
            return _in_place(name, rules, args, kwargs)
        result = NotImplemented if rule is None else _by_rule(rule, name, func, args, kwargs)
        dense = result is NotImplemented
        if dense:
            result = _dense_fallback(name, func, args, kwargs)
        if name in _VIEWS:
            _lend(octave_values(args), result)
    except Exception:  # which the network's code may catch, to go another way
        _tell_observers(name, args, kwargs, None, True)
        raise
    _tell_observers(name, args, kwargs, result, dense)
    return result


_VIEWS = {
    *("getitem", "__getitem__", "slice", "detach", "flatten", "reshape", "view", "view_as"),
    *("transpose", "squeeze", "unsqueeze", "unbind"),
}
"""Functions whose results are views of their arguments."""


def _lend(maps: Sequence[Any], result: Any) -> None:
    lend = getattr(maps[0], "lend", None) if maps else None
    if lend is not None and paddle.in_dynamic_mode():
        for view in result if isinstance(result, (list, tuple)) else [result]:
            lend(view)


def _rules_for(values: Sequence[Any]) -> dict[str, Rule]:
    """The rules of the first value that is not an OctTensor, else those of an OctTensor."""
    given = [x.rules for x in octave_values(values)]
    maps = [rules for rules in given if type(rules) is dict] or given  # a length has rules of its own kind
    return next((rules for rules in maps if rules is not RULES), RULES)


def _by_rule(rule: Rule, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs and not _RENAMED.isdisjoint(kwargs) and name != "where":
        args, kwargs = _as_rules_take_them(args, kwargs)
    try:
        return rule(func, *args, **kwargs)
    except TypeError:
        if _takes(rule, func, args, kwargs):
            raise
        return NotImplemented  # an argument has a name that the rule does not know


_BY_POSITION = (("x", "input", "inputs", "tensors"), ("y", "other"))
"""Names of arguments that rules take by position, as most callers pass them."""
_OTHER_NAMES = {"dim": "axis", "keepdims": "keepdim", "dims": "perm", "eps": "epsilon"}  # Paddle accepts both
_RENAMED = frozenset([*_OTHER_NAMES, *(name for names in _BY_POSITION for name in names)])


def _as_rules_take_them(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, under the names and at the positions that rules expect."""
    kwargs = {_OTHER_NAMES.get(name, name): value for name, value in kwargs.items()}
    for place, names in enumerate(_BY_POSITION):
        for name in names:
            if name in kwargs and len(args) >= place:
                args = (*args[:place], kwargs.pop(name), *args[place:])
    return args, kwargs


def _takes(rule: Rule, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a rule can be called with these arguments."""
    try:
        signature(rule).bind(func, *args, **kwargs)
    except TypeError:
        return False
    return True


def _in_place(name: str, rules: dict[str, Rule], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function such as `relu_`: that without the underscore, whose result its argument becomes."""
    plain = name.rstrip("_")
    if plain not in rules or not isinstance(args[0] if args else None, Octave):
        raise ChangeRefused(f"{name} cannot change this octave map in place: use {plain} and keep its result")
    return args[0].become(apply_rule(plain, function_named(plain) or method_named(plain), args, kwargs))


# ---- observers --------------------------------------------------------------------------------------


@contextmanager
def observe_calls(observer: Observer) -> Iterator[None]:
    """Inside, every call on an octave value calls `observer(function's name, operands, result, dense)`.

    `dense` is whether the call had to be computed on the dense map. Calls of other threads are not observed.
    """
    before = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(before)


def _tell_observers(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, dense: bool
) -> None:
    for observer in _observers.get():
        observer(name, [*args, *kwargs.values()], result, dense)


# ---- without a rule ---------------------------------------------------------------------------------


_OF_THE_TENSOR_ITSELF = {
    *("backward", "register_hook", "retain_grads", "clear_grad", "clear_gradient", "gradient"),
    *("set_value", "copy_", "setitem", "data_ptr", "get_tensor", "value", "strides"),
}
"""Functions that a dense copy cannot serve: it would lose what they set, and has other memory."""


def _dense_fallback(name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if any(x.strict for x in octave_values((*args, *kwargs.values()))):
        raise InputError(
            f"{name} has no octave rule and strict=True: register one with @octavize.paddle.oct_rule, "
            "leave the layer before it at alpha=0, or drop strict"
        )
    if name in _OF_THE_TENSOR_ITSELF:
        raise ChangeRefused(f"{name} is of one tensor, and this map is two: ask its halves, x.high and x.low")
    _announce_fallback(name)
    return func(*(dense(arg) for arg in args), **dense(kwargs))


def dense(value: Any) -> Any:
    """A value with dense maps instead of octave ones, also in a list, tuple or dict."""
    if isinstance(value, Octave):
        return value.to_dense()
    if type(value) is dict:
        return {key: dense(part) for key, part in value.items()}
    return type(value)(map(dense, value)) if type(value) in (list, tuple) else value


@contextmanager
def unannounced() -> Iterator[None]:
    """Inside, fallbacks are neither announced nor counted as announced."""
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
        "(register a rule with @octavize.paddle.oct_rule, or refuse with strict=True)",
        DenseFallbackWarning,
        stacklevel=5,
    )


def octave_values(values: Any) -> list[Octave]:
    """The octave values in nested containers."""
    if isinstance(values, Octave):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple, set)):
        return []
    return [x for value in values for x in octave_values(value)]
