"""What `octavize export` finds under a name: a network, and what is known of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from octavize.convert.trace import image_shape
from octavize.errors import InputError
from octavize.zoo.checkpoint import load_checkpoint
from octavize.zoo.find import BEST, RUN, find_origin, is_name
from octavize.zoo.storage import NETWORK, load_converted, read_about

_FACTS = ("model", "alpha", "classes", "mean", "std", "normalize", "size", "in_chans")


def find_network(
    name: str, alpha: float | None = None, num_classes: int | None = None, size: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Find, build and load a network, octave or not.

    Args:
        name: the folder of a run of `octavize train`, or its best.safetensors; a folder of `octavize convert`
            or `adapt`; or a name from `octavize models`, of torchvision or timm, or `module:function`, which
            come without trained weights.
        alpha: share of low channels; only for a name, 0.5 there by default.
        num_classes: of the classifier; likewise, by default the builder's own number.
        size: side in pixels of the images that a name's network is planned for; None is its own.

    Returns:
        The network, and as far as they are known `model`, `alpha`, `classes`, `mean`, `std`, `normalize`,
        `size` (pixels), `in_chans`.

    Raises:
        InputError: nothing of this name, or an option that does not go with it.
    """
    path = Path(name)
    trained = path if path.suffix == ".safetensors" else path / BEST
    if trained.is_file() or path.suffix == ".safetensors":
        _refuse(name, alpha, num_classes)
        model, facts = load_checkpoint(trained)
        return model, {key: facts[key] for key in _FACTS if key in facts}
    if (path / NETWORK).is_file():
        _refuse(name, alpha, num_classes)
        about = read_about(path)
        return load_converted(path), {"model": about["origin"]["name"], **about["input"]}
    if path.is_dir() and not is_name(name):
        raise InputError(f"source {name} holds neither {BEST} nor {NETWORK}: give the folder of a run")
    share = 0.5 if alpha is None else alpha
    model = find_origin(name, num_classes=num_classes, otherwise=RUN).octave(share, size)
    return model, {"model": name, "alpha": share, "in_chans": image_shape(model, size or 224)[1]}


def _refuse(name: str, alpha: float | None, num_classes: int | None) -> None:
    for option, value in (("--alpha", alpha), ("--num-classes", num_classes)):
        if value is not None:
            raise InputError(f"{option} is given and {name} is a network of its own: leave it out")
