"""What share of the variance of images a low channel could not hold, at the sizes of the study `size`.

    python benchmarks/octave_share.py imagenette      # a folder with train/<class> and test/<class>

That is of x − U(P(x)), an image less its 2 × 2 averages. The mean over the test images, brought to each size
as the study does it. The result, docs/results/octave-share.json, is what `study_tables.py` draws the study's
differences against.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from octavize.data.augment import to_input
from octavize.data.bands import split_bands
from octavize.data.sets import load_data
from octavize.files import write_json

OUT = Path(__file__).resolve().parent.parent / "docs/results/octave-share.json"
SIZES = (32, 64, 96, 128, 160)
CHUNK = 256


def lost(images: Tensor) -> Tensor:
    """Share of the variance of each image (N, 3, H, W) that is in x − U(P(x)): (N,)."""
    high = split_bands(images)[1].square().flatten(1).sum(1)
    return high / (images - images.mean((2, 3), keepdim=True)).square().flatten(1).sum(1).clamp_min(1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    images = load_data("folder", size=max(SIZES), data_dir=given.folder)
    pixels, _ = images.test.__getitems__(torch.arange(len(images.test)))
    shares: dict[str, float] = {}
    for size in SIZES:
        parts = [lost(to_input(part, (0.0,) * 3, (1.0,) * 3, size)) for part in pixels.split(CHUNK)]
        shares[str(size)] = float(torch.cat(parts).mean())
        print(f"{size} pixels: {shares[str(size)]:.1%}", flush=True)
    write_json(OUT, {"data": given.folder.name, "images": len(images.test), "share": shares})


if __name__ == "__main__":
    main()
