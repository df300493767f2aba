"""The sentence above a report says what its numbers say, whichever side wins."""

from __future__ import annotations

from typing import Any

import pytest

from octavize.training.headline import caution, headline


def comparison(
    *octaves: tuple[list[float], float, float | None], exported: str | None = "OpenVINO"
) -> dict[str, Any]:
    """Networks a, b … whose vanilla twins reach 80 %: accuracies by seed, shares of time and of memory."""
    networks: list[dict[str, Any]] = []
    for model, (accuracies, time, memory) in zip("abcd", octaves, strict=False):
        for alpha, own in ((0.0, [0.8] * len(accuracies)), (0.5, accuracies)):
            cost = {"macs": 0.5, "activation_bytes": memory, "latency": time + 0.2, "exported": time}
            mean = sum(own) / len(own)
            networks.append(
                {
                    **{
                        "model": model,
                        "alpha": alpha,
                        "n": len(own),
                        "accuracies": own,
                        "accuracy_mean": mean,
                    },
                    "accuracy_difference": mean - 0.8,
                    "ratios": cost if alpha else dict.fromkeys(cost, 1.0),
                }
            )
    seeds = list(range(len(octaves[0][0])))
    models = list(dict.fromkeys(n["model"] for n in networks))
    return {
        "networks": networks,
        "baseline_alpha": 0.0,
        "data": {"name": "textures", "classes": ["x"] * 10},
        "recipe": {"exchange": "block:high_to_low", "seeds": seeds, "models": models},
        "framework": "PyTorch",
        "profile": {"exported_to": exported},
    }


def told(*octaves: tuple[list[float], float, float | None], **how: Any) -> str:
    text = headline(comparison(*octaves, **how)).replace("\u00a0", " ")
    start = "Octave at α = 0.5 against vanilla, on textures: "
    assert text.startswith(start)
    return text.removeprefix(start)


def test_a_win_in_everything() -> None:
    assert told(([0.81, 0.82], 0.7, 0.6), ([0.83, 0.84], 0.75, 0.6)) == (
        "wins in accuracy (+1.5 to +3.5 points, in each of 2 seeds), time in OpenVINO (70 to 75 % of "
        "vanilla's) and memory to train (60 % of vanilla's)."
    )


def test_a_loss_in_everything() -> None:
    assert told(([0.78, 0.79], 1.2, 1.1), exported=None) == (
        "loses in accuracy (−1.5 points, in each of 2 seeds), time in PyTorch (140 % of vanilla's) and "
        "memory to train (110 % of vanilla's)."
    )


def test_some_of_both() -> None:
    assert told(([0.78, 0.79], 0.7, 1.01)) == (
        "wins in time in OpenVINO (70 % of vanilla's); loses in accuracy (−1.5 points, in each of 2 seeds); "
        "no difference in memory to train (101 % of vanilla's)."
    )


def test_networks_that_differ() -> None:
    assert told(([0.78, 0.79], 0.7, 0.6), ([0.81, 0.82], 1.1, 0.6)) == (
        "wins in memory to train (60 % of vanilla's); it depends on the network in accuracy (−1.5 to +1.5 "
        "points, in each of 2 seeds) and time in OpenVINO (70 to 110 % of vanilla's)."
    )


@pytest.mark.parametrize(
    ("accuracies", "why"),
    [
        ([0.9], "+10.0 points; one seed, which says little"),
        ([0.8], "±0.0 points; one seed, which says little"),
        ([0.79, 0.82, 0.82], "+1.0 points; 3 seeds, which disagree"),
    ],
)
def test_accuracy_that_nobody_can_tell(accuracies: list[float], why: str) -> None:
    text = told((accuracies, 0.7, 0.6))
    assert text.endswith(f"; accuracy is undecided ({why}).")
    assert "wins in accuracy" not in text


def test_memory_that_was_not_measured_is_no_win() -> None:
    assert told(([0.9, 0.9], 0.7, None)).endswith("; memory to train was not measured.")


def test_nothing_learned() -> None:
    results = comparison(([0.1], 0.7, 0.6))
    for network in results["networks"]:
        network["accuracy_mean"] = 0.11
    assert headline(results).startswith("Nothing learned yet")


def test_the_caution_says_what_was_compared() -> None:
    text = caution(comparison(([0.81], 0.7, 0.6))).replace("\u00a0", " ")
    assert text.startswith("a, with and without octave, trained alike (exchange block:high_to_low).")
    assert "does 50 % of the arithmetic" in text
    assert "One seed" in text
    assert "means over 2 seeds" in caution(comparison(([0.81, 0.82], 0.7, 0.6)))
