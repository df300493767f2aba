"""Which channels of a trained network become low, those that lose least by it; and what its weights become.

`calibrate.py` is the way in. `energy.py` measures what each channel would lose; `coupling.py` finds out which
channels may change places, from the labels that one run of the network carries along (`channel_*.py`);
`reorder.py` puts them in order.

`refit.py` is the way in to new weights. `walk.py` and `lockstep.py` take the octave and the vanilla network
from layer to layer together; `follows.py` finds what a network does with a layer's output; `rows.py` writes a
layer as a linear function of its weights, `sampling.py` makes a least-squares problem of it, and `solve.py`
solves it. `polish.py` goes on by gradient. `refitting.py` holds what is told of it.
"""
