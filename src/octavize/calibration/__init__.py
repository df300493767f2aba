"""Which channels of a trained network become low: those that lose least by it.

`calibrate.py` is the way in. `energy.py` measures what each channel would lose; `coupling.py` finds out which
channels may change places, from the labels that one run of the network carries along (`channel_*.py`);
`reorder.py` puts them in order.
"""
