"""Faster R-CNN whose backbone is octave: a few steps of training on generated squares, then its export.

pip install 'octavize[models,deploy]'
python examples/detection.py
"""

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import octavize

SIZE = 128

torch.manual_seed(0)
backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
# The maps of the pyramid go to code that knows no octave: they are dense.
backbone = octavize.octavize(backbone, 0.5, example=(1, 3, SIZE, SIZE))
net = FasterRCNN(backbone, num_classes=2, min_size=SIZE, max_size=SIZE)

images, targets = [], []
for corner in (16, 40):
    image = torch.rand(3, SIZE, SIZE) * 0.2
    image[:, corner : corner + 48, corner : corner + 48] = 1.0
    images.append(image)
    box = torch.tensor([[corner, corner, corner + 48, corner + 48]], dtype=torch.float32)
    targets.append({"boxes": box, "labels": torch.tensor([1])})

optimizer = torch.optim.SGD(net.parameters(), lr=0.002, momentum=0.9)
net.train()
for step in range(3):
    loss = sum(net(images, targets).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")


class Finest(nn.Module):
    """The finest map of the pyramid; a file holds one output."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x)["0"]


net.eval()
print("boxes found:", len(net(images)[0]["boxes"]))
error = octavize.export(Finest(net.backbone), "backbone.onnx", (1, 3, SIZE, SIZE))
print(f"exported: backbone.onnx, error {error:.1e}")
