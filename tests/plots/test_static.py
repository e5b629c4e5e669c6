"""Pictures need a package that may not be there."""

from __future__ import annotations

import sys

import plotly.graph_objects as go
import pytest

from slm_interp.plots import write_png


def test_without_kaleido_the_error_says_what_to_install_and_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ImportError, match=r"kaleido is needed here.*slm-interp\[notebooks\]"):
        write_png(go.Figure(), tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


def test_without_a_browser_the_error_says_what_to_install_and_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kaleido", object())

    def no_browser(*_args, **_options):
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(go.Figure, "write_image", no_browser)
    with pytest.raises(RuntimeError, match="found none. Install one"):
        write_png(go.Figure(), tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
