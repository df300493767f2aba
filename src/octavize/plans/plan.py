"""A plan: what becomes of each convolution of a network, to read, edit, save and apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from octavize.errors import InputError, number, one_line, require_extra, shown, whole
from octavize.files import parse_yaml, write_text
from octavize.plans.geometry import check_downsample, check_exchange
from octavize.plans.reordering import Permutation, Reordering
from octavize.split import check_alpha
from octavize.text import Table

HEAD = """\
# alpha: share of low output channels; null keeps a layer vanilla.
# exchange: both, low_to_high, high_to_low or none. downsample: pool, stride or pool_always.
# permutation: the order of the channels, where there is one. All else is for the reader.
"""


@dataclass(frozen=True)
class Decision:
    """What becomes of one convolution.

    `alpha` is None if the layer stays vanilla. MACs are of one traced batch. `exchange` and `downsample`
    are those of the octave layer, see `OctConv2d`.
    """

    name: str
    kind: str
    alpha: float | None
    reason: str
    macs_before: int = 0
    macs_after: int = 0
    exchange: str = "both"
    downsample: str = "pool"

    def check(self) -> None:
        """Check the values, which a user may have edited.

        Raises:
            InputError: α is outside [0, 1], exchange or downsample is unknown, or a value has another type.
        """
        if not all(isinstance(text, str) for text in (self.name, self.kind)):
            raise InputError(
                f"layer {self.name!r} of kind {self.kind!r}: both are text, in quotes if need be"
            )
        for name in ("macs_before", "macs_after"):
            whole(f"layer {self.name!r}: {name}", getattr(self, name), 0)
        if self.alpha is not None:
            number(f"layer {self.name!r}: alpha", self.alpha, 0, 1, meaning="or null")
        try:
            check_exchange(self.exchange)
            check_downsample(self.downsample)
        except InputError as error:
            raise InputError(f"layer {self.name!r} has {error}") from None


@dataclass(frozen=True)
class Plan:
    """The decisions on every convolution of a network; `print` shows them as a table.

    To edit a plan, save it, change `alpha` of some layers in the file (`null` for vanilla), and give the
    loaded plan to `octavize(model, plan)`; or use `with_alphas`.

    MACs are of the whole network, for a batch of `input_shape`. `fallbacks` counts, by function, the calls
    that the octave network computes on dense maps. A plan of `calibrate` has a `permutation`, the order into
    which the network's channels are put before it becomes octave, and a `reordering`, which predicts what
    this order keeps.
    """

    decisions: list[Decision]
    input_shape: tuple[int, ...]
    macs_before: int
    macs_after: int
    fallbacks: Mapping[str, int] | None = None
    permutation: Permutation | None = None
    reordering: Reordering | None = None

    @property
    def macs_ratio(self) -> float:
        """MACs of the octave network as a share of the vanilla network's."""
        return self.macs_after / max(self.macs_before, 1)

    @property
    def alphas(self) -> dict[str, float]:
        """α of the layers that become octave, by name."""
        return {d.name: d.alpha for d in self.decisions if d.alpha is not None}

    def with_alphas(self, alphas: Mapping[str, float | None]) -> Plan:
        """The same plan with another α for some layers, None for vanilla; MACs are not counted anew.

        Raises:
            InputError: the plan lacks one of the layers, or α is outside [0, 1].
        """
        if not isinstance(alphas, Mapping):
            raise InputError(
                f"alphas={shown(alphas)}: give a mapping from names of layers to numbers or None"
            )
        known = [d.name for d in self.decisions]
        for name in alphas:
            if name not in known:
                raise InputError(f"alphas: {name!r} is not in this plan; it has {some(known)}")
        # Plain floats, because YAML cannot save NumPy's.
        checked = {name: None if alpha is None else check_alpha(alpha) for name, alpha in alphas.items()}
        edited = [
            replace(d, alpha=checked[d.name], reason="as given") if d.name in checked else d
            for d in self.decisions
        ]
        report = None if self.reordering is None else self.reordering.without(checked)
        return replace(self, decisions=edited, reordering=report)

    def save(self, path: str | Path) -> None:
        """Write the plan as YAML, to read and to edit.

        Raises:
            InputError: the path is a folder, or in none.
        """
        require_extra("yaml", "cli")
        import yaml

        path = Path(path)
        if not path.parent.is_dir():
            raise InputError(
                f"plan={str(path)!r}: there is no folder {path.parent}: make it, or give another"
            )
        if path.is_dir():
            raise InputError(f"plan={str(path)!r} is a folder: give a file, such as plan.yaml in it")
        values = asdict(self)
        given = {name: values.pop(name) for name in ("permutation", "reordering")}
        compact = {name: part for name, part in given.items() if part is not None}
        if self.permutation is not None:
            compact["permutation"] = self.permutation.as_dict()
        how: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 200}
        text = yaml.safe_dump(values, **how)
        if compact:  # lists of numbers on one line each
            text += yaml.safe_dump(compact, default_flow_style=None, **how)
        write_text(path, HEAD + text)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that `save` wrote and a user may have edited.

        Raises:
            InputError: the file is missing, is not YAML, or is not a plan.
        """
        try:
            plan = cls._read(parse_yaml(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise InputError(f"plan={str(path)!r}: there is no such file") from error
        except IsADirectoryError as error:
            raise InputError(f"plan={str(path)!r} is a folder: give the plan.yaml in it") from error
        except KeyError as error:
            raise InputError(f"plan={str(path)!r} lacks {error}: give one that Plan.save wrote") from error
        except InputError as error:
            raise InputError(f"plan={str(path)!r}: {error}") from error
        except (TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"plan={str(path)!r} is not a plan that Plan.save wrote ({one_line(error)})"
            ) from error
        return plan

    @classmethod
    def _read(cls, values: dict[str, Any]) -> Plan:
        """A plan from what its file holds."""
        decisions = [_decision(entry) for entry in values.pop("decisions")]
        shape = tuple(values.pop("input_shape"))
        kinds = {"permutation": Permutation, "reordering": Reordering}
        given = {name: values.pop(name, None) for name in kinds}
        parts = {name: kinds[name].from_dict(part) for name, part in given.items() if part is not None}
        _check_keys("it", values, cls)
        plan = cls(decisions=decisions, input_shape=shape, **values, **parts)
        plan.check()
        return plan

    def check(self) -> None:
        """Check the values, which a user may have edited.

        Raises:
            InputError: see `Decision.check`; or a layer is there twice.
        """
        names = [d.name for d in self.decisions]
        for d in self.decisions:
            d.check()
            if names.count(d.name) > 1:
                raise InputError(f"layer {d.name!r} is there {names.count(d.name)} times: keep one")
        for name in ("macs_before", "macs_after"):
            whole(name, getattr(self, name), 0)
        for n in self.input_shape:
            whole("input_shape", n, 0)

    def __str__(self) -> str:
        ways = {d.name: _unusual(d) for d in self.decisions if d.alpha is not None}
        common = next(iter(ways.values()), []) if len({*map(tuple, ways.values())}) == 1 else []
        rows: list[tuple[str, ...]] = []
        for d in self.decisions:
            alpha = "–" if d.alpha is None else f"{d.alpha:g}"
            reason = ", ".join([d.reason, *(way for way in ways.get(d.name, []) if way not in common)])
            rows.append((d.name, d.kind, alpha, f"{d.macs_before:,}", f"{d.macs_after:,}", reason))
        ratio = ", ".join([f"{self.macs_ratio:.3f} of vanilla", f"input {self.input_shape}", *common])
        total = ("all layers", "", "", f"{self.macs_before:,}", f"{self.macs_after:,}", ratio)
        head = ("layer", "kind", "alpha", "MACs before", "MACs after", "reason")
        lines, align = [head, *rows, (), total], "llrrrl"
        if len({d.kind for d in self.decisions}) == 1:  # as in most networks: leave the column out
            lines, align = [row[:1] + row[2:] for row in lines], "lrrrl"
        table = str(Table(lines[0], lines[1:], align=align))
        return table if self.reordering is None else f"{table}\n\n{self.reordering}"


def _decision(entry: Any) -> Decision:
    if not isinstance(entry, Mapping):
        raise InputError(f"decisions: {shown(entry)} is no layer: give a mapping, as Plan.save writes it")
    _check_keys(f"layer {entry.get('name')!r}", entry, Decision)
    return Decision(**entry)


def _check_keys(where: str, entry: Mapping[str, Any], kind: type[Decision | Plan]) -> None:
    known = [f.name for f in fields(kind)]
    for key in entry:
        if key not in known:
            raise InputError(f"{where} has an unknown {key!r}: choose from {', '.join(known)}")


def _unusual(decision: Decision) -> list[str]:
    """The settings in which an octave layer differs from the paper's."""
    ways = {"exchange": ("both", decision.exchange), "downsample": ("pool", decision.downsample)}
    return [f"{name}={way}" for name, (usual, way) in ways.items() if way != usual]


