"""A new order of channels, as numbers: the order, where it applies, and what it is predicted to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from octavize.errors import InputError
from octavize.text import Table


@dataclass(frozen=True)
class Order:
    """A new order of channels, and the tensors that it applies to.

    Channel `places[i]` moves to place i along each of `axes`. An axis is the name of a parameter or
    buffer, and one of its dimensions. `sizes` tell how large the weights of each channel were before, as
    whole numbers up to 255: weights that are in the new order already, trained further or not, are known by
    them. Without them nothing is known.
    """

    places: tuple[int, ...]
    axes: tuple[tuple[str, int], ...]
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Permutation:
    """A network's channels in another order; the network computes the same. Each distinct order is kept once.

    `base` is the `key` of the order that the network already had when this one was found; empty if none.
    """

    orders: tuple[Order, ...]
    base: str = ""

    @property
    def key(self) -> str:
        """A name for the resulting order: the same orders on the same base have the same key."""
        if not self.orders:
            return self.base
        moves = [(order.places, order.axes) for order in self.orders]
        return hashlib.sha256(repr((self.base, moves)).encode()).hexdigest()[:16]

    def check(self) -> None:
        """Check values that came from a file.

        Raises:
            InputError: an order is not a permutation, or an axis is not a name and a number.
        """
        for order in self.orders:
            first = order.axes[0][0] if order.axes else "nothing"
            if sorted(order.places) != list(range(len(order.places))):
                raise InputError(f"the order of {first} does not list each channel once: leave it alone")
            if not all(isinstance(name, str) and isinstance(dim, int) for name, dim in order.axes):
                raise InputError(
                    f"the order of {first} has axes that are no (name, dimension): leave it alone"
                )
            if len(order.sizes) not in (0, len(order.places)):
                raise InputError(f"the order of {first} does not list each channel's size: leave it alone")

    def as_dict(self) -> dict[str, Any]:
        """A form that YAML can hold: an order is one line of numbers."""
        orders = [
            {
                "places": _line(order.places),
                "sizes": _line(order.sizes),
                "axes": [list(a) for a in order.axes],
            }
            for order in self.orders
        ]
        return {"base": self.base, "key": self.key, "orders": orders}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Permutation:
        """What `as_dict` gave.

        Raises:
            InputError: see `check`; or it was edited: some of the orders alone make another network.
        """
        made = cls(tuple(_order(entry) for entry in values["orders"]), values["base"])
        made.check()
        if values.get("key", made.key) != made.key:  # older files have none
            raise InputError(
                "permutation: it is not as Plan.save wrote it, and would make another network: leave it "
                "alone, or calibrate anew"
            )
        return made


def _order(entry: Mapping[str, Any]) -> Order:
    try:
        places, sizes = (tuple(map(int, str(entry[name]).split())) for name in ("places", "sizes"))
    except ValueError as error:
        raise InputError(f"an order of channels holds what is no number ({error}): leave it alone") from None
    return Order(places, tuple((name, dim) for name, dim in entry["axes"]), sizes)


def _line(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


@dataclass(frozen=True)
class Reordered:
    """What a new order is predicted to do to one convolution's output.

    `before` and `after` are the share, from 0 to 1, of the output's energy that the last `low` channels lose
    where convolutions read them; `movable` of its `channels` may change places.
    """

    name: str
    channels: int
    low: int
    movable: int
    before: float
    after: float


@dataclass(frozen=True)
class Reordering:
    """What a new order is predicted to keep; printing it gives a table."""

    convolutions: tuple[Reordered, ...]
    images: int
    score: str

    def without(self, names: Mapping[str, object]) -> Reordering:
        """The same without some convolutions, for which the prediction no longer holds."""
        kept = tuple(c for c in self.convolutions if c.name not in names)
        return Reordering(kept, self.images, self.score)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reordering:
        """What `dataclasses.asdict` gave."""
        convolutions = tuple(Reordered(**entry) for entry in values["convolutions"])
        return cls(convolutions, values["images"], values["score"])

    def __str__(self) -> str:
        rows = [
            (
                c.name,
                f"{c.low}/{c.channels}",
                f"{c.movable}/{c.channels}",
                f"{c.before:.2%}",
                f"{c.after:.2%}",
            )
            for c in self.convolutions
        ]
        head = ("convolution", "low", "movable", "lost before", "lost after")
        return str(Table(head, rows, note=f"measured on {self.images:,} images, ordered by {self.score}"))
