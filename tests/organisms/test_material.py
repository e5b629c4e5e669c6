from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from jaxtyping import Int
from torch import Tensor

from slm_interp.organisms.material import Material
from slm_interp.organisms.recipe import Phase

MIXED = Phase(steps=1, rows=3, length=40, mix=(0.0, 1.0, 0.0))
Mix = tuple[float, float, float]


def kinds_of(material: Material, row: Int[Tensor, " pos"]) -> frozenset[str]:
    return frozenset(material.vocabulary.kind_of(identifier) for identifier in row.tolist())


def words_of(material: Material, row: Int[Tensor, " pos"]) -> list[str]:
    """What a row of text says, the last word left out: it may be cut."""
    text = [identifier for identifier in row.tolist() if material.vocabulary.kind_of(identifier) == "text"]
    return material.speller.tokenizer.decode(text).replace(".", " ").split()[:-1]


# -- determined --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["joint_batch", "text_only_batch"])
def test_rows_depend_on_seed_and_step_and_on_nothing_else(material: Material, batch: str) -> None:
    make = getattr(material, batch)
    first = make(MIXED, step=5, seed=(1,))
    np.random.default_rng(0).random(7)
    assert first.shape == (3, 40)
    assert (make(MIXED, 5, (1,)) == first).all()
    assert not (make(MIXED, 6, (1,)) == first).all()
    assert not (make(MIXED, 5, (2,)) == first).all()
    assert not (first[0] == first[1]).all()
    assert (make(replace(MIXED, rows=2), 5, (1,)) == first[:2]).all()


# -- what a row holds --------------------------------------------------------------------------------

TEXT, MIXTURE, SPEECH = frozenset({"text", "marker"}), frozenset({"text", "speech", "marker"}), frozenset({"speech", "marker"})


@pytest.mark.parametrize(("mix", "kinds"), [((1.0, 0.0, 0.0), TEXT), ((0.0, 1.0, 0.0), MIXTURE), ((0.0, 0.0, 1.0), SPEECH)])
def test_a_row_is_of_one_kind_and_opens_with_a_marker(material: Material, mix: Mix, kinds: frozenset[str]) -> None:
    rows = material.joint_batch(Phase(steps=1, rows=6, length=120, mix=mix), 0, (0,))
    markers = {material.vocabulary.marker(spelling) for spelling in ("<speech>", "<text>")}
    for row in rows:
        assert kinds_of(material, row) == kinds
        assert int(row[0]) in markers
        assert not any(one == other for one, other in pairwise(row.tolist()) if one in markers)


def test_kinds_come_in_the_shares_of_the_mix(material: Material) -> None:
    phase = Phase(steps=1, rows=300, length=80, mix=(0.5, 0.2, 0.3))
    counts = Counter(kinds_of(material, row) for row in material.joint_batch(phase, 0, (0,)))
    assert [counts[kinds] / phase.rows for kinds in (TEXT, MIXTURE, SPEECH)] == pytest.approx(phase.mix, abs=0.08)


def test_heard_rows_are_documents_that_were_spoken(material: Material) -> None:
    codes = material.codes
    said = {" ".join(str(codes.first_unit + int(unit)) for one in document for unit in one.units.units) for document in material.documents}
    row = material.joint_batch(replace(MIXED, rows=1, length=60, mix=(0.0, 0.0, 1.0)), 0, (0,))[0]
    units = " ".join(str(identifier) for identifier in row.tolist() if identifier not in codes.markers.values())
    assert any(document.startswith(units[: len(document)]) or units.startswith(document) for document in said)


def test_interleaved_rows_change_modality_after_the_runs_of_the_phase(material: Material) -> None:
    """Runs of one word: no two words are read side by side within a sentence, where only the period and a marker lie between."""
    row = material.joint_batch(replace(MIXED, rows=1, length=200, runs=(1, 1)), 0, (0,))[0].tolist()
    speech, text = (material.codes.markers[modality] for modality in ("speech", "text"))
    whole = set(material.speller.whole.values())
    starts = [place for place, identifier in enumerate(row) if identifier == text]
    for start in starts[:-1]:
        stop = next(place for place in range(start + 1, len(row)) if row[place] in (speech, material.speller.period))
        assert tuple(row[start + 1 : stop]) in whole


def test_what_is_misaligned_unmarked_or_overlapped_differs_from_what_is_not(material: Material) -> None:
    marker = material.codes.markers["speech"]
    exact = material.joint_batch(replace(MIXED, length=300), 0, (0,))
    unmarked = material.joint_batch(replace(MIXED, length=300, unmarked=1.0), 0, (0,))
    misaligned = material.joint_batch(replace(MIXED, length=300, misaligned_s=0.1), 0, (0,))
    assert (unmarked == marker).sum() < (exact == marker).sum() / 2
    assert not (misaligned == exact).all()
    overlapped = material.joint_batch(replace(MIXED, length=300, overlapped=1.0), 0, (0,))
    assert not (overlapped == exact).all()
    assert (material.joint_batch(replace(MIXED, length=300, misaligned_s=0.0, unmarked=0.0), 0, (0,)) == exact).all()


# -- text --------------------------------------------------------------------------------------------


def test_the_text_model_sees_lines_of_text_and_no_marker(material: Material) -> None:
    rows = material.text_only_batch(Phase(steps=1, rows=3, length=120, spelled=0.0), 0, (0,))
    assert {kinds_of(material, row) for row in rows} == {frozenset({"text"})}
    for row in rows:
        text = material.speller.tokenizer.decode(row)
        assert all(line.endswith(".") for line in text.split("\n")[:-1])
        assert set(words_of(material, row)) <= set(material.world.lexicon)


@pytest.mark.parametrize("batch", ["joint_batch", "text_only_batch"])
def test_spelling_changes_the_pieces_and_not_the_words(material: Material, batch: str) -> None:
    make = getattr(material, batch)
    whole, spelled = (make(Phase(steps=1, rows=4, length=200, mix=(1.0, 0.0, 0.0), spelled=chance), 0, (0,)) for chance in (0.0, 1.0))
    pieces = {ids for ids in material.speller.whole.values() if len(ids) == 1}
    ones = {ids[0] for ids in pieces}
    for row, other in zip(whole, spelled, strict=True):
        assert set(words_of(material, row)) | set(words_of(material, other)) <= set(material.world.lexicon)
        assert len(words_of(material, row)) > len(words_of(material, other))
    assert sum(identifier in ones for identifier in whole.flatten().tolist()) > 2 * sum(
        identifier in ones for identifier in spelled.flatten().tolist()
    )
