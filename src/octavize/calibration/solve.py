"""Least squares with a ridge towards what is there, for outputs of which an activation hides a part.

Rows x and weights v give the output y = x · v, and the network goes on with z = s · y + t + c, where s and t
are those of the batch norm and c is a map that is added. An activation that cuts z off at two bounds makes
all values beyond a bound equal. So what is wanted of z is one number, or to be beyond a bound. The distance
to that shrinks at every step if the outputs are fitted, by least squares, to the nearest values that are as
good as wanted (alternating projections; Zhang et al. 2016 fit ReLU networks in a like way).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT = 1e-9
"""Share of the variance below which an error is rounding."""
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
STEPS = 8
LEAST = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Least ridges, as shares of the largest square; the first suffices but for rounding."""
CHUNK = 8192
"""Rows whose products are added in their own precision, before they are added in double precision."""


@dataclass(frozen=True)
class Problem:
    """What to fit. Everything is by group, with `rows`, `columns` and outputs.

    Attributes:
        x: (groups, rows, columns). The last column is 1 if there is a constant.
        wanted: (groups, rows, outputs), of z, within the bounds.
        scale, offset: (groups, 1, outputs): s and t.
        added: (groups, rows, outputs): c; None for none.
        bounds: of the activation.
        constant: whether the last column is one, which no ridge holds back.
        fold: (rows,) 0 or 1: of which half of the images a row is.
    """

    x: Tensor
    wanted: Tensor
    scale: Tensor
    offset: Tensor
    added: Tensor | None
    bounds: tuple[float, float]
    constant: bool
    fold: Tensor

    def outputs(self, v: Tensor) -> Tensor:
        """y: (groups, rows, outputs)."""
        return self.x @ v.to(self.x.dtype)

    def reached(self, y: Tensor) -> Tensor:
        """z."""
        z = self.scale * y + self.offset
        return z if self.added is None else z + self.added

    def as_good(self, z: Tensor) -> Tensor:
        """The values nearest to z that the activation makes what is wanted."""
        low, high = self.bounds
        best = torch.where(self.wanted <= low, z.clamp(max=low), self.wanted)
        return torch.where(self.wanted >= high, z.clamp(min=high), best)

    def targets(self, y: Tensor) -> Tensor:
        """The outputs nearest to y that would do. A channel that the batch norm switches off stays."""
        z = self.reached(y)
        least = 1e-3 * self.scale.abs().amax()
        alive = self.scale.abs() > least
        return y + torch.where(alive, (self.as_good(z) - z) / torch.where(alive, self.scale, 1.0), 0.0)

    def error(self, y: Tensor, rows: Tensor | None = None) -> float:
        """Squared distance to what is wanted, summed over outputs and over rows, all or some (rows,)."""
        z = self.reached(y)
        squares = (z - self.as_good(z)).square()
        squares = squares if rows is None else squares * rows.to(squares.dtype)[None, :, None]
        return float(squares.sum(1, dtype=torch.float64).sum())

    def energy(self) -> float:
        """Variance of what is wanted, summed like the error."""
        return float(self.wanted.var(1, correction=0).sum(dtype=torch.float64)) * self.wanted.shape[1]


@dataclass(frozen=True)
class Solution:
    """Weights (groups, columns, outputs) in double precision, and how well they fit.

    Errors are shares of the variance of what is wanted: with the weights as they were, with the new ones, and
    on each half of the images with those fitted to the other half in one step. `ridge` is a share of the
    mean square of a column; it is 0 if the weights were right and are the same.
    """

    v: Tensor
    ridge: float
    before: float
    after: float
    held_out: float


def solve(problem: Problem, v: Tensor, ridges: Sequence[float] = RIDGES, steps: int = STEPS) -> Solution:
    """Fit a problem, from the weights v (groups, columns, outputs) that the ridge pulls to."""
    start = v.double()
    y = problem.outputs(start)
    energy = max(problem.energy(), 1e-300)
    before = problem.error(y) / energy
    if before <= EXACT:
        return Solution(start, 0.0, before, before, before)
    grams = [_products(problem, problem.x, fold) for fold in (0, 1)]
    ridge, held_out = _choose(problem, grams, start, problem.targets(y), ridges)
    factor = _factor(grams[0] + grams[1], ridge, problem.constant)
    v, error = _descend(problem, factor, start, y, steps if any(map(math.isfinite, problem.bounds)) else 1)
    return Solution(v, ridge, before, error / energy, held_out / energy)


