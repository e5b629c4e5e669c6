"""The two menus of a grid: what colours it, and whose best token the cells print.

A label is `menu: choice`; a page of this package makes native menus of them, which take the keyboard.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from slm_interp.plots.hover import cell_tokens
from slm_interp.plots.quantities import QUANTITIES, colour_bar
from slm_interp.plots.theme import RULE, cell

CELL_LETTERS = 6


def cells(dataset: xr.Dataset, shown: str) -> list[list[str]]:
    """What the cells print: the best token of all (`any`) or of a modality, cut to fit."""
    return [[cell(str(token), CELL_LETTERS) for token in row] for row in cell_tokens(dataset, shown)]


def _menu(x: float, name: str, buttons: list[dict[str, Any]], active: int) -> dict[str, Any]:
    look = {"bgcolor": "rgba(255,255,255,0.9)", "bordercolor": RULE, "font": {"size": 11, "color": "#2b3440"}, "pad": {"t": 0, "r": 8}}
    return {
        "buttons": buttons,
        "active": active,
        "x": x,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "showactive": True,
        "name": name,
        **look,
    }


def colour_menu(dataset: xr.Dataset, colour: str, target: int) -> dict[str, Any]:
    """Every quantity this reading has; the first target stands for `rank`."""
    modalities = {str(name) for name in dataset["modality"].values}
    there = {"text_mass": "text" in modalities, "speech_mass": "speech" in modalities, "rank": dataset.sizes.get("target", 0) > 0}
    names = [name for name in QUANTITIES if there.get(name, True)]
    buttons = []
    for name in names:
        style = colour_bar(dataset, name, target)
        bar = {f"colorbar.{key}": [style["colorbar"].get(key)] for key in ("tickmode", "tickvals", "ticktext")}
        values = np.round(QUANTITIES[name].values(dataset, target), 3)
        restyle = {
            "z": [[[None if np.isnan(value) else value for value in row] for row in values.tolist()]],
            "colorscale": [style["colorscale"]],
            "zmin": 0,
            "zmax": style["zmax"],
        }
        restyle |= {"colorbar.title.text": style["colorbar"]["title"]["text"], **bar}
        buttons.append({"label": f"colour: {style['colorbar']['title']['text']}", "method": "restyle", "args": [restyle, [0]]})
    return _menu(0.0, "colour", buttons, names.index(colour))


def token_menu(dataset: xr.Dataset, tokens: list[str], shown: str) -> dict[str, Any]:
    """Whose best token the cells print."""
    buttons = [
        {
            "label": f"cells: best {'token' if name == 'any' else name + ' token'}",
            "method": "restyle",
            "args": [{"text": [cells(dataset, name)]}, [0]],
        }
        for name in tokens
    ]
    return _menu(0.0, "cells", buttons, tokens.index(shown))
