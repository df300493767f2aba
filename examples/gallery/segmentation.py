"""Segmentation with an octave U-Net: coins, trained for two or three minutes.

pip install 'octavize[experiment]' segmentation-models-pytorch
python examples/gallery/segmentation.py
"""

import segmentation_models_pytorch as smp
import torch
from coins import as_input, crops, halves
from matplotlib.figure import Figure
from shared import WIDTH, destination, save, show
from torch.nn import functional as F

import octavize
from octavize.bench.profile import count_macs

SHAPE = (1, 3, 96, 96)

torch.manual_seed(0)
vanilla = smp.Unet("resnet18", encoder_weights=None, classes=1)
net = octavize.octavize(vanilla, 0.5, example=SHAPE)
share = count_macs(net, SHAPE) / count_macs(vanilla, SHAPE)

train, (image, numbers) = halves()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
net.train()
for step, (images, masks) in enumerate(crops(train)):
    loss = F.binary_cross_entropy_with_logits(net(images)[:, 0], (masks > 0).float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 25 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

height, width = image.shape
padded = F.pad(image[None], (0, -width % 32, 0, -height % 32), mode="replicate")
with torch.no_grad():
    found = net.eval()(as_input(padded))[0, 0, :height, :width] > 0
truth = numbers > 0
overlap = (found & truth).sum() / (found | truth).sum()
print(f"{share:.2f} of the arithmetic, overlap with what scikit-image finds: {overlap:.1%}")

figure = Figure(figsize=(WIDTH, 4.7), layout="constrained")
above, below = figure.subplots(2, 1)
show(above, image.numpy(), "the lower half, not seen in training")
show(below, image.numpy(), "what the octave U-Net calls coin", f"intersection over union: {overlap:.1%}")
below.imshow(torch.where(found, 1.0, torch.nan).numpy(), cmap="autumn", alpha=0.45, vmin=0, vmax=2)
save(figure, destination(), colors=96)
