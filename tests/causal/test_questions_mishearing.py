"""Mis-hearing: a planted model in which the text of two words is exchanged as it is written, so that the lens hears one for the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slm_interp import hooked
from slm_interp.causal import Case
from slm_interp.causal.planted import Planted, plant
from slm_interp.causal.planted.block import GATE
from slm_interp.causal.questions.mishearing import Misheard, decoded, misheard
from slm_interp.errors import PatchingError
from slm_interp.lenses.logit import LogitLens
from slm_interp.patching import outcomes
from slm_interp.utterance import Contrast
from tests.causal.asked import EXACT, codes, heard, plain


def confused(kind: str, fraction: float | None = None) -> tuple[Planted, list[Case], dict[str, torch.Tensor]]:
    """The words of the first contrast: where one stands in secret, the other is written as text. Everything else is as planted."""
    model = plant(kind, fraction, n_contrasts=8)
    cases = heard(model, 8)
    words = model.lexicon.words
    a, b = (words.index(word) for word in (cases[0].words.clean, cases[0].words.corrupted))
    apart = (codes(model).text[b] - codes(model).text[a]) / GATE
    written = hooked.parameters(model.slm.model)["blocks.1.mlp.W_out"]  # neuron w reads the secret code of word w
    with torch.no_grad():
        written[a] += apart.to(written)
        written[b] -= apart.to(written)
    return model, cases, continuations(model)


def continuations(model: Planted) -> dict[str, torch.Tensor]:
    lexicon = model.lexicon
    spelled = {word: lexicon.spelled(lexicon.following[number]) for number, word in enumerate(lexicon.words)}
    return {word: model.slm.vocabulary.unit_to_id(torch.tensor([lexicon.unit_of[one] for one in two])) for word, two in spelled.items()}


def test_the_lens_hears_one_word_for_the_other_and_all_others_rightly() -> None:
    model, cases, known = confused("mediated")
    table = decoded(model.slm, cases, LogitLens(model.slm), list(known), 3)
    pair = {cases[0].words.clean: cases[0].words.corrupted, cases[0].words.corrupted: cases[0].words.clean}
    assert table["decoded"].tolist() == [pair.get(word, word) for word in table["said"]]
    assert ((table["margin"] < 0) == table["said"].isin(pair)).all()


@pytest.mark.parametrize(("kind", "sign"), [("mediated", 1), ("shadow", -1)])
def test_speech_follows_what_is_read_where_text_drives_it_and_what_was_said_where_text_is_a_shadow(kind: str, sign: int) -> None:
    model, cases, known = confused(kind)
    found = misheard(model.slm, cases, LogitLens(model.slm), known, 3).table
    wrong = found[found["misheard"]]
    assert len(wrong) >= 2
    assert (sign * wrong["follows"] > 5).all()
    assert (found[~found["misheard"]]["follows"] < 0).all()


def test_a_mixture_follows_the_larger_part() -> None:
    for fraction, sign in ((0.3, -1), (0.7, 1)):
        model, cases, known = confused("partial", fraction)
        found = misheard(model.slm, cases, LogitLens(model.slm), known, 3).table
        assert (sign * found[found["misheard"]]["follows"] > 0).all()


def test_log_probabilities_are_those_of_plain_runs() -> None:
    model, cases, known = confused("mediated")
    found = misheard(model.slm, cases[:1], LogitLens(model.slm), known, 3, units=None).table.iloc[0]
    for column, word in (("log_prob_said", found["said"]), ("log_prob_against", found["decoded"])):
        contrast = Contrast(cases[0].source, cases[0].base, known[word], known[word])
        assert found[column] == pytest.approx(plain(model.slm, cases[0].source, contrast, outcomes.log_prob(), []), abs=EXACT)


def test_what_cannot_be_compared_is_left_out_and_counted() -> None:
    model, cases, known = confused("mediated")
    a, b = cases[0].words.clean, cases[0].words.corrupted
    found = misheard(model.slm, cases, LogitLens(model.slm), {**known, b: known[a]}, 3)
    assert found.left_out == {"alike": 2} or found.left_out["alike"] >= 2
    assert not found.table["misheard"].any()
    fewer = misheard(model.slm, cases, LogitLens(model.slm), {word: known[word] for word in known if word != a}, 3)
    assert fewer.left_out["no continuation of what was said"] >= 1
    with pytest.raises(PatchingError, match="two known continuations that differ"):
        misheard(model.slm, cases[:1], LogitLens(model.slm), dict.fromkeys(known, known[a]), 3)
    with pytest.raises(PatchingError, match="two candidates or more"):
        decoded(model.slm, cases, LogitLens(model.slm), ["apple"], 3)


def test_a_prompt_that_two_cases_share_is_read_once() -> None:
    model, cases, known = confused("mediated")
    twice = [cases[0], replace(cases[0], name="again")]
    assert len(decoded(model.slm, twice, LogitLens(model.slm), list(known), 3)) == 2


def test_shares_and_files(tmp_path) -> None:
    model, cases, known = confused("mediated")
    found = misheard(model.slm, cases, LogitLens(model.slm), known, 3)
    shares = found.shares().set_index("prompts")
    assert shares.loc["misheard", "share"] == 1
    assert shares.loc["heard (runner-up)", "share"] == 0
    found.save(tmp_path / "misheard.parquet")
    assert Misheard.load(tmp_path / "misheard.parquet").table.equals(found.table)
    assert "Mis-hearing" in found._repr_html_()
