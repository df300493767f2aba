"""Which image goes into which split: the same ones for everybody. No framework is needed."""

from __future__ import annotations

from collections.abc import Sequence

from octavize.data.textures import stable_order
from octavize.errors import InputError


def hold_out(labels: Sequence[int], fraction: float, classes: Sequence[str]) -> tuple[list[int], list[int]]:
    """Indices of train and validation: `fraction` of every class, at least one image, always the same ones.

    Raises:
        InputError: a class is too small to give to both.
    """
    train: list[int] = []
    val: list[int] = []
    for label, members in enumerate(_members(labels, len(classes))):
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise InputError(
                f"val_fraction={fraction} leaves nothing to train on in class {classes[label]!r} "
                f"({len(members)} images): lower it or add images"
            )
        val += members[:count]
        train += members[count:]
    return sorted(train), sorted(val)


def limit(indices: Sequence[int], labels: Sequence[int], total: int | None, n_classes: int) -> list[int]:
    """At most `total` of `indices`, equally many per class; `labels` belongs to the whole split.

    Raises:
        InputError: `total` is less than one image per class.
    """
    if total is None:
        return list(indices)
    if total < n_classes:
        raise InputError(f"limit_train={total} is less than one image for each of {n_classes} classes")
    groups = _members([labels[i] for i in indices], n_classes)
    count = min(total // n_classes, *(len(group) for group in groups))
    return sorted(indices[i] for group in groups for i in group[:count])


def _members(labels: Sequence[int], n_classes: int) -> list[list[int]]:
    """Positions of each class, in a fixed shuffled order."""
    groups: list[list[int]] = [[] for _ in range(n_classes)]
    for i in stable_order(len(labels), "split"):
        groups[labels[i]].append(i)
    return groups
