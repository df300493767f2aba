"""Where the frequencies of a network meet, told on names alone."""

from __future__ import annotations

import pytest

from octavize.errors import InputError
from octavize.plans.exchanging import Block, by_layer, check_exchange_policy, exchange_of_layer, places_of


def block(name: str, size: int) -> Block:
    layers = (f"{name}.1", f"{name}.2", f"{name}.shortcut")
    return Block(frozenset(layers), frozenset({f"{name}.2"}), (size, size))


PLACES = places_of([block("a", 8), block("b", 8), block("c", 4)])


def test_a_block_ends_in_its_last_layer_and_a_stage_in_its_last_block() -> None:
    assert {name for name, place in PLACES.items() if place} == {"a.2", "b.2", "c.2"}
    assert {name for name, place in PLACES.items() if place == "stage"} == {"b.2", "c.2"}
    assert places_of([]) == {}


@pytest.mark.parametrize(
    ("exchange", "meeting", "paths"),
    [
        ("every", set(PLACES), "both"),
        ("every:low_to_high", set(PLACES), "low_to_high"),
        ("high_to_low", set(PLACES), "high_to_low"),
        ("none", set(), ""),
        ("block", {"a.2", "b.2", "c.2"}, "both"),
        ("block:high_to_low", {"a.2", "b.2", "c.2"}, "high_to_low"),
        ("stage", {"b.2", "c.2"}, "both"),
        ("stage:both", {"b.2", "c.2"}, "both"),
    ],
)
def test_where_layers_exchange(exchange: str, meeting: set[str], paths: str) -> None:
    check_exchange_policy(exchange)
    found = by_layer(dict.fromkeys(PLACES, exchange), PLACES)
    assert {name for name, each in found.items() if each != "none"} == meeting
    assert {each for each in found.values() if each != "none"} <= {paths}


def test_outside_of_blocks_layers_exchange_as_in_the_paper() -> None:
    assert exchange_of_layer("block:high_to_low", None) == "both"
    assert exchange_of_layer("stage", None) == "both"
    assert exchange_of_layer("every:high_to_low", None) == "high_to_low"


@pytest.mark.parametrize(
    "exchange", ["", "blocks", "block:", "block:none", "block:up", "both:block", 3, None]
)
def test_unknown(exchange: object) -> None:
    with pytest.raises(InputError, match="give every, block, stage"):
        check_exchange_policy(exchange)  # pyright: ignore[reportArgumentType]
