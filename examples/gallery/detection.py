"""Detection with an octave backbone: a Faster R-CNN that finds coins, trained for some minutes.

pip install 'octavize[experiment]'
python examples/gallery/detection.py
"""

import torch
from coins import as_input, boxes_of, crops, halves
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from shared import WIDTH, destination, save, show
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import box_iou

import octavize
from octavize.bench.profile import count_macs

SHAPE = (1, 3, 96, 96)

torch.manual_seed(0)
layers = {f"layer{n}": str(n) for n in (1, 2, 3, 4)}
vanilla = BackboneWithFPN(resnet18(), layers, [64, 128, 256, 512], out_channels=64)
backbone = octavize.octavize(vanilla, 0.5, example=SHAPE)
share = count_macs(backbone, SHAPE) / count_macs(vanilla, SHAPE)
net = FasterRCNN(
    backbone,
    num_classes=2,
    rpn_anchor_generator=AnchorGenerator(((16,), (32,), (48,), (64,), (96,)), ((1.0,),) * 5),
    **{"min_size": 96, "max_size": 1000, "image_mean": [0.0] * 3, "image_std": [1.0] * 3},
    **{"rpn_post_nms_top_n_train": 200, "box_batch_size_per_image": 64},
)

train, (image, numbers) = halves()
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
net.train()
for step, (images, coins) in enumerate(crops(train)):
    boxes = [boxes_of(own) for own in coins]
    targets = [{"boxes": own, "labels": torch.ones(len(own), dtype=torch.long)} for own in boxes]
    loss = sum(net(list(images), targets).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 25 == 0:
        print(f"step {step}: loss {loss.item():.3f}", flush=True)

net.eval()
net.transform.min_size = (min(image.shape),)  # the half as it is, not resized
with torch.no_grad():
    (found,) = net([as_input(image[None])[0]])
kept = found["scores"] > 0.5
boxes, scores, truth = found["boxes"][kept], found["scores"][kept], boxes_of(numbers)
overlaps = box_iou(truth, boxes)
hits = int((overlaps.max(1).values > 0.5).sum()) if len(boxes) else 0
note = f"{hits} of {len(truth)} coins found, {len(boxes)} boxes"
print(f"{share:.2f} of the arithmetic of the backbone; {note}")

figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
axes = figure.subplots()
show(axes, image.numpy(), "Faster R-CNN with an octave backbone", note)
for (left, top, right, bottom), score in zip(boxes.tolist(), scores.tolist(), strict=True):
    corner, width, height = (left, top), right - left, bottom - top
    axes.add_patch(Rectangle(corner, width, height, fill=False, color="#f59e0b", linewidth=1.8))
    axes.text(left + 2, top + 3, f"{score:.2f}", fontsize=8, color="#f59e0b", va="top", weight="bold")
save(figure, destination(), colors=96)
