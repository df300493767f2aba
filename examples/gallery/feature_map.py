"""What a feature map keeps and loses: channels of a trained network at half resolution.

pip install 'octavize[experiment]'
python examples/gallery/feature_map.py
"""

import torch
from matplotlib.figure import Figure
from shared import WIDTH, destination, photograph, save, show, standardized
from textures import trained

from octavize import OctTensor

net = trained(alpha=0.0)
image = torch.from_numpy(standardized(photograph("astronaut", 160, gray=True)))[None, None]
with torch.no_grad():
    dense = net.stages[0](net.stem(image))
    kept = OctTensor.from_dense(dense, alpha=1.0).to_dense()  # every channel at half resolution, and back
    lost = dense - kept
shares = (lost.square().mean((0, 2, 3)) / dense.var((0, 2, 3))).tolist()
alive = [channel for channel in range(len(shares)) if dense[0, channel].std() > 1e-3]
order = sorted(alive, key=shares.__getitem__)
chosen = {"loses least": order[0], "the median": order[len(order) // 2], "loses most": order[-1]}

figure = Figure(figsize=(WIDTH, 5.9), layout="constrained")
cells = figure.subplots(3, 3)
for (which, channel), row in zip(chosen.items(), cells, strict=True):
    top = float(dense[0, channel].quantile(0.99))
    show(row[0], dense[0, channel].numpy(), vmin=0, vmax=top)
    show(row[1], kept[0, channel].numpy(), vmin=0, vmax=top)
    note = f"{shares[channel]:.0%} of the variance"
    show(row[2], lost[0, channel].numpy(), note=note, vmin=-top / 2, vmax=top / 2)
    row[0].set_ylabel(which, fontsize=10)
for axes, title in zip(cells[0], ("the channel", "at half resolution", "what is lost"), strict=True):
    axes.set_title(title, fontsize=10)
save(figure, destination(), colors=48)
