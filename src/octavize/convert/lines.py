"""Lines of the code of torch networks, see `Lines`."""

from __future__ import annotations

from pathlib import Path

import torch

from octavize.nn.dispatch import Octave, oct_tensors
from octavize.plans.lines import Lines

LINES = Lines(
    framework=str(Path(torch.__file__).parent),
    runs=str(Path(__file__).parent),
    tensors=(torch.Tensor,),
    octave=Octave,
    octave_values=oct_tensors,
)
