"""What `enable` changes in a process, and that `disable` and a mere import leave nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import paddle
import paddle.nn.functional as F
import pytest

from octavize.paddle import OctConv2D, OctTensor, disable, enable
from octavize.paddle.functions import PUBLIC
from octavize.paddle.wrapping import is_enabled

SOURCE = Path(__file__).parents[2] / "src"

STATE = """
import sys, types
import paddle
from paddle.nn.functional import relu
from paddle.jit.dy2static import convert_call_func
from paddle.jit.sot.opcode_translator import skip_files

def state():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("paddle", "__main__"):
            functions = [(k, v) for k, v in vars(module).items() if isinstance(v, types.FunctionType)]
            found |= {(name, key): id(v) for key, v in functions}
    for kind in (paddle.Tensor, paddle.pir.Value, paddle.nn.BatchNorm):
        found |= {(kind, key): id(getattr(kind, key)) for key in dir(kind) if key != "__doc__"
                  and isinstance(vars(kind).get(key), types.FunctionType)}
    found["PyLayer.apply"] = str(vars(paddle.autograd.PyLayer).get("apply"))
    return found, list(convert_call_func.BUILTIN_LIKELY_MODULES), set(skip_files.skip_file_names)
"""


def run(program: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", STATE + program], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_import_changes_nothing() -> None:
    run("""
before = state()
import octavize.paddle
after = state()
assert all(after[0][key] == value for key, value in before[0].items())
assert before[1:] == after[1:]
assert "torch" not in sys.modules
""")


def test_disable_leaves_nothing() -> None:
    run("""
import octavize.paddle as op
before = state()
layer = op.OctConv2D(4, 4, 3, padding=1)
during = state()
assert relu is not before and during[0] != before[0]
assert relu(layer(paddle.ones([1, 4, 6, 6]))).shape == [1, 4, 6, 6]
op.disable()
after = state()
changed = [key for key, value in before[0].items() if after[0][key] != value]
assert not changed, changed
assert before[1:] == after[1:]
y = layer(paddle.ones([1, 4, 6, 6]))  # an octave map enables again
assert paddle.flatten(relu(y), 1).shape == [1, 144]
""")


def test_functions_that_layers_hold_are_found() -> None:
    run("""
from paddle import nn
import octavize.paddle as op

class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(8, 8, 3, padding=1)
        self.three, self.act = nn.Conv2D(8, 8, 1), relu

    def forward(self, x):
        return self.three(self.act(self.two(self.one(x)))).mean([2, 3])

net = op.octavize(Net(), min_low=0, example=(1, 3, 8, 8), strict=True)
assert net.two.alpha == 0.5
assert net(paddle.ones([1, 3, 8, 8])).shape == [1, 8]
""")


def test_the_first_octave_value_enables() -> None:
    run("""
import octavize.paddle as op
from octavize.paddle.wrapping import is_enabled
assert not is_enabled()
op.OctTensor.from_dense(paddle.ones([1, 4, 6, 6]), 0.5)
assert is_enabled()
""")


def test_ordinary_calls_reach_paddle_s_own_function() -> None:
    enable()
    x = paddle.randn([2, 3])
    for name, function in PUBLIC[:]:
        for home in (paddle, F):
            wrapped = getattr(home, name, None)
            if getattr(wrapped, "__wrapped_by_octavize__", None) is function:
                assert wrapped.__name__ == function.__name__
                assert wrapped.__doc__ == function.__doc__
    assert bool((F.relu(x) == paddle.maximum(x, paddle.zeros_like(x))).all())
    assert paddle.concat([x, x], axis=1).shape == [2, 6]


def test_disable_and_enable_in_one_process() -> None:
    disable()
    try:
        assert not is_enabled()
        assert not hasattr(paddle.concat, "__wrapped_by_octavize__")
        with pytest.raises(TypeError):
            paddle.ones([1]) / object()
    finally:
        enable()
    assert hasattr(paddle.concat, "__wrapped_by_octavize__")
    y = OctConv2D(4, 4, 1)(paddle.ones([1, 4, 2, 2]))
    assert isinstance(F.relu(y), OctTensor)


def test_a_plan_by_blocks_needs_no_octave_layer_before_it() -> None:
    program = """
from octavize.paddle import create_model
net = create_model("oct_cifar_resnet20", 0.5, exchange="block")
print(sum(layer.exchange == "both" for layer in net.sublayers() if getattr(layer, "alpha", 0)))
"""
    assert int(run(program)) > 0
