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


def test_a_picture_has_no_menus_and_the_figure_keeps_its_own(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kaleido", object())
    menus = []

    def drawn(figure, path, **_options):
        menus.append(len(figure.layout.updatemenus))
        path.write_bytes(b"picture")

    monkeypatch.setattr(go.Figure, "write_image", drawn)
    figure = go.Figure(layout={"updatemenus": [{"buttons": [{"label": "one", "method": "skip"}]}]})
    assert write_png(figure, tmp_path / "figure.png").read_bytes() == b"picture"
    assert menus == [0]
    assert len(figure.layout.updatemenus) == 1
