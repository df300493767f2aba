"""How well a file agrees with its network on images; networks of either framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavize.deploy.formats import Array
from octavize.deploy.runtime import Runner, scores_in
from octavize.report.progress import steps


@dataclass(frozen=True)
class Agreement:
    """How a file and its network answer to the same images.

    Attributes:
        images: how many.
        same: share of them, from 0 to 1, for which both name the same class first.
        before: accuracy of the network, None without labels.
        after: accuracy of the file, likewise.
    """

    images: int
    same: float
    before: float | None
    after: float | None


def agreement_of(
    answer: Callable[[Any], Sequence[Any]],
    runner: Runner,
    batches: Iterable[Any],
    labels: Sequence[int] | None = None,
    called: str = "the network",
) -> Agreement:
    """Compare an exported file with its network.

    Args:
        answer: the network: a batch to all that it returns, as arrays or tensors.
        batches: images (N, C, H, W), as the network takes them.
        labels: the classes of all of them, as indices.
        called: the network's name, for messages.

    Raises:
        InputError: the network is no classifier.
    """
    answers: list[tuple[Array, Array]] = []
    for images in steps(batches, "comparing"):
        after, before = runner.scores(images), scores_in(answer(images), called)
        answers.append((before.argmax(1), after.argmax(1)))
    before, after = (np.concatenate(column) for column in zip(*answers, strict=True))

    def share(matches: Array) -> float:
        return float(matches.mean())

    if labels is None:
        return Agreement(len(before), share(before == after), None, None)
    truth = np.array(labels)
    return Agreement(len(before), share(before == after), share(before == truth), share(after == truth))
