"""What `octavize export` asks of a framework: find a network, write it to a file, let it answer to images."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavize.cli.paddle import is_paddle
from octavize.deploy.formats import Array, format_of, formats
from octavize.errors import InputError

if TYPE_CHECKING:
    from octavize.deploy.agreement import Agreement
    from octavize.deploy.runtime import Runner

Shape = tuple[int, ...]


class Exporter(ABC):
    """A framework's own part of an export."""

    def files(self, to: Path, precision: str) -> tuple[Path, ...]:
        """All files that a network becomes.

        Raises:
            InputError: no format has such a name or this precision, or a package is missing.
        """
        from octavize.deploy.lowering import check_precision

        kind = format_of("--to", to)
        check_precision(precision, kind)
        return kind.files(to)

    @abstractmethod
    def find(
        self,
        source: str,
        alpha: float | None,
        num_classes: int | None,
        size: int | None,
        exchange: str | None,
    ) -> tuple[Any, dict[str, Any]]:
        """A network, and what is known of its input; see `octavize.deploy.source.find_network`."""

    @abstractmethod
    def outputs_of(self, model: Any, shape: Shape) -> int | None:
        """How many classes a network tells apart; None if it is no classifier."""

    @abstractmethod
    def write(
        self,
        model: Any,
        to: Path,
        shape: Shape,
        *,
        metadata: dict[str, Any],
        precision: str,
        calibration: Iterable[Array] | None,
        dynamic_size: bool,
    ) -> float:
        """Write the files; returns the largest error in float32, see `octavize.export`."""

    @abstractmethod
    def agreement(
        self, model: Any, runner: Runner, batches: Iterable[Array], labels: Sequence[int] | None
    ) -> Agreement:
        """How the network and its file answer to images."""


class InTorch(Exporter):
    def find(
        self,
        source: str,
        alpha: float | None,
        num_classes: int | None,
        size: int | None,
        exchange: str | None,
    ) -> tuple[Any, dict[str, Any]]:
        from octavize.deploy.source import find_network

        return find_network(source, alpha, num_classes, size, exchange)

    def outputs_of(self, model: Any, shape: Shape) -> int | None:
        from octavize.deploy.quantize import outputs_of

        return outputs_of(model, shape)

    def write(self, model: Any, to: Path, shape: Shape, **how: Any) -> float:
        from octavize.deploy.export import export

        return export(model, to, shape, **how)

    def agreement(
        self, model: Any, runner: Runner, batches: Iterable[Array], labels: Sequence[int] | None
    ) -> Agreement:
        from octavize.deploy.quantize import agreement

        return agreement(model.eval(), runner, batches, labels)


class InPaddle(Exporter):
    """For Paddle Inference, whose files have names without an ending; or through ONNX."""

    def files(self, to: Path, precision: str) -> tuple[Path, ...]:
        if not to.suffix:
            if precision != "float32":
                raise InputError(
                    f"--precision is {precision} and --to {to} is for Paddle Inference, which gets float32: "
                    "give a name that ends in .onnx or .xml"
                )
            return tuple(to.with_name(f"{to.name}{end}") for end in (".json", ".pdiparams", ".octavize"))
        takes = [kind.suffix for kind in formats().values() if kind.from_onnx]
        if to.suffix not in takes:
            raise InputError(
                f"--to is {to}: with --backend paddle give a name that ends in {' or '.join(takes)}, or one "
                "without an ending for Paddle Inference"
            )
        return super().files(to, precision)

    def find(
        self,
        source: str,
        alpha: float | None,
        num_classes: int | None,
        size: int | None,
        exchange: str | None,
    ) -> tuple[Any, dict[str, Any]]:
        from octavize.paddle.source import find_network

        return find_network(source, alpha, num_classes, size, exchange)

    def outputs_of(self, model: Any, shape: Shape) -> int | None:
        from octavize.deploy.runtime import classes_of
        from octavize.paddle.comparing import outputs_of
        from octavize.paddle.inputs import Inputs

        model.eval()
        return classes_of(outputs_of(Inputs((shape,)).made("float32").call(model)))

    def write(
        self,
        model: Any,
        to: Path,
        shape: Shape,
        *,
        metadata: dict[str, Any],
        precision: str,
        calibration: Iterable[Array] | None,
        dynamic_size: bool,
    ) -> float:
        from octavize.deploy.lowering import lower
        from octavize.paddle.saving import save

        how: dict[str, Any] = {"dynamic_size": dynamic_size, "metadata": metadata}
        if not to.suffix:
            return save(model, to, shape, **how)
        if (to.suffix, precision) == (".onnx", "float32"):
            return save(model, to, shape, target="onnx", **how)
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".export-") as folder:
            through = Path(folder, to.name).with_suffix(".onnx")
            error = save(model, through, shape, target="onnx", for_int8=precision == "int8", **how)
            lower(through, to, precision=precision, calibration=calibration)
        return error

    def agreement(
        self, model: Any, runner: Runner, batches: Iterable[Array], labels: Sequence[int] | None
    ) -> Agreement:
        from octavize.deploy.agreement import agreement_of
        from octavize.paddle.comparing import answering

        return agreement_of(answering(model), runner, batches, labels, type(model).__name__)


def exporter_of(backend: str) -> Exporter:
    """Of a framework by name; see `is_paddle`."""
    return InPaddle() if is_paddle(backend) else InTorch()
