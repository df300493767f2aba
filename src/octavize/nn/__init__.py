"""Octave maps, the rules by which torch's functions act on them, and the layers that make them.

Importing any module of this package registers every rule, so an OctTensor never lacks its rules.
"""

from octavize.nn import gradients as gradients
from octavize.nn import tensor as tensor
from octavize.nn._torch_internals import assume_constant
from octavize.nn.rules import channels as channels
from octavize.nn.rules import elementwise as elementwise
from octavize.nn.rules import grid as grid
from octavize.nn.rules import norm as norm
from octavize.nn.rules import spatial as spatial
from octavize.split import KNOWN_WHILE_TRACING

for _function in KNOWN_WHILE_TRACING:
    assume_constant(_function)
