"""What a reader sees and does on the page of a circuit, and on a page with heat maps of a sweep."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slm_interp.page import Figure, Page, Section
from slm_interp.plots import heat_map
from slm_interp.plots.circuit import circuit
from tests.browser.conftest import Visits
from tests.synthetic_pictures import SPANS, circuit_tables, sweep

NODES, EDGES = circuit_tables(kept=0.8)
LARGE = circuit_tables(layers=12, heads=8, spans=SPANS, nodes=300, edges=2000, kept=0.9)
SWEEP = sweep()
SHOWN = "[...document.querySelectorAll('.edge')].filter((one) => one.style.display !== 'none').map((one) => +one.dataset.edge).sort((a, b) => a - b)"
SLIDE = "(count) => { const one = document.querySelector('#strength'); one.value = count; one.dispatchEvent(new Event('input')); }"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("circuit")
    circuit(NODES, EDGES, "Small").page(place / "small.html")
    circuit(*LARGE, "Large").page(place / "large.html")
    frame = circuit(NODES, EDGES)._repr_html_()
    (place / "notebook.html").write_text(f"<!doctype html><html data-ready='yes'><body>{frame}</body></html>", encoding="utf-8")
    figures = [Figure(heat_map(SWEEP), "a"), Figure(heat_map(sweep(heads=4)), "b"), Figure(heat_map(sweep(sites=("q", "k"))), "c")]
    Page("Sweeps", [Section("Sweeps", figures)]).write(place / "sweep.html")
    return place


@pytest.fixture
def visit(browser, folder):
    visits = Visits(browser, folder)
    yield visits
    visits.closed()


def strongest(edges, count):
    kept = edges[edges.kept]
    return sorted(kept.score.abs().sort_values(ascending=False, kind="stable").index[:count].tolist())


def test_the_numbers_read_back_from_the_page_are_those_put_in(visit):
    page = visit("large.html").page
    data = json.loads(page.locator("#data").text_content())
    nodes, edges = LARGE
    assert [edge["score"] for edge in data["edges"]] == edges.score.tolist()
    assert [edge["kept"] for edge in data["edges"]] == edges.kept.tolist()
    for side in ("source", "target"):
        assert [data["nodes"][edge[side]]["name"] for edge in data["edges"]] == edges[side].tolist()
        assert [data["nodes"][edge[side]]["span"] for edge in data["edges"]] == edges[f"{side}_span"].tolist()
    assert [node["score"] for node in data["nodes"]] == [None if np.isnan(score) else score for score in nodes.score]


def test_the_page_opens_with_every_kept_edge_or_the_200_strongest(visit):
    assert visit("small.html").page.evaluate(SHOWN) == strongest(EDGES, len(EDGES))
    assert visit("large.html").page.evaluate(SHOWN) == strongest(LARGE[1], 200)


@pytest.mark.parametrize("count", [0, 1, 37, 1000])
def test_the_slider_leaves_the_strongest_edges_and_says_the_threshold(visit, count):
    page = visit("large.html").page
    page.evaluate(SLIDE, count)
    assert page.evaluate(SHOWN) == strongest(LARGE[1], count)
    said = page.locator("#strength-said").text_content()
    kept = int(LARGE[1].kept.sum())
    if count:
        least = LARGE[1].score[strongest(LARGE[1], count)].abs().min()
        assert said == f"|effect| ≥ {float(f'{least:.4g}')} · {count} of {kept} edges"
    else:
        assert said == f"none of {kept} edges"


def test_edges_that_were_not_kept_are_shown_only_when_asked_for(visit):
    page = visit("small.html").page
    page.locator("#rest").check()
    page.evaluate(SLIDE, len(EDGES))
    assert page.evaluate(SHOWN) == list(range(len(EDGES)))
    page.locator("#rest").uncheck()
    assert page.evaluate(SHOWN) == strongest(EDGES, len(EDGES))


def test_pointing_at_an_edge_reads_its_ends_its_slot_and_its_effect(visit):
    page = visit("small.html").page
    number = next(index for index, row in EDGES.iterrows() if row.kept and row.slot == "v")
    page.evaluate(SLIDE, len(EDGES))
    x, y = page.evaluate(
        """(number) => { const path = document.querySelector(`[data-edge="${number}"]`), frame = path.ownerSVGElement.getScreenCTM();
          for (let share = 0.05; share < 1; share += 0.05) {
            const { x, y } = path.getPointAtLength(share * path.getTotalLength()).matrixTransform(frame);
            if (document.elementFromPoint(x, y) === path) return [x, y];
          }
        }""",
        number,
    )
    page.mouse.move(x, y)
    row = EDGES.loc[number]
    head, effect = page.locator(".tip").text_content().splitlines()
    assert head == f"{row.source} at “{row.source_span}” → {row.target} at “{row.target_span}” (v)"
    assert float(effect.removeprefix("effect ").replace("−", "-")) == pytest.approx(row.score, rel=1e-3)
    assert page.locator(".tip").is_visible()


def test_pointing_at_a_node_reads_its_score(visit):
    page = visit("small.html").page
    index = int(NODES.index[NODES.kind == "head"][0])
    page.locator(f'[data-node="{index}"]').hover()
    name, score = page.locator(".tip").text_content().splitlines()
    assert name == f"{NODES['name'][index]} at “{NODES.span[index]}”"
    assert float(score.removeprefix("score ").replace("−", "-")) == pytest.approx(NODES.score[index], rel=1e-3)


def test_a_click_on_a_node_shows_all_of_its_kept_edges_and_another_lets_it_go(visit):
    page = visit("large.html").page
    nodes, edges = LARGE
    index = int(nodes.index[nodes.kind == "head"][40])
    own = edges[
        edges.kept
        & (
            ((edges.source == nodes["name"][index]) & (edges.source_span == nodes.span[index]))
            | ((edges.target == nodes["name"][index]) & (edges.target_span == nodes.span[index]))
        )
    ]
    assert len(own) > 3
    page.locator(f'[data-node="{index}"]').click()
    assert page.evaluate(SHOWN) == own.index.tolist()
    lines = page.locator(".readout").text_content().splitlines()
    assert f"{len(own)} edges" in lines[0] and len(lines) == 1 + len(own)
    shown = [float(line.rsplit("effect ", 1)[1].replace("−", "-")) for line in lines[1:]]
    np.testing.assert_allclose(shown, own.score[own.score.abs().sort_values(ascending=False).index], rtol=1e-3)
    page.locator(f'[data-node="{index}"]').click()
    assert page.evaluate(SHOWN) == strongest(edges, 200)


def test_a_node_can_be_chosen_from_the_keyboard(visit):
    page = visit("small.html").page
    page.locator("[data-node='0']").focus()
    page.keyboard.press("Enter")
    assert "strongest first" in page.locator(".readout").text_content()
    page.keyboard.press("Escape")
    assert "Point at an edge" in page.locator(".readout").text_content()


def test_every_label_fits_its_box(visit):
    page = visit("large.html").page
    over = page.evaluate(
        """[...document.querySelectorAll('.node')].filter((node) => node.querySelector('text').getBBox().width > node.querySelector('rect').getBBox().width - 2)
          .map((node) => node.textContent)"""
    )
    assert over == []


def test_wide_edges_are_strong_ones(visit):
    page = visit("large.html").page
    widths = dict(
        page.evaluate(
            "[...document.querySelectorAll('.edge')].map((one) => [one.dataset.edge, parseFloat(getComputedStyle(one).strokeWidth)])"
        )
    )
    order = LARGE[1].score.abs().sort_values().index
    assert (np.diff([widths[str(index)] for index in order]) >= -0.011).all()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_signs_have_the_colours_of_the_legend_and_the_page_holds_in_the_dark(visit, scheme):
    page = visit("small.html", width=420, color_scheme=scheme).page
    colour = "(name) => getComputedStyle(document.querySelector(`.edge.${name}`)).stroke"
    red, blue = ([int(part) for part in page.evaluate(colour, name)[4:-1].split(",")] for name in ("below", "above"))
    assert red[0] > red[2] and blue[2] > blue[0]
    ink, paper = page.evaluate(
        "[getComputedStyle(document.querySelector('.node text')).fill, getComputedStyle(document.body).backgroundColor]"
    )
    assert ink != paper
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_the_page_works_inside_a_notebook(visit):
    frame = visit("notebook.html").page.frame_locator("iframe")
    frame.locator("html[data-ready=yes]").wait_for()
    assert frame.locator(".node").count() == len(NODES)


def test_heat_maps_stand_on_a_page_and_read_their_numbers_under_the_pointer(visit):
    page = visit("sweep.html").page
    assert page.locator(".plot.heat").count() == 3
    box = page.locator(".plot.heat").first
    box.scroll_into_view_if_needed()
    x, y = page.evaluate(
        """() => { const box = document.querySelector('.plot.heat'), { xaxis, yaxis } = box._fullLayout, frame = box.getBoundingClientRect();
          return [frame.left + xaxis._offset + xaxis.l2p(2), frame.top + yaxis._offset + yaxis.l2p(1)]; }"""
    )
    page.mouse.move(x - 3, y - 3)
    page.mouse.move(x, y)
    page.wait_for_selector(".hoverlayer .hovertext")
    said = page.locator(".plot.heat .hoverlayer").first.text_content()
    apart = ((SWEEP.outcome - SWEEP.corrupted) / (SWEEP.clean - SWEEP.corrupted)).isel(contrast=[0, 2, 3, 4]).mean("contrast")
    assert "word 2: of" in said and "layer 1_post" in said and f"{float(apart[1, 2]):.4g}" in said and "mean of 4 contrasts" in said
