"""refit(): new weights for the layers of an octave network, from images without labels.

Layer by layer, in the order in which they run: the octave network hands the layer what it really gets,
degraded by the layers before; the vanilla network says what the layer shall make of it. The weights and a
constant that come closest are found in closed form, by least squares, held by a ridge to the trained weights.
Then, see `polish.py`, a few epochs of gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial

import torch
from torch import nn

from octavize.calibration.coupling import stand_in
from octavize.calibration.follows import Follows, Traced, trace_calls
from octavize.calibration.lockstep import Lockstep
from octavize.calibration.polish import polish
from octavize.calibration.refitting import Polished, Refitted, Refitting
from octavize.calibration.rows import Half, NotLinear
from octavize.calibration.sampling import Place, norm_of, sample
from octavize.calibration.solve import Solution, solve
from octavize.convert.inputs import Example, Inputs, Shape, checked_example
from octavize.convert.loaders import images_of, run_on
from octavize.convert.norms import norm_shift
from octavize.convert.order import order_of
from octavize.convert.trace import CONVOLUTIONS, check_network, clean_copy
from octavize.errors import InputError, number, whole
from octavize.nn.conv import OctConv
from octavize.report.progress import steps

Progress = Callable[[Sequence[str]], Iterable[str]]

BATCH = 8
"""Images that run together, unless there are so many that they would be more batches than the most."""
MOST_BATCHES = 64
EPOCHS = 4
MAX_IMAGES = 200
MEMORY = 2.0
MOST_SHIFT = 0.28
"""A `norm_shift` beyond which images are taken for another kind than those of the training.

