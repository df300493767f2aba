"""What `octavize export --backend paddle` finds under a name: a network, and what is known of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paddle import nn

from octavize.errors import InputError, refuse_options
from octavize.files import BEST, FACTS, NETWORK, arguments_of_file, call_named, read_about
from octavize.paddle.convert import octavize
from octavize.paddle.initialize import settle_path_biases
from octavize.paddle.inputs import Example
from octavize.paddle.state import PADDLE, read_state
from octavize.paddle.storage import load_converted
from octavize.paddle.trace import example_inputs
from octavize.paddle.weights import load_named
from octavize.paddle.zoo import build_model, create_model, list_models


def find_network(
    name: str,
    alpha: float | None = None,
    num_classes: int | None = None,
    size: int | None = None,
    exchange: str | None = None,
) -> tuple[nn.Layer, dict[str, Any]]:
    """Find, build and load a network, octave or not.

    Args:
        name: the folder of a run of `octavize compare --backend paddle`, or its best.safetensors; a folder of
            `octavize convert --backend paddle`; or a name of `octavize.paddle.list_models()`, or
            `module:function`, which come without trained weights.
        alpha: share of low channels; only for a name, 0.5 there by default.
        num_classes: of the classifier; only for a name, by default the builder's own number.
        size: side in pixels of the images that the network of a function is planned for; None is 224.
        exchange: where the frequencies meet, see `octavize.paddle.plan`; only for a name, None is its own.

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
    trained = path if path.suffix == ".safetensors" else path / BEST
    if trained.is_file():
        refuse_options(name, options)
        return _trained(trained)
    if path.is_dir() and name not in list_models():
        runs = sorted(found.parent.name for found in path.glob(f"runs/*/{BEST}"))
        remedy = f"give one of its runs, {path}/runs/{runs[0]} …" if runs else "give the folder of a run"
        raise InputError(f"model {name} is a folder without {BEST} or {NETWORK}: {remedy}")
    if path.suffix == ".safetensors":
        raise InputError(f"model {name} does not exist: give the weights of a run, or a name")
    share = 0.5 if alpha is None else alpha
    net = build_named(name, share, num_classes, size, exchange)
    return net, {"model": name, "alpha": share, "in_chans": example_inputs(net).shape[1]}


def build_named(
    name: str, alpha: float, num_classes: int | None, size: int | None, exchange: str | None
) -> nn.Layer:
    """The octave network of a name or of `module:function`, see `find_network`."""
    if ":" not in name:
        arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        return create_model(name, alpha, exchange=exchange, **arguments)
    if num_classes is not None:
        raise InputError(f"--num-classes is given and {name} is a function: leave it to the function")
    vanilla = call_named(name, nn.Layer)
    shape = example_inputs(vanilla).shape
    example: Example | None = None if size is None else (*shape[:2], *(size,) * len(shape[2:]))
    return octavize(vanilla, alpha, exchange=exchange, example=example, inplace=True)


def _trained(path: Path) -> tuple[nn.Layer, dict[str, Any]]:
    """The network that a run's weights describe, in evaluation mode."""
    arrays, about = read_state(path)
    if about.get("framework") != PADDLE:
        raise InputError(f"model {path} was not trained in {PADDLE}: leave --backend paddle out")
    try:
        arguments = arguments_of_file(path, about["arguments"])
        shape = len(about["classes"]), about["in_chans"]
        net = build_model(about["model"], about["alpha"], *shape, arguments)
    except KeyError as error:
        raise InputError(f"model {path} does not name its {error}: it was not written by octavize") from None
    load_named(net, arrays)
    settle_path_biases(net)
    net.eval()
    return net, {key: about[key] for key in ("model", "alpha", *FACTS) if key in about}
