"""A waveform over seconds with the words it says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from slm_interp.audio import Audio
from slm_interp.plots.theme import RULE, dressed, markup
from slm_interp.utterance import Word

BINS = 1200
NARROWEST_PX = 640  # what a page gives the seconds at least


def envelope(samples: Float[np.ndarray, " time"], bins: int = BINS) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Lowest and highest amplitude in each of at most `bins` equal stretches: peaks survive, unlike with every n-th sample."""
    edges = np.linspace(0, len(samples), min(bins, len(samples)) + 1).astype(int)[:-1]
    return np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)


def waveform(audio: Audio, words: Sequence[Word] = (), title: str = "") -> go.Figure:
    """The envelope of a sound over seconds; each word that is heard is a shaded stretch with its text above.

    Args:
        audio: the sound.
        words: with `start_s`, `end_s` in seconds; words that take no time are left out.
        title: none by default.
    """
    low, high = envelope(audio.samples)
    middles = (np.arange(len(low)) + 0.5) * audio.seconds / len(low)
    x = np.round(np.concatenate([middles, middles[::-1]]), 4)
    y = np.round(np.concatenate([high, low[::-1]]), 4)
    figure = go.Figure(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            fill="toself",
            line={"width": 0.5, "color": "#4d86b8"},
            fillcolor="#4d86b8",
            hoverinfo="skip",
            name="waveform",
        )
    )
    reach = max(float(np.abs(audio.samples).max()) * 1.1, 1e-3)
    heard = [word for word in words if word.end_s > word.start_s]
    shapes, notes = [], []
    for index, word in enumerate(heard):
        fill = "rgba(122,135,147,0.22)" if index % 2 == 0 else "rgba(122,135,147,0.10)"
        stretch = {"x0": word.start_s, "x1": word.end_s, "y0": 0, "y1": 1, "xref": "x", "yref": "paper"}
        shapes.append(stretch | {"type": "rect", "fillcolor": fill, "line": {"width": 0}, "layer": "below"})
        upright = (word.end_s - word.start_s) / audio.seconds * NARROWEST_PX < 7 * len(word.text)
        note = {
            "x": (word.start_s + word.end_s) / 2,
            "y": 1,
            "yref": "paper",
            "text": markup(word.text),
            "textangle": -90 if upright else 0,
            "name": "word",
        }
        notes.append(note | {"showarrow": False, "yanchor": "bottom", "captureevents": True, "font": {"size": 12}})
    figure.update_layout(shapes=shapes, annotations=notes)
    figure.update_xaxes(range=[0, audio.seconds], title={"text": "seconds", "standoff": 2}, showgrid=False, zeroline=False)
    figure.update_yaxes(
        range=[-reach, reach], showticklabels=False, showgrid=False, zeroline=True, zerolinecolor=RULE, zerolinewidth=1, fixedrange=True
    )
    tall = max((len(note.text) for note in figure.layout.annotations if note.textangle), default=0)
    top = max(28, 12 + 7 * tall) + (26 if title else 0)
    spans = [{"text": word.text, "x0": word.start_s, "x1": word.end_s} for word in heard]
    dressed(
        figure,
        title=title,
        height=120 + top + 44,
        meta={"role": "waveform", "axis": "seconds", "words": spans, "head_px": 26 if title else 0},
    )
    return figure.update_layout(margin={"l": 130, "r": 24, "t": top, "b": 44}, dragmode=False, hovermode=False, showlegend=False)
