"""Run `examples/octavize.ipynb` anew and keep what it printed.

    python benchmarks/notebook.py     # three minutes on one core; leave the machine idle, the notebook times

Warnings are taken out, and figures keep 256 colors: the file stays small and names no folder of this machine.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples/octavize.ipynb"
PNG = "image/png"


def tidy(notebook: Any) -> None:
    """Take warnings and true colors out of the outputs."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.metadata.pop("execution", None)  # times of day
            for output in cell.outputs:
                if PNG in output.get("data", {}):
                    output.data[PNG] = smaller(output.data[PNG])


def smaller(png: str) -> str:
    """The same picture in 256 colors; both as base64."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    written = io.BytesIO()
    image.quantize(256).save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    with TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=where)
        client.coalesce_streams = True
        client.execute()
    tidy(notebook)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
