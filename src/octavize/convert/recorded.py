"""Whether autograd records of an octave network what it records of the vanilla one.

A `torch.autograd.Function` asks no argument whether it acts for torch: its forward simply runs on an octave
map, with autograd off, and all that made the map gets no gradient. Reentrant checkpoints are such functions.
So the maps that they read have to be dense.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from octavize.convert.inputs import Inputs, Shape, inputs_of
from octavize.convert.lines import LINES
from octavize.convert.quick_shapes import QuickShapes
from octavize.convert.trace import (
    Fallback,
    Sources,
    TraceError,
    dtype_of,
    explained,
    leaves,
    to_meta,
    without_devices,
)
from octavize.errors import InputError
from octavize.nn.conv import OctConv
from octavize.nn.dispatch import observe_calls, oct_tensors, unannounced
from octavize.nn.tensor import OctTensor


class Recorder:
    """The autograd functions of a vanilla network's own, to compare octave networks with.

    Args:
        given: the input or its shape. The networks run in training, on two images at least where only a shape
            is given, or in evaluation where they do not train on it.
    """

    def __init__(self, vanilla: nn.Module, given: Inputs | Shape) -> None:
        self.functions: Counter[str] = Counter()
        self.failed: TraceError | None = None
        several = given if isinstance(given, Inputs) else (max((*given[:1], 2)), *given[1:])
        for self.training, self.given in ((True, several), (False, given)):
            run = _Run(vanilla, self.given, self.training)
            self.failed = run.failed
            if run.failed is None:
                self.functions = run.functions
                return

    def hidden(self, octave: nn.Module) -> list[Fallback]:
        """The calls on octave maps that autograd does not see, though it does in the vanilla network.

        Raises:
            InputError: there are such calls, and no layer that made the maps is known.
        """
        run = _Run(octave, self.given, self.training)
        missing = self.functions - run.functions
        if not missing:
            return []
        names = " and ".join(name.removesuffix("Backward") for name in missing)
        found = [replace(call, function=names) for call in run.entered or run.inside if call.sources]
        if not found:
            why = f" ({run.failed})" if run.failed else ""
            raise InputError(
                f"{type(octave).__name__}: autograd does not see {names} on octave maps, so layers would get "
                f"wrong gradients or none: give alpha=0 to the layers before{why}"
            )
        return found


class _Run(Sources):
    """One run with autograd.

    `entered` are the calls without autograd on maps that it follows: the first of what it does not see. What
    comes after them there is `inside`.
    """

    def __init__(self, model: nn.Module, given: Inputs | Shape, training: bool) -> None:
        super().__init__()
        self.entered: list[Fallback] = []
        self.inside: list[Fallback] = []
        self.functions: Counter[str] = Counter()
        self.failed: TraceError | None = None
        try:
            output = without_devices(lambda: self._output(model, given, training))
        except TraceError as failed:
            self.failed = failed
        else:
            self.functions = _own_functions(output)

    def _output(self, model: nn.Module, given: Inputs | Shape, training: bool) -> Any:
        meta = to_meta(model).train(training).requires_grad_(True)
        for layer in meta.modules():
            if isinstance(layer, OctConv):
                layer.register_forward_pre_hook(self._reads, with_kwargs=True)
        self.follow(meta)
        inputs = inputs_of(given, "meta", dtype_of(model))
        with (
            explained(model, given),
            torch.enable_grad(),
            unannounced(),
            observe_calls(self.watch),
            QuickShapes(),
        ):
            return inputs.call(meta)

    def watch(self, name: str, operands: Sequence[Any], result: Any, dense: bool) -> None:
        self._note(operands)
        super().watch(name, operands, result, dense)

    def add(self, value: Any, sources: frozenset[str]) -> None:
        super().add(value, sources)
        self._note(value)

    def _reads(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        self._note((args, kwargs))

    def _note(self, operands: Any) -> None:
        if torch.is_grad_enabled():
            return
        maps = [x for x in oct_tensors(operands) if isinstance(x, OctTensor)]
        (self.entered if any(x.requires_grad for x in maps) else self.inside).append(
            Fallback("", self.of(*maps), LINES.of_call())
        )


def _own_functions(output: Any) -> Counter[str]:
    """The network's own autograd functions that its output depends on, by name."""
    maps = [x for x in leaves(output) if isinstance(x, (Tensor, OctTensor))]
    tensors = [half for x in maps for half in ((x.high, x.low) if isinstance(x, OctTensor) else (x,))]
    nodes: list[Any] = [x.grad_fn for x in tensors]
    seen = {None}
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    return Counter(type(node).__name__ for node in seen if isinstance(node, BackwardCFunction))
