"""Octave networks in PaddlePaddle: time as a share of the vanilla network's, in each way to run them.

    python benchmarks/paddle_speed.py     # half an hour; leave the machine idle
    python benchmarks/paddle_speed.py --rounds 2 --size 64 --ways dygraph --out /tmp/speed.json
    python benchmarks/paddle_speed_table.py        # only write the table into the pages

Side by side on one thread: the article's code (`paddle_article.py`), ours with the paper's exchange, and ours
with an exchange once a block. The networks of a way take turns in one process; a share is the median of the
rounds' shares, by the CPU time of the process. Networks for other runtimes are written by
`octavize.paddle.save`, the vanilla one too; the article's by `paddle.jit.save`, as its reader would. Needs no
torch: `pip install 'octavize[paddle-deploy,cli]'`. Results: `results/paddle_speed.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before Paddle is loaded

import numpy as np
import paddle
from paddle import inference, nn
from paddle.static import InputSpec
from paddle.vision import models

import paddle_article
from octavize.bench.process import settle_process
from octavize.errors import one_line
from octavize.files import write_json
from octavize.paddle import octavize, plan, predictor_config, save
from paddle_speed_table import OUT, table, write_pages

PACKAGES = ("octavize", "paddlepaddle", "paddle2onnx", "onnxruntime", "openvino", "numpy")
WARM_UP = 3
ALPHAS: dict[str, dict[str, float]] = {
    "resnet50": {"*": 0.5, "layer4.*": 0},
    "mobilenet_v1": {"*": 0.5, "conv5_5._pointwise*": 0, "conv5_6.*": 0, "conv6.*": 0},
}
"""As in the paper: the last stage is vanilla, and a layer before it merges."""
ENDS = ("conv3_1", "conv4_1", "conv5_2", "conv5_4")
"""MobileNetV1 has no residual blocks: two pointwise layers count as one."""
ONCE: dict[str, Any] = {
    "resnet50": "block:high_to_low",
    "mobilenet_v1": {"*": "none"} | {f"{name}._pointwise*": "high_to_low" for name in ENDS},
}
Call = Callable[[], object]


class Setting:
    """What a network is timed on.

    Attributes:
        x: the images, (batch, 3, size, size).
        article: whether this is the article's network, which its reader saves in Paddle's own way.
        path: of the files.
    """

    def __init__(self, batch: int, size: int, article: bool, path: Path) -> None:
        self.x = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
        self.article, self.path = article, path


def networks(name: str, size: int) -> dict[str, tuple[nn.Layer, float | None]]:
    """The networks by name, the vanilla one first, and their share of its multiply–accumulates."""
    vanilla = getattr(models, name)()
    found: dict[str, tuple[nn.Layer, float | None]] = {"vanilla": (vanilla, 1.0)}
    found["article"] = paddle_article.NETWORKS[name](), None
    for way, exchange in {"every layer": "every", "once a block": ONCE[name]}.items():
        decided = plan(vanilla, ALPHAS[name], exchange=exchange, example=(1, 3, size, size))
        found[way] = octavize(vanilla, decided), decided.macs_ratio
    for net, _ in found.values():
        net.eval()
    return found


# ---- ways to run a network -------------------------------------------------------------------------------


def dygraph(net: nn.Layer, setting: Setting) -> Call:
    x = paddle.to_tensor(setting.x)

    def call() -> object:
        with paddle.no_grad():
            return net(x).numpy()

    return call


def training(net: nn.Layer, setting: Setting) -> Call:
    """A step of SGD with momentum."""
    net.train()
    x, labels = paddle.to_tensor(setting.x), paddle.zeros([len(setting.x)], "int64")
    optimizer = paddle.optimizer.Momentum(1e-4, parameters=net.parameters())

    def call() -> object:
        loss = nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return loss.numpy()

    return call


def inference_plain(net: nn.Layer, setting: Setting) -> Call:
    """Paddle Inference without oneDNN."""
    _write(net, setting, "paddle")
    config = inference.Config(f"{setting.path}.json", f"{setting.path}.pdiparams")
    config.disable_glog_info()
    config.disable_mkldnn()
    config.set_cpu_math_library_num_threads(1)
    return _predict(config, setting)


def inference_onednn(net: nn.Layer, setting: Setting) -> Call:
    """Paddle Inference with oneDNN, without the passes that fail."""
    _write(net, setting, "paddle")
    return _predict(predictor_config(setting.path, threads=1), setting)


def onnxruntime(net: nn.Layer, setting: Setting) -> Call:
    import onnxruntime

    path = _write(net, setting, "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: setting.x})


def openvino(net: nn.Layer, setting: Setting) -> Call:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(_write(net, setting, "onnx")), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer(setting.x)


WAYS: dict[str, tuple[Callable[[nn.Layer, Setting], Call], int]] = {
    "dygraph": (dygraph, 1),
    "inference": (inference_plain, 1),
    "inference, oneDNN": (inference_onednn, 1),
    "onnxruntime": (onnxruntime, 1),
    "openvino": (openvino, 1),
    "training": (training, 4),
}
"""How each way prepares a call, and the batch."""


def _write(net: nn.Layer, setting: Setting, target: str) -> Path:
    shape = (1, *setting.x.shape[1:])
    path = setting.path.with_name(f"{setting.path.name}.onnx") if target == "onnx" else setting.path
    if not setting.article:
        save(net, path, shape, target=target)
    elif target == "paddle":
        paddle.jit.save(net, str(path), input_spec=[InputSpec([None, *shape[1:]], "float32")])
    else:
        paddle.onnx.export(
            net, str(setting.path), [InputSpec([None, *shape[1:]])], opset_version=17, optimize_tool="None"
        )
    return path


def _predict(config: Any, setting: Setting) -> Call:
    predictor = inference.create_predictor(config)
    given = predictor.get_input_handle(predictor.get_input_names()[0])
    made = predictor.get_output_handle(predictor.get_output_names()[0])

    def call() -> object:
        given.copy_from_cpu(setting.x)
        predictor.run()
        return made.copy_to_cpu()

    return call


# ---- measuring -------------------------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> None:
    """Time every network in every way, and write the rows."""
    rows: list[dict[str, Any]] = []
    for name in given.networks:
        for way in given.ways:
            print(f"{name}, {way}", flush=True)
            rows += _rows(name, way, given.size, given.rounds)
    about = {"size": given.size, "rounds": given.rounds, "threads": 1, "environment": environment()}
    write_json(given.out, {**about, "rows": rows})


def _rows(name: str, way: str, size: int, rounds: int) -> list[dict[str, Any]]:
    prepare, batch = WAYS[way]
    calls: dict[str, Call] = {}
    failed: dict[str, str] = {}
    paddle.seed(0)
    found = networks(name, size)
    with TemporaryDirectory() as folder:
        for number, (kind, (net, _)) in enumerate(found.items()):
            setting = Setting(batch, size, kind == "article", Path(folder) / f"net{number}")
            try:
                calls[kind] = prepare(net, setting)
                calls[kind]()
            # Each runtime has its own kinds, and Paddle2ONNX ends the program; the table says that it fails.
            except (Exception, SystemExit) as error:
                if kind != "article":
                    raise
                failed[kind] = one_line(error, kind=True)
                calls.pop(kind, None)
        seconds = interleave(calls, rounds)
    rows = []
    for kind, (_, macs) in found.items():
        row: dict[str, Any] = {"model": name, "way": way, "batch": batch, "network": kind, "mac_ratio": macs}
        if kind in failed:
            rows.append({**row, "failed": failed[kind]})
            continue
        shares = [own / base for own, base in zip(seconds[kind], seconds["vanilla"], strict=True)]
        times = {"median_ms": 1e3 * statistics.median(seconds[kind])}
        rows.append({**row, **times, "time_ratio": statistics.median(shares), "n": rounds})
    return rows


def interleave(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU time of each call in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(WARM_UP + rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if number >= WARM_UP:
                seconds[name].append(time.process_time() - start)
    return seconds


def environment() -> dict[str, Any]:
    """Versions, processor, platform."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    vectors = next((kind for kind in ("avx512f", "avx2", "avx") if kind in flags), "")
    processor = names[0] if names else platform.machine()
    return {
        **{package: found for package in PACKAGES if (found := _version(package))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{processor}, {os.cpu_count()} cores, {vectors}",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--networks", nargs="+", choices=ALPHAS, default=list(ALPHAS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    settle_process()
    measure(given)
    print(table(json.loads(given.out.read_text("utf-8")), "en"))
    if given.out == OUT:
        write_pages()


if __name__ == "__main__":
    main()
