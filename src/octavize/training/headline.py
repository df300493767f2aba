"""What a comparison found, in a sentence for who reads nothing else: where octave wins, and where not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavize.report.naming import network_name, pretty
from octavize.report.numbers import SPACE, points, span

EVEN = 0.03
"""Shares of cost that differ by less from 1 count as equal."""
WINS, LOSES, EQUAL = "wins in", "loses in", "no difference in"
DEPENDS, OPEN = "it depends on the network in", ""
Verdict = tuple[str, str]
"""Which of these, and in what, with its numbers."""


def headline(results: dict[str, Any]) -> str:
    """Which of the two is better in accuracy, in time and in memory, computed from the numbers."""
    chance = 1 / len(results["data"]["classes"])
    if all(n["accuracy_mean"] < chance + 0.05 * (1 - chance) for n in results["networks"]):
        share = f"{100 * chance:.0f}{SPACE}%"
        return f"Nothing learned yet: every network is near chance, which is {share}. Train longer."
    octave = [n for n in results["networks"] if n["alpha"] != results["baseline_alpha"]]
    if not octave:
        best = max(results["networks"], key=lambda n: n["accuracy_mean"])
        return f"{pretty(best['model'])} reaches {best['accuracy_mean']:.1%} on {results['data']['name']}."
    runtime = results["profile"].get("exported_to")
    field, where = ("latency", results["framework"]) if runtime is None else ("exported", runtime)
    base = network_name(results["baseline_alpha"])
    verdicts = [
        _of_accuracy(results, octave),
        _of_cost(octave, base, field, f"time in {where}"),
        _of_cost(octave, base, "activation_bytes", "memory to train"),
    ]
    told = [(kind, [what for k, what in verdicts if k == kind]) for kind in (WINS, LOSES, EQUAL, DEPENDS)]
    clauses = [f"{kind} {_listed(what)}" for kind, what in told if what]
    clauses += [what for kind, what in verdicts if kind == OPEN]
    alphas = {n["alpha"] for n in octave}
    subject = f"Octave at α = {alphas.pop():g}" if len(alphas) == 1 else "Octave"
    return f"{subject} against {base}, on {results['data']['name']}: {'; '.join(clauses)}."


def _of_accuracy(results: dict[str, Any], octave: Sequence[dict[str, Any]]) -> Verdict:
    """One seed decides nothing; several do where they all agree."""
    base = {n["model"]: n for n in results["networks"] if n["alpha"] == results["baseline_alpha"]}
    signs, seeds = set[int](), min(n["n"] for n in octave)
    for n in octave:
        pairs = zip(n["accuracies"], base[n["model"]]["accuracies"], strict=True)
        found = {(ours > theirs) - (ours < theirs) for ours, theirs in pairs}
        signs.add(found.pop() if len(found) == 1 and n["n"] > 1 else 0)
    differences = [round(100 * n["accuracy_difference"], 1) for n in octave]
    low, high = points(min(differences)), points(max(differences))
    numbers = f"{low}{SPACE}points" if low == high else f"{low} to {high}{SPACE}points"
    if signs == {1} or signs == {-1}:
        return WINS if signs == {1} else LOSES, f"accuracy ({numbers}, in each of {seeds} seeds)"
    if signs == {1, -1}:
        return DEPENDS, f"accuracy ({numbers}, in each of {seeds} seeds)"
    why = "one seed, which says little" if seeds == 1 else f"{seeds} seeds, which disagree"
    return OPEN, f"accuracy is undecided ({numbers}; {why})"


def _of_cost(octave: Sequence[dict[str, Any]], base: str, field: str, what: str) -> Verdict:
    """By the shares of the baseline's cost."""
    shares = [n["ratios"][field] for n in octave]
    if None in shares:  # Paddle does not tell its memory
        return OPEN, f"{what} was not measured"
    numbers = f"{what} ({span([round(100 * share) for share in shares], str, '%')} of {base}'s)"
    if all(share < 1 - EVEN for share in shares):
        return WINS, numbers
    if all(share > 1 + EVEN for share in shares):
        return LOSES, numbers
    return EQUAL if all(abs(share - 1) <= EVEN for share in shares) else DEPENDS, numbers


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caution(results: dict[str, Any]) -> str:
    """What was compared, and how far the numbers carry."""
    recipe, n = results["recipe"], len(results["recipe"]["seeds"])
    names = " and ".join(map(pretty, recipe["models"]))
    compared = f"{names}, with and without octave, trained alike (exchange {recipe['exchange']})."
    octave = [n for n in results["networks"] if n["alpha"] != results["baseline_alpha"]]
    if octave:
        macs = span([round(100 * n["ratios"]["macs"]) for n in octave], str, "%")
        compared += f" Octave does {macs} of the arithmetic."
    if n == 1:
        chance = "another may move every accuracy by a point or so; small differences mean nothing"
        return f"{compared} One seed: {chance}."
    return f"{compared} Accuracies are means over {n} seeds, ± the sample standard deviation."
