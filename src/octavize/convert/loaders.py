"""The inputs of a network, out of whatever a loader yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from octavize.convert.inputs import Inputs, Shape
from octavize.errors import InputError, one_line

KEYS = ("image", "input", "pixel_values")


def images_of(loader: Iterable[object], limit: int, like: Inputs | Shape | None = None) -> Iterator[Inputs]:
    """The inputs of a network that a loader yields, batch by batch, with or without labels beside them.

    Args:
        loader: yields batches (N, C, …) of floating point; or tuples or lists that begin with one; or
            mappings that hold one as "image", "input" or "pixel_values".
        limit: stop after so many images; the last batch is cut to fit.
        like: of a network of several inputs, or of whole numbers, what the loader yields: batches with the
            example's inputs in the same places or under the same names. Labels may follow, have other names,
            or stand beside them as in ((a, b), labels).

    Raises:
        InputError: not iterable, a batch of another kind, no image at all, or only images of one color each,
            on which nothing can be measured: that is told at the end.
    """
    if not isinstance(loader, Iterable):
        raise InputError(
            f"loader is a {type(loader).__name__}: give an iterable of batches, such as a DataLoader"
        )
    used, plain = 0, True
    for batch in [loader] if isinstance(loader, Tensor) else loader:
        images = _inputs(batch, like).rows(slice(limit - used))
        used += images.batch
        if images.batch:
            plain = plain and not isinstance(batch, Inputs) and _is_plain(images)
            yield images
        if used >= limit:
            break
    if used and plain:
        raise InputError(
            "loader yields images that are of one color each: give images of the kind that the network is for"
        )
    if used == 0:
        raise InputError("loader yields no image: give one with at least one batch (N, C, H, W)")


def batch_count(loader: object, limit: int) -> int | None:
    """How many batches `images_of` yields, where the loader knows."""
    size = loader.batch_size if isinstance(loader, DataLoader) else None
    known = length_hint(loader) or None
    return min(known, -(-limit // size)) if known and size else known


def _inputs(batch: Any, like: Inputs | Shape | None) -> Inputs:
    if isinstance(batch, Inputs):
        return batch
    if not isinstance(like, Inputs):
        return Inputs((_finite(_image(batch)),))
    found = like.out_of(batch)
    if found is None:
        raise InputError(
            f"loader yields {told(batch)}: give batches like the example, {told(like.kwargs or like.args)}, "
            "after which, or under other names, labels may follow"
        )
    return found.map(_finite)


def told(batch: Any) -> str:
    """What a batch holds, in words."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"{{{', '.join(f'{key!r}: {told(value)}' for key, value in batch.items())}}}"
    if isinstance(batch, (tuple, list)):
        return f"({', '.join(map(told, batch))})"
    return type(batch).__name__


def _image(batch: Any) -> Tensor:
    found = batch
    if isinstance(batch, (tuple, list)) and batch:
        found = batch[0]
    elif isinstance(batch, Mapping):
        found = next((batch[key] for key in KEYS if isinstance(batch.get(key), Tensor)), None)
    if not isinstance(found, Tensor):
        keys = f" with keys {list(batch)}" if isinstance(batch, Mapping) else ""
        raise InputError(
            f"loader yields a {type(batch).__name__}{keys}: give batches that are a tensor (N, C, H, W), "
            f"a tuple that begins with one, or a dict with one as {', '.join(map(repr, KEYS))}; of a network "
            "of several inputs also give example="
        )
    if found.dim() < 3 or not found.is_floating_point():
        raise InputError(
            f"loader yields {found.dtype} of shape {tuple(found.shape)}: give batches (N, C, …) of floating "
            "point, prepared as for training; of a network that reads something else also give example="
        )
    return found


def _finite(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise InputError("loader yields images with values that are not finite: leave them out or mend them")
    return values


def _is_plain(images: Inputs) -> bool:
    """Whether every channel of every image is of one value; single pixels tell nothing."""
    maps = [x.flatten(2) for x in images.tensors if x.is_floating_point() and x.dim() >= 3]
    maps = [x for x in maps if x.shape[2] > 1]
    return bool(maps) and all(bool((x == x[..., :1]).all()) for x in maps)


def run_on(model: nn.Module, images: Inputs) -> Any:
    """What a network makes of a batch of a loader, moved to its device and dtype.

    Raises:
        InputError: it does not run on them.
    """
    place = next((p for p in model.parameters() if p.is_floating_point()), None)
    try:
        return (images if place is None else images.moved(place.device, place.dtype)).call(model)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"loader yields batches of shape {images}, on which {type(model).__name__} does "
            f"not run ({one_line(error)}): give images of the network's own size, several to a batch; of a "
            "network of several inputs also give example="
        ) from error
