"""A super-resolution network that is octave inside: a few steps on generated patterns, then its export.

The first layer reads the image and the last ones write it, so they stay vanilla. What lies between has a low
half: an image enlarged twice has little in its top octave.

    pip install 'octavize[torch,deploy]'
    python examples/super_resolution.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import octavize


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class Enlarge(nn.Module):
    """Twice as large, as EDSR does it."""

    def __init__(self, channels: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.split = nn.Conv2d(channels, channels, 3, padding=1)
        self.body = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.merge = nn.Conv2d(channels, channels, 3, padding=1)
        self.tail = nn.Sequential(nn.Conv2d(channels, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shallow = self.head(x)
        return self.tail(shallow + self.merge(self.body(self.split(shallow))))


torch.manual_seed(0)
net = octavize.octavize(Enlarge(), {"*": 0.5, "merge": 0, "tail.*": 0}, example=(1, 3, 32, 32))

y, x = torch.meshgrid(torch.linspace(0, 20, 64), torch.linspace(0, 20, 64), indexing="ij")
large = torch.stack(
    [torch.stack([torch.sin(x + n), torch.cos(y * n), torch.sin(x * y / 9)]) for n in range(4)]
)
small = F.avg_pool2d(large, 2)

optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
for step in range(5):
    loss = F.l1_loss(net(small), large)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")

print("output:", net(small).shape)
error = octavize.export(net, "enlarge.onnx", (1, 3, 32, 32), dynamic_size=True)
print(f"exported: enlarge.onnx, error {error:.1e}")
