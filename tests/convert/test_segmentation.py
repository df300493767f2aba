"""Networks for dense prediction that nobody here wrote: skips, sums, resizing and concatenation of maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from octavize import octavize, plan

SHAPE = (1, 3, 128, 160)
DECODERS = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet"),
    *("DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer"),
)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["every", "block:high_to_low"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_encoder_and_decoder_become_octave(decoder: str, exchange: str) -> None:
    smp: Any = pytest.importorskip("segmentation_models_pytorch", reason="a package of the extra dev")
    vanilla = getattr(smp, decoder)("resnet18", encoder_weights=None, classes=5).eval()
    found = plan(vanilla, 0.5, exchange=exchange, example=SHAPE)
    assert found.macs_ratio < 0.65
    assert not found.fallbacks
    assert {name.partition(".")[0] for name, alpha in found.alphas.items() if alpha} == {"encoder", "decoder"}
    octave = octavize(vanilla, found, strict=True)
    x = torch.randn(SHAPE)
    with torch.no_grad():
        assert octave(x).shape == vanilla(x).shape
        merged = octavize(vanilla, found.with_alphas(dict.fromkeys(found.alphas, 0.0)))
        assert torch.equal(merged(x), vanilla(x))
