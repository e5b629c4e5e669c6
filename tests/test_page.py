"""A page is one file that needs no network and obeys no text."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from slm_interp.audio import Audio
from slm_interp.page import Figure, Page, Player, Section, Table, Text, json_in_script
from slm_interp.utterance import Span, Word

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&amp;<!--"


class Elements(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        (self.scripts if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script" else self.words).append(data)


def hostile_page() -> Page:
    figure = go.Figure(go.Heatmap(z=[[1.0]], text=[[HOSTILE]], customdata=[[[HOSTILE]]]), layout={"title": {"text": HOSTILE}})
    audio = Audio(np.zeros(800, dtype=np.float32), 8000)
    table = Table(pd.DataFrame({HOSTILE: [HOSTILE], "n": [1.5]}), HOSTILE)
    blocks = [Text(HOSTILE), Figure(figure, HOSTILE, HOSTILE), table, Player(audio, (Word(HOSTILE, Span(0, 1), 0.0, 0.05),))]
    return Page(HOSTILE, [Section(HOSTILE, blocks, HOSTILE), Section("second", [])], HOSTILE, {HOSTILE: HOSTILE})


HOSTILE_HTML = hostile_page().html()


def scripts_that_run(html: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)


def test_hostile_text_makes_no_element_and_no_handler():
    elements = Elements(HOSTILE_HTML)
    assert not [tag for tag, _ in elements.tags if tag == "img"]
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert sum(tag == "script" for tag, _ in elements.tags) == 3


def test_hostile_text_is_still_there_to_be_read():
    page = Elements(HOSTILE_HTML)
    assert "".join(page.words).count(HOSTILE) >= 8
    data = re.search(r'<script type="application/json" id="figure-1-data">(.*?)</script>', HOSTILE_HTML, flags=re.DOTALL)
    assert json.loads(data.group(1))["data"][0]["text"] == [[HOSTILE]]


def test_json_in_a_script_has_no_character_that_html_reads():
    text = json_in_script(json.dumps(HOSTILE + "\u2028", ensure_ascii=False))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == HOSTILE + "\u2028"


def test_the_policy_forbids_connections_and_names_exactly_the_scripts_of_the_page():
    tags = [attributes for tag, attributes in Elements(HOSTILE_HTML).tags if tag == "meta"]
    policy = next(attributes["content"] for attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'none'"
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts_that_run(HOSTILE_HTML)
    }
    assert set(rules["script-src"].split()) == hashes
    assert len(hashes) == 2


def test_nothing_in_the_page_is_fetched_from_elsewhere():
    for tag, attributes in Elements(HOSTILE_HTML).tags:
        for name in ("src", "href", "srcset", "action", "poster"):
            address = attributes.get(name, "#")
            assert address.startswith(("#", "data:")), (tag, address)


def test_plotly_is_written_into_the_page_once_however_many_figures_there_are():
    figures = [Figure(go.Figure(go.Scatter(y=[index])), "a line") for index in range(5)]
    html = Page("five", [Section("all", figures)]).html()
    assert html.count("* plotly.js v") == 1
    assert html.count('class="plot"') == 5
    assert len(html) < 5_500_000


def test_a_large_figure_is_compressed_and_comes_back_whole():
    figure = go.Figure(go.Scatter(y=list(range(20_000))))
    html = Page("large", [Section("one", [Figure(figure, "a line")])]).html()
    packed = re.search(r'data-packed="gzip">(.*?)</script>', html).group(1)
    assert json.loads(gzip.decompress(base64.b64decode(packed)))["data"][0]["y"] == list(range(20_000))


def test_the_same_page_is_the_same_bytes():
    assert hostile_page().html() == HOSTILE_HTML


def test_figures_sounds_and_words_can_be_named_without_being_seen():
    tags = Elements(HOSTILE_HTML).tags
    plot = next(attributes for tag, attributes in tags if attributes.get("class") == "plot")
    assert plot["role"] == "img"
    assert plot["aria-label"] == HOSTILE
    assert next(attributes for tag, attributes in tags if tag == "audio")["aria-label"]
    assert ("html", {"lang": "en"}) in tags
    assert [attributes["scope"] for tag, attributes in tags if tag == "th"] == ["col", "col"]


def test_word_buttons_carry_their_seconds():
    button = next(attributes for tag, attributes in Elements(HOSTILE_HTML).tags if tag == "button")
    assert (button["data-start"], button["data-end"]) == ("0.0000", "0.0500")


def test_provenance_stands_at_the_foot():
    html = Page("p", [], provenance={"checkpoint": "folder", "revision": "abc"}).html()
    foot = html[html.index("<footer>") : html.index("</footer>")]
    assert "checkpoint" in foot
    assert "abc" in foot


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    Page("old", []).write(path)
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        Page("new", []).write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
