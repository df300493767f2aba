"""An octave network and its vanilla one on many images, going on layer by layer together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor, nn

from octavize.calibration.follows import Traced
from octavize.calibration.walk import Ended, Maps, Walk
from octavize.errors import InputError


@dataclass(frozen=True)
class Meeting:
    """One call of a layer on one batch of images.

    `x` is what the octave network's layer is about to read, and `y` what the vanilla one has made. `added`
    are the maps that the octave and the vanilla network add to the layer's output later; None for none.
    """

    first: int
    """Number of the batch's first image."""
    x: Maps
    y: Tensor
    added: tuple[Maps, Tensor] | None


class Lockstep:
    """Both networks on all batches, to be asked for the layers in the order in which they run.

    As many batches as fit into memory stand still between two layers; the others run from the start each
    time. So do all batches for a layer that is called several times, since no run can go back to its first
    call.

    Args:
        model, vanilla: the octave network, and the vanilla one with its channels in the same order.
        batches: of images, on the networks' device.
        traced: the layers to stop at, as they are called.
        standing: how many batches may stand still.
    """

    def __init__(
        self, model: nn.Module, vanilla: nn.Module, batches: Sequence[Tensor], traced: Traced, standing: int
    ) -> None:
        self.model, self.vanilla, self.batches, self.traced = model, vanilla, batches, traced
        self._times = Counter(traced.calls)
        self._added = {f.added for f in traced.follows.values() if f.added is not None}
        self._standing: list[_Pair] = []
        self._count = standing
        self._close = ExitStack()

    def __enter__(self) -> Lockstep:
        once = {name: {0} for name, times in self._times.items() if times == 1}
        with ExitStack() as stack:
            for images in self.batches[: self._count]:
                self._standing.append(stack.enter_context(self._pair(images, once)))
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

    def at(self, name: str) -> Generator[Meeting]:
        """All batches at a layer.

        Raises:
            InputError: the network does not call its layers in the same order for all images.
        """
        first, times = 0, self._times[name]
        for number, images in enumerate(self.batches):
            if times == 1 and number < len(self._standing):
                yield self._standing[number].meet(name, first, self.traced)
            else:
                with self._pair(images, {name: set(range(times))}) as pair:
                    for _ in range(times):
                        yield pair.meet(name, first, self.traced)
            first += len(images)

    def _pair(self, images: Tensor, stops: dict[str, set[int]]) -> _Pair:
        return _Pair(
            Walk(self.model, images, stops, hold=self._added),
            Walk(self.vanilla, images, stops, after=True, hold=self._added),
        )


@dataclass(frozen=True)
class _Pair:
    """The two networks on one batch."""

    octave: Walk
    vanilla: Walk

    def __enter__(self) -> _Pair:
        return self

    def __exit__(self, *error: object) -> None:
        self.octave.close()
        self.vanilla.close()

    def meet(self, name: str, first: int, traced: Traced) -> Meeting:
        try:
            # Layers that were left alone in between are passed by.
            octave, vanilla = self.octave.to(name), self.vanilla.to(name)
        except Ended:
            raise InputError(
                f"images: the network does not come to layer {name!r} for some of them as it does for the "
                "first: only networks that take one path for all images can be refitted"
            ) from None
        key = traced.follows[name].added if name in traced.follows else None
        added = None if key is None else (self.octave.held[key], self.vanilla.held[key])
        return Meeting(first, octave.x, vanilla.y, added)
