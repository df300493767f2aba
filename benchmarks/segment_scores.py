"""Scores of a segmentation: intersection over union a class, on whole images and near borders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)
VOID = len(CLASSES)
"""Label of pixels that no score counts."""
REACH = 3
"""So many pixels from a border count as near it."""
PLACES = ("whole", "border")


def near_border(labels: Tensor, reach: int = REACH) -> Tensor:
    """Labelled pixels with another class within so many pixels, diagonals included: (N, H, W).

    A border with unlabelled pixels is none: what lies there is not known.
    """
    known = labels != VOID
    window = 2 * reach + 1

    def largest(values: Tensor) -> Tensor:
        return F.max_pool2d(values.float().unsqueeze(1), window, stride=1, padding=reach).squeeze(1)

    highest = largest(labels.masked_fill(~known, -1))
    lowest = -largest(-labels)  # an unlabelled pixel has the highest number of all
    return known & (highest != lowest)


def class_weights(counts: Tensor) -> Tensor:
    """Weights of the loss from pixels by class, (C,): 1 / ln(1.1 + share), from 2.8 for road to 10 here.

    Without weights thin and rare things, such as poles, are given up for what is around them. With those of
    ENet (Paszke et al., 2016), 1.02 in place of 1.1, they swell.
    """
    return 1 / torch.log(1.1 + counts / counts.sum())


class Scores:
    """Counts pixels by label and answer, over many images, on the whole and near borders."""

    def __init__(self) -> None:
        self.counts = {place: MulticlassConfusionMatrix(len(CLASSES), ignore_index=VOID) for place in PLACES}

    def add(self, answers: Tensor, labels: Tensor) -> None:
        """Count these images: both (N, H, W), of whole numbers."""
        self.counts["whole"].update(answers, labels)
        self.counts["border"].update(answers, labels.masked_fill(~near_border(labels), VOID))

    def take(self) -> dict[str, dict[str, object]]:
        """For each place the mean over classes, and each class's own; None for one that never occurs."""
        found: dict[str, dict[str, object]] = {}
        for place, counts in self.counts.items():
            by_class = intersection_over_union(counts.compute())
            values = [None if value != value else value for value in by_class.tolist()]
            found[place] = {"mean": float(by_class.nanmean()), "classes": values}
        return found


def intersection_over_union(counts: Tensor) -> Tensor:
    """Of each class, from pixels by (label, answer): (C,); not a number for one that is in neither."""
    both = counts.diagonal().double()
    return both / (counts.sum(0) + counts.sum(1) - both)
