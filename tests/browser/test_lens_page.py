"""What a reader sees, hears and can do on the page of a lens."""

from __future__ import annotations

import numpy as np
import pytest

from tests.synthetic_reading import clip, dataset

GRID = "#section-1 .plot.grid"
SHORT = dataset(clip(60, "short clip"), 11)
CELL = """([selector, row, column]) => {
  const box = document.querySelector(selector), { xaxis, yaxis } = box._fullLayout, frame = box.getBoundingClientRect();
  return [frame.left + xaxis._offset + xaxis.l2p(column), frame.top + yaxis._offset + yaxis.l2p(row)];
}"""


def point_at(page, row, column, selector=GRID):
    """Put the pointer on a cell and return where that is."""
    page.locator(selector).scroll_into_view_if_needed()
    x, y = page.evaluate(CELL, [selector, row, column])
    page.mouse.move(x - 3, y - 3)
    page.mouse.move(x, y)
    return x, y


def until(page, expression, tries=400):
    """Wait until an expression holds. Playwright's own wait evaluates strings in the page, which the page's policy refuses."""
    for _ in range(tries):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"This never came true: {expression}")


def played(page):
    """Wait until a stretch was played and has stopped."""
    audio = "document.querySelector('#section-1 audio')"
    until(page, f"{audio}.currentTime > 0")
    until(page, f"{audio}.paused")


def seconds(page):
    return page.evaluate("document.querySelector('#section-1 audio').currentTime")


def test_the_page_opens_offline_without_a_request_or_a_complaint(shared):
    assert shared.page.title() == "Two clips"
    assert [url for url in shared.requests if not url.startswith(("data:", "blob:"))] == [shared.page.url]
    assert shared.complaints == []


def test_the_grid_has_a_cell_for_every_layer_and_position_with_its_token(page):
    assert page.evaluate(f"document.querySelector('{GRID}').calcdata[0][0].z.map(row => row.length)") == [60] * 11
    assert page.locator(f"{GRID} .heatmap-label").count() == 11 * 60
    assert page.locator(f"{GRID} .xtick").count() == 60


def test_words_stand_above_the_grid_and_can_be_read(page):
    words = [word.text for word in clip(60).words]
    assert page.locator(f"{GRID} .annotation-text").all_text_contents()[: len(words)] == words
    assert page.locator(f"{GRID} .annotation-text").first.is_visible()
    assert page.locator("#section-1 .words button").all_text_contents() == words


def test_hovering_lists_the_best_tokens_of_each_modality_with_their_probabilities(page):
    point_at(page, 5, 6)
    page.wait_for_selector(f"{GRID} .hoverlayer .hovertext")
    said = page.locator(f"{GRID} .hoverlayer").text_content()
    text = np.exp(float(SHORT.modality_log_mass.sel(modality="text")[5, 6]))
    assert f"text {text:.1%}: " in said
    assert "layer 4_post" in said
    assert "position 6" in said
    assert said.count("Un") >= 5
    assert "marker 1.0%" in said
    assert "heard word" in said


def test_clicking_a_cell_plays_its_stretch_and_moves_the_playheads(page):
    x, y = point_at(page, 5, 12)
    page.wait_for_selector(f"{GRID} .hoverlayer .hovertext")
    page.mouse.click(x, y)
    played(page)
    start, end = float(SHORT.start_s[12]), float(SHORT.end_s[12])
    assert start - 0.1 <= seconds(page) <= end + 0.3
    assert page.locator(f"{GRID} .playhead").bounding_box()["x"] > x - 25
    assert page.locator("#section-1 .plot.waveform .playhead").is_visible()
    assert "position 12" in page.locator("#section-1 .readout").text_content()


def test_a_word_button_plays_that_word_and_stops_at_its_end(page):
    word = clip(60).words[4]
    page.locator("#section-1 .words button").nth(4).click()
    played(page)
    assert word.start_s < seconds(page) < word.end_s + 0.3


def test_clicking_the_waveform_plays_the_word_under_the_pointer(page):
    word = clip(60).words[5]
    page.locator("#section-1 .plot.waveform").scroll_into_view_if_needed()
    x, y = page.evaluate(CELL, ["#section-1 .plot.waveform", 0, (word.start_s + word.end_s) / 2])
    page.mouse.click(x, y)
    played(page)
    assert word.start_s < seconds(page) < word.end_s + 0.3


