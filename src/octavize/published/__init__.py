"""Octave networks that others published: their files read, and their layers joined into ours, as arrays.

No file here knows a framework: `zoo/published.py` loads the arrays into networks of torch,
`paddle/published.py` into those of Paddle. Reading executes nothing that lies in a file.
"""