EfficientNet-Lite0, trained on 1,000 classes: 0.19 on images of twenty of them, 0.18 and 0.26 on ten, 0.35 on
one; 0.29 on flowers enlarged from 160 pixels, 0.41 on road scenes, 0.35 and 0.39 on images normalized in
another way."""
ROWS_PER_COLUMN = 4
"""Fewer rows than this for each number to find are few."""


def refit(
    model: nn.Module,
    images: Iterable[object],
    *,
    vanilla: nn.Module | None = None,
    epochs: int = EPOCHS,
    max_images: int = MAX_IMAGES,
    memory: float = MEMORY,
    example: Example | None = None,
    progress: Progress | None = None,
) -> Refitting:
    """Refit an octave network to what the vanilla one computes, without labels.

    First layer by layer in closed form, then by a few epochs of gradient against the vanilla network's
    outputs on the same images. The weights keep their shapes and names: the state dict stays a vanilla
    network's. Constants go into biases, or into the running means of the batch norms that follow. In closed
    form, layers whose input is the vanilla network's own stay as they are. Frozen parameters stay.

    Args:
        model: an octave network with the weights of a trained vanilla one, as `octavize` makes it; with a
            plan of `calibrate` it keeps most. It is changed in place.
        images: batches of prepared images, see `convert.loaders.images_of`: of the kind that the network is
            for, as sharp, of as many classes as there are, shuffled.
        vanilla: the vanilla network with its channels in the order of `model`. By default it is `model` as it
            is now, with an α of 0, so a network that was refitted or trained since needs it:
            `octavize(octavize(trained, plan), 0)`.
        epochs: of gradient afterwards, in evaluation mode. 0 leaves it at the closed form, which takes about
            a third of the time.
        max_images: how many of the images to use; they are kept in memory.
        memory: GiB for maps of images that wait for the next layer. While they need more, some run from the
            start for each layer, which takes longer. About as much is needed besides.
        example: what a network of several inputs, or of whole numbers, is called with, see `octavize.plan`:
            the batches hold as much, see `convert.loaders.images_of`.
        progress: called with the names of the layers and epochs; what it returns is iterated over, such as
            `tqdm.tqdm`. By default the log is told.

    Returns:
        The errors of each layer before and after, and the layers that were left alone, with the reason.

    Raises:
        InputError: the network is not octave, or all of it is frozen; `vanilla` is another network; images or
            numbers are bad; or epochs are asked for in half precision, in inference mode or on images of
            several sizes.

    Warns:
        UserWarning: a layer was left alone, there are few images, or they are of another kind than those
            that the network was trained on.

    Examples:
        >>> plan = calibrate(trained, images, alpha=0.25, downsample="stride")
        >>> net = octavize(trained, plan)
        >>> table = refit(net, images)  # of each layer's error before and after
    """
    check_network(model)
    whole("max_images", max_images, 2)
    whole("epochs", epochs, 0)
    number("memory", memory, 0, meaning="in GiB")
    octave = [name for name, m in model.named_modules() if isinstance(m, OctConv) and m.alpha]
    if not octave:
        raise InputError(f"model: {type(model).__name__} has no octave layer: octavize it first")
    _check_trainable(model, epochs)
    reference = _vanilla_of(model) if vanilla is None else clean_copy(vanilla)
    _check_same(model, reference)
    reference.to(next(p for p in model.parameters() if p.is_floating_point()))
    like = None if example is None else checked_example(model, example)
    batches = _batches(model, images, max_images, like)
    if epochs and len({tuple(x.shape[1:] for x in batch.tensors) for batch in batches}) > 1:
        raise InputError("images are of several sizes: the epochs need one, or give epochs=0")
    run_on(stand_in(model), batches[0].rows(slice(1)))
    shift = norm_shift(reference, batches)
    refitter = _Refitter(model, reference, batches, memory, epochs)
    refitter.all(progress or partial(steps, what="refitting"))
    layers, left = tuple(refitter.done), refitter.left
    done = Refitting(layers, left, refitter.images, shift, refitter.polished)
    _warn(done)
    return done


class _Refitter:
    """The two networks, and what was done so far."""

    def __init__(
        self, model: nn.Module, vanilla: nn.Module, batches: Sequence[Inputs], memory: float, epochs: int
    ) -> None:
        self.model, self.vanilla, self.batches, self.epochs = model, vanilla, batches, epochs
        self.images = sum(part.batch for part in batches)
        image = batches[0].rows(slice(1))
        names = [name for name, m in model.named_modules() if isinstance(m, CONVOLUTIONS)]
        self.traced: Traced = trace_calls(vanilla, image, names)
        self.left = {name: "no image reaches it" for name in names if name not in self.traced.calls}
        self.memory = memory * 2**30
        self.done: list[Refitted] = []
        self.polished: Polished | None = None
        self.generator = torch.Generator().manual_seed(0)

    def all(self, progress: Progress) -> None:
        """Refit layer by layer, then polish."""
        steps = iter(progress([*self._layers(), *(f"epoch {n + 1}" for n in range(self.epochs))]))
        with Lockstep(self.model, self.vanilla, self.batches, self.traced, self.memory) as runs:
            for name, _ in zip(self._layers(), steps, strict=False):
                self._try(name, runs)
        taps = {follows.added for follows in self.traced.follows.values() if follows.added is not None}
        polishing = polish(self.model, self.vanilla, self.batches, taps, self.epochs)
        for _ in steps:
            self.polished = next(polishing)

    def _layers(self) -> list[str]:
        return list(dict.fromkeys(self.traced.calls))

    def _try(self, name: str, runs: Lockstep) -> None:
        try:
            self._check_own(name)
            self._refit(name, runs)
        except NotLinear as reason:
            self.left[name] = str(reason)

    def _check_own(self, name: str) -> None:
        layer = self.model.get_submodule(name)
        own = _memory_of(layer)
        for other, module in self.model.named_modules():
            if module is not layer and own & _memory_of(module):
                raise NotLinear(f"it shares its weights with {other}")
        if not all(p.requires_grad for p in layer.parameters(recurse=False)):
            raise NotLinear("its weights are frozen")

    def _refit(self, name: str, runs: Lockstep) -> None:
        place, vanilla = self._place(self.model, name), self._place(self.vanilla, name)
        with closing(runs.at(name)) as meetings:
            found = sample(place, vanilla, meetings, self.images, self.generator)
        for half, problem in found:
            solution = solve(problem, place.weights(half))
            if solution.ridge:
                place.write(half, solution.v)
                rows, columns = problem.x.shape[1:]
                self.done.append(_told(name, half, rows, columns, solution))

    def _place(self, net: nn.Module, name: str) -> Place:
        follows = self.traced.follows.get(name, Follows())
        return Place(stand_in(net.get_submodule(name)), follows, norm_of(net, follows))


def _told(name: str, half: Half, rows: int, columns: int, found: Solution) -> Refitted:
    errors = found.before, found.after, found.held_out
    return Refitted(name, half.kind, rows, columns, found.ridge, *errors)


def _memory_of(layer: nn.Module) -> set[int]:
    """Where a layer's own parameters lie; two that share it are one."""
    return {p.untyped_storage().data_ptr() for p in layer.parameters(recurse=False) if p.numel()}


