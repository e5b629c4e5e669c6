"""What a reader sees and reads on the pages of attention: our own view, and CircuitsVis without its network."""

from __future__ import annotations

import numpy as np
import pytest

from slm_interp.plots import attention_by_word, attention_heads, attention_view
from slm_interp.plots.attention_data import attention_of, by_word, pack, unpack
from tests.browser.conftest import Visits
from tests.synthetic_pictures import incompressible, peaked, spoken

HEADS = [f"{layer}.{head}" for layer in range(7) for head in range(4)]
LABELS, WORDS = spoken(96)
PATTERN = peaked(28, 96)
LONG = peaked(28, 512)
READ = "document.querySelector('#attention').read"
ALL = """(count) => { const { at } = document.querySelector('#attention').read, found = [];
  for (let dest = 0; dest < count; dest += 1) for (let src = 0; src < count; src += 1) found.push(at(%d, dest, src));
  return found; }"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("attention")
    labels, words = spoken(512)
    attention_view(PATTERN, LABELS, WORDS, HEADS, "Short").page(place / "short.html")
    attention_view(LONG, labels, words, HEADS, "Long").page(place / "long.html")
    attention_view(incompressible(28, 512), labels, words, HEADS).page(place / "worst.html")
    both = (PATTERN[:2] + PATTERN[:2].transpose(0, 2, 1)) / 2
    attention_view(both / both.sum(-1, keepdims=True), LABELS, WORDS, ["<b>1", "2"], "</script><b>Both ways").page(place / "both.html")
    attention_heads(PATTERN[:4], LABELS, WORDS, HEADS[:4], [word.span for word in WORDS[2:5]]).page(place / "circuitsvis.html")
    attention_by_word(PATTERN[:4], LABELS, WORDS, HEADS[:4]).page(place / "words.html")
    frame = attention_view(PATTERN[:2], LABELS, WORDS)._repr_html_()
    (place / "notebook.html").write_text(f"<!doctype html><html data-ready='yes'><body>{frame}</body></html>", encoding="utf-8")
    return place


@pytest.fixture
def visit(browser, folder):
    visits = Visits(browser, folder)
    yield visits
    visits.closed()


def point_at(page, row, column):
    x, y = page.evaluate(f"([row, column]) => {READ}.place(row, column)", [row, column])
    page.mouse.move(x - 1, y - 1)
    page.mouse.move(x, y)
    return x, y


def decoded(page, head, count):
    return np.array(page.evaluate(ALL % head, count)).reshape(count, count)


def test_the_numbers_that_the_page_decodes_are_those_put_in_within_half_a_step(visit):
    page = visit("short.html").page
    same = unpack(pack(PATTERN), 28, 96, True)
    for head in (0, 2, 27):
        np.testing.assert_allclose(decoded(page, head, 96), same[head], rtol=1e-6, atol=1e-9)
        assert (np.abs(decoded(page, head, 96) - PATTERN[head]) <= PATTERN[head].max(-1, keepdims=True) / 510 + 1e-7).all()


def test_attention_that_looks_both_ways_is_decoded_too(visit):
    page = visit("both.html").page
    both = (PATTERN[1] + PATTERN[1].T) / 2
    np.testing.assert_allclose(decoded(page, 1, 96), both / both.sum(-1, keepdims=True), atol=1 / 510)
    assert page.locator("h1").text_content() == "</script><b>Both ways"
    assert page.locator("main b").count() == 0


@pytest.mark.parametrize("name", ["long.html", "worst.html"])
def test_28_heads_by_512_positions_open_and_are_five_megabytes_at_most(visit, folder, name):
    opened = visit(name)
    data = opened.page.evaluate("new TextEncoder().encode(document.getElementById('data').textContent).length")
    assert data <= 5_000_000
    assert opened.page.locator(".thumbs canvas").count() == 28
    if name == "long.html":
        np.testing.assert_allclose(decoded(opened.page, 27, 512), LONG[27], atol=1 / 510 + 1e-7)


def test_rows_are_destinations_under_the_pointer_with_words_and_units(visit):
    page = visit("short.html").page
    page.select_option("#head", label="0.1")
    dest, src = WORDS[6].span.start + 1, 0
    point_at(page, dest, src)
    said = page.locator(".tip").text_content()
    assert said.splitlines() == [
        f"from {LABELS[dest].strip('<>')} · position {dest} · “{WORDS[6].text}”",
        "to <speech> · position 0",
        f"attention {PATTERN[1, dest, src]:.3f}",
    ]
    assert PATTERN[1, dest, src] > 0.5
    point_at(page, 0, dest)
    assert "not seen: it comes later" in page.locator(".tip").text_content()


def test_a_bright_cell_is_drawn_where_its_row_and_column_are(visit):
    page = visit("short.html").page
    page.select_option("#head", label="0.1")
    seen = page.evaluate(
        """(cells) => { const canvas = document.querySelector('#attention'), frame = canvas.getBoundingClientRect(), scale = devicePixelRatio;
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          return cells.map(([row, column]) => {
            const [x, y] = canvas.read.place(row, column).map((one, axis) => Math.floor((one - [frame.left, frame.top][axis]) * scale));
            return [...data.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3)];
          }); }""",
        [[60, 0], [60, 30], [0, 60]],
    )
    assert sum(seen[0]) < 300 < 700 < sum(seen[1])
    assert seen[2] == [245, 247, 249]


def test_by_word_a_cell_is_summed_over_sources_and_averaged_over_destinations(visit):
    page = visit("short.html").page
    page.select_option("#head", label="0.2")
    page.select_option("#by", "word")
    expected = by_word(attention_of(PATTERN, LABELS, WORDS))
    size = len(expected.labels)
    shown = [[page.evaluate(f"{READ}.shown({row}, {column})") for column in (1, 4)] for row in (5, size - 1)]
    np.testing.assert_allclose(shown, expected.pattern[2][np.ix_((5, size - 1), (1, 4))], atol=6 / 510)
    point_at(page, 5, 4)
    assert page.locator(".tip").text_content().startswith(f"from {expected.labels[5]} (positions ")


def test_clicking_a_cell_lists_what_its_destination_looks_at(visit):
    page = visit("short.html").page
    page.mouse.click(*point_at(page, 50, 20))
    lines = page.locator(".readout").text_content().splitlines()
    assert lines[0].startswith(f"Head 0.0: {LABELS[50].strip('<>')} · position 50")
    best = int(PATTERN[0, 50].argmax())
    assert lines[1].startswith(f"{PATTERN[0, 50, best]:.3f}") and f"position {best}" in lines[1]
    page.locator("#attention").press("ArrowDown")
    assert "position 51" in page.locator(".readout").text_content().splitlines()[0]


def test_dragging_looks_closer_and_the_button_goes_back(visit):
    page = visit("long.html").page
    page.mouse.move(*page.evaluate(f"{READ}.place(200, 190)"))
    page.mouse.down()
    page.mouse.move(*page.evaluate(f"{READ}.place(219, 209)"), steps=4)
    page.mouse.up()
    corner, next_ = page.evaluate(f"[{READ}.place(200, 190), {READ}.place(201, 191)]")
    assert next_[0] - corner[0] > 20 and next_[1] - corner[1] > 20
    point_at(page, 210, 205)
    assert "position 210" in page.locator(".tip").text_content()
    page.locator("#whole").click()
    corner, next_ = page.evaluate(f"[{READ}.place(200, 190), {READ}.place(201, 191)]")
    assert next_[0] - corner[0] < 3


def test_a_picture_of_a_head_chooses_it(visit):
    page = visit("short.html").page
    page.locator(".thumbs button").nth(6).click()
    assert page.locator("#head").input_value() == "6"
    assert page.evaluate(f"{READ}.shown(40, 40)") == pytest.approx(float(PATTERN[6, 40, 40]), abs=1 / 510)


def test_the_view_works_inside_a_notebook(visit):
    page = visit("notebook.html").page
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready=yes]").wait_for()
    assert frame.locator(".thumbs canvas").count() == 2


@pytest.mark.parametrize(("width", "scheme"), [(420, "light"), (1300, "dark")])
def test_it_holds_on_a_phone_and_in_the_dark(visit, width, scheme):
    page = visit("short.html", width=width, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    corner = page.evaluate("[...document.querySelector('#attention').getContext('2d').getImageData(155, 60, 1, 1).data].slice(0, 3)")
    assert (sum(corner) > 384) == (scheme == "light")


@pytest.mark.parametrize("name", ["circuitsvis.html", "words.html"])
def test_circuitsvis_draws_without_a_request_and_under_our_policy(browser, folder, name):
    visits = Visits(browser, folder)
    visits.ready = "[id^=circuits-vis] canvas"
    page = visits(name).page
    page.wait_for_timeout(500)
    assert "Head Selector" in page.locator("main").text_content()
    assert page.locator("main canvas").count() >= 4
    visits.closed()
