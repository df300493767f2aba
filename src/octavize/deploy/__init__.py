"""Octave networks that no longer train: folded, exported, run by other runtimes, timed.

`freeze.py` makes the inference network out of the layers of `frozen.py` and `packed.py`, from what `watch.py`
saw in one run; `network.py` runs it as one list of calls, which `flat.py` makes of what torch.export writes
down (`program.py`). `onnx.py`, `openvino.py` and `pt2.py` write it to a file and compare the file with the
network (`export.py`); `runtime.py` reads all three back. `bench.py` times the networks of `contenders.py` in
each of them (`bench_runtimes.py`), `fastest.py` looks for the fastest.
"""
