"""Which channels of a trained network become low: those that lose least by it.

`calibrate.py` is the way in. `energy.py` measures what each channel would lose; `coupling.py` finds out which
channels may change places, from the labels (`label*.py`) that one run of the network carries along;
`reorder.py` puts them in order.
"""

from octavize.calibration import label_layers as label_layers  # registers how layers carry channels
