"""What a network returns, as a file has it: dense tensors one after the other, each with a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import paddle
from paddle import Tensor, nn

from octavize.errors import InputError, shown
from octavize.files import output_name
from octavize.paddle.dispatch import unannounced
from octavize.paddle.inputs import Inputs
from octavize.paddle.tensor import OctTensor
from octavize.paddle.trace import explained

Path = tuple[object, ...]


def leaves(output: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """What a network returned, and the keys and numbers that lead to it; maps dense, None left out."""
    if isinstance(output, Mapping):
        for key, part in output.items():
            yield from leaves(part, (*path, key))
    elif isinstance(output, list | tuple):
        for i, part in enumerate(output):
            yield from leaves(part, (*path, i))
    elif output is not None:
        yield path, output.to_dense() if isinstance(output, OctTensor) else output


class Listed(nn.Layer):
    """A network that returns its tensors as a list, in its own order; Paddle would sort those of a dict."""

    def __init__(self, net: nn.Layer) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return _listed(self.net(x))


@paddle.jit.not_to_static
def _listed(output: Any) -> list[Any]:
    """A tensor that is returned twice is copied: a file names each of its outputs."""
    found: list[Any] = []
    for _, value in leaves(output):
        found.append(paddle.assign(value) if any(value is other for other in found) else value)
    return found


def returned_by(net: nn.Layer, inputs: Inputs, dynamic_batch: bool) -> list[dict[str, Any]] | None:
    """What a network returns for an image, for the metadata of its file; None of a single tensor or map.

    Returns:
        For each tensor, in the order in which the network returns them, its `name` (the keys of dicts and the
        numbers of sequences that lead to it) and `rows`: whether it has a row for each image.

    Raises:
        InputError: the network does not run; it returns something else than tensors, or nothing; or two names
            are the same.
    """
    called, (batch, *rest) = type(net).__name__, inputs.shape
    rows: dict[str, list[bool]] = {}
    for count in (2, 3) if dynamic_batch else (batch,):
        with explained(net, inputs), paddle.no_grad(), unannounced():
            output = net(paddle.zeros((count, *rest), "float32"))
        if isinstance(output, Tensor | OctTensor):
            return None
        found = {}
        for path, value in leaves(output):
            name = output_name(path, {"input"}) if path else "output"
            if not isinstance(value, Tensor):
                raise InputError(f"{called} returns {shown(value)} as {name}: let it return tensors alone")
            if name in found:
                raise InputError(f"{called} returns two tensors as {name}: give one another name")
            found[name] = value.ndim > 0 and value.shape[0] == count
        if not found:
            raise InputError(f"{called} returns no tensor: let it return one")
        for name, by_row in found.items():
            rows.setdefault(name, []).append(by_row)
    return [{"name": name, "rows": all(by_row)} for name, by_row in rows.items()]
