"""Networks on the Hugging Face hub, by its own mixin: what `octavize train`, `convert` and `adapt` write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.files import BEST, FACTS, NETWORK, PLAN, WEIGHTS, read_about, write_json
from octavize.plans.plan import Plan
from octavize.zoo.checkpoint import load_checkpoint
from octavize.zoo.find import Origin
from octavize.zoo.storage import load_converted, save_converted
from octavize.zoo.weights import save_weights

CONFIG = "config.json"
"""What the hub itself reads of a network; octavize does not."""
FILES = (BEST, PLAN, WEIGHTS, NETWORK, CONFIG)
CARD = """\
---
{{ card_data }}
---

# An octave network

Written by octavize: a share of the channels of its feature maps is kept at half resolution (Chen et al.,
"Drop an Octave", ICCV 2019).

```python
from octavize import OctaveNetwork

net = OctaveNetwork.from_pretrained("{{ repo_id | default('this repository', true) }}")
scores = net(images)  # net.about says how images are normalized, and the names of the classes
```
"""


class OctaveNetwork(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="octavize",
    tags=["octave-convolution"],
    model_card_template=CARD,
):
    """An octave network that knows how it is built: `save_pretrained`, `push_to_hub` and `from_pretrained`.

    Files are those of a converted network (plan.yaml, weights.safetensors, network.json), or the checkpoint
    of a run. Reading them executes nothing.

    Attributes:
        net: the network itself.
        about: what is known of it: `model`, `alpha`, and of its images `mean`, `std`, `size` (pixels) and
            `classes`.

    Examples:
        >>> OctaveNetwork.load("runs/r50").push_to_hub("me/oct-resnet50")
        >>> net = OctaveNetwork.from_pretrained("me/oct-resnet50")
    """

    def __init__(
        self,
        net: nn.Module,
        about: Mapping[str, Any],
        plan: Plan | None = None,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        self.net, self.about = net, dict(about)
        self._plan, self._origin = plan, origin

    def forward(self, x: Tensor) -> Any:
        """(N, C, H, W) → what the network makes of it."""
        return self.net(x)

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module | None = None) -> OctaveNetwork:
        """The network of a folder: of `octavize convert` or `adapt`, or of a run of `octavize train`.

        Args:
            model: the vanilla network, where it came from `module:function`: see `load_converted`.

        Raises:
            InputError: it is none, or a file in it is missing or damaged.
        """
        folder = Path(folder)
        if (folder / NETWORK).is_file():
            about = read_about(folder)
            net = load_converted(folder, model=model)
            origin = Origin(**about["origin"])
            known = {"model": origin.name, **about["input"]}
            return cls(net, known, Plan.load(folder / PLAN), origin)
        if (folder / BEST).is_file():
            return cls(*load_checkpoint(folder / BEST))
        raise InputError(
            f"folder {folder} has no {NETWORK} and no {BEST}: give one that `octavize convert`, `adapt` or "
            "`train` wrote"
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        if self._plan is None or self._origin is None:
            save_weights(save_directory / BEST, self.net, self.about)
        else:
            facts = {key: self.about[key] for key in FACTS if key in self.about}
            save_converted(save_directory, self.net, self._plan, self._origin, facts)
        write_json(save_directory / CONFIG, {key: self.about.get(key) for key in ("model", "alpha")})

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        strict: bool = False,  # weights always have to fit
        model: nn.Module | None = None,
        **download: Any,
    ) -> OctaveNetwork:
        folder = model_id
        if not Path(model_id).is_dir():
            folder = snapshot_download(model_id, allow_patterns=[*FILES], **download)
        return cls.load(folder, model).to(map_location).eval()