def some(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3])


# ---- α from a budget of arithmetic ----------------------------------------------------------------------

STEPS = 256


def check_budget(budget: float) -> float:
    """Return the budget as a float.

    Raises:
        InputError: it is not a number above 0 and at most 1.
    """
    meaning = "the octave network's share of the vanilla network's MACs"
    return number("budget", budget, 0, 1, above=True, meaning=meaning)


def fit_budget(budget: float, make: Callable[[float], Plan]) -> Plan:
    """The first of the plans `make(0)`, `make(1/256)` … `make(1)` that fits the budget.

    Args:
        budget: MACs of the octave network as a share of the vanilla network's.
        make: makes a plan from a number between 0 (vanilla) and 1 (every channel low that can be).

    Raises:
        InputError: even `make(1)` does not fit.
    """
    budget = check_budget(budget)
    cheapest = make(1.0)
    if cheapest.macs_ratio > budget:
        raise InputError(
            f"budget={budget:g} cannot be reached: with every channel low that can be, this network takes "
            f"{cheapest.macs_ratio:.3f} of the vanilla MACs; give at least that"
        )
    fits, too_dear, best = STEPS, -1, cheapest
    while fits - too_dear > 1:
        middle = (fits + too_dear) // 2
        tried = make(middle / STEPS)
        if tried.macs_ratio <= budget:
            fits, best = middle, tried
        else:
            too_dear = middle
    return best
