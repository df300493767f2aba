"""What `octavize export` finds under a name: a network, and what is known of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from octavize.convert.trace import image_shape
from octavize.errors import refuse_options
from octavize.files import FACTS, NETWORK, read_about
from octavize.zoo.checkpoint import load_checkpoint
from octavize.zoo.find import RUN, find_origin, run_checkpoint
from octavize.zoo.storage import load_converted


def find_network(
    name: str,
    alpha: float | None = None,
    num_classes: int | None = None,
    size: int | None = None,
    exchange: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Find, build and load a network, octave or not.

    Args:
        name: the folder of a run of `octavize train`, or its best.safetensors; a folder of `octavize convert`
            or `adapt`; or a name from `octavize models`, of torchvision or timm, or `module:function`, which
            come without trained weights.
        alpha: share of low channels; only for a name, 0.5 there by default.
        num_classes: of the classifier; likewise, by default the builder's own number.
        size: side in pixels of the images that a name's network is planned for; None is its own.
        exchange: where the frequencies meet, see `octavize.plan`; only for a name, None is its own.

    Returns:
        The network, and as far as they are known `model`, `alpha`, `classes`, `mean`, `std`, `normalize`,
        `size` (pixels), `in_chans`.

    Raises:
        InputError: nothing of this name, or an option that does not go with it.
    """
    options = {"--alpha": alpha, "--num-classes": num_classes, "--exchange": exchange}
    path = Path(name)
    if (path / NETWORK).is_file():
        refuse_options(name, options)
        about = read_about(path)
        return load_converted(path), {"model": about["origin"]["name"], **about["input"]}
    trained = run_checkpoint(name, NETWORK)
    if trained is not None:
        refuse_options(name, options)
        model, facts = load_checkpoint(trained)
        return model, {key: facts[key] for key in ("model", "alpha", *FACTS) if key in facts}
    share = 0.5 if alpha is None else alpha
    model = find_origin(name, num_classes=num_classes, otherwise=RUN).octave(share, size, exchange)
    return model, {"model": name, "alpha": share, "in_chans": image_shape(model, size or 224)[1]}
