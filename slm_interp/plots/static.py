"""A figure as a picture file, for places that run no scripts."""

from __future__ import annotations

import os
from pathlib import Path

import plotly.graph_objects as go

from slm_interp.errors import missing_extra
from slm_interp.files import atomic_path


def write_png(figure: go.Figure, path: str | os.PathLike[str], scale: float = 2.0) -> Path:
    """Write a figure as PNG on white, without its menus.

    Args:
        figure: any plotly figure; it is not changed.
        path: where to.
        scale: pixels of the file for each pixel of the figure.

    Raises:
        ImportError: the package that draws pictures (kaleido) is not installed.
        RuntimeError: kaleido is installed and finds no browser to draw with.
    """
    return _write(figure, path, "png", scale)


def write_svg(figure: go.Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as SVG on white, without its menus. Arguments and errors as in `write_png`."""
    return _write(figure, path, "svg", 1.0)


def _write(figure: go.Figure, path: str | os.PathLike[str], form: str, scale: float) -> Path:
    try:
        import kaleido  # noqa: F401
    except ImportError as error:
        raise missing_extra("kaleido", "notebooks") from error
    picture = go.Figure(figure).update_layout(paper_bgcolor="#ffffff", plot_bgcolor="#ffffff")
    picture.layout.updatemenus = ()
    with atomic_path(path) as temporary:
        try:
            picture.write_image(temporary, format=form, scale=scale)
        except Exception as error:
            if "chrome" in str(error).lower():
                raise RuntimeError(
                    "kaleido draws pictures with a Chromium browser and found none. "
                    "Install one (Debian: apt-get install chromium) or set BROWSER_PATH to it."
                ) from error
            raise
    return Path(path)
