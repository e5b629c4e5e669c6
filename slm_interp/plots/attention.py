"""Attention of heads: chosen ones over a few spans through CircuitsVis, and whole utterances in a view of our own that stays small.

CircuitsVis writes every number as text and adds its scripts to every figure; it suits some heads over some spans. Its object asks
google.com, each time it is shown, whether there is a network; here its offline source is taken and that question is never asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from slm_interp.errors import ReadoutError, missing_extra
from slm_interp.files import write_text
from slm_interp.page import asset, policy
from slm_interp.plots.attention_data import Attention, attention_of, by_word, cut, error_of, grouped_labels, pack
from slm_interp.plots.document import document, framed
from slm_interp.utterance import Span, Word

DIGITS = 4  # of the numbers that CircuitsVis is given as text
MOST_NUMBERS = 2_000_000  # some 13 MB as text
LEAD = (
    "Rows are destinations (who looks), columns are sources (what is looked at); time runs downward and to the right. Values are stored in steps of "
    "1/255 of the largest of their row, so none is off by more than {error:.2g}."
)


@dataclass(frozen=True, eq=False)
class AttentionPage:
    """A picture of attention that a notebook shows, and that can be written as one file that asks nothing of a network.

    Args:
        document: the whole page.
        height: pixels of its frame in a notebook.
        data_bytes: of the numbers and labels in it, without scripts and styles.
    """

    document: str
    height: int
    data_bytes: int

    def page(self, path: str | os.PathLike[str]) -> Path:
        """Write the page, whole or not at all."""
        write_text(path, self.document)
        return Path(path)

    def html(self) -> str:
        """The page."""
        return self.document

    def _repr_html_(self) -> str:
        return framed(self.document, self.height)

    def __repr__(self) -> str:
        return f"AttentionPage({self.data_bytes:,} bytes of data, {len(self.document):,} in all)"


def attention_view(
    pattern: Any, labels: Sequence[str], words: Sequence[Word] = (), names: Sequence[str] | None = None, title: str = "Attention"
) -> AttentionPage:
    """Heads over a whole utterance: a picker of heads, positions or words, zoom, and every number under the pointer.

    Args:
        pattern: `[head, dest, src]`, as in the cache of TransformerLens; array, DataArray or tensor.
        labels: the token or unit of each position.
        words: with their spans.
        names: of the heads, such as `3.5`; None numbers them.
        title: heading.

    Raises:
        ReadoutError: see `attention_data.attention_of`.
    """
    attention = attention_of(pattern, labels, words, names)
    packed = base64.b64encode(pack(attention.pattern)).decode()
    data = json.dumps(
        {
            "names": attention.names,
            "labels": attention.labels,
            "groups": [asdict(group) for group in attention.groups],
            "causal": attention.causal,
            "packed": packed,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
    lead = LEAD.format(error=error_of(attention.pattern))
    return AttentionPage(document(title, lead, _BODY, "attention.js", data, _STYLE), 1120, len(data.encode()))


def attention_heads(
    pattern: Any,
    labels: Sequence[str],
    words: Sequence[Word] = (),
    names: Sequence[str] | None = None,
    spans: Sequence[Span] | None = None,
) -> AttentionPage:
    """Chosen heads in CircuitsVis, one token or unit a row, words named where they begin.

    Args:
        pattern, labels, words, names: as in `attention_view`.
        spans: cuts the picture to these positions; what the others receive is said above it. None keeps all.

    Raises:
        ReadoutError: see `attention_data.attention_of` and `cut`; more than two million numbers.
        ImportError: CircuitsVis is not installed.
    """
    whole = attention_of(pattern, labels, words, names)
    shown = whole if spans is None else cut(whole, spans)
    return _circuitsvis(shown, grouped_labels(shown), "Attention by position")


def attention_by_word(
    pattern: Any,
    labels: Sequence[str],
    words: Sequence[Word],
    names: Sequence[str] | None = None,
    spans: Sequence[Span] | None = None,
) -> AttentionPage:
    """Chosen heads in CircuitsVis, one word a row: summed over the sources of a word, averaged over its destinations.

    Arguments and errors as in `attention_heads`; words without which there is nothing to group are refused.
    """
    if not words:
        raise ReadoutError("Attention by word needs words with their spans; got none. Use attention_heads for single positions.")
    whole = attention_of(pattern, labels, words, names)
    shown = by_word(whole if spans is None else cut(whole, spans))
    return _circuitsvis(shown, list(shown.labels), "Attention by word")


def _circuitsvis(attention: Attention, labels: list[str], title: str) -> AttentionPage:
    """CircuitsVis's own offline source on a page of ours, whose policy allows that one script and no connection."""
    if attention.pattern.size > MOST_NUMBERS:
        raise ReadoutError(
            f"CircuitsVis is given at most {MOST_NUMBERS:,} numbers, each as text; {len(attention.names)} heads by {len(labels)} are "
            f"{attention.pattern.size:,}. Choose heads or spans, or use attention_view."
        )
    try:
        from circuitsvis.attention import attention_heads as theirs
    except ImportError as error:
        raise missing_extra("circuitsvis", "notebooks") from error
    values = [[[round(value, DIGITS) for value in row] for row in head] for head in attention.pattern.astype(np.float64).tolist()]
    source = theirs(values, labels, attention_head_names=list(attention.names), mask_upper_tri=attention.causal).local_src
    found = re.fullmatch(r'\s*<div id="(circuits-vis-[\w-]+)".*?/>\s*<script[^>]*>(.*)</script>\s*', source, re.DOTALL)
    if found is None:
        raise ReadoutError("This version of circuitsvis lays its page out in another way than 1.43 does. Install circuitsvis 1.43.")
    name = "circuits-vis-" + hashlib.sha256(f"{values}{labels}".encode()).hexdigest()[:13]
    script = found[2].replace(found[1], name)
    share = float(attention.pattern.sum(-1).mean())
    said = f"{len(attention.names)} heads by {len(labels)}. Rows are destinations, columns sources; values are rounded to {DIGITS} digits."
    if share < 0.995:
        said += f" Of the attention of these positions {share:.0%} falls on positions shown here."
    page = _CIRCUITSVIS.format(
        policy=escape(policy([script])),
        title=escape(title),
        style=asset("page.css") + asset("picture.css") + _LIGHT,
        said=said,
        name=name,
        script=script,
    )
    return AttentionPage(page, 900, len(script) - len(script[: script.rindex("CircuitsVis.render(")]))


