"""Paddle's functions look for octave values among their arguments: wrapped once, undone by `disable`.

`import octavize.paddle` alone changes nothing. The first octave layer or map calls `enable`. A wrapped
function that gets no octave value calls Paddle's own, and so costs an ordinary network a look at its
arguments.
"""

from __future__ import annotations

import re
import sys
from functools import wraps
from types import ModuleType
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from octavize.paddle.dispatch import OCTAVE_KINDS, apply_rule, octave_values
from octavize.paddle.functions import PUBLIC, VALUE, Function

_replaced: dict[
    int, tuple[Function, Function]
] = {}  # by the id of the original: it, and what is in its place
_methods: list[tuple[type, str, Any]] = []  # the class, the name, and the original; None if inherited
_REFUSED = ("truediv", "div", "lt", "le", "gt", "ge")
"""Operators that a Tensor refuses instead of asking an OctTensor. While a program is built, all do."""
_OPERATORS = ("add", "sub", "mul", "floordiv", "mod", "pow", "matmul", *_REFUSED)


def is_enabled() -> bool:
    """Whether Paddle's functions look for octave values."""
    return bool(_replaced)


def enable() -> None:
    """Let Paddle's functions take octave maps, in this process; the first octave layer or map does so.

    Wrapped are the public functions that take a map, wherever a loaded module holds them (`paddle.concat`,
    your `from paddle.nn.functional import relu`), operators that would raise an error instead of asking an
    OctTensor, the `forward` of `nn.BatchNorm` and `nn.SyncBatchNorm`, which call no function, and
    `PyLayer.apply`, which would give an octave map no gradient. `to_static` takes octavize's modules as they
    are. `disable()` undoes all of it.

    Functions that a network's layers hold as attributes are found by `octavize()`. Those held elsewhere, in a
    dict or as a default argument, are found if `enable()` was called before they were put there.
    """
    if _replaced:
        return
    for name, function in sorted(PUBLIC, key=lambda item: item[0].startswith("_")):
        if id(function) not in _replaced:
            _replaced[id(function)] = function, _looking(function, name)
    _put_in_place({key: new for key, (_, new) in _replaced.items()})
    for kind, names in ((paddle.Tensor, _REFUSED), (VALUE, _OPERATORS)):
        for name in names:
            _wrap_method(kind, f"__{name}__", _asking)
    _wrap_method(PyLayer, "apply", _own_function)
    _wrap_method(paddle.nn.BatchNorm, "forward", _batch_norm)
    _wrap_method(paddle.nn.SyncBatchNorm, "forward", _sync_batch_norm)
    _leave_alone_in_to_static(True)


def disable() -> None:
    """Undo `enable`: Paddle's functions are its own again, until the next octave layer or map is made."""
    if not _replaced:
        return
    _put_in_place({id(new): original for original, new in _replaced.values()})
    _replaced.clear()
    while _methods:
        kind, name, original = _methods.pop()
        if original is None:
            delattr(kind, name)
        else:
            setattr(kind, name, original)
    _leave_alone_in_to_static(False)


def hold_wrapped(holder: Any) -> None:
    """Replace functions that an object holds as attributes, such as a layer's activation `F.relu`."""
    for name, value in list(vars(holder).items()):
        if id(value) in _replaced:
            setattr(holder, name, _replaced[id(value)][1])


def _looking(function: Function, name: str) -> Function:
    """The function, which first looks for octave values among its arguments."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()) if kwargs else args:
            kind = type(value)
            if kind in OCTAVE_KINDS or (
                (kind is list or kind is tuple) and any(type(part) in OCTAVE_KINDS for part in value)
            ):
                return apply_rule(name, function, args, kwargs)
        return function(*args, **kwargs)

    wrapped: Any = call
    wrapped.__wrapped_by_octavize__ = function
    return wrapped


def _put_in_place(new: dict[int, Function]) -> None:
    """Replace functions, by their ids, wherever a module but octavize's own holds them."""
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.startswith(__name__.rpartition(".")[0]):
            continue
        for name, value in list(vars(module).items()):
            if id(value) in new:
                setattr(module, name, new[id(value)])