def _check_trainable(model: nn.Module, epochs: int) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("model: all its parameters are frozen: model.requires_grad_(True) frees them")
    few = {p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype.itemsize < 4}
    if epochs and few:
        raise InputError(
            f"model: it has weights in {str(few.pop()).removeprefix('torch.')}, in which the small steps of "
            "the epochs are lost: refit model.float() and convert it back afterwards, or give epochs=0"
        )
    if epochs and torch.is_inference_mode_enabled():
        raise InputError("refit runs inside torch.inference_mode(), where nothing learns: leave it first")


def _vanilla_of(model: nn.Module) -> nn.Module:
    """A copy of an octave network with an α of 0: with the same weights, the vanilla network."""
    vanilla = clean_copy(model)
    for module in vanilla.modules():
        if isinstance(module, OctConv):
            module.become_octave(alpha=0.0)
    return vanilla


def _check_same(model: nn.Module, vanilla: nn.Module) -> None:
    own, other = ({k: v.shape for k, v in net.state_dict().items()} for net in (model, vanilla))
    if own != other:
        differ = sorted(set(own.items()) ^ set(other.items()))[0][0]
        raise InputError(
            f"vanilla: it is another network, as {differ!r} shows: give the one that model was made of"
        )
    if order_of(vanilla) != order_of(model) != "":
        raise InputError(
            "vanilla: its channels are in another order than those of model: put them into the plan's order, "
            "octavize(octavize(vanilla, plan), 0)"
        )
    octave = [name for name, m in vanilla.named_modules() if isinstance(m, OctConv) and m.alpha]
    if octave:
        raise InputError(f"vanilla: its layer {octave[0]!r} is octave: give the vanilla network")


def _batches(
    model: nn.Module, images: Iterable[object], max_images: int, like: Inputs | Shape | None
) -> list[Inputs]:
    """The images where the network is, a few at a time."""
    place = next(p for p in model.parameters() if p.is_floating_point())
    given = list(images_of(images, max_images, like))
    total = sum(batch.batch for batch in given)
    if total < 2:
        raise InputError("images: there is only one: give at least 2, better 100 or more")
    size = max(BATCH, -(-total // MOST_BATCHES))
    return [part.moved(place.device, place.dtype) for batch in given for part in batch.split(size)]


def _warn(done: Refitting) -> None:
    for name, reason in done.left.items():
        warnings.warn(f"refit left layer {name!r} alone: {reason}", UserWarning, stacklevel=3)
    few = [layer.name for layer in done.layers if layer.rows < ROWS_PER_COLUMN * layer.columns]
    if few:
        warnings.warn(
            f"refit: {done.images} images are few for {len(few)} layers, such as {few[0]!r}: give more",
            UserWarning,
            stacklevel=3,
        )
    if done.shift is not None and done.shift > MOST_SHIFT:
        warnings.warn(
            f"refit: on these images the means of the vanilla network's maps lie {done.shift:.2f} deviations "
            f"off those that its batch norms remember, more than {MOST_SHIFT:g}: the images are of another "
            "kind than those it was trained on, or prepared in another way, and the result may be good for "
            "them alone",
            UserWarning,
            stacklevel=3,
        )
