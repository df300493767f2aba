"""The arms of the study `segment`: one encoder and decoder, octave in several ways, or on smaller images."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize import InputError, Plan, calibrate, octavize, refit
from octavize.bench.profile import count_macs
from segment_scores import CLASSES
from trained import load_in_order

ENCODER = "timm-tf_efficientnet_lite0"
"""This spelling pads both sides alike. `tu-` pads like TensorFlow, in layers that are no plain convolutions
and would stay vanilla."""
STRIDE = 16
"""Of the encoder's last map: sides of images have to be multiples of it."""
PLAN, WEIGHTS = "plan.yaml", "weights.pt"


@dataclass(frozen=True)
class Arm:
    """A way to run the network. `scale` is the side of its images as a share of the scene's."""

    name: str
    slug: str
    alpha: float = 0.0
    exchange: str | None = None
    scale: float = 1.0

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, H, W) of what the network gets of a scene of this height and width.

        Maps of an octave network are halved once more, so its images are padded to twice the stride.
        """
        multiple = 2 * STRIDE if self.alpha else STRIDE
        height, width = (-(-round(n * self.scale) // multiple) * multiple for n in size)
        return 3, height, width


ARMS = (
    Arm("vanilla", "vanilla"),
    *(
        Arm(f"α={alpha:g}, {exchange}", f"octave-{alpha:g}-{exchange.replace(':', '-')}", alpha, exchange)
        for alpha in (0.25, 0.5)
        for exchange in ("every", "block:high_to_low")
    ),
    Arm("vanilla, ¾ of the side", "vanilla-smaller", scale=0.75),
)


def build() -> nn.Module:
    """The vanilla network with random weights."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise InputError(
            "segmentation_models_pytorch is not installed: run `pip install segmentation-models-pytorch`"
        ) from None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`timm-` encoders", DeprecationWarning)
        return smp.DeepLabV3Plus(ENCODER, encoder_weights=None, classes=len(CLASSES))


def load_encoder(model: nn.Module, path: Path) -> None:
    """Put ImageNet weights into the encoder; the classifier's two tensors are left over.

    Raises:
        InputError: they are those of another network.
    """
    if not load_in_order(model.get_submodule("encoder"), path, left_over=2):
        raise InputError(f"--encoder {path} is not EfficientNet-Lite0: give its weights")


def make_network(
    arm: Arm, encoder: Path, images: Iterable[Tensor], size: tuple[int, int], folder: Path, *, resumed: bool
) -> nn.Module:
    """The network to fine-tune; an octave one leaves its plan in the folder, and takes it from there.

    The encoder of an octave network is refitted to the vanilla one's maps. The decoder is not trained yet: it
    has nothing that could be kept. The weights of a network that is `resumed` are read later.
    """
    vanilla = build()
    load_encoder(vanilla, encoder)
    if not arm.alpha:
        return vanilla
    if resumed:
        return octavize(vanilla, Plan.load(folder / PLAN)).train()
    padded = [pad(batch, arm.shape(size)) for batch in images]
    if not (folder / PLAN).is_file():
        example = (1, *arm.shape(size))
        # How far outputs move says nothing while the decoder's weights are random.
        how: Any = {"exchange": arm.exchange, "downsample": "stride", "score": "damage"}
        calibrate(vanilla, padded, arm.alpha, example=example, **how).save(folder / PLAN)
    octave = octavize(vanilla, Plan.load(folder / PLAN)).eval()
    refit(octave.get_submodule("encoder"), padded, epochs=0)
    return octave.train()


def load_trained(arm: Arm, folder: Path) -> nn.Module:
    """The trained network of a run, in evaluation mode."""
    model = octavize(build(), Plan.load(folder / PLAN)) if arm.alpha else build()
    model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    return model.eval()


def macs_of(arm: Arm, model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply–accumulates of one scene."""
    return count_macs(model, (1, *arm.shape(size)))


def pad(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images (N, C, H, W) with their last rows and columns repeated up to this height and width."""
    missing = [wanted - have for wanted, have in zip(shape[1:], images.shape[2:], strict=True)]
    return F.pad(images, (0, missing[1], 0, missing[0]), mode="replicate")


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, H, W) in another size, without the jaggies of leaving pixels out."""
    return F.interpolate(maps, size, mode="bilinear", antialias=True)


def inputs_for(arm: Arm, images: Tensor) -> Tensor:
    """What the network gets of prepared images (N, 3, H, W): in its size, padded."""
    size = (images.shape[2], images.shape[3])
    smaller = (round(size[0] * arm.scale), round(size[1] * arm.scale))
    return pad(images if arm.scale == 1 else resize(images, smaller), arm.shape(size))


def scores_for(arm: Arm, outputs: Tensor, size: tuple[int, int]) -> Tensor:
    """What the network says, at the resolution of the labels: (N, C, *size)."""
    cut = outputs[..., : round(size[0] * arm.scale), : round(size[1] * arm.scale)]
    return cut if arm.scale == 1 else F.interpolate(cut, size, mode="bilinear")