def _wrap_method(kind: type, name: str, wrap: Any) -> None:
    original = getattr(kind, name, None)
    if original is not None:
        _methods.append((kind, name, vars(kind).get(name)))
        setattr(kind, name, wrap(original))


def _asking(original: Function) -> Function:
    """An operator of a plain tensor, which lets Python ask an octave operand."""

    @wraps(original)
    def operate(self: Any, other: Any) -> Any:
        return NotImplemented if type(other) in OCTAVE_KINDS else original(self, other)

    return operate


def _own_function(original: Function) -> Any:
    """`PyLayer.apply`, which sees no tensor in an octave map, and so no gradient to compute: a dense one."""

    @wraps(original)
    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        own: Function = super(PyLayer, cls).apply  # pyright: ignore[reportAttributeAccessIssue]
        return (
            apply_rule(f"{cls.__name__}.apply", own, args, kwargs)
            if octave_values((args, kwargs))
            else own(*args, **kwargs)
        )

    return classmethod(apply)


def _batch_norm(original: Function) -> Function:
    """`nn.BatchNorm.forward`, by the function `batch_norm` where the map is octave."""

    @wraps(original)
    def forward(self: Any, input: Any) -> Any:
        if type(input) not in OCTAVE_KINDS:
            return original(self, input)
        settings = {
            "training": self.training,
            "momentum": self._momentum,
            "epsilon": self._epsilon,
            "use_global_stats": self._use_global_stats or None,
        }
        statistics = (self._mean, self._variance, self.weight, self.bias)
        y = apply_rule("batch_norm", _own("batch_norm"), (input, *statistics), settings)
        return y if self._act is None else apply_rule(self._act, _own(self._act), (y,), {})

    return forward


def _sync_batch_norm(original: Function) -> Function:
    """`nn.SyncBatchNorm.forward`: the rule of `batch_norm`, with the operator that asks all devices."""

    def normalize(
        half: Any, mean: Any, variance: Any, weight: Any, bias: Any, training: bool,
        momentum: float, epsilon: float, data_format: str, use_global_stats: Any,
    ) -> Any:  # fmt: skip
        settings = (not training, momentum, epsilon, data_format, False, False)
        return paddle._C_ops.sync_batch_norm_(half, mean, variance, weight, bias, *settings)[0]  # pyright: ignore[reportAttributeAccessIssue]

    @wraps(original)
    def forward(self: Any, x: Any) -> Any:
        if type(x) not in OCTAVE_KINDS:
            return original(self, x)
        statistics = (self._mean, self._variance, self.weight, self.bias)
        settings = (self.training, self._momentum, self._epsilon)
        return apply_rule("batch_norm", normalize, (x, *statistics, *settings), {})

    return forward


def _own(name: str) -> Function:
    function = getattr(F, name)
    return getattr(function, "__wrapped_by_octavize__", function)


# ---- to_static ------------------------------------------------------------------------------------------


def _own_modules() -> list[ModuleType]:
    package = __name__.partition(".")[0]
    return [m for name, m in list(sys.modules.items()) if name.partition(".")[0] == package]


def _leave_alone_in_to_static(alone: bool) -> None:
    """Let `paddle.jit.to_static` call octavize's functions instead of translating them, or no longer."""
    from paddle.jit.dy2static import convert_call_func
    from paddle.jit.sot.opcode_translator import skip_files

    folder = __file__.rpartition("paddle")[0]
    if alone:
        paddle.jit.ignore_module(_own_modules())
        skip_files.skip_file_names.add(folder)
    else:
        own = _own_modules()
        convert_call_func.BUILTIN_LIKELY_MODULES[:] = [
            m for m in convert_call_func.BUILTIN_LIKELY_MODULES if m not in own
        ]
        skip_files.skip_file_names.discard(folder)
    pattern = "|".join(map(re.escape, skip_files.skip_file_names))
    skip_files.skip_file_name_re = re.compile(f"^({pattern})")
    skip_files.setup_skip_files()
