from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slm_interp.organisms.material import Material
from slm_interp.organisms.measure import lens_logits
from slm_interp.organisms.network import new_model
from slm_interp.organisms.recipe import Phase, Recipe
from slm_interp.organisms.supervised import IGNORED, ROWS, heard_batch, lens_loss
from slm_interp.organisms.training import fit
from tests.organisms.toy import CPU, TOY

PHASE = Phase(steps=1, rows=2, length=90)


def test_labels_are_first_pieces_of_heard_words_and_lie_on_units(material: Material) -> None:
    ids, labels = heard_batch(material, PHASE, step=0, seed=(0,))
    first = {ids[0] for ids in material.speller.whole.values()}
    speech = material.vocabulary.mask("speech")
    assert ids.shape == labels.shape == (ROWS, PHASE.length)
    assert int((ids == material.codes.markers["speech"]).sum()) == ROWS
    assert not (ids == material.codes.markers["text"]).any()
    for row, labelled in zip(ids, labels, strict=True):
        at = (labelled != IGNORED).nonzero().flatten()
        assert len(at) > 3
        assert speech[row[at]].all()
        assert set(labelled[at].tolist()) <= first


def test_labels_stand_at_the_last_unit_of_each_word_in_order(material: Material) -> None:
    """One document alone, from its first unit on: word for word, where slamkit's rule ends them."""
    from slm_interp.speech.spans import heard_words, words_to_spans

    document = material.documents[0]
    alone = replace(material, documents=[document])
    ids, labels = heard_batch(alone, replace(PHASE, length=1 + len(document[0].units)), step=0, seed=(0,))
    words = words_to_spans(heard_words(document[0].words, document[0].units).words, document[0].units, offset=1)
    expected = {word.span.stop - 1: material.speller.whole[word.text][0] for word in words}
    assert {pos: label for pos, label in enumerate(labels[0].tolist()) if label != IGNORED} == expected
    assert ids[0, 1:].tolist() == [material.codes.first_unit + int(unit) for unit in document[0].units.units]


def test_rows_depend_on_seed_and_step_alone(material: Material) -> None:
    ids, labels = heard_batch(material, PHASE, 3, (1,))
    again, same = heard_batch(material, PHASE, 3, (1,))
    assert torch.equal(ids, again) and torch.equal(labels, same)
    assert not torch.equal(ids, heard_batch(material, PHASE, 4, (1,))[0])
    assert not torch.equal(ids, heard_batch(material, PHASE, 3, (2,))[0])


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_the_second_loss_is_that_of_the_logit_lens_at_its_layer(material: Material, layer: int) -> None:
    model = new_model(TOY.shape, material.vocabulary.size, seed=0)
    ids, labels = heard_batch(material, PHASE, 0, (0,))
    with torch.no_grad():
        lens = torch.stack([lens_logits(model, row)[layer] for row in ids])
        expected = torch.nn.functional.cross_entropy(lens[labels != IGNORED], labels[labels != IGNORED])
        torch.testing.assert_close(lens_loss(model, ids, labels, layer), expected)


def test_a_phase_with_the_second_loss_teaches_the_lens_its_words(recipe: Recipe, material: Material, tmp_path: Path) -> None:
    phase = Phase(steps=25, rows=2, length=48, warm_up=3, learning_rate=1e-2, mix=(0.2, 0.5, 0.3), supervised_layer=2)
    losses = []
    ids, labels = heard_batch(material, PHASE, 99, (5,))
    for weight in (0.0, 1.0):
        model, _ = fit(material, replace(recipe, text_phase=None, joint_phases=(replace(phase, heard_words=weight),)), tmp_path, CPU)
        with torch.no_grad():
            losses.append(float(lens_loss(model, ids, labels, 2)))
    assert losses[1] < losses[0] - 0.5
