"""In PaddlePaddle: what an octave network stores of a photograph, at two resolutions. Torch is not needed.

pip install 'octavize[paddle-experiment]'
python examples/gallery/paddle_feature_map.py
"""

import os

import numpy as np
import paddle
from matplotlib.figure import Figure
from shared import WIDTH, destination, photograph, save, show, standardized

from octavize.data.textures import PHOTOGRAPHS, STD_RANGE, texture_patches
from octavize.paddle import OctTensor, create_model

EPOCHS = int(os.environ.get("GALLERY_EPOCHS", "4"))
"""Of training; the figure in docs/ has 4."""


class Patches(paddle.io.Dataset):
    """A split of the textures: patches of zero mean and unit deviation, and their classes."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.patches, self.labels = texture_patches(32)[split]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        values = self.patches[index].astype("float32") * (2 * STD_RANGE / 255) - STD_RANGE
        return values, self.labels[index : index + 1]


paddle.seed(0)
net = create_model("oct_cifar_resnet20", 0.5, num_classes=len(PHOTOGRAPHS), in_chans=1)
model = paddle.Model(net)
train, batch = Patches("train"), 64
rate = paddle.optimizer.lr.CosineAnnealingDecay(0.05, EPOCHS * (len(train) // batch))
optimizer = paddle.optimizer.Momentum(rate, 0.9, net.parameters(), use_nesterov=True, weight_decay=5e-4)
model.prepare(optimizer, paddle.nn.CrossEntropyLoss(), paddle.metric.Accuracy())
model.fit(train, batch_size=batch, epochs=EPOCHS, drop_last=True, shuffle=True, verbose=2, log_freq=20)
print(model.evaluate(Patches("test"), batch_size=250, verbose=0))

maps: list[OctTensor] = []
net.eval()
net.layer2.register_forward_post_hook(lambda layer, given, made: maps.append(made))
gray = photograph("astronaut", 160, gray=True)
with paddle.no_grad():
    net(paddle.to_tensor(standardized(gray)[None, None]))
(stored,) = maps
halves = {"high": stored.high.numpy()[0], "low": stored.low.numpy()[0]}

figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
for (name, half), row in zip(halves.items(), figure.subplots(2, 3), strict=True):
    liveliest = half.std((1, 2)).argsort()[::-1][:3]
    for axes, channel in zip(row, liveliest, strict=True):
        show(axes, half[channel], vmin=0, vmax=np.quantile(half[channel], 0.99))
    row[0].set_ylabel(f"{name}: {half.shape[0]} channels", fontsize=9)
    row[1].set_title(f"stored as {half.shape[1]} × {half.shape[2]}", fontsize=10)
save(figure, destination())
