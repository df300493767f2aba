"""Octave convolution in PaddlePaddle: a network of the article, trained by Paddle's own means.

Run it with `python examples/paddle_train.py`; needs `pip install 'octavize[paddle]'` and, for curves to watch
with `visualdl --logdir runs/visualdl`, `pip install visualdl`. Torch is not needed.
"""

from importlib.util import find_spec

import numpy as np
import paddle
from paddle.static import InputSpec

from octavize.paddle import create_model, flops_ops, plan


class Squares(paddle.io.Dataset):
    """A stand-in for `paddle.vision.datasets.Cifar10`: a bright square in one of ten places."""

    def __init__(self, images: int) -> None:
        super().__init__()
        numbers = np.random.default_rng(0)
        self.labels = numbers.integers(0, 10, images)
        self.images = numbers.standard_normal((images, 3, 32, 32), "float32")
        for image, label in zip(self.images, self.labels, strict=True):
            image[:, 6 * (label // 5) : 6 * (label // 5) + 6, 6 * (label % 5) : 6 * (label % 5) + 6] += 4

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[index], self.labels[index : index + 1]


SHAPE = (1, 3, 32, 32)
paddle.seed(0)

# The paper's policy; alpha=0 is the vanilla network. `octavize(your_network, 0.5)` converts any other.
net = create_model("oct_resnet18_small", 0.5, num_classes=10, width=0.25)
print(plan(net, {"*": 0.25, "layer4.*": 0}, example=SHAPE))  # what another alpha would do, and why
paddle.summary(net, SHAPE)
paddle.flops(net, SHAPE, custom_ops=flops_ops(net))

model = paddle.Model(net)
optimizer = paddle.optimizer.Adam(1e-3, parameters=net.parameters())
model.prepare(optimizer, paddle.nn.CrossEntropyLoss(), paddle.metric.Accuracy())
curves = [paddle.callbacks.VisualDL("runs/visualdl")] if find_spec("visualdl") else []
model.fit(Squares(256), Squares(64), batch_size=32, epochs=1, verbose=2, callbacks=curves)

net.eval()
fast = paddle.jit.to_static(net, input_spec=[InputSpec([None, *SHAPE[1:]], "float32")])
print("scores:", tuple(fast(paddle.randn([5, *SHAPE[1:]])).shape))
