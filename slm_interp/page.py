"""One self-contained HTML page from text, tables, figures and sound: the writer that every report uses.

The page needs nothing but the file: plotly.js and this package's script are written into it once, sound is
a `data:` address, and a Content-Security-Policy forbids every connection and every script but those two (by
their hashes). All text is escaped, including text inside the figures' JSON.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from slm_interp.audio import Audio
from slm_interp.files import write_text
from slm_interp.utterance import Word

COMPRESS_ABOVE = 40_000  # characters of a figure's JSON


@dataclass(frozen=True)
class Text:
    """Plain words; a blank line starts a new paragraph."""

    text: str


@dataclass(frozen=True)
class Answer:
    """What a reader came for, in large letters, and why in a sentence."""

    text: str
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Figure:
    """A plotly figure. `label` says in one sentence what it shows, for readers who cannot see it."""

    figure: go.Figure
    label: str
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """A tidy table; with `folded` it opens on a click."""

    frame: pd.DataFrame
    caption: str
    folded: bool = False


@dataclass(frozen=True, eq=False)
class Player:
    """A sound and its words. Figures of the same section with a time or position axis follow it."""

    audio: Audio
    words: Sequence[Word] = ()


Block: TypeAlias = Text | Answer | Figure | Table | Player


@dataclass(frozen=True, eq=False)
class Section:
    """A titled part of a page. `note` is set apart, for what a reader must know before looking."""

    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Page:
    """A page.

    Args:
        title: also the name of the window.
        sections: in order.
        lead: a few plain words under the title.
        provenance: what the numbers come from, printed at the foot.
    """

    title: str
    sections: Sequence[Section]
    lead: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """The whole document."""
        scripts = [_script_source(get_plotlyjs()), _script_source(asset("page.js"))]
        names = _Names()
        sections = "\n".join(_section(section, index, names) for index, section in enumerate(self.sections, 1))
        return _DOCUMENT.format(
            policy=escape(policy(scripts)),
            title=escape(self.title),
            style=asset("page.css"),
            lead=_paragraphs(self.lead),
            contents=_contents(self.sections),
            sections=sections,
            provenance=_provenance(self.provenance),
            scripts="\n".join(f"<script>{source}</script>" for source in scripts),
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page whole or not at all, and return where it is."""
        write_text(path, self.html())
        return Path(path)


HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
"""  # of every page; a document is it and a body, to be formatted
_DOCUMENT = (
    HEAD
    + """<body>
<a class="skip" href="#section-1">Skip to the first section</a>
<header><h1>{title}</h1>{lead}{contents}</header>
<noscript><p class="note">The figures of this page are drawn by scripts inside the file. Allow scripts to see them.</p></noscript>
<main>
{sections}
</main>
<footer>{provenance}</footer>
{scripts}
</body>
</html>
"""
)


def policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy: no connection, no script but these."""
    hashes = " ".join("'sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() + "'" for source in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; media-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def json_in_script(text: str) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@lru_cache
def asset(name: str) -> str:
    """A file of `page_assets`, which are part of the package."""
    source = files("slm_interp") / "page_assets" / name
    return source.read_text(encoding="utf-8")


def _script_source(source: str) -> str:
    """A script as it may stand inside a document; line ends as a browser reads them, since its hash is declared."""
    return source.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")


class _Names:
    """Numbers the figures of one page."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> str:
        self.count += 1
        return f"figure-{self.count}"


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < 2:
        return ""
    links = "".join(f'<li><a href="#section-{index}">{escape(section.title)}</a></li>' for index, section in enumerate(sections, 1))
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def _section(section: Section, index: int, names: _Names) -> str:
    note = f'<p class="note" role="note">{escape(section.note)}</p>' if section.note else ""
    blocks = "\n".join(_block(block, names, section.title) for block in section.blocks)
    head = f'<h2 id="title-{index}">{escape(section.title)}</h2>{note}'
    return f'<section id="section-{index}" aria-labelledby="title-{index}">{head}\n{blocks}\n</section>'


def _block(block: Block, names: _Names, title: str) -> str:
    if isinstance(block, Text):
        return _paragraphs(block.text)
    if isinstance(block, Answer):
        return f'<div class="answer"><strong>{escape(block.text)}</strong>{_paragraphs(block.reason)}</div>'
    if isinstance(block, Figure):
        return _figure(block, names.next())
    if isinstance(block, Table):
        return _table(block)
    return _player(block, title)


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _figure(block: Figure, name: str) -> str:
    """The place of a figure and its data, compressed where that pays."""
    data = block.figure.to_json(validate=False)
    if len(data) > COMPRESS_ABOVE:
        packed = base64.b64encode(gzip.compress(data.encode(), 9, mtime=0)).decode()
        script = f'<script type="text/plain" id="{name}-data" data-packed="gzip">{packed}</script>'
    else:
        script = f'<script type="application/json" id="{name}-data">{json_in_script(data)}</script>'
    caption = f"<figcaption>{escape(block.caption)}</figcaption>" if block.caption else ""
    height = int(block.figure.layout.height or 400)
    return (
        f'<figure data-figure="{name}"><div class="strip"><div class="plot" id="{name}" role="img" aria-label="{escape(block.label)}" '
        f'style="min-height:{height}px"></div></div>{caption}{script}</figure>'
    )


def _table(block: Table) -> str:
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in block.frame.columns)
    rows = "".join(f"<tr>{''.join(_table_cell(value) for value in row)}</tr>" for row in block.frame.itertuples(index=False, name=None))
    caption = escape(block.caption)
    body = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    table = f'<div class="table" tabindex="0" role="region" aria-label="{caption}">{body}</div>'
    return f"<details><summary>{caption}</summary>{table}</details>" if block.folded else table


def _table_cell(value: Any) -> str:
    if pd.api.types.is_number(value) and not isinstance(value, bool):
        return f'<td class="number">{escape(f"{value:.4g}" if isinstance(value, float) else f"{value:,}")}</td>'
    return f"<td>{escape(str(value))}</td>"


def _player(block: Player, title: str) -> str:
    buttons = "".join(_word_button(word) for word in block.words if word.end_s > word.start_s)
    words = f'<div class="words" role="group" aria-label="Words: press one to hear it">{buttons}</div>' if buttons else ""
    audio = f'<audio controls preload="auto" aria-label="{escape("Sound of " + title)}" src="{block.audio.data_uri()}"></audio>'
    return f'<div class="player">{audio}{words}</div>'


def _word_button(word: Word) -> str:
    seconds = f'data-start="{word.start_s:.4f}" data-end="{word.end_s:.4f}" title="{word.start_s:.2f}–{word.end_s:.2f} s"'
    return f'<button type="button" {seconds}>{escape(word.text)}</button>'


def _provenance(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return ""
    rows = "".join(f"<div><dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd></div>" for key, value in provenance.items())
    return f"<h2>Where the numbers come from</h2><dl>{rows}</dl>"
