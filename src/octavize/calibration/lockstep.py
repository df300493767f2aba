"""An octave network and its vanilla one on many images, going on layer by layer together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from octavize.calibration.follows import Traced
from octavize.calibration.walk import Ended, Maps, Walk, standing_bytes
from octavize.convert.inputs import Inputs
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
    time. Maps get smaller with depth, so soon all may fit. All batches run from the start for a layer that is
    called several times, since no run can go back to its first call.

    Args:
        model, vanilla: the octave network, and the vanilla one with its channels in the same order.
        batches: of images, on the networks' device.
        traced: the layers to stop at, as they are called.
        memory: that maps of standing runs may take, in bytes.
    """

    def __init__(
        self, model: nn.Module, vanilla: nn.Module, batches: Sequence[Inputs], traced: Traced, memory: float
    ) -> None:
        self.model, self.vanilla, self.batches, self.traced = model, vanilla, batches, traced
        self._times = Counter(traced.calls)
        self._once = {name: {0} for name, times in self._times.items() if times == 1}
        self._added = {f.added for f in traced.follows.values() if f.added is not None}
        of_one = standing_bytes(vanilla, batches[0].rows(slice(1)), list(self._times))
        images = 2 * max(part.batch for part in batches)  # in two networks
        self._room = {name: int(memory / max(images * needed, 1)) for name, needed in of_one.items()}
        self._standing: dict[int, _Pair] = {}

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *error: object) -> None:
        for pair in self._standing.values():
            pair.close()
        self._standing.clear()

    def at(self, name: str) -> Generator[Meeting]:
        """All batches at a layer.

        Raises:
            InputError: the network does not call its layers in the same order for all images.
        """
        first, times = 0, self._times[name]
        for number, images in enumerate(self.batches):
            meet = self._once_at if times == 1 else self._each_time_at
            yield from meet(name, number, first)
            first += images.batch

    def _once_at(self, name: str, number: int, first: int) -> Generator[Meeting]:
        pair = self._standing.get(number)
        if pair is not None:
            yield pair.meet(name, first, self.traced)
            return
        pair = self._pair(number, self._once)
        stays = len(self._standing) < self._room[name]
        if stays:
            self._standing[number] = pair
        try:
            yield pair.meet(name, first, self.traced)
        finally:
            if not stays:
                pair.close()

    def _each_time_at(self, name: str, number: int, first: int) -> Generator[Meeting]:
        times = self._times[name]
        pair = self._pair(number, {name: set(range(times))})
        try:
            for _ in range(times):
                yield pair.meet(name, first, self.traced)
        finally:
            pair.close()

    def _pair(self, number: int, stops: dict[str, set[int]]) -> _Pair:
        images = self.batches[number]
        return _Pair(
            Walk(self.model, images, stops, hold=self._added),
            Walk(self.vanilla, images, stops, after=True, hold=self._added),
        )


@dataclass(frozen=True)
class _Pair:
    """The two networks on one batch."""

    octave: Walk
    vanilla: Walk

    def close(self) -> None:
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
