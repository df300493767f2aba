"""The calls of `octavize` that conversion of trained networks makes, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from . import convert
from .convert import Alpha, Decision, Plan
from .errors import InputError


def make_plan(
    model: nn.Module,
    alpha: Alpha | None,
    *,
    budget: float | None = None,
    calibrate: Iterable[Any] | None = None,
    example: Sequence[int] | None = None,
) -> Plan:
    """`octavize.plan` with the arguments that are given; what is None is left to its defaults."""
    wanted = {"alpha": alpha, "budget": budget, "calibrate": calibrate, "example": example}
    given: dict[str, Any] = {k: v for k, v in wanted.items() if v is not None}
    _require(convert.plan, given)
    return convert.plan(model, **given)


def apply_plan(model: nn.Module, decided: Plan, *, inplace: bool = False) -> nn.Module:
    """The octave network of a plan: α per layer and, where the plan was calibrated, the order of channels."""
    run: Any = convert.octavize
    if "plan" in signature(run).parameters:
        return run(model, plan=decided, example=decided.input_shape, inplace=inplace)
    names = {name for name, _ in model.named_modules()}  # until octavize takes a plan
    strangers = [d.name for d in decided.decisions if d.name not in names]
    if strangers:
        kind = type(model).__name__
        raise InputError(f"plan is of another network: {kind} has no layer {strangers[0]}; make a new plan")
    alphas = {d.name: d.alpha for d in decided.decisions if d.alpha is not None}
    return run(model, {"*": 0, **alphas}, example=decided.input_shape, inplace=inplace)


def save_plan(decided: Plan, path: Path) -> None:
    """Write a plan as YAML."""
    save = getattr(decided, "save", None)
    if save is not None:
        save(path)
        return
    values = {**asdict(decided), "input_shape": list(decided.input_shape)}  # until Plan.save
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")


def load_plan(path: str | Path) -> Plan:
    """Read a plan that `save_plan` wrote.

    Raises:
        InputError: the file is missing or holds no plan.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"plan {path} does not exist: give the path of a plan.yaml")
    load = getattr(Plan, "load", None)
    if load is not None:
        return load(path)
    try:  # until Plan.load
        values = yaml.safe_load(path.read_text("utf-8"))
        decisions = [Decision(**d) for d in values.pop("decisions")]
        return Plan(decisions, tuple(values.pop("input_shape")), **values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"plan {path} is damaged or no plan: write it anew with `octavize convert`"
        ) from None


def _require(function: Any, given: dict[str, Any]) -> None:
    for name in given:
        if name not in signature(function).parameters:
            raise InputError(f"{name} is not supported by this version: leave it out")
