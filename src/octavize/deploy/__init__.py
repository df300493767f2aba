"""Octave networks that no longer train: folded, exported, run by other runtimes.

`freeze.py` makes the inference network out of the layers of `frozen.py` and `packed.py`, from what `watch.py`
saw in one run; `network.py` runs it as one list of calls, which `flat.py` makes of what torch.export writes
down (`program.py`). `export.py` writes it to a file and compares the file with the network; `runtime.py`
reads the file back. What there is to know of one kind of file is in its module of `formats/`.
"""
