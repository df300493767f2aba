"""A 3-D network that is octave in space and never in time: a few steps on generated clips, then its export.

pip install 'octavize[models,deploy]'
python examples/video.py
"""

import torch
from torch.nn import functional as F
from torchvision.models.video import r3d_18

import octavize

SHAPE = (2, 3, 4, 64, 64)  # clips, colors, frames, height, width

torch.manual_seed(0)
net = octavize.octavize(r3d_18(num_classes=2), 0.5, example=SHAPE)

clips = torch.rand(SHAPE) * 0.2
for frame in range(4):  # a bar that moves to the right, and one that moves down
    clips[0, :, frame, :, 8 + 12 * frame : 16 + 12 * frame] = 1.0
    clips[1, :, frame, 8 + 12 * frame : 16 + 12 * frame, :] = 1.0
labels = torch.tensor([0, 1])

optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
net.train()
for step in range(3):
    loss = F.cross_entropy(net(clips), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")

print("output:", net.eval()(clips).shape)
error = octavize.export(net, "video.onnx", SHAPE)
print(f"exported: video.onnx, error {error:.1e}")