def _descend(problem: Problem, factor: _Factor, start: Tensor, y: Tensor, steps: int) -> tuple[Tensor, float]:
    """Weights after so many steps from `start`, whose outputs are y, and their squared error.

    A step of least squares is one of the gradient, measured by the Gram matrix; Nesterov's momentum makes
    more of a few of them, and is dropped whenever the error rises.
    """

    def cost(v: Tensor, y: Tensor) -> tuple[float, float]:
        error = problem.error(y)
        return error + float(((v - start).square() * factor.added[:, :, None] * weight).sum()), error

    weight = problem.scale.double().square()
    best, (least, error) = (start, y), cost(start, y)
    speed, ahead = 0, y
    for _ in range(steps):
        target = problem.targets(ahead)
        found = _solve_with(factor, _products(problem, target), start)
        reached = problem.outputs(found)
        now, its_error = cost(found, reached)
        speed = speed + 1 if now <= least else 0
        if now <= least:
            momentum = (speed - 1) / (speed + 2)
            ahead = reached + momentum * (reached - best[1])
            best, least, error = (found, reached), now, its_error
        else:
            ahead = best[1]
    return best[0], error


def _choose(
    problem: Problem, grams: Sequence[Tensor], start: Tensor, target: Tensor, ridges: Sequence[float]
) -> tuple[float, float]:
    """The ridge with which weights fitted to one fold do best on the other, and their squared error there."""
    if not bool(problem.fold.any()) or bool(problem.fold.all()):
        return ridges[len(ridges) // 2], math.nan
    sides = [_products(problem, target, fold) for fold in (0, 1)]
    squares = [_squares(problem, target, fold) for fold in (0, 1)]
    weight = problem.scale.double().square()
    error = dict.fromkeys(ridges, 0.0)
    for ridge in ridges:
        for fold, other in ((0, 1), (1, 0)):
            v = _solve(grams[fold], sides[fold], start, ridge, problem.constant)
            error[ridge] += _error(v, grams[other], sides[other], squares[other], weight)
    best = min(error, key=error.__getitem__)
    halves = (_solve(grams[fold], sides[fold], start, best, problem.constant) for fold in (0, 1))
    return best, sum(problem.error(problem.outputs(v), problem.fold != fold) for fold, v in enumerate(halves))


def _products(problem: Problem, right: Tensor, fold: int | None = None) -> Tensor:
    """xᵀ · right over the rows of one fold, or of both: (groups, columns, …) in double precision."""
    x = problem.x
    total = torch.zeros(x.shape[0], x.shape[2], right.shape[2], dtype=torch.float64, device=x.device)
    for start in range(0, x.shape[1], CHUNK):
        rows = slice(start, start + CHUNK)
        left = x[:, rows]
        if fold is not None:
            left = left * (problem.fold[rows] == fold).to(x.dtype)[None, :, None]
        total += (left.transpose(1, 2) @ right[:, rows]).double()
    return total


def _squares(problem: Problem, values: Tensor, fold: int) -> Tensor:
    """Sums of squares over the rows of one fold: (groups, 1, outputs)."""
    chosen = (problem.fold == fold).to(values.dtype)[None, :, None]
    return (values.square() * chosen).sum(1, keepdim=True, dtype=torch.float64)


def _ridge(gram: Tensor, ridge: float, least: float, constant: bool) -> Tensor:
    """What the ridge adds to the diagonal: (groups, columns)."""
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)
    own = diagonal[:, :-1] if constant else diagonal
    mean, most = own.mean(1, keepdim=True), own.amax(1, keepdim=True).clamp_min(1e-12)
    added = (ridge * mean + least * most).expand_as(diagonal).clone()
    if constant:
        added[:, -1] = least * diagonal[:, -1]
    return added


@dataclass(frozen=True)
class _Factor:
    root: Tensor
    added: Tensor


def _factor(gram: Tensor, ridge: float, constant: bool) -> _Factor:
    for least in LEAST:
        added = _ridge(gram, ridge, least, constant)
        root, failed = torch.linalg.cholesky_ex(gram + torch.diag_embed(added))
        if not failed.any():
            return _Factor(root, added)
    raise RuntimeError("the rows hold values that cannot be solved for")


def _solve_with(factor: _Factor, side: Tensor, start: Tensor) -> Tensor:
    return torch.cholesky_solve(side + factor.added[:, :, None] * start, factor.root)


def _solve(gram: Tensor, side: Tensor, start: Tensor, ridge: float, constant: bool) -> Tensor:
    return _solve_with(_factor(gram, ridge, constant), side, start)


def _error(v: Tensor, gram: Tensor, side: Tensor, squares: Tensor, weight: Tensor) -> float:
    """Squared error of weights on rows of which only the products are known."""
    by_output = (v * (gram @ v - 2 * side)).sum(1, keepdim=True) + squares
    return float((by_output * weight).sum())
