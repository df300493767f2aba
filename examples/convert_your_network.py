"""Make any CNN octave: here torchvision's ResNet-50, with the paper's policy of a vanilla last stage.

Run it with `python examples/convert_your_network.py`.
"""

import torch
from torchvision.models import resnet50

from octavize import octavize, plan

vanilla = resnet50()
policy = {"*": 0.5, "layer4.*": 0}

print(plan(vanilla, policy))  # what would be done to which layer, and why

octave = octavize(vanilla, policy)  # a copy; `vanilla` is left alone
octave.load_state_dict(vanilla.state_dict())  # the same keys, both ways

scores = octave(torch.randn(1, 3, 224, 224))
print(scores.shape)
