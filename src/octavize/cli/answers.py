"""What commands answer that work in either framework."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from octavize.cli.telling import Answer
from octavize.errors import InputError

if TYPE_CHECKING:
    from octavize.plans.plan import Plan


def plan_values(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values; the order of channels is in its file."""
    totals = {"macs_before": plan.macs_before, "macs_after": plan.macs_after, "macs_ratio": plan.macs_ratio}
    layers = [asdict(decision) for decision in plan.decisions]
    return {"input_shape": list(plan.input_shape), **totals, "layers": layers}


def check_octave(name: str, plan: Plan, alpha: float | None) -> None:
    """Raises InputError, and shows the plan, where it makes no layer octave although that is asked for."""
    if alpha != 0 and not any(d.alpha for d in plan.decisions):
        typer.echo(str(plan))
        raise InputError(f"model {name}: no layer of it becomes octave; the table gives the reasons")


def converted(plan: Plan, weights: str, out: Path, refitted: Any = None) -> Answer:
    """Of `octavize convert`.

    Args:
        weights: where they are from.
        refitted: what `refit` did.
    """
    values = {
        "folder": str(out),
        "weights": weights,
        "plan": plan_values(plan),
        "refit": None if refitted is None else asdict(refitted),
    }
    text = [str(plan)] if refitted is None else [str(plan), f"\n{refitted}"]
    return Answer(values, [*text, f"weights: {weights}; network written to {out}"])


def compared(results: dict[str, Any], out: Path) -> Answer:
    """Of `octavize compare`; nothing where another process of the same training answers."""
    if not results:
        return Answer({}, [])
    from octavize.training.headline import caution, headline
    from octavize.training.summary import table

    told = {"headline": headline(results), "caution": caution(results)}
    report, file = out / "report.html", out / "results.json"
    kept = {key: results[key] for key in ("framework", "baseline_alpha", "networks")}
    values = {**told, **kept, "report": str(report), "results": str(file)}
    return Answer(values, [table(results), told["headline"], told["caution"], f"report: {report}"])
