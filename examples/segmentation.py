"""A U-Net that is octave: a few steps of training on generated disks, then its export.

pip install 'octavize[models,deploy]' segmentation-models-pytorch
python examples/segmentation.py
"""

import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

import octavize

SIZE = 96

torch.manual_seed(0)
net = smp.Unet("resnet18", encoder_weights=None, classes=1)
net = octavize.octavize(net, 0.5, example=(1, 3, SIZE, SIZE))

y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
disks = [((y - 48) ** 2 + (x - 16 - 16 * n) ** 2 < 400).float() for n in range(4)]
masks = torch.stack(disks)[:, None]
images = masks.expand(-1, 3, -1, -1) * 0.7 + 0.3 * torch.rand(4, 3, SIZE, SIZE)

optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
net.train()
for step in range(5):
    loss = F.binary_cross_entropy_with_logits(net(images), masks)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")

print("output:", net.eval()(images).shape)
error = octavize.export(net, "unet.onnx", (1, 3, SIZE, SIZE))
print(f"exported: unet.onnx, error {error:.1e}")
