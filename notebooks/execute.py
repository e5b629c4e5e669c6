"""Execute every notebook beside this file.

    python notebooks/execute.py            run, and keep the outputs with static pictures (needs Chromium for kaleido)
    python notebooks/execute.py --check    run, keep nothing; fails on an error or a closing claim that does not hold

Each notebook names the line that a reader changes for a checkpoint of their own (`LOAD`) and ends with an assertion.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
LOAD = 'slm = si.load("tiny")'


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="keep nothing")
    check = parser.parse_args().check
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["PLOTLY_RENDERER"] = "json" if check else "png"
    paths = sorted(HERE.glob("*.ipynb"))
    if not paths:
        sys.exit(f"There is no notebook in {HERE}.")
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        demand(notebook, path.name)
        start = time.monotonic()
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
        print(f"{path.name}: executed in {time.monotonic() - start:.0f} s")
        if not check:
            nbformat.write(portable(notebook), path)


def demand(notebook: nbformat.NotebookNode, name: str) -> None:
    """Refuse a notebook without the line to change, or without a claim at its end."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    if sum(LOAD in source.splitlines() for source in code) != 1:
        sys.exit(f"{name} must have the line {LOAD!r} exactly once: it is the one a reader changes.")
    if not any(line.startswith("assert ") for line in code[-1].splitlines()):
        sys.exit(f"The last code cell of {name} must assert the notebook's claim.")


def portable(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same notebook without execution times, progress bars and warnings, and with only the kernel's name."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = nbformat.from_dict({"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    return notebook


if __name__ == "__main__":
    main()
