"""Rows for a lens: of every modality, readable by the model, and without the sentences that are held out."""

from __future__ import annotations

import torch

import slm_interp as si
from slm_interp.organisms import RECIPES
from slm_interp.organisms.rows import rows


def test_rows_have_the_length_asked_for_and_both_modalities_in_about_equal_parts() -> None:
    slm = si.load("tiny")
    found = rows(slm, RECIPES["tiny"], count=30, documents=12, length=100)
    assert [len(row) for row in found] == [100] * 30
    slm.vocabulary.check_ids(torch.cat(found))
    speech, text = (float(slm.vocabulary.mask(kind)[torch.stack(found)].float().mean()) for kind in ("speech", "text"))
    assert 0.3 < speech < 0.75 and 0.2 < text < 0.6


def test_the_same_rows_come_again_and_their_texts_are_not_held_out() -> None:
    slm, recipe = si.load("tiny"), RECIPES["tiny"]
    once, again = (rows(slm, recipe, count=12, documents=6, length=80) for _ in range(2))
    assert all(one.equal(other) for one, other in zip(once, again, strict=True))
    said = [sentence.text for document in recipe.world.documents(6, recipe.world.seed) for sentence in document]
    assert said and not any(recipe.world.is_held_out(text) for text in said)