_LIGHT = ":root:root { --page: #ffffff; --ink: #1f2933; --soft: #5b6875; color-scheme: light; }"
_CIRCUITSVIS = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="picture">
<header><h1>{title}</h1><p>{said}</p></header>
<main><div id="{name}"></div></main>
<script type="module">{script}</script>
</body>
</html>
"""
_BODY = """<div class="bar"><label>head <select id="head"></select></label><label>by <select id="by"><option value="position">position</option>
<option value="word">word</option></select></label><label>colour ends at <select id="ends"><option value="head">the largest of the head</option>
<option value="row">the largest of each row</option><option value="one">1</option></select></label>
<button type="button" id="whole" hidden>whole utterance</button><output id="legend"></output></div>
<div class="thumbs" role="group" aria-label="Heads"></div>
<div class="stage"><canvas id="attention" tabindex="0" role="application" aria-label="Attention of the chosen head: rows are destinations,
columns sources; arrow keys move from cell to cell"></canvas></div>
<div class="readout empty" aria-live="polite">Point at a cell to read it, click it (or use the arrow keys) to list what its destination looks at,
drag over a part to look closer.</div><div class="tip" hidden></div>"""
_STYLE = """
.thumbs { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 10px; }
.thumbs button { padding: 2px; cursor: pointer; font-size: 0.72rem; line-height: 1.2; color: var(--soft); }
.thumbs button[aria-pressed="true"] { border-color: var(--accent); outline: 1px solid var(--accent); color: var(--ink); }
.thumbs canvas { display: block; width: 56px; height: 56px; image-rendering: pixelated; }
.stage { overflow-x: auto; }
#attention { display: block; touch-action: none; cursor: crosshair; }
#attention:focus-visible { outline: 2px solid var(--accent); }
body.picture .readout { min-height: 0; max-height: 14em; overflow-y: auto; }
body.picture .readout.empty { white-space: normal; }
"""