def test_the_playhead_of_the_grid_stands_on_the_position_that_sounds(page):
    second = float(SHORT.start_s[20] + SHORT.end_s[20]) / 2
    page.evaluate(f"document.querySelector('#section-1 audio').currentTime = {second}")
    until(page, f"Math.abs(document.querySelector('#section-1 audio').currentTime - {second}) < 0.01")
    page.wait_for_timeout(200)
    x, _ = page.evaluate(CELL, [GRID, 0, 20])
    assert page.locator(f"{GRID} .playhead").bounding_box()["x"] == pytest.approx(x, abs=4)


def test_the_grid_can_be_read_and_played_from_the_keyboard(page):
    page.locator(GRID).focus()
    for key in ("Home", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    said = page.locator("#section-1 .readout").text_content()
    assert "position 2 " in said
    assert "layer 8_post" in said
    assert "<img" not in page.locator("#section-1 .readout").inner_html()
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#section-1 audio').currentTime > 0.02")


def test_the_menus_change_colour_and_tokens(visit):
    page = visit("short.html").page
    colours, cells = page.locator("#section-1 .bar select").all()
    colours.select_option(label="entropy (nats)")
    cells.select_option(label="best text token")
    until(page, f"document.querySelector('{GRID}')._fullData[0].zmax > 6")
    labels = page.locator(f"{GRID} .heatmap-label").all_text_contents()
    assert len(labels) == 660
    assert not any(label.startswith("Un") for label in labels)


def test_hostile_names_are_text_and_run_nothing(page):
    assert page.locator("h2").nth(1).text_content() == "</script><b>Hostile"
    assert page.locator("main img, main b, main i").count() == 0


def test_the_policy_stops_connections_and_scripts_that_are_not_the_page_s_own(visit):
    opened = visit("short.html")
    refused = opened.page.evaluate(
        """async () => {
          const script = document.createElement('script');
          script.textContent = 'window.intruder = 1';
          document.body.append(script);
          let fetched = 'no';
          try { await fetch('https://example.org/'); fetched = 'yes'; } catch (error) { /* refused */ }
          return [fetched, window.intruder === undefined];
        }"""
    )
    assert refused == ["no", True]
    assert any("Content Security Policy" in line for line in opened.complaints)
    opened.complaints.clear()
    opened.requests[:] = [url for url in opened.requests if url != "https://example.org/"]


def test_a_reading_of_29_layers_and_512_positions_fits_its_budget_and_shows_tokens_once_zoomed(visit, pages):
    from plotly.offline import get_plotlyjs

    data = (pages / "long.html").stat().st_size - len(get_plotlyjs().encode())
    assert data <= 5_000_000
    page = visit("long.html").page
    assert page.locator(f"{GRID} .heatmap-label").count() == 0
    page.evaluate(f"Plotly.relayout(document.querySelector('{GRID}'), {{ 'xaxis.range': [99.5, 119.5] }})")
    page.wait_for_selector(f"{GRID} .heatmap-label")
    assert 20 * 29 <= page.locator(f"{GRID} .heatmap-label").count() <= 22 * 29


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1300, "dark")])
def test_the_page_holds_on_a_phone_and_in_the_dark(visit, width, scheme):
    page = visit("short.html", width=width, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    drawn = page.evaluate(f"getComputedStyle(document.querySelector('{GRID} .annotation-text')).fill")
    assert ink != paper
    assert drawn == ink


def test_layer_names_stay_in_sight_when_a_wide_grid_scrolls(page):
    page.evaluate("document.querySelector('#section-1 .rail').parentElement.scrollLeft = 900")
    rail, strip = page.locator("#section-1 .rail").bounding_box(), page.locator("#section-1 .strip:has(.rail)").bounding_box()
    assert rail["x"] == pytest.approx(strip["x"], abs=1)
    names = page.locator("#section-1 .rail span").all_text_contents()
    assert names[:2] == ["0_pre", "0_post"]
    assert names[10] == "9_post = output"
