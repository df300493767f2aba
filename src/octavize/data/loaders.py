"""Images out of whatever a loader yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from octavize.errors import InputError, one_line

KEYS = ("image", "input", "pixel_values")


def images_of(loader: Iterable[object], limit: int) -> Iterator[Tensor]:
    """The images of a loader, batch by batch, with or without labels beside them.

    Args:
        loader: yields batches (N, C, …) of floating point; or tuples or lists that begin with one; or
            mappings that hold one as "image", "input" or "pixel_values".
        limit: stop after so many images; the last batch is cut to fit.

    Raises:
        InputError: not iterable, a batch of another kind, or no image at all.
    """
    if not isinstance(loader, Iterable):
        raise InputError(
            f"loader is a {type(loader).__name__}: give an iterable of batches, such as a DataLoader"
        )
    used = 0
    for batch in [loader] if isinstance(loader, Tensor) else loader:
        images = _images(batch)[: limit - used]
        used += len(images)
        if len(images):
            yield images
        if used >= limit:
            return
    if used == 0:
        raise InputError("loader yields no image: give one with at least one batch (N, C, H, W)")


def batch_count(loader: object, limit: int) -> int | None:
    """How many batches `images_of` yields, where the loader knows."""
    size = loader.batch_size if isinstance(loader, DataLoader) else None
    known = length_hint(loader) or None
    return min(known, -(-limit // size)) if known and size else known


def _images(batch: Any) -> Tensor:
    found = batch
    if isinstance(batch, (tuple, list)) and batch:
        found = batch[0]
    elif isinstance(batch, Mapping):
        found = next((batch[key] for key in KEYS if isinstance(batch.get(key), Tensor)), None)
    if not isinstance(found, Tensor):
        keys = f" with keys {list(batch)}" if isinstance(batch, Mapping) else ""
        raise InputError(
            f"loader yields a {type(batch).__name__}{keys}: give batches that are a tensor (N, C, H, W), "
            f"a tuple that begins with one, or a dict with one as {', '.join(map(repr, KEYS))}"
        )
    if found.dim() < 3 or not found.is_floating_point():
        raise InputError(
            f"loader yields {found.dtype} of shape {tuple(found.shape)}: give batches (N, C, …) of floating "
            "point, prepared as for training"
        )
    if not found.isfinite().all():
        raise InputError("loader yields images with values that are not finite: leave them out or mend them")
    return found


def run_on(model: nn.Module, images: Tensor) -> Any:
    """What a network makes of images of a loader, moved to its device and dtype.

    Raises:
        InputError: it does not run on them.
    """
    place = next((p for p in model.parameters() if p.is_floating_point()), images)
    try:
        return model(images.to(place))
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"loader yields batches of shape {tuple(images.shape)}, on which {type(model).__name__} does "
            f"not run ({one_line(error)}): give images of the network's own size, several to a batch"
        ) from error
