"""What a reader sees on the page of a causal experiment."""

from __future__ import annotations

import pytest

from slm_interp.report.causal_figures import shown
from slm_interp.report.causal_page import page_of
from slm_interp.report.causal_verdict import judged
from tests.browser.conftest import Visits
from tests.synthetic_causal import effect

LENSES = ("logit", "tuned")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("causal")
    found = effect(bases=LENSES)
    page_of(found, judged(found), shown(found)).write(place / "index.html")
    return place


@pytest.fixture(scope="module")
def visit(browser, folder):
    """One visit, for tests that leave the page as it was; closed, nothing may have been asked of a network or complained about."""
    visits = Visits(browser, folder)
    yield visits("index.html")
    visits.closed()


def test_the_page_opens_offline_without_a_request_or_a_complaint(visit):
    assert visit.page.title() == "Does text drive the speech?"
    assert [url for url in visit.requests if not url.startswith(("data:", "blob:"))] == [visit.page.url]
    assert visit.complaints == []


def test_every_figure_is_drawn_with_its_marks(visit):
    assert visit.page.locator(".plot .main-svg").count() >= 4 * len(LENSES)
    traces = visit.page.evaluate("[...document.querySelectorAll('.plot')].map((one) => one.querySelectorAll('.trace').length)")
    assert len(traces) == 4 * len(LENSES) and min(traces) >= 2


def test_the_verdict_is_the_largest_thing_after_the_title_and_stands_in_the_first_section(visit):
    answer = visit.page.locator("#section-1 .answer strong")
    assert answer.text_content() == "partly" and answer.is_visible()
    size = "(one) => parseFloat(getComputedStyle(one).fontSize)"
    assert answer.evaluate(size) > visit.page.locator("#section-1 .answer p").first.evaluate(size)


def test_a_dot_reads_its_share_and_interval_under_the_pointer(visit):
    page = visit.page
    box = page.locator("#section-2 .plot").nth(1)
    box.scroll_into_view_if_needed()
    x, y = box.evaluate(
        """(box) => { const { xaxis, yaxis } = box._fullLayout, frame = box.getBoundingClientRect(), dot = box.data.find((one) => one.name === 'text');
          return [frame.left + xaxis._offset + xaxis.l2p(dot.x[0]), frame.top + yaxis._offset + yaxis.l2p(dot.y[0])]; }"""
    )
    page.mouse.move(x - 3, y - 3)
    page.mouse.move(x, y)
    page.wait_for_selector("#section-2 .hoverlayer .hovertext")
    assert "text swap: 0." in box.locator(".hoverlayer").first.text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_holds_on_a_narrow_screen_light_and_dark(browser, folder, scheme):
    visits = Visits(browser, folder)
    page = visits("index.html", width=420, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    ink, paper = page.evaluate(
        "[getComputedStyle(document.querySelector('.answer strong')).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert ink != paper
    visits.closed()
