"""What the figures share: fonts, the colour of each modality, and how a token is printed."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
MODALITY_COLOURS = {"text": "#2f74b5", "speech": "#d97b29", "marker": "#8a63b8", "other": "#5c6773"}
RULE = "rgba(128,128,128,0.35)"
WORD_COLOUR = "#7a8793"
BOUNDARY = "rgba(35,45,60,0.75)"

# Sequential scales start near white, so that an empty cell looks empty on a light and on a dark page.
BLUES = [[0.0, "#f4f8fc"], [0.25, "#cfe1f2"], [0.5, "#85b5dc"], [0.75, "#3a7fbf"], [1.0, "#0b3c73"]]
ORANGES = [[0.0, "#fdf6ef"], [0.25, "#fbdcbc"], [0.5, "#f2ab67"], [0.75, "#d4731f"], [1.0, "#7d3a05"]]
GREENS = [[0.0, "#f2faf4"], [0.25, "#c9e8d1"], [0.5, "#80c79a"], [0.75, "#2f9463"], [1.0, "#0a4a30"]]
PURPLES = [[0.0, "#f8f5fc"], [0.25, "#ddd0ee"], [0.5, "#b094d6"], [0.75, "#7a52b0"], [1.0, "#3d1d6b"]]


def visible(token: str) -> str:
    """A token with its white space made visible: a leading or trailing space is a middle dot, a line end an arrow."""
    body = token.strip(" ")
    left = len(token) - len(token.lstrip(" "))
    right = len(token) - left - len(body)
    shown = "·" * left + body + "·" * right
    return shown.replace("\n", "↵").replace("\r", "↵").replace("\t", "⇥")


def markup(text: str) -> str:
    """Text that plotly prints as it is: figures read `<b>` and `&amp;` as markup, tokens must not be read so."""
    return escape(text, quote=False)


def unit(token: str) -> str:
    """A numbered unit without its brackets, `<Un12>` as `Un12`, where room is short; any other token as it is."""
    found = re.fullmatch(r"[<\[]([A-Za-z_]+\d+)[>\]]", token)
    return found.group(1) if found else token


def cell(token: str, width: int) -> str:
    """A token for a grid cell: bare, at most `width` characters, angle brackets as `‹›` (an entity would count as four letters)."""
    shown = unit(visible(token).removeprefix("·") or visible(token))
    if len(shown) > width:
        shown = shown[: width - 1] + "…"
    return re.sub(r"&(?=#?\w+;)", "&amp;", shown.replace("<", "‹").replace(">", "›"))


def dressed(figure: go.Figure, *, title: str, height: int, meta: dict[str, Any]) -> go.Figure:
    """The common look: no background of its own, so that it sits on a light and on a dark page.

    `meta` tells a page what the figure is; its `head_px` is the strip at the top that a page takes over with
    a heading and menus of its own.
    """
    return figure.update_layout(
        template="none",
        meta={"slm": {"title": title, **meta}},
        title={"text": markup(title), "x": 0, "xanchor": "left", "xref": "paper", "font": {"size": 15}},
        font={"family": FONT, "size": 12, "color": "#2b3440"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=height,
        hoverlabel={
            "align": "left",
            "bgcolor": "#ffffff",
            "bordercolor": "#8d99a6",
            "font": {"family": FONT, "size": 12, "color": "#1d2630"},
        },
    )
