"""The bands of images: what half the resolution keeps of a photograph, and where its energy lies.

pip install 'octavize[experiment]'
python examples/gallery/bands.py
"""

import torch
from matplotlib.figure import Figure
from shared import WIDTH, destination, photograph, save, show

from octavize.data.bands import octave_energy, split_bands

SIZE = 160
PHOTOGRAPHS = {"astronaut": "#2563eb", "coffee": "#0d9488", "brick": "#e8590c"}
TITLES = ("the image", "low: 2 × 2 averages", "high: the rest")

figure = Figure(figsize=(WIDTH, 7.2), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(3, 1.2))
cells = above.subplots(len(PHOTOGRAPHS), 3)
energies = below.subplots()
for (name, color), row in zip(PHOTOGRAPHS.items(), cells, strict=True):
    image = torch.from_numpy(photograph(name, SIZE).copy()).permute(2, 0, 1)
    low, high = split_bands(image)
    parts = (image / 255, low / 255, (high / 100 + 0.5).clamp(0, 1))
    share = high.var() / image.float().var()
    for axes, part, note in zip(row, parts, ("", "", f"{share:.1%} of the variance"), strict=True):
        show(axes, part.permute(1, 2, 0).numpy(), note=note)
    row[0].set_ylabel(name, fontsize=10)
    octaves, shares = zip(*octave_energy(image), strict=True)
    energies.plot(octaves, [100 * share for share in shares], "o-", color=color, label=name)
for axes, title in zip(cells[0], TITLES, strict=True):
    axes.set_title(title, fontsize=10)
energies.set_xlabel("octave of spatial frequency, cycles per pixel")
energies.set_ylabel("energy, %")
energies.tick_params(axis="x", labelsize=8, rotation=30)
energies.spines[["top", "right"]].set_visible(False)
energies.legend(frameon=False, fontsize=9)
save(figure, destination())
