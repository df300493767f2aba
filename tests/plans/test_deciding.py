"""What becomes of a convolution, decided on numbers alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from octavize.errors import InputError
from octavize.plans.deciding import LayerInfo, check_plan, decide, merge, per_layer, settle
from octavize.plans.geometry import Geometry, check_exchange
from octavize.plans.plan import Plan

CONV = Geometry(16, 32, (3, 3), (1, 1), (1, 1), (1, 1))
LAYER = LayerInfo("a", "Conv2D", CONV, 2, True, True, False, (8, 8), (8, 8), 1000)
EACH = replace(LAYER, name="d", geometry=Geometry(16, 16, (3, 3), (1, 1), (1, 1), (1, 1), 16))


def decided(layer: LayerInfo, alpha: float = 0.5) -> tuple[float | None, str]:
    (found,) = decide([layer], {layer.name: alpha}, {layer.name: "none"}, {layer.name: "stride"}, 0)
    assert (found.exchange, found.downsample) == ("none", "stride")
    return found.alpha, found.reason


@pytest.mark.parametrize(
    ("layer", "alpha", "words"),
    [
        (LAYER, 0.5, "octave"),
        (replace(LAYER, has_handler=False), None, "Conv2D is a layer of its own kind"),
        (replace(LAYER, reached=False), None, "not reached"),
        (replace(LAYER, reads_input=True), None, "stem"),
        (replace(LAYER, input_size=(1, 1)), None, "sees a single pixel"),
        (replace(LAYER, input_size=(4, 1, 1)), None, "sees a single pixel"),
        (replace(LAYER, input_size=(4, 1), octave_dims=1), None, "single pixel"),
        (replace(LAYER, input_size=(1, 4), octave_dims=1), 0.5, "octave"),
        (replace(LAYER, output_size=(1, 1)), 0.0, "writes a single pixel"),
        (replace(LAYER, geometry=replace(CONV, padding=(0, 0))), None, "octave needs padding=1"),
        (replace(LAYER, geometry=replace(CONV, out_channels=1)), 0.5, "no low output"),
        (EACH, 0.5, "depthwise"),
    ],
)
def test_reasons(layer: LayerInfo, alpha: float | None, words: str) -> None:
    found, reason = decided(layer)
    assert found == alpha
    assert words in reason


def test_the_last_pattern_counts_and_others_keep_what_they_have() -> None:
    layers: dict[str, Any] = {"a.1": 1, "a.2": 2, "b": 3}
    own = {"a.1": "both", "a.2": "both", "b": "high_to_low"}

    def found(given: Any) -> dict[str, str]:
        return per_layer("exchange", given, layers, check_exchange, own)

    assert found(None) == own
    assert found({"a.*": "none", "*.2": "low_to_high"}) == {
        "a.1": "none",
        "a.2": "low_to_high",
        "b": "high_to_low",
    }
    assert found(lambda name, layer: "none" if layer == 2 else "both")["a.2"] == "none"
    with pytest.raises(
        InputError, match=r"exchange: the pattern 'c\*' matches no convolution.*a\.1, a\.2, b"
    ):
        found({"c*": "none"})
    with pytest.raises(InputError, match="exchange='up'"):
        found({"*": "up"})


def test_merging_and_costs() -> None:
    given = decide(
        [LAYER, EACH], {"a": 0.5, "d": 0.5}, {"a": "both", "d": "both"}, {"a": "pool", "d": "pool"}, 0
    )
    merged = merge(given, {"a": "add"})
    assert [(d.alpha, d.reason[:6]) for d in merged] == [(0.0, "merges"), (0.5, "depthw")]
    layers = {"a": LAYER, "d": EACH}
    settled = settle(merged, layers, {"a": 600, "d": 1000}, frozenset("d"))
    assert [(d.alpha, d.macs_before, d.macs_after) for d in settled] == [(0.0, 1000, 600), (0.0, 1000, 1000)]
    assert "dense map" in settled[1].reason
    assert settle(merged, layers, {"d": 1000}, frozenset())[1].alpha == 0.5


def test_a_stem_is_octave_only_under_its_own_name() -> None:
    stem = replace(LAYER, reads_input=True)
    for named, expected in ((("a",), 0.5), (("*",), None)):
        (decision,) = decide([stem], {"a": 0.5}, {"a": "both"}, {"a": "pool"}, 0, named)
        assert decision.alpha == expected


def test_a_plan_is_for_its_network() -> None:
    decisions = decide([LAYER], {"a": 0.5}, {"a": "both"}, {"a": "pool"}, 0)
    plan = Plan(decisions, (1, 16, 8, 8), 1000, 600)
    check_plan(plan, {"a": replace(LAYER, kind="OctConv2D", reached=False)}, "Net")
    for layers, words in (
        ({"b": LAYER}, "another network: Net has no layer 'a'"),
        ({"a": LAYER, "b": LAYER}, "another network: it lacks layer 'b' of this Net; make one with"),
        ({"a": replace(LAYER, kind="Conv1D")}, "is a Conv1D in this Net and a Conv2D in the plan"),
        ({"a": replace(LAYER, has_handler=False)}, "has no handler"),
        ({"a": replace(LAYER, geometry=replace(CONV, stride=(3, 3)))}, r"alpha=0.5: stride=\(3, 3\)"),
    ):
        with pytest.raises(InputError, match=words):
            check_plan(plan, layers, "Net")
