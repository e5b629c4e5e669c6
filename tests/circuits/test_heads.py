"""Head types on planted attention and planted writing, and the numbers of TransformerLens's own detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.circuits import heads
from slm_interp.errors import PatchingError
from slm_interp.lenses.attribution import by_head
from tests.circuits.conftest import PROMPTS, model_of
from tests.patching.conftest import prompt_of


@pytest.fixture(scope="module")
def slm():
    return model_of("llama", 1.0)


@pytest.fixture(scope="module")
def prompts(slm):
    return [prompt_of(slm, words, name) for name, words in PROMPTS.items()]


def planted(monkeypatch, pattern):
    """Every model attends so: a function of the number of positions to `[layer, head, dest, source]`."""
    monkeypatch.setattr(heads, "_patterns", lambda slm, tokens: pattern(tokens))


def even(tokens):
    n = len(tokens)
    return np.broadcast_to(np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None], (2, 3, n, n)).copy()


def test_even_attention_is_the_null(monkeypatch, slm, prompts):
    planted(monkeypatch, even)
    for found in (heads.previous_unit(slm, prompts), heads.induction(slm, 10)):
        assert found["over"].values == pytest.approx(np.zeros((2, 3)), abs=1e-12)
    found = heads.gathering(slm, prompts)
    assert found["score"].values == pytest.approx(np.full((2, 3), found.attrs["reach"]), abs=1e-12)


def test_planted_heads_are_found(monkeypatch, slm, prompts):
    def pattern(tokens):
        made = even(tokens)
        n = len(tokens)
        made[0, 0], made[0, 1] = np.eye(n, k=-1), 0
        for place in range(n):  # head 1 of block 0: after the last time this unit was said
            before = [one for one in range(place) if tokens[one] == tokens[place]]
            made[0, 1, place, before[-1] + 1 if before else 0] = 1
        return made

    planted(monkeypatch, pattern)
    previous, again = heads.previous_unit(slm, prompts), heads.induction(slm, 10)
    assert previous["score"].values[0, 0] == 1 and again["score"].values[0, 1] == 1
    assert again["score"].values[0, 0] == 0 and (previous["over"].values[0, 0] > 0.7)


def test_a_gatherer_attends_to_its_word_and_to_no_other_stretch(monkeypatch, slm, prompts):
    spans = {tuple(one.tokens.tolist()): one.spans for one in prompts}

    def pattern(tokens):
        made = even(tokens)
        made[1, 2] = np.eye(len(tokens))
        for span in spans[tuple(tokens.tolist())]:
            made[1, 2, span.stop - 1] = 0
            made[1, 2, span.stop - 1, span.start : span.stop - 1] = 1 / (len(span) - 1)
        return made

    planted(monkeypatch, pattern)
    found = heads.gathering(slm, prompts)
    assert found["score"].values[1, 2] == pytest.approx(1) and found["percentile"].values[1, 2] == 1
    assert found["null_95"].values[1, 2] < 0.9 and found["percentile"].values[0, 0] < 1


def test_induction_is_what_transformer_lens_s_detector_says(slm):
    """Its `detect_head` takes the elementwise product of pattern and detection, over one sequence: here the same, by its own pattern."""
    from transformer_lens.head_detector import get_induction_head_detection_pattern

    found = heads.induction(slm, length=10, rows=1, seed=3)
    units = slm.vocabulary.mask("speech").nonzero().flatten()
    once = units[torch.randperm(len(units), generator=torch.Generator().manual_seed(3))[:10]]
    before = heads._opening(slm)
    tokens = torch.cat([before, once, once])
    wanted = get_induction_head_detection_pattern(tokens[None])
    own = heads._patterns(slm, tokens)
    theirs = (own * np.asarray(wanted))[:, :, -10:].sum(-1).mean(-1)
    assert found["score"].values == pytest.approx(theirs, abs=1e-6)


def test_words_are_written_by_the_head_whose_output_is_their_row(slm, prompts, monkeypatch):
    """A head made to write the row of the word it stands in scores above the others, and one that writes all words alike scores nothing over them."""
    plain = heads.writes_word(slm, prompts[:1])
    ids = [slm.word_ids(word.text)[0] for word in prompts[0].words]
    by_hand = by_head(slm, prompts[0], sorted(ids))
    own = []
    for word, identifier in zip(prompts[0].words, ids, strict=True):
        own.append(by_hand.values[:, :, list(word.span), sorted(ids).index(identifier)].mean(-1))
    assert plain["score"].values == pytest.approx(np.mean(own, 0), abs=1e-6)

    def writing(slm, utterance, targets, positions=None):
        made = by_hand.copy()
        made.values[:] = 0
        made.values[0, 0] = 5  # to every word
        for word, identifier in zip(prompts[0].words, ids, strict=True):
            made.values[2, 1, list(word.span), sorted(ids).index(identifier)] = 3
        return made

    monkeypatch.setattr(heads, "by_head", writing)
    over = heads.writes_word(slm, prompts[:1])["over"].values
    assert over[2, 1] == 3 and over[0, 0] == 0


def test_next_units_are_read_at_the_position_before_them(slm, prompts):
    found = heads.writes_next_unit(slm, prompts[:1])
    tokens = prompts[0].tokens
    speech = slm.vocabulary.mask("speech").nonzero().flatten()
    total = []
    for place in range(len(tokens) - 1):
        parts = by_head(slm, prompts[0], [int(tokens[place + 1])], [place]).values[..., 0, 0]
        total.append(parts - by_head(slm, prompts[0], [int(one) for one in speech], [place]).values[..., 0, :].mean(-1))
    assert found["over"].values == pytest.approx(np.mean(total, 0), abs=1e-4)


def test_patterns_are_the_model_s(slm, prompts):
    found = heads.patterns(slm, prompts[0])
    assert found.shape == (3, 4, 8, 8) and found.sum(-1) == pytest.approx(np.ones((3, 4, 8)), abs=1e-5)
    assert found[1] == pytest.approx(
        hooked.captured(slm.model, prompts[0].tokens, ["blocks.1.attn.hook_pattern"])["blocks.1.attn.hook_pattern"].numpy()
    )


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_measured_is_refused(slm, prompts):
    for measure in (heads.previous_unit, heads.gathering, heads.writes_word, heads.writes_next_unit):
        with pytest.raises(PatchingError, match="one utterance or more"):
            measure(slm, [])
    text = slm.text_prompt(" the capital of france")
    with pytest.raises(PatchingError, match="speech after the first position"):
        heads.previous_unit(slm, [text])
    with pytest.raises(PatchingError, match="two units or more; these utterances have none"):
        heads.gathering(slm, [text])
    with pytest.raises(PatchingError, match="no utterance has two different spoken words"):
        heads.writes_word(slm, [text])
    with pytest.raises(PatchingError, match="2 to 20 different units"):
        heads.induction(slm, 21)
