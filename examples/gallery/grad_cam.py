"""Grad-CAM on an octave network: where four textures side by side show it their class.

pip install 'octavize[experiment]' grad-cam
python examples/gallery/grad_cam.py
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from shared import WIDTH, Array, destination, save, show, standardized
from textures import trained

from octavize import OctTensor
from octavize.data.textures import PHOTOGRAPHS, patch_boxes, photograph

SHOWN = ("grass", "coins", "brick", "coffee")
SIDE = 64


def block(name: str) -> Array:
    """64 pixels of a photograph that the training did not see, prepared as its patches are."""
    image = photograph(name)
    box = patch_boxes(*image.shape, 32, name)["test"][0]
    top, left = box.top // SIDE * SIDE, box.left // SIDE * SIDE
    return standardized(image[top : top + SIDE, left : left + SIDE])


net = trained(alpha=0.5)
blocks = [block(name) for name in SHOWN]
mosaic = np.block([blocks[:2], blocks[2:]])
image = torch.from_numpy(mosaic)[None, None]
with GradCAM(net, [net.stages[2][-1]]) as explain:
    maps = [explain(image, [ClassifierOutputTarget(PHOTOGRAPHS.index(name))])[0] for name in SHOWN]
    (seen,) = explain.activations_and_grads.activations
assert isinstance(seen, OctTensor)  # the map that is explained has two frequencies

figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
for axes, name, found in zip(figure.subplots(2, 2).flatten(), SHOWN, maps, strict=True):
    show(axes, mosaic, f"“{name}”", vmin=-3, vmax=3)
    axes.imshow(found, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
    place = divmod(SHOWN.index(name), 2)
    inside = found[place[0] * SIDE :, place[1] * SIDE :][:SIDE, :SIDE].sum() / found.sum()
    axes.set_xlabel(f"{inside:.0%} of the map lies on it", fontsize=9, color="0.35")
save(figure, destination(), colors=96)
