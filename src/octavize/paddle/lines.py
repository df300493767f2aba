"""Lines of the code of Paddle networks, see `Lines`."""

from __future__ import annotations

from pathlib import Path

import paddle

from octavize.paddle import dispatch
from octavize.paddle.functions import VALUE
from octavize.plans.lines import Lines

LINES = Lines(
    framework=str(Path(paddle.__file__).parent),
    runs=str(Path(__file__).with_name("trace.py")),
    tensors=(paddle.Tensor, VALUE, paddle.static.Variable),
    octave=dispatch.Octave,
    octave_values=dispatch.octave_values,
)
